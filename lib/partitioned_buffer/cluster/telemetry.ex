defmodule PartitionedBuffer.Cluster.Telemetry do
  @events [
    {[:join], "A node has joined: it owns its share of the keys from now on.", "`system_time`",
     ["`node`", "`weight`"]},
    {[:leave],
     "A node is no longer there: `reason` is `:left` if it has left in order, `:lost` if the connection to it " <>
       "is gone. That may be the end of the node or of the network: see the next one.",
     "`system_time`", ["`node`", "`reason`"]},
    {[:heal],
     "A node that was lost is back, and it is the same one: the network was cut. `:join` comes besides.",
     "`system_time`, `duration` (native time)", ["`node`"]},
    {[:retry],
     "Entries of a call go to another node, or to the same node once more. `reason` is `:lost`, `:full`, `:closed` " <>
       "(that node's buffer has ended, or is about to) or `:not_connected`.", "`count`",
     ["`node`", "`next`", "`reason`"]},
    {[:failed],
     "A call has returned an error for entries. `reason` is as in the error: `:full`, `:timeout`, …",
     "`count`", ["`reason`"]},
    {[:repeated],
     "On the node that was asked: a request was made again that had been accepted, and was not written again.",
     "`count`", []},
    {[:handover],
     "On the node that stops: entries were handed over (`result` is `:ok`), or could not be, for a `reason` " <>
       "as of a write (`{:error, reason}`).", "`count`", ["`result`"]}
  ]

  @prefix [:partitioned_buffer, :cluster]

  rows =
    for {event, text, measurements, metadata} <- @events do
      metadata = Enum.join(["`buffer`" | metadata], ", ")

      "  * `#{inspect(@prefix ++ event)}` - #{text}\n" <>
        "    * Measurements: #{measurements}\n    * Metadata: #{metadata}\n"
    end

  @moduledoc """
  The events of a cluster. Those of the buffers on its nodes are in `PartitionedBuffer.Telemetry`.

  #{Enum.join(rows, "\n")}

  `join`, `leave` and `heal` are emitted on each node, for itself too. `count` is that of entries.

  ## Example

      :telemetry.attach(
        "nodes-lost",
        [:partitioned_buffer, :cluster, :leave],
        fn _event, _measurements, metadata, _config ->
          if metadata.reason == :lost, do: Logger.error("\#{metadata.buffer} has lost \#{metadata.node}")
        end,
        nil
      )
  """

  @doc """
  The names of all events.

      iex> [:partitioned_buffer, :cluster, :join] in PartitionedBuffer.Cluster.Telemetry.events()
      true
  """
  @spec events() :: [[atom(), ...]]
  def events, do: for({event, _, _, _} <- @events, do: @prefix ++ event)

  @doc false
  @spec execute([atom()], map(), map()) :: :ok
  def execute(event, measurements, metadata),
    do: :telemetry.execute(@prefix ++ event, measurements, metadata)

  @doc false
  @spec now(map()) :: map()
  def now(measurements \\ %{}), do: Map.put(measurements, :system_time, System.system_time())
end
