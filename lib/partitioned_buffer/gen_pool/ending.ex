defmodule PartitionedBuffer.GenPool.Ending do
  @moduledoc false
  # The orderly end of a pool: what was accepted before is done, for as long as that may take.
  #
  # Works on the state of `PartitionedBuffer.GenPool.Owner`, in its process, which does nothing else meanwhile; so
  # what workers ask it for is answered here.

  alias PartitionedBuffer.Broker
  alias PartitionedBuffer.Broker.Keeper
  alias PartitionedBuffer.GenPool.{Crew, Owner, Worker}

  require Owner

  @doc """
  Refuses requests and waits until the workers have done those that were accepted. Requests in a broker outside of the
  pool wait for the next pool; only what was begun is finished.
  """
  @spec drain(Crew.state()) :: Crew.state()
  def drain(state) do
    unless state.opts.external_broker?, do: Broker.close(state.broker.broker)
    state = %{state | stopped?: true}
    Enum.each(Map.keys(state.workers), &tell_to_end(state, &1))
    await(state, %{}, deadline(state.opts.shutdown))
  end

  defp tell_to_end(%{opts: %{external_broker?: true}}, worker), do: Worker.leave(worker)
  defp tell_to_end(_state, worker), do: Worker.drain(worker, self())

  # `through` are those that have found nothing to do any more. One of them may be given something after that, or the last
  # one may die: what a worker that is killed has not begun is anybody's. So when all are through it is looked whether
  # everything is.
  defp await(%{workers: workers, leaving: leaving} = state, through, deadline)
       when workers == %{} and leaving == %{} do
    if left?(state), do: again(state, through, deadline), else: state
  end

  defp await(state, through, deadline) do
    receive do
      {:drained, worker} ->
        through = Map.merge(through, Map.take(state.workers, [worker]))
        state |> gone(worker) |> await(through, deadline)

      {:DOWN, _monitor, :process, pid, reason}
      when is_map_key(state.workers, pid) or is_map_key(state.leaving, pid) ->
        Crew.ended(state, pid, reason)
        state |> gone(pid) |> await(through, deadline)

      {:DOWN, _monitor, :process, pid, reason} when is_map_key(through, pid) ->
        Crew.ended(state, pid, reason)
        await(state, Map.delete(through, pid), deadline)

      {:"$gen_call", from, Owner.request(:fetch)} ->
        {message, state} = Owner.next_message(state)
        GenServer.reply(from, message)
        await(state, through, deadline)

      # A handler has ended the pool meanwhile.
      Owner.request({:stop, _reason}) ->
        state
    after
      left(deadline) -> state
    end
  end

  defp gone(state, worker) do
    %{
      state
      | workers: Map.delete(state.workers, worker),
        leaving: Map.delete(state.leaving, worker)
    }
  end

  # A pool without workers does nothing, and nobody sees to what dead ones had if its broker's process is not there.
  defp left?(%{size: 0}), do: false
  defp left?(%{opts: %{external_broker?: true}}), do: false

  defp left?(%{broker: %{broker: broker, keeper: keeper, pid: pid}}) do
    :ok = Keeper.flush(keeper)
    %{waiting: waiting, in_flight: in_flight} = Broker.info(broker)
    waiting + in_flight > 0 and Process.alive?(pid)
  end

  # The keeper may not have seen a death yet: then they are through at once.
  @again_ms 1

  defp again(state, through, deadline) do
    receive do
    after
      min(@again_ms, left(deadline)) -> :ok
    end

    state = refill(%{state | workers: through})
    Enum.each(Map.keys(state.workers), &tell_to_end(state, &1))
    if state.workers == %{} or left(deadline) == 0, do: state, else: await(state, %{}, deadline)
  end

  # All have died.
  defp refill(%{workers: workers} = state) when workers != %{}, do: state

  defp refill(state) do
    with {:ok, state} <- Crew.restarted(state),
         {:ok, state} <- Crew.grow(%{state | size: 1}) do
      state
    else
      _failed -> state
    end
  end

  defp deadline(:infinity), do: :infinity
  defp deadline(ms), do: System.monotonic_time(:millisecond) + ms
  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)
end
