defmodule PartitionedBuffer.Router do
  @moduledoc false
  # From an entry to the index of its partition. Pure: the number of partitions never changes while
  # a buffer lives, so neither does the answer.
  #
  # Invariant: the native side routes entries without `:partition_key` by the same function.

  @type key_option :: nil | (term() -> term()) | mfa() | term()

  @spec index(key_option(), term(), pos_integer()) :: non_neg_integer()
  def index(key_option, entry, partitions) do
    key_option |> key(entry) |> :erlang.phash2(partitions)
  end

  defp key(nil, entry), do: :erlang.phash2(entry)
  defp key(fun, entry) when is_function(fun, 1), do: fun.(entry)

  defp key({module, function, args}, entry)
       when is_atom(module) and is_atom(function) and is_list(args) do
    apply(module, function, [entry | args])
  end

  defp key(key, _entry), do: key
end
