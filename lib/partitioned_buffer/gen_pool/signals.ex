defmodule PartitionedBuffer.GenPool.Signals do
  @moduledoc false
  # A few words that all processes of a pool look at between messages. They hardly ever change, so that
  # looking costs next to nothing.
  #
  #   * Whether messages to the pool's own process wait to be fetched from there, and whether any handler ever
  #     asked for a timeout. These are bits of the broker's (`Broker.attend/3`): the native calls that take or start a
  #     request see them.
  #   * The pool's timeout: a token of the handler that asked for it last, or 0. Any message that is handled
  #     after that takes it away; the timer that finds its own token still there has waited long enough.
  #   * How often handlers were run again.
  #   * Whether the pool ends as a whole, so that its callers are told by its end.

  import Bitwise

  alias PartitionedBuffer.Broker

  @fetch 0b01
  @timeouts 0b10

  @timeout 1
  @retries 2
  @ending 3

  @type t :: :atomics.atomics_ref()

  @spec new() :: t()
  def new, do: :atomics.new(3, signed: false)

  @doc "What a worker has to look after before it takes: 0 for nothing."
  @spec attention(Broker.t()) :: non_neg_integer()
  def attention(broker), do: Broker.attention(broker)

  @doc "Whether something is to be fetched."
  @spec fetch?(attention :: non_neg_integer()) :: boolean()
  def fetch?(attention), do: (attention &&& @fetch) != 0

  @doc "Whether this pool has timeouts."
  @spec timeouts?(attention :: non_neg_integer()) :: boolean()
  def timeouts?(attention), do: (attention &&& @timeouts) != 0

  @spec put_fetch(Broker.t(), boolean()) :: :ok
  def put_fetch(broker, fetch?), do: Broker.attend(broker, @fetch, fetch?)

  @doc "The broker serves a pool that has just been started."
  @spec begin(Broker.t()) :: :ok
  def begin(broker), do: Broker.attend(broker, @fetch ||| @timeouts, false)

  @doc "A handler has asked for a timeout: the token for its timer."
  @spec arm(t(), Broker.t()) :: pos_integer()
  def arm(signals, broker) do
    token = System.unique_integer([:positive])
    :ok = Broker.attend(broker, @timeouts, true)
    :ok = :atomics.put(signals, @timeout, token)
    token
  end

  @doc "A message came: nobody is told of a timeout."
  @spec disarm(t()) :: :ok
  def disarm(signals) do
    if :atomics.get(signals, @timeout) != 0, do: :atomics.put(signals, @timeout, 0), else: :ok
  end

  @doc "Whether nothing came since the token was given; it counts only once."
  @spec due?(t(), pos_integer()) :: boolean()
  def due?(signals, token),
    do: :atomics.compare_exchange(signals, @timeout, token, 0) == :ok

  @spec retried(t()) :: :ok
  def retried(signals), do: :atomics.add(signals, @retries, 1)

  @spec retries(t()) :: non_neg_integer()
  def retries(signals), do: :atomics.get(signals, @retries)

  @spec put_ending(t()) :: :ok
  def put_ending(signals), do: :atomics.put(signals, @ending, 1)

  @spec ending?(t()) :: boolean()
  def ending?(signals), do: :atomics.get(signals, @ending) != 0
end
