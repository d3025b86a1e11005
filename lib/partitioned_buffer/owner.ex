defmodule PartitionedBuffer.Owner do
  @moduledoc false
  # What the partitions of a buffer share: the options in force, and the end.
  #
  # It is the last child of the buffer's supervisor, and so the first to be told to end while
  # everything else is still there. It then closes the storage, has all partitions process what is left
  # at the same time, waits for `:processing_timeout_ms` altogether, and has them give up the rest.
  #
  # Invariant: only this process closes a buffer, and only when the buffer's supervisor ends it. When
  # the supervisor was killed, nothing is closed: the next one of the name goes on.

  use GenServer

  alias PartitionedBuffer.{Handle, Names, Native, Partition, PartitionSupervisor}

  # For the partitions to give up what is left when the time is up. They only count and report.
  @grace_ms 5_000

  # The supervisor must not cut the end short: this process bounds it by itself, and the bound may
  # have been changed since the supervisor was started.
  @spec child_spec(atom()) :: Supervisor.child_spec()
  def child_spec(buffer) do
    %{id: __MODULE__, start: {__MODULE__, :start_link, [buffer]}, shutdown: :infinity}
  end

  @spec start_link(atom()) :: GenServer.on_start()
  def start_link(buffer), do: GenServer.start_link(__MODULE__, buffer)

  @doc "Changes the options that are given, and only those."
  @spec update_options(atom(), map()) :: :ok
  def update_options(buffer, changes) do
    GenServer.call(Names.owner(buffer), {:update_options, changes}, :infinity)
  end

  @doc "A partition of the closed buffer has nothing left."
  @spec drained(atom(), Native.index()) :: :ok
  def drained(buffer, index) do
    # Not there: nobody waits.
    with pid when is_pid(pid) <- Process.whereis(Names.owner(buffer)),
         do: send(pid, {:drained, index})

    :ok
  end

  @impl true
  def init(buffer) do
    Process.flag(:trap_exit, true)
    :ok = Names.register(Names.owner(buffer))
    {:ok, %{buffer: buffer, handle: Handle.fetch!(buffer)}}
  end

  @impl true
  def handle_call({:update_options, changes}, _from, state) do
    ref = state.handle.ref
    :ok = Native.buffer_put_settings(ref, Map.merge(Handle.settings(ref), changes))
    state.handle.partitions |> Tuple.to_list() |> Enum.each(&Partition.settings_changed/1)
    {:reply, :ok, state}
  end

  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast(_stray, state), do: {:noreply, state}

  @impl true
  def handle_info(_stray, state), do: {:noreply, state}

  @impl true
  def terminate(reason, state) do
    if ordered?(reason), do: close(state)
    :ok
  end

  @doc "Whether a process was told to end, rather than having lost its supervisor."
  @spec ordered?(term()) :: boolean()
  def ordered?(reason) when reason in [:normal, :shutdown], do: true
  def ordered?({:shutdown, _}), do: true
  def ordered?(_killed_or_crashed), do: false

  defp close(%{buffer: buffer, handle: %{ref: ref, partitions: partitions}} = state) do
    budget = Handle.settings(ref).processing_timeout_ms
    deadline = if budget == :infinity, do: :infinity, else: now() + budget
    names = Tuple.to_list(partitions)

    :ok = Native.buffer_close(ref)
    state = guard_partitions(state)
    Enum.each(names, &Partition.finish/1)
    {waiting, state} = await(MapSet.new(Handle.indexes(ref)), deadline, state)

    Enum.each(waiting, &Partition.expire(elem(partitions, &1)))
    {waiting, _state} = await(waiting, now() + @grace_ms, state)

    Enum.each(waiting, &Partition.abandon(buffer, &1, ref))
    Handle.erase(buffer, ref)
  end

  # The buffer's supervisor is waiting for this process and restarts nobody now.
  defp guard_partitions(state) do
    supervisor = Names.partition_supervisor(state.buffer)

    _ = Process.whereis(supervisor) || PartitionSupervisor.start_link(state.buffer)
    Map.put(state, :guarded, Process.monitor(supervisor))
  end

  defp await(waiting, deadline, state) do
    if MapSet.size(waiting) == 0 do
      {waiting, state}
    else
      guarded = state.guarded

      receive do
        {:drained, index} ->
          waiting |> MapSet.delete(index) |> await(deadline, state)

        {:DOWN, ^guarded, :process, _supervisor, _reason} ->
          await(waiting, deadline, guard_partitions(state))
      after
        left(deadline) -> {waiting, state}
      end
    end
  end

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(deadline - now(), 0)

  defp now, do: System.monotonic_time(:millisecond)
end
