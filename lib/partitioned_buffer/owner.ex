defmodule PartitionedBuffer.Owner do
  @moduledoc false
  # What the partitions of a buffer share: the options in force, and the end.
  #
  # It is the last child of the buffer's supervisor, and so the first to be told to end while
  # everything else is still there. It then closes the storage, has all partitions process what is left
  # at the same time, waits for `:processing_timeout_ms` altogether, and has them give up the rest.
  #
  # Invariant: a buffer is closed only when its supervisor ends it. When the supervisor was killed,
  # nothing is closed: the next one of the name goes on.

  use GenServer

  alias PartitionedBuffer.Cluster.Handover
  alias PartitionedBuffer.{Handle, Names, Native, Partition, PartitionSupervisor}

  # For the partitions to give up what is left when the time is up. They count and report, and have
  # `on_discard` called.
  @grace_ms 5_000
  # How often, and for how long, a caller looks for an owner that is being started again.
  @look_ms 10
  @looks 500

  @type arg :: {atom(), Native.handle(), module()}

  # The supervisor must not cut the end short: this process bounds it by itself, and the bound may
  # have been changed since the supervisor was started.
  @spec child_spec(arg()) :: Supervisor.child_spec()
  def child_spec(arg) do
    %{id: __MODULE__, start: {__MODULE__, :start_link, [arg]}, shutdown: :infinity}
  end

  @spec start_link(arg()) :: GenServer.on_start()
  def start_link({buffer, ref, module}),
    do: GenServer.start_link(__MODULE__, {buffer, ref, module, self()})

  @doc "Changes the options that are given, and only those."
  @spec update_options(atom(), map()) :: :ok
  def update_options(buffer, changes), do: update_options(buffer, changes, @looks)

  defp update_options(buffer, changes, looks) do
    _running = Handle.fetch!(buffer)
    GenServer.call(Names.owner(buffer), {:update_options, changes}, :infinity)
  catch
    # It was killed and is started again, or the buffer is ending, which the handle tells soon. To
    # change options twice is to change them once.
    :exit, _reason when looks > 0 ->
      receive do
      after
        @look_ms -> update_options(buffer, changes, looks - 1)
      end
  end

  @doc "How long a partition may take when the time for the end is up."
  @spec grace_ms() :: pos_integer()
  def grace_ms, do: @grace_ms

  @doc "A partition of the closed buffer has nothing left: tells the owner that ends it."
  @spec drained(pid() | nil, atom(), Native.handle(), Native.index()) :: :ok
  def drained(owner, buffer, ref, index) do
    # Not there: nobody waits.
    _ =
      with pid when is_pid(pid) <- owner || Process.whereis(Names.owner(buffer)),
           do: send(pid, {:drained, ref, index})

    :ok
  end

  @doc "Whether a process was told to end, rather than having lost its supervisor."
  @spec ordered?(term()) :: boolean()
  def ordered?(reason) when reason in [:normal, :shutdown], do: true
  def ordered?({:shutdown, _}), do: true
  def ordered?(_killed_or_crashed), do: false

  @doc "Until when the end of a buffer may take that begins now."
  @spec deadline(map()) :: integer() | :infinity
  def deadline(%{processing_timeout_ms: budget}), do: until(budget)

  @doc "What of that is left, in milliseconds."
  @spec left(integer() | :infinity) :: timeout()
  def left(:infinity), do: :infinity
  def left(deadline) when is_integer(deadline), do: max(deadline - now(), 0)

  @impl true
  def init({buffer, ref, module, parent}) do
    Process.flag(:trap_exit, true)
    :ok = Names.register(Names.owner(buffer))

    # The one before it was told to end and has closed the buffer, but nobody told the supervisor: nothing could be
    # written to that tree any more.
    _ = if Handle.fetch(buffer) == :error, do: spawn(Supervisor, :stop, [parent, :shutdown])

    {:ok, %{buffer: buffer, ref: ref, module: module, parent: parent}}
  end

  @impl true
  def handle_call({:update_options, changes}, _from, %{buffer: buffer, ref: ref} = state) do
    :ok = Handle.put_settings(ref, Map.merge(Handle.settings(ref), changes))

    for index <- Handle.indexes(ref),
        do: Partition.settings_changed(Names.partition(buffer, index))

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

  defp close(%{buffer: buffer, ref: ref} = state) do
    deadline = deadline(Handle.settings(ref))
    :ok = Native.buffer_close(ref)
    state = finish_partitions(state, Names.partition_supervisor(buffer))
    {waiting, state} = await(MapSet.new(Handle.indexes(ref)), deadline, state)

    for {index, partition} <- partitions(state), index in waiting, do: Partition.expire(partition)
    {waiting, _state} = await(waiting, until(grace_ms(ref)), state)

    Enum.each(waiting, &Partition.abandon(buffer, ref, &1))
    Handle.erase(buffer, ref)
  end

  # Handing over is work, and gets as much time as processing did.
  defp grace_ms(ref) do
    %{on_discard: on_discard, processing_timeout_ms: timeout} = Handle.settings(ref)

    cond do
      not Handover.on_discard?(on_discard) -> @grace_ms
      timeout == :infinity -> :infinity
      true -> max(@grace_ms, timeout)
    end
  end

  defp finish_partitions(state, supervisor) do
    state = Map.merge(state, %{supervisor: supervisor, monitor: Process.monitor(supervisor)})
    for {_index, partition} <- partitions(state), do: Partition.finish(partition, self())
    state
  end

  defp partitions(%{supervisor: supervisor}) do
    for {{Partition, index}, pid, _type, _modules} <- Supervisor.which_children(supervisor),
        is_pid(pid),
        do: {index, pid}
  catch
    :exit, _reason -> []
  end

  defp await(waiting, deadline, state) do
    if MapSet.size(waiting) == 0 do
      {waiting, state}
    else
      %{ref: ref, monitor: monitor, parent: parent} = state

      receive do
        {:drained, ^ref, index} ->
          waiting |> MapSet.delete(index) |> await(deadline, state)

        # The buffer's supervisor is waiting for this process and restarts nobody now, or is dead
        # itself. The names may belong to a buffer that was started again, so these have none.
        {:DOWN, ^monitor, :process, _supervisor, _reason} ->
          {:ok, supervisor} = PartitionSupervisor.start_unnamed(state.buffer, ref, state.module)
          await(waiting, deadline, finish_partitions(state, supervisor))

        # The supervisor was killed and may be started again: the name is for its next owner.
        {:EXIT, ^parent, _reason} ->
          Process.unregister(Names.owner(state.buffer))
          await(waiting, deadline, state)
      after
        left(deadline) -> {waiting, state}
      end
    end
  end

  defp until(:infinity), do: :infinity
  defp until(ms) when is_integer(ms), do: now() + ms

  defp now, do: System.monotonic_time(:millisecond)
end
