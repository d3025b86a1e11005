defmodule PartitionedBuffer.GenBuffer.Handle do
  @moduledoc false
  # From a GenBuffer's name to its broker and what a caller needs to know: one read of
  # `:persistent_term`.
  #
  # Invariant: it is there from before the first worker starts until after the last message, also while
  # the tree is killed and started again.

  alias PartitionedBuffer.Broker

  @enforce_keys [:broker, :keeper, :manager, :replies?, :overflow, :figures, :opts]
  defstruct [:broker, :keeper, :manager, :replies?, :overflow, :figures, :opts, observed?: false]

  @type t :: %__MODULE__{
          broker: Broker.t(),
          keeper: atom(),
          manager: atom(),
          replies?: boolean(),
          overflow: :reject | :block | :drop_oldest | :drop_newest,
          figures: :atomics.atomics_ref(),
          opts: map(),
          observed?: boolean()
        }

  # What changes in a running buffer and is read by everybody.
  @target 1
  @busy 2

  @spec new(atom(), Broker.t(), map()) :: t()
  def new(buffer, broker, opts) do
    figures = :atomics.new(2, [])
    :ok = :atomics.put(figures, @target, opts.workers)

    %__MODULE__{
      broker: broker,
      keeper: keeper(buffer),
      manager: manager(buffer),
      replies?: opts.send_replies,
      overflow: if(opts.buffer_type == :ring, do: :drop_oldest, else: opts.overflow),
      figures: figures,
      opts: opts
    }
  end

  @doc "The names of its processes."
  @spec keeper(atom()) :: atom()
  def keeper(buffer), do: Module.concat(buffer, Keeper)

  @spec manager(atom()) :: atom()
  def manager(buffer), do: Module.concat(buffer, Manager)

  @spec put(atom(), t()) :: :ok
  def put(buffer, %{broker: broker, observed?: observed?} = handle) do
    :ok = :persistent_term.put(key(buffer), handle)
    plain? = not observed?
    Broker.put_name(broker, buffer, plain? and not handle.replies?, plain?)
  end

  @spec fetch(term()) :: {:ok, t()} | :error
  def fetch(buffer) do
    case :persistent_term.get(key(buffer), nil) do
      nil -> :error
      handle -> {:ok, handle}
    end
  end

  @spec fetch!(term()) :: t()
  def fetch!(buffer) do
    case :persistent_term.get(key(buffer), nil) do
      nil -> unknown!(buffer)
      handle -> handle
    end
  end

  @doc "Another buffer that was started under the name meanwhile keeps it."
  @spec erase(atom(), Broker.t()) :: :ok
  def erase(buffer, broker) do
    :ok = Broker.erase_name(broker, buffer)
    with {:ok, %{broker: ^broker}} <- fetch(buffer), do: :persistent_term.erase(key(buffer))
    :ok
  end

  @spec unknown!(term()) :: no_return()
  def unknown!(buffer) do
    raise ArgumentError,
          "unknown buffer: #{inspect(buffer)} (no PartitionedBuffer.GenBuffer is running under this name)"
  end

  @doc "Under which name the native side knows it."
  @spec native_name(atom()) :: String.t()
  def native_name(buffer), do: "gen_buffer:#{buffer}"

  @doc """
  Notes whether a telemetry handler is attached. Senders read the handle each time: a field of it costs nothing,
  and writing it anew is rare. Workers are told.
  """
  @spec put_observed(atom(), t(), boolean()) :: t()
  def put_observed(buffer, handle, observed?) do
    handle = %{handle | observed?: observed?}
    :ok = put(buffer, handle)
    handle
  end

  @doc "How many workers there are to be."
  @spec target(t()) :: non_neg_integer()
  def target(%{figures: figures}), do: :atomics.get(figures, @target)

  @spec put_target(t(), non_neg_integer()) :: :ok
  def put_target(%{figures: figures}, target), do: :atomics.put(figures, @target, target)

  @doc "What part of their time workers were busy lately, from 0.0 to 1.0."
  @spec busy(t()) :: float()
  def busy(%{figures: figures}), do: :atomics.get(figures, @busy) / 1_000

  @spec put_busy(t(), float()) :: :ok
  def put_busy(%{figures: figures}, share),
    do: :atomics.put(figures, @busy, round(share * 1_000))

  defp key(buffer), do: {PartitionedBuffer.GenBuffer, buffer}
end
