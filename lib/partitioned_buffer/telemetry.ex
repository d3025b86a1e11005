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
    {[:processing, :start], "A batch is handed to the processor.", "`system_time`", []},
    {[:processing, :stop], "The processor has returned.", "`duration` (native time), `size`", []},
    {[:processing, :exception], "The processor has raised, thrown or exited.",
     "`duration` (native time)", ["`kind`", "`reason`", "`stacktrace`"]},
    {[:processing_failed],
     "The process that ran the processor has ended before its batch was done: with an exception, " <>
       "killed from outside, or killed because it took longer than `:processing_timeout_ms` " <>
       "(`reason` is then `:timeout`).", "`system_time`", ["`reason`"]},
    {[:discarded],
     "Entries have been given up: a batch whose processing failed, or what was left when the time " <>
       "for stopping was up. `reason` is `:exception`, `:killed`, `:timeout` or `:shutdown`.",
     "`system_time`, `size`, `bytes`", ["`reason`"]}
  ]

  rows =
    for {event, text, measurements, metadata} <- @events do
      metadata = Enum.join(["`buffer`", "`partition`" | metadata], ", ")

      "  * `#{inspect(@prefix ++ event)}` - #{text}\n" <>
        "    * Measurements: #{measurements}\n    * Metadata: #{metadata}\n"
    end

  @moduledoc @moduledoc <>
               Enum.join(rows, "\n") <>
               """

               `buffer` and `partition` are atoms. While no handler is attached to a `processing` event, \
               batches that take less than ten milliseconds do not look for one each: a handler that is \
               attached while a partition is processing is noticed within ten milliseconds.

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
  def events, do: for({event, _, _, _} <- @events, do: @prefix ++ event)

  @doc false
  @spec execute([atom()], map(), map()) :: :ok
  def execute(event, measurements, metadata) do
    :telemetry.execute(@prefix ++ event, measurements, metadata)
  end

  @doc false
  @spec listening?() :: boolean()
  def listening?, do: :telemetry.list_handlers(@prefix ++ [:processing]) != []

  @doc false
  @spec docs() :: String.t()
  def docs, do: unquote(Enum.join(rows, "\n"))
end
