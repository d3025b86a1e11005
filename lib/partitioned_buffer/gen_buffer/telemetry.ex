defmodule PartitionedBuffer.GenBuffer.Telemetry do
  @moduledoc """
  The telemetry events of a `PartitionedBuffer.GenBuffer`.

  """

  @prefix [:partitioned_buffer, :gen_buffer, :message]

  # One list: the documentation, and a test that nothing else is emitted, come from it.
  @events [
    {[:queued], "A message was sent. Emitted by the sender.", "`system_time`", []},
    {[:start], "A worker starts a message that has waited for `queue_time` (native time).",
     "`system_time`, `queue_time`", ["`worker`"]},
    {[:stop], "The message handler has returned after `duration` (native time).",
     "`duration`, `queue_time`", ["`worker`"]},
    {[:exception], "The message handler has raised, thrown, exited, or returned something else.",
     "`duration`, `queue_time`", ["`worker`", "`kind`", "`reason`", "`stacktrace`"]},
    {[:dropped],
     "Messages will not be handled. `reason` is `:full`, `:queue_timeout`, `:caller_down` (who " <>
       "called `send_recv` has died), `:shutdown` (left when the time for stopping was up) or " <>
       "`:worker_down` (it was started, and its worker has died).", "`count`", ["`reason`"]}
  ]

  rows =
    for {event, text, measurements, metadata} <- @events do
      metadata = Enum.join(["`buffer`" | metadata], ", ")

      "  * `#{inspect(@prefix ++ event)}` - #{text}\n" <>
        "    * Measurements: #{measurements}\n    * Metadata: #{metadata}\n"
    end

  @moduledoc @moduledoc <>
               Enum.join(rows, "\n") <>
               """

               Workers and senders do not look for handlers with each message. A handler that is attached while a \
               buffer runs is noticed within half a second; `:dropped` events are always emitted.
               """

  @doc """
  The names of all events.

      iex> [:partitioned_buffer, :gen_buffer, :message, :dropped] in
      ...>   PartitionedBuffer.GenBuffer.Telemetry.events()
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
  def listening?, do: PartitionedBuffer.Telemetry.handled?(@prefix)
end
