defmodule PartitionedBuffer.Partition.Discards do
  @moduledoc false
  # What a partition does with entries that were given up: it reports them, and has `on_discard` called
  # with each batch of them, one after the other, in a process of its own.
  #
  # Invariants:
  #
  #   * Everything that was given up is reported: it counts as reported only after the event.
  #   * `on_discard` gets an entry once at the most. The native side keeps it until its call is over.

  alias PartitionedBuffer.{Native, Telemetry}

  @typedoc "The call that is running: its process, its monitor, and the timer that bounds it."
  @type call :: %{pid: pid(), monitor: reference(), timer: reference() | nil}

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
  @spec start(call() | nil, Native.handle(), Native.index(), map()) :: call() | nil
  def start(nil, ref, index, %{on_discard: on_discard} = settings) when on_discard != nil do
    if Native.partition_kept(ref, index) > 0 do
      {pid, monitor} = spawn_monitor(__MODULE__, :run, [ref, index, on_discard])
      timeout = settings.processing_timeout_ms

      timer =
        if timeout != :infinity, do: Process.send_after(self(), {:discard_timeout, pid}, timeout)

      %{pid: pid, monitor: monitor, timer: timer}
    end
  end

  def start(call, _ref, _index, _settings), do: call

  @doc "A call is over. Reports it if it failed."
  @spec over(call(), term(), map()) :: nil
  def over(call, reason, metadata) do
    _ = call.timer && Process.cancel_timer(call.timer)

    if reason != :normal do
      Telemetry.execute(
        [:on_discard_failed],
        %{system_time: System.system_time()},
        Map.put(metadata, :reason, if(reason == :killed, do: :timeout, else: reason))
      )
    end

    nil
  end

  # Asking for the next batch is what settles the one before it, so a call that has failed is not made
  # again.
  @doc false
  @spec run(Native.handle(), Native.index(), PartitionedBuffer.on_discard()) :: :ok
  def run(ref, index, on_discard) do
    case Native.partition_next_kept(ref, index) do
      {entries, reason, _first, _last, _attempts} -> call(on_discard, entries, reason)
      nil -> :ok
    end

    :ok
  end

  defp call(fun, entries, reason) when is_function(fun, 2), do: fun.(entries, reason)

  defp call({module, function, args}, entries, reason),
    do: apply(module, function, [entries, reason | args])
end
