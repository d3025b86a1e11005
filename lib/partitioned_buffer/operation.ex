defmodule PartitionedBuffer.Operation do
  @moduledoc false
  # The operations of `PartitionedBuffer.Map.update/5` in Elixir, for the cases that the native side
  # leaves to it: integers of more than 64 bits, values that are too large for the time under a lock,
  # and the exception for a value of the wrong type.
  #
  # Invariant: what both sides can do, they do alike.

  @spec function(PartitionedBuffer.Map.operation()) :: (term() -> term())
  def function({:add, number}), do: &(&1 + number)
  def function({:max, term}), do: &max(&1, term)
  def function({:min, term}), do: &min(&1, term)
  def function({:append, term}), do: &append(&1, term)

  defp append(list, term) when is_list(list), do: list ++ [term]

  defp append(other, _term) do
    raise ArgumentError, "expected a list to append to, got: #{inspect(other)}"
  end
end
