defmodule PartitionedBuffer.GenPool.Backend.ETS do
  @moduledoc """
  The shared state of a pool in an ETS table of its own, owned by the pool's process.

  For those who want to look at the state with the tools for ETS. It reads and replaces as atomically as
  the native backend, and is slower: every read of a changed state waits for its writers.

      use PartitionedBuffer.GenPool, backend: PartitionedBuffer.GenPool.Backend.ETS

  It has no configuration.
  """

  @behaviour PartitionedBuffer.GenPool.Backend

  defstruct []

  @typedoc "A configuration of nothing."
  @type t :: %__MODULE__{}

  @first 1

  @impl true
  def new(_config, state) do
    table = :ets.new(__MODULE__, [:public, read_concurrency: true])
    true = :ets.insert(table, {:state, @first, state})
    {:ok, table, @first}
  end

  @impl true
  def get(table, known) do
    case known != nil and :ets.lookup_element(table, :state, 2) do
      ^known ->
        :unchanged

      _newer ->
        [{:state, version, state}] = :ets.lookup(table, :state)
        {version, state}
    end
  end

  @impl true
  def update(table, version, state) do
    # The state may look like a variable of a match specification; it is none.
    new = {{:state, version + 1, {:const, state}}}

    case :ets.select_replace(table, [{{:state, version, :_}, [], [new]}]) do
      1 -> {:ok, version + 1}
      0 -> :changed
    end
  end

  @impl true
  def delete(table), do: :ets.delete(table)
end
