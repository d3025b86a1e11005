defmodule PartitionedBuffer.Telemetry do
  @moduledoc """
  The telemetry events of a buffer.

  """

  @prefix [:partitioned_buffer, :partition]

  # One list: the documentation, and a test that nothing else is emitted, come from it.
  @events [
    {[:start], "A partition's process has started.", "`system_time`", []},
    {[:stop],
     "A partition's process has ended, after its last batch. `left` is the number of entries that it " <>
       "could not process: when the buffer was stopped they have been discarded and reported; " <>
       "otherwise they are held, and the process that takes its place goes on with them.",
     "`duration` (native time), `left`", ["`reason`"]},
    {[:flush],
     "A cycle has begun with `size` entries. `trigger` is `:interval`, `:max_size` (also by bytes), " <>
       "`:flush`, `:capacity` (there was no room for a write), `:resume` or `:stop`.",
     "`system_time`, `size`", ["`trigger`"]},
    {[:processing, :start], "A batch is handed to the processor.", "`system_time`",
     ["`batch`", "`attempt`"]},
    {[:processing, :stop],
     "The processor has returned. Unless it says that it has failed, the batch has been processed, even if " <>
       "a handler of this event takes too long or is killed.", "`duration` (native time), `size`",
     ["`batch`", "`attempt`"]},
    {[:processing, :exception], "The processor has raised, thrown or exited.",
     "`duration` (native time)", ["`kind`", "`reason`", "`stacktrace`", "`batch`", "`attempt`"]},
    {[:retry],
     "A batch will be tried again after `delay_ms`; `attempt` is how often it has been tried. With " <>
       "`split`, it will be in halves.", "`system_time`, `size`, `delay_ms`",
     ["`attempt`", "`split`"]},
    {[:processing_failed],
     "The process that ran the processor has ended before its batch was done: with an exception, " <>
       "killed from outside, or killed because it took longer than `:processing_timeout_ms` " <>
       "(`reason` is then `:timeout`); or because the processor said that it has failed (`reason` is then " <>
       "what it said, or `{:failed, count}`).", "`system_time`", ["`reason`"]},
    {[:discarded],
     "Entries have been given up: a batch whose processing failed, or what was left when the time " <>
       "for stopping was up, or what had become too old, or what there was no room for. `reason` is " <>
       "`:exception`, `:killed`, `:timeout`, `:failed`, `:shutdown`, `:expired` or `:overflow`.",
     "`system_time`, `size`, `bytes`", ["`reason`"]},
    {[:on_discard_failed],
     "A call of `:on_discard` has failed, or was killed because it took too long (`:timeout`).",
     "`system_time`", ["`reason`"]}
  ]

  # Of writes: emitted by the process that writes.
  @write_prefix [:partitioned_buffer, :write]
  @write_events [
    {[:blocked],
     "A write has waited for room. `result` is `:ok` or why nothing was written (`:timeout`, `:closed`, …; `:again` if " <>
       "`:overflow` was changed meanwhile: the write is made again).", "`duration` (native time)",
     ["`result`"]},
    {[:rejected], "A write has returned `{:error, reason}`: `:full`, `:too_large` or `:timeout`.",
     "`count`", ["`reason`"]}
  ]

  rows =
    for {event, text, measurements, metadata} <- @events do
      metadata = Enum.join(["`buffer`", "`partition`" | metadata], ", ")

      "  * `#{inspect(@prefix ++ event)}` - #{text}\n" <>
        "    * Measurements: #{measurements}\n    * Metadata: #{metadata}\n"
    end

  write_rows =
    for {event, text, measurements, metadata} <- @write_events do
      metadata = Enum.join(["`buffer`" | metadata], ", ")

      "  * `#{inspect(@write_prefix ++ event)}` - #{text}\n" <>
        "    * Measurements: #{measurements}\n    * Metadata: #{metadata}\n"
    end

  rows = rows ++ write_rows

  @moduledoc @moduledoc <>
               Enum.join(rows, "\n") <>
               """

               `buffer` and `partition` are atoms. `batch` is the id of a batch, the same each time that it is \
               tried: see `t:PartitionedBuffer.batch_id/0`. While no handler is attached to a `processing` event, \
               batches that take less than a millisecond do not look for one each, nor do short cycles while none is \
               attached to `flush`: a handler that is attached is noticed within a millisecond.

               ## Example

                   :telemetry.attach(
                     "lost-entries",
                     [:partitioned_buffer, :partition, :discarded],
                     fn _event, %{size: size}, %{buffer: buffer, reason: reason}, _config ->
                       Logger.error("\#{buffer} lost \#{size} entries: \#{reason}")
                     end,
                     nil
                   )
               """

  @doc """
  The names of all events.

      iex> [:partitioned_buffer, :partition, :discarded] in PartitionedBuffer.Telemetry.events()
      true
  """
  @spec events() :: [[atom(), ...]]
  def events do
    for({event, _, _, _} <- @events, do: @prefix ++ event) ++
      for({event, _, _, _} <- @write_events, do: @write_prefix ++ event)
  end

  @doc false
  @spec execute([atom()], map(), map()) :: :ok
  def execute(event, measurements, metadata) do
    :telemetry.execute(@prefix ++ event, measurements, metadata)
  end

  @doc false
  @spec write([atom()], map(), map()) :: :ok
  def write(event, measurements, metadata) do
    :telemetry.execute(@write_prefix ++ event, measurements, metadata)
  end

  # Whether somebody listens to `processing` events, and whether to `flush`.
  @doc false
  @spec listening() :: {processing? :: boolean(), flush? :: boolean()}
  def listening do
    events = for %{event_name: [_, _ | event]} <- handlers(@prefix), do: hd(event)

    {:processing in events, :flush in events}
  end

  @doc false
  @spec listening?() :: boolean()
  def listening?, do: elem(listening(), 0)

  @doc false
  @spec handled?([atom()]) :: boolean()
  def handled?(prefix), do: handlers(prefix) != []

  defp handlers(prefix) do
    :telemetry.list_handlers(prefix)
  rescue
    # Telemetry is not running, or is being started again: nobody is told of anything.
    ArgumentError -> []
  end

  @doc false
  @spec docs() :: String.t()
  def docs, do: unquote(Enum.join(rows, "\n"))
end
