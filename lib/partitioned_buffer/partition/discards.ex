defmodule PartitionedBuffer.Partition.Discards do
  @moduledoc false
  # What a partition does with entries that were given up: it reports them, and has `on_discard` called
  # with each batch of them, one after the other, in a process of its own.
  #
  # Invariants:
  #
  #   * Everything that was given up is reported: it counts as reported only after the event.
  #   * `on_discard` gets an entry once at the most. The native side keeps it until its call is over.
  #   * No call takes longer than it may, also when the partition's process is killed meanwhile: the bound
  #     goes with the call.

  alias PartitionedBuffer.{Names, Native, Options, Telemetry}

  # How long one process makes calls at the most.
  @more_ms 1_000

  @typedoc "The call that is running: its process, its monitor, and until when it may run."
  @type call :: %{pid: pid(), monitor: reference(), timeout: timeout(), started: integer()}

  @doc "Reports what has been given up and was not reported yet."
  @spec report(Native.handle(), Native.index(), map()) :: :ok
  def report(ref, index, metadata) do
    discards = Native.partition_unreported(ref, index)

    for {reason, size, bytes} <- discards do
      Telemetry.execute(
        [:discarded],
        %{system_time: System.system_time(), size: size, bytes: bytes},
        Map.put(metadata, :reason, reason)
      )
    end

    Native.partition_reported(ref, index, length(discards))
  end

  @doc "Starts the next call, if there is one to be made and none is running."
  @spec start(call() | nil, Native.handle(), Native.index(), map(), atom()) :: call() | nil
  def start(nil, ref, index, settings, buffer) do
    if Native.partition_kept(ref, index) > 0 do
      timeout = settings.processing_timeout_ms
      {pid, monitor} = spawn_call(buffer, [ref, index, settings.on_discard, timeout])
      %{pid: pid, monitor: monitor, timeout: timeout, started: now()}
    end
  end

  def start(call, _ref, _index, _settings, _buffer), do: call

  # Beside the processors, so that it ends with the buffer whatever becomes of the partition's process.
  defp spawn_call(buffer, args) do
    {:ok, pid} =
      Task.Supervisor.start_child(Names.task_supervisor(buffer), __MODULE__, :run, args,
        shutdown: :brutal_kill
      )

    {pid, Process.monitor(pid)}
  catch
    # It is just being started again.
    :exit, _reason -> spawn_monitor(__MODULE__, :run, args)
  end

  @doc "A call is over. Reports it if it failed."
  @spec over(call(), term(), map()) :: nil
  def over(call, reason, metadata) do
    # A task that was done before it was monitored.
    if reason not in [:normal, :noproc], do: failed(reason(call, reason), metadata)
    nil
  end

  defp reason(%{timeout: timeout} = call, :killed) when is_integer(timeout) do
    if now() - call.started >= timeout, do: :timeout, else: :killed
  end

  defp reason(_call, reason), do: reason

  @doc "The end of the buffer: what nobody could be told of in time is not told any more."
  @spec abandon(call() | nil, Native.handle(), Native.index(), map()) :: nil
  def abandon(call, ref, index, metadata) do
    _ = call && Process.exit(call.pid, :kill)
    if Native.partition_kept(ref, index) > 0, do: failed(:shutdown, metadata)
    nil
  end

  defp failed(reason, metadata) do
    Telemetry.execute(
      [:on_discard_failed],
      %{system_time: System.system_time()},
      Map.put(metadata, :reason, reason)
    )
  end

  @doc "Tells of everything in the calling process."
  @spec tell_all(Native.handle(), Native.index(), PartitionedBuffer.on_discard() | nil) :: :ok
  def tell_all(ref, index, on_discard) do
    if next(ref, index, on_discard), do: tell_all(ref, index, on_discard), else: :ok
  end

  @doc false
  @spec run(Native.handle(), Native.index(), PartitionedBuffer.on_discard() | nil, timeout()) ::
          :ok
  def run(ref, index, on_discard, timeout) do
    _ = if Options.finite(timeout) != nil, do: :timer.kill_after(timeout)
    more(ref, index, on_discard, now() + more_ms(timeout))
  end

  # As long as calls take no time to speak of, one process makes many of them: a process for each could not
  # keep up with writers that are dropped one by one.
  defp more(ref, index, on_discard, until) do
    if next(ref, index, on_discard) and now() < until,
      do: more(ref, index, on_discard, until),
      else: :ok
  end

  # A hundredth: so each call has 99 percent of the time that it may take.
  defp more_ms(:infinity), do: @more_ms
  defp more_ms(timeout), do: min(div(timeout, 100), @more_ms)

  # Asking for the next batch is what settles the one before it, so a call that has failed is not made
  # again. Without `on_discard`, which may have been taken away, a batch is just forgotten.
  defp next(ref, index, on_discard) do
    case Native.partition_next_kept(ref, index) do
      {entries, reason, _first, _last, _attempts} ->
        _ = if on_discard, do: call(on_discard, entries, reason)
        true

      nil ->
        false
    end
  end

  defp call(fun, entries, reason) when is_function(fun, 2), do: fun.(entries, reason)

  defp call({module, function, args}, entries, reason),
    do: apply(module, function, [entries, reason | args])

  defp now, do: System.monotonic_time(:millisecond)
end
