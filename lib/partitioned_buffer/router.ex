defmodule PartitionedBuffer.Router do
  @moduledoc false
  # From an entry to the index of its partition. Pure: the number of partitions never changes while
  # a buffer lives, so neither does the answer.
  #
  # Invariant: the native side routes entries without `:partition_key` by the same function.

  # The hashes of all entries of a list, in their order: what another node has found out with a key option
  # of its own.
  defmodule Hashes do
    @moduledoc false
    @enforce_keys [:hashes]
    defstruct [:hashes]
    @type t :: %__MODULE__{hashes: [PartitionedBuffer.Router.hash()]}
  end

  @range 4_294_967_296

  @type key_option :: nil | (term() -> term()) | mfa() | term()
  @type hash :: 0..4_294_967_295

  @doc "What an entry is routed by, before it is known between how many partitions."
  @spec hash(key_option(), term()) :: hash()
  def hash(key_option, entry), do: key_option |> key(entry) |> :erlang.phash2(@range)

  @doc "The index of each of these entries."
  @spec indexes(key_option() | Hashes.t(), [term()], pos_integer()) :: [non_neg_integer()]
  def indexes(%Hashes{hashes: hashes}, _entries, partitions),
    do: Enum.map(hashes, &rem(&1, partitions))

  def indexes(key_option, entries, partitions),
    do: Enum.map(entries, &index(key_option, &1, partitions))

  @spec index(key_option() | Hashes.t(), term(), pos_integer()) :: non_neg_integer()
  def index(%Hashes{hashes: [hash]}, _entry, partitions), do: rem(hash, partitions)

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
