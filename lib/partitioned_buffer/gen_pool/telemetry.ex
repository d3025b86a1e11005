defmodule PartitionedBuffer.GenPool.Telemetry do
  @moduledoc """
  The telemetry events of a pool.

  """

  @prefix [:partitioned_buffer, :gen_pool]

  # One list: the documentation, and a test that nothing else is emitted, come from it.
  @events [
    {[:start], "A pool has been started.", "`system_time`, `pool_size`", ["`module`"]},
    {[:stop], "A pool has ended. `discarded` is the number of requests that nobody has started.",
     "`duration`, `discarded`", ["`module`", "`reason`"]},
    {[:message, :start], "A worker has started with a request.", "`system_time`, `queue_time`",
     ["`worker`", "`kind`"]},
    {[:message, :stop],
     "A worker is through with it, that is, its outcome is part of the state. `attempts` is how often its " <>
       "handler was run.", "`duration`, `queue_time`, `attempts`", ["`worker`", "`kind`"]},
    {[:message, :exception],
     "A handler has raised, exited or returned what it must not. `reason` is what the caller is answered.",
     "`duration`, `queue_time`", ["`worker`", "`kind`", "`reason`", "`stacktrace`"]},
    {[:message, :retry],
     "The state was changed under a handler, which is run again. `attempt` is the one that was in vain.",
     "`attempt`", ["`worker`", "`kind`"]},
    {[:message, :dropped],
     "Requests were given up. `reason` is `:queue_full`, `:queue_timeout`, `:queue_delay` (CoDel), " <>
       "`:caller_down` (a call whose caller has ended), `:worker_down` (its worker was killed) or `:shutdown`.",
     "`count`", ["`reason`"]},
    {[:worker, :start], "A worker has been started.", "`system_time`", ["`worker`"]},
    {[:worker, :stop], "A worker has ended, and is replaced unless that was asked for.",
     "`system_time`", ["`worker`", "`reason`"]}
  ]

  rows =
    for {event, text, measurements, metadata} <- @events do
      metadata = Enum.join(["`pool`" | metadata], ", ")

      "  * `#{inspect(@prefix ++ event)}` - #{text}\n" <>
        "    * Measurements: #{measurements}\n    * Metadata: #{metadata}\n"
    end

  @moduledoc @moduledoc <>
               Enum.join(rows, "\n") <>
               """

               `pool` is the pool's name; `kind` is `:call`, `:cast`, `:info` or `:continue`. Times are in native \
               units. A worker looks every ten milliseconds whether anybody listens to `:start` and `:stop` of \
               messages; all other events are emitted as they come.
               """

  @doc """
  The names of all events.

      iex> [:partitioned_buffer, :gen_pool, :message, :dropped] in PartitionedBuffer.GenPool.Telemetry.events()
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
  @spec dropped(atom(), pos_integer(), atom()) :: :ok
  def dropped(pool, count, reason) do
    execute([:message, :dropped], %{count: count}, %{pool: pool, reason: reason})
  end

  @doc false
  @spec listening?() :: boolean()
  def listening?, do: PartitionedBuffer.Telemetry.handled?(@prefix ++ [:message])

  @doc false
  @spec docs() :: String.t()
  def docs, do: unquote(Enum.join(rows, "\n"))
end
