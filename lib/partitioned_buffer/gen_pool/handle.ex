defmodule PartitionedBuffer.GenPool.Handle do
  @moduledoc false
  # From a pool's name to its broker: one read of `:persistent_term`; and natively, for those who need nothing besides.
  #
  # Invariant: the handle of a running pool is there from before its first worker starts until its requests
  # are refused. One that a killed pool has left refers to a broker that nobody takes from; who asks it sees
  # that the pool's process is not there.

  alias PartitionedBuffer.Broker
  alias PartitionedBuffer.GenPool.BrokerServer

  @enforce_keys [:broker, :keeper, :watch]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          broker: Broker.t(),
          keeper: atom(),
          watch: pid()
        }

  @doc "`watch` is the process whose end is the end of requests that wait."
  @spec put(atom(), BrokerServer.handle(), pid()) :: :ok
  def put(pool, %{broker: broker, keeper: keeper}, watch) do
    handle = %__MODULE__{broker: broker, keeper: keeper, watch: watch}
    :ok = :persistent_term.put(key(pool), handle)
    Broker.put_pool(broker, pool, keeper, watch)
  end

  @doc "The same of what a caller is told by `Broker.slow/3`."
  @spec told({Broker.t(), {atom(), pid()}}) :: t()
  def told({broker, {keeper, watch}}),
    do: %__MODULE__{broker: broker, keeper: keeper, watch: watch}

  @doc "Why the process that is watched has ended; `reason` is that of a monitor, perhaps of one that came too late."
  @spec ended(term(), t()) :: term()
  def ended(:noproc, %{broker: broker}) do
    case Broker.why_ended(broker) do
      {:ok, reason} -> reason
      # It could not say.
      :error -> :killed
    end
  end

  def ended(reason, _handle), do: reason

  @spec fetch(atom()) :: {:ok, t()} | :error
  def fetch(pool) do
    case :persistent_term.get({PartitionedBuffer.GenPool, pool}, nil) do
      nil -> :error
      handle -> {:ok, handle}
    end
  end

  @doc "Another pool of the name may have put its own meanwhile."
  @spec erase(atom(), Broker.t()) :: :ok
  def erase(pool, broker) do
    :ok = Broker.erase_pool(broker, pool)
    with {:ok, %{broker: ^broker}} <- fetch(pool), do: :persistent_term.erase(key(pool))
    :ok
  end

  defp key(pool), do: {PartitionedBuffer.GenPool, pool}
end
