defmodule PartitionedBuffer.Awaited do
  @moduledoc false
  # Waits until entries have been through: the native side tells the caller for each token that it gave.
  #
  # Invariant: when a call has returned, nothing that it waited for comes to its process any more.

  import Bitwise

  alias PartitionedBuffer.{Handle, Native}

  @type outcome :: {:ok, result :: term()} | {:error, reason :: term()}

  # A call uses as many tokens as there are partitions, or parts of a list.
  @tokens 1 <<< 24

  @doc "The first token of a call; those that follow it are its own too."
  @spec token() :: Native.token()
  def token, do: rem(:erlang.unique_integer([:positive]), 1 <<< 38) * @tokens

  @doc "The outcome for a token, if it comes in time."
  @spec await(Native.handle(), Native.token(), timeout()) :: outcome()
  def await(ref, token, timeout) do
    receive do
      {:partitioned_buffer, ^token, outcome} -> outcome
    after
      timeout -> give_up(ref, token)
    end
  end

  @doc "The outcome for each token, in their order. Those that do not come in time are timeouts."
  @spec collect(Native.handle(), [Native.token()], timeout()) :: [outcome()]
  def collect(ref, tokens, timeout), do: collect(ref, tokens, deadline(timeout), [])

  defp collect(_ref, [], _deadline, outcomes), do: Enum.reverse(outcomes)

  defp collect(ref, [token | tokens], deadline, outcomes) do
    outcome =
      receive do
        {:partitioned_buffer, ^token, outcome} -> outcome
      after
        left(deadline) -> give_up(ref, token)
      end

    collect(ref, tokens, deadline, [outcome | outcomes])
  end

  @doc "The outcome of a call: of all its parts together, as a list for a list."
  @spec outcome([outcome()], list? :: boolean()) :: outcome()
  def outcome(outcomes, list?) do
    case Enum.find(outcomes, &match?({:error, _reason}, &1)) do
      nil when list? -> {:ok, for({:ok, result} <- outcomes, do: result)}
      nil -> hd(outcomes)
      error -> error
    end
  end

  # If no partition has it any more, the outcome has been sent.
  defp give_up(ref, token) do
    if Enum.any?(Handle.indexes(ref), &Native.partition_await_no_more(ref, &1, token)) do
      {:error, :timeout}
    else
      receive do
        {:partitioned_buffer, ^token, outcome} -> outcome
      end
    end
  end

  @doc "Until when a call may wait that begins now."
  @spec deadline(timeout()) :: integer() | :infinity
  def deadline(:infinity), do: :infinity
  def deadline(ms) when is_integer(ms), do: System.monotonic_time(:millisecond) + ms

  @doc "What of that is left, in milliseconds."
  @spec left(integer() | :infinity) :: timeout()
  def left(:infinity), do: :infinity

  def left(deadline) when is_integer(deadline),
    do: max(deadline - System.monotonic_time(:millisecond), 0)
end
