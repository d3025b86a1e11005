defmodule PartitionedBuffer.Generators do
  @moduledoc false
  # PropEr generators of every kind of term that Erlang has.

  alias :proper_types, as: Types

  defmodule Struct do
    @moduledoc false
    defstruct [:field, other: %{}]
  end

  @doc "A term of any kind, with terms of any kind in it."
  def any_term, do: Types.sized(&term/1)

  defp term(size) when size < 2, do: scalar()

  defp term(size) do
    inner = Types.lazy(fn -> term(div(size, 3)) end)

    Types.frequency([
      {4, scalar()},
      {2, Types.list(inner)},
      {2, let(Types.list(inner), &List.to_tuple/1)},
      {2, let(Types.list({inner, inner}), &Map.new/1)},
      {1, let({Types.list(inner), scalar()}, fn {list, tail} -> [:head | list] ++ tail end)},
      {1, let(inner, &%Struct{field: &1})},
      {1, let(inner, fn term -> fn other -> {term, other} end end)}
    ])
  end

  @doc "A term without terms in it."
  def scalar do
    Types.oneof([integer(), float(), binary(), bitstring(), atom(), identifier(), capture(), []])
  end

  @doc "Integers of every size that the VM stores in another way, and those next to them."
  def integer do
    limits = for bits <- [0, 27, 28, 31, 32, 59, 60, 63, 64, 127, 1_000], do: Integer.pow(2, bits)

    Types.oneof([
      Types.integer(),
      let({Types.oneof(limits), Types.integer(-2, 2), Types.oneof([1, -1])}, fn
        {limit, offset, sign} -> sign * (limit + offset)
      end)
    ])
  end

  @doc "Floats, both zeros and both ends among them."
  def float do
    special = [0.0, -0.0, 5.0e-324, -5.0e-324, 2.2250738585072014e-308, 1.7976931348623157e308]
    Types.oneof([Types.float() | Enum.map(special, &Types.exactly/1)])
  end

  @doc "Binaries on the heap, off the heap, and parts of those."
  def binary do
    Types.oneof([
      Types.binary(),
      let(Types.integer(60, 70), &:binary.copy(<<?x>>, &1)),
      let({Types.integer(100, 5_000), Types.integer(0, 255)}, fn
        {length, byte} -> :binary.copy(<<byte>>, length)
      end),
      let({Types.integer(100, 500), Types.integer(0, 99)}, fn {length, from} ->
        binary_part(:binary.copy(<<"abc">>, length), from, length - from)
      end)
    ])
  end

  @doc "Bitstrings, parts of larger ones among them."
  def bitstring do
    Types.oneof([
      Types.bitstring(),
      let(Types.integer(1, 1_000), fn from ->
        without(:binary.copy(<<0b10110111>>, 128), from)
      end)
    ])
  end

  # The rest refers to the whole. (Releases differ in how a size is to be written in a pattern.)
  defp without(bits, 0), do: bits
  defp without(<<_::1, rest::bitstring>>, from), do: without(rest, from - 1)

  def atom do
    Types.oneof([Types.atom() | Enum.map([nil, true, :"", :ü, Struct], &Types.exactly/1)])
  end

  @doc "Pids, ports and references."
  def identifier do
    let(Types.integer(0, 4), fn
      0 -> self()
      1 -> make_ref()
      2 -> hd(Port.list())
      3 -> :erlang.list_to_pid(~c"<0.12345.678>")
      4 -> :atomics.new(1, [])
    end)
  end

  def capture do
    Types.oneof(
      Enum.map(
        [&String.upcase/1, &Enum.map/2, &__MODULE__.atom/0, &:erlang.+/2],
        &Types.exactly/1
      )
    )
  end

  @doc "`fun` of what `generator` makes."
  def let(generator, fun), do: Types.bind(generator, fun, false)

  @doc """
  Sorted so that terms which compare as equal, such as `1` and `1.0` or `0.0` and `-0.0`, are not in the order in which they
  came.
  """
  def sort_exactly(terms), do: Enum.sort_by(terms, &:erlang.term_to_binary/1)

  @doc "Whether two terms are the same to the last bit."
  def identical?(one, other) do
    one === other and :erlang.term_to_binary(one) == :erlang.term_to_binary(other)
  end
end
