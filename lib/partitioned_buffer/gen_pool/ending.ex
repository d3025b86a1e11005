defmodule PartitionedBuffer.GenPool.Ending do
  @moduledoc false
  # The orderly end of a pool: what was accepted before is done, for as long as that may take.
  #
  # Works on the state of `PartitionedBuffer.GenPool.Owner`, in its process, which does nothing else meanwhile; so
  # what workers ask it for is answered here.

  alias PartitionedBuffer.Broker
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
    await(state, deadline(state.opts.shutdown))
  end

  defp tell_to_end(%{opts: %{external_broker?: true}}, worker), do: Worker.leave(worker)
  defp tell_to_end(_state, worker), do: Worker.drain(worker, self())

  defp await(%{workers: workers, leaving: leaving} = state, _deadline)
       when workers == %{} and leaving == %{},
       do: state

  defp await(state, deadline) do
    receive do
      {:drained, worker} ->
        state |> gone(worker) |> await(deadline)

      {:DOWN, _monitor, :process, pid, reason} when is_map_key(state.workers, pid) ->
        Crew.ended(state, pid, reason)
        state |> gone(pid) |> refill_for_the_rest() |> await(deadline)

      {:DOWN, _monitor, :process, pid, reason} when is_map_key(state.leaving, pid) ->
        Crew.ended(state, pid, reason)
        state |> gone(pid) |> await(deadline)

      {:"$gen_call", from, Owner.request(:fetch)} ->
        {message, state} = Owner.next_message(state)
        GenServer.reply(from, message)
        await(state, deadline)

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

  # A handler crashed, and its worker may have been the last one.
  defp refill_for_the_rest(%{opts: %{external_broker?: true}} = state), do: state

  defp refill_for_the_rest(%{workers: workers} = state) when workers != %{}, do: state

  defp refill_for_the_rest(state) do
    with {:ok, state} <- Crew.restarted(state),
         {:ok, state} <- Crew.grow(%{state | size: 1}) do
      Enum.each(Map.keys(state.workers), &tell_to_end(state, &1))
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
