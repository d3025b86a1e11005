defmodule PartitionedBuffer.MapTermsTest do
  # Keys and values of every kind: as an ETS table of type `:set` has them.
  use PartitionedBuffer.MapCase, async: true

  import PartitionedBuffer.Generators
  import PartitionedBuffer.Property

  alias :proper_types, as: Types

  @sized [partitions: 3, processing_batch_size: 1_000_000]

  # Terms that are equal to others, or nearly so.
  defp similar do
    Types.oneof(
      Enum.map(
        [
          0,
          0.0,
          -0.0,
          1,
          1.0,
          [1],
          [1.0],
          {1},
          {1.0},
          %{1 => 1},
          %{1.0 => 1},
          %{1 => 1.0},
          [0.0],
          [-0.0],
          %{a: 0.0},
          %{a: -0.0},
          "a",
          ~c"a",
          :a,
          <<1::1>>,
          <<1::2>>,
          [],
          {},
          %{},
          "",
          nil,
          Integer.pow(2, 64),
          :math.pow(2, 64)
        ],
        &Types.exactly/1
      )
    )
  end

  defp key, do: Types.frequency([{3, similar()}, {2, any_term()}, {1, scalar()}])

  # `{operation, which of the keys, value}`
  defp operation do
    {Types.oneof([:put, :put, :put_all, :put_newer, :put_new, :update, :delete, :take, :read]),
     Types.integer(0, 20), any_term()}
  end

  # Both do the same and answer the same.
  defp run(table, name, {:put, key, value}) do
    :ets.insert(table, {key, value})
    Buffer.put(name, key, value)
  end

  defp run(table, name, {:put_all, key, value}) do
    :ets.insert(table, [{key, :first}, {value, :other}, {key, value}])
    Buffer.put_all(name, [{key, :first}, {value, :other}, {key, value}])
  end

  # Above all other versions: the key is written.
  defp run(table, name, {:put_newer, key, value}) do
    :ets.insert(table, {key, value})
    Buffer.put_newer(name, key, value, :erlang.unique_integer([:monotonic, :positive]))
  end

  defp run(table, name, {:put_new, key, value}) do
    :ets.insert_new(table, {key, value})
    Buffer.update(name, key, :default, {:put_new, value})
  end

  defp run(table, name, {:update, key, value}) do
    case :ets.lookup(table, key) do
      [{_key, _there}] -> :ets.update_element(table, key, {2, value})
      [] -> :ets.insert(table, {key, :default})
    end

    Buffer.update(name, key, :default, fn _there -> value end)
  end

  defp run(table, name, {:delete, key, _value}) do
    :ets.delete(table, key)
    Buffer.delete(name, key)
  end

  defp run(table, name, {:take, key, _value}) do
    expected = table |> :ets.take(key) |> found()
    assert identical?(Buffer.take(name, key), expected)
  end

  defp run(table, name, {:read, key, _value}), do: assert_read(table, name, key)

  defp assert_read(table, name, key) do
    expected = table |> :ets.lookup(key) |> found()
    assert identical?(Buffer.fetch(name, key), expected)
    assert Buffer.has_key?(name, key) == :ets.member(table, key)
  end

  defp found([{_key, value}]), do: {:ok, value}
  defp found([]), do: :error

  # The same rows, whatever their order.
  defp assert_same(entries, table) do
    assert length(entries) == :ets.info(table, :size)

    for {key, value, _version, _updates} <- entries do
      assert [{_same, there}] = :ets.lookup(table, key)
      assert identical?(value, there)
    end
  end

  test "any keys and values: the same as a :set" do
    generator = {Types.list(key()), Types.list(operation())}

    check(generator, [tests: 150, size: 14], fn {keys, operations} ->
      keys = List.to_tuple([1, 1.0 | keys])
      name = start_map!(@sized)
      table = :ets.new(:model, [:set])

      for {operation, nth, value} <- operations do
        key = elem(keys, rem(nth, tuple_size(keys)))
        run(table, name, {operation, key, value})
        assert_read(table, name, key)
        assert Buffer.size(name) == :ets.info(table, :size)
      end

      for key <- Tuple.to_list(keys), do: assert_read(table, name, key)
      assert_accounted(PartitionedBuffer.info(name))
      assert_same(entries(name), table)
    end)
  end

  test "keys that are like each other: the same as a :set" do
    check({Types.list({similar(), Types.integer()})}, [tests: 100], fn {pairs} ->
      name = start_map!(@sized)
      table = :ets.new(:model, [:set])
      for {key, value} <- pairs, do: run(table, name, {:put, key, value})
      for {key, _value} <- pairs, do: assert_read(table, name, key)
      :ets.delete_all_objects(table)
      :ets.insert(table, pairs)
      assert_same(entries(name), table)
    end)
  end

  describe "keys and values that mean something elsewhere" do
    for {kind, key} <- [
          variable: :"$1",
          wildcard: :_,
          match_spec: quote(do: {:a, :"$_", [{:"$1", [], [true]}]}),
          map_of_variables: quote(do: %{:_ => :"$1", "$2" => :"$3"}),
          deep_map: quote(do: %{%{a: %{}} => [%{1.0 => {}}], 1 => nil}),
          large_map: quote(do: Map.new(1..100, &{&1, {&1}})),
          improper_list: quote(do: [1, 2 | :tail]),
          improper_binary_tail: quote(do: [[1 | "tail"] | <<1::3>>]),
          capture: quote(do: &Enum.map/2),
          closure: quote(do: closure(self(), "a binary of the environment")),
          reference: quote(do: make_ref()),
          atomics: quote(do: :atomics.new(1, [])),
          pid: quote(do: self()),
          other_pid: quote(do: :erlang.list_to_pid(~c"<0.12345.678>")),
          port: quote(do: hd(Port.list())),
          empty_tuple: quote(do: {}),
          empty_bits: "",
          bits: quote(do: <<5::3>>),
          nothing: nil,
          default: :error
        ] do
      test "#{kind}" do
        key = unquote(key)
        name = start_map!(@sized)
        Buffer.put_all(name, [{:any, 0}, {:other, 0}, {{:a, :b}, 0}, {[1, 2], 0}, {%{a: 1}, 0}])
        assert_every_function(name, key)
        assert Buffer.size(name) == 5
        refute Buffer.has_key?(name, key)
      end
    end
  end

  defp closure(one, other), do: fn -> {one, other} end

  # Each function finds what another one wrote, and leaves the key away.
  defp assert_every_function(name, key, opts \\ []) do
    refute Buffer.has_key?(name, key, opts)
    assert Buffer.fetch(name, key, opts) == :error
    assert Buffer.get(name, key, :default, opts) == :default
    assert Buffer.take(name, key, opts) == :error
    assert Buffer.delete(name, key, opts) == :ok

    for {write, value} <- [
          {&Buffer.put(name, key, &1, opts), key},
          {&Buffer.put(name, key, &1, opts), [key, key]},
          {&Buffer.put_all(name, [{key, 1}, {key, &1}], opts), {key}},
          {&Buffer.put_all(name, %{key => &1}, opts), key},
          {&Buffer.put_newer(name, key, &1, 5, opts), %{key: key}},
          {&Buffer.put_all_newer(name, [{key, &1, 9}, {key, 1, 8}], opts), key},
          {fn value -> Buffer.update(name, key, 1, fn _there -> value end, opts) end, [key]},
          {fn _value -> Buffer.update(name, key, 1, {:append, key}, opts) end, [key, key]},
          {&Buffer.update(name, key, 1, {:max, &1}, opts), [key, key, 1]},
          {fn _value -> Buffer.update(name, key, 1, {:put_new, 1}, opts) end, [key, key, 1]}
        ] do
      size = Buffer.size(name) + if(Buffer.has_key?(name, key, opts), do: 0, else: 1)
      assert write.(value) == :ok
      assert Buffer.size(name) == size
      assert Buffer.has_key?(name, key, opts)
      assert identical?(Buffer.fetch(name, key, opts), {:ok, value})
    end

    assert {:ok, _value} = Buffer.take(name, key, opts)

    for value <- [key, {key, key}, 1] do
      assert Buffer.put_newer(name, key, value, Integer.pow(2, 70), opts) == :ok
      assert identical?(Buffer.get(name, key, nil, opts), value)
      assert identical?(Buffer.take(name, key, opts), {:ok, value})
      assert Buffer.put(name, key, value, opts) == :ok
      assert Buffer.delete(name, key, opts) == :ok
      assert Buffer.fetch(name, key, opts) == :error
    end
  end

  describe "large keys and values" do
    for {kind, term} <- [
          binary_of_8_kb: quote(do: :binary.copy("ab", 5_000)),
          binary_of_130_kb: quote(do: :binary.copy("ab", 66_000)),
          binary_of_a_megabyte: quote(do: :binary.copy("ab", 600_000)),
          part_of_a_binary: quote(do: binary_part(:binary.copy("ab", 600_000), 3, 1_000_001)),
          bits: quote(do: <<1::1, :binary.copy("a", 600_000)::binary>>),
          list_of_8_kb: quote(do: Enum.to_list(1..600)),
          list_of_130_kb: quote(do: Enum.to_list(1..9_000)),
          list_of_a_megabyte: quote(do: Enum.to_list(1..80_000)),
          tuple: quote(do: List.to_tuple(Enum.to_list(1..150_000))),
          map: quote(do: Map.new(1..20_000, &{&1, {&1, "value"}})),
          integer: quote(do: Integer.pow(7, 100_000)),
          nested: quote(do: Enum.reduce(1..50_000, [], fn depth, inner -> {depth, inner} end))
        ] do
      test "of a #{kind}, in every function" do
        term = unquote(term)
        name = start_map!(@sized)
        assert_every_function(name, term)
        assert_every_function(name, term, partition_key: :one)
        assert %{bytes: 0, queued: 0} = assert_accounted(PartitionedBuffer.info(name))

        # A copy that is equal and elsewhere is the same key.
        Buffer.put_newer(name, term, term, 1)
        Buffer.put_newer(name, :erlang.binary_to_term(:erlang.term_to_binary(term)), term, 2)
        assert [{key, value, 2, 1}] = entries(name)
        assert identical?({key, value}, {term, term})
      end
    end

    test "many in one call" do
      name = start_map!(@sized)
      pairs = for byte <- 1..20, do: {:binary.copy(<<byte>>, 200_000), Enum.to_list(1..20_000)}
      Buffer.put_all(name, pairs)
      Buffer.put_all(name, Map.new(pairs))
      Buffer.put_all_newer(name, for({key, value} <- pairs, do: {key, value, byte_size(key)}))
      assert PartitionedBuffer.info(name).bytes in 10_000_000..12_000_000
      assert entries(name) == for({key, value} <- pairs, do: {key, value, 200_000, 1})
    end
  end

  # Each of them takes as many words as the others, so one is written over the other.
  defp alike do
    [
      {1, 2.5, "a"},
      {:x, "b", -2.5},
      {"c", {3}, :y},
      [1, 2, 3 | 4.5],
      [{5, 6, 7}, :z],
      {1, <<1, 2, 3, 4, 5, 6, 7, 8>>, 0.5},
      {1, 18_446_744_073_709_551_615, 0.25, nil},
      "a binary of twenty-one bytes, and a few more, so that it takes"
    ]
  end

  test "a value is written over another one that is as large" do
    name = start_map!(partitions: 1)

    for one <- alike(), other <- alike() do
      Buffer.put(name, :key, one)
      Buffer.put(name, :other, other)
      assert Buffer.get(name, :key) == one
      Buffer.put(name, :key, other)
      assert {Buffer.get(name, :key), Buffer.get(name, :other)} == {other, other}
      Buffer.put_all(name, [{:key, one}, {:key, other}, {:key, one}])
      Buffer.put_newer(name, :key, {one}, 1)
      Buffer.put_newer(name, :key, {other}, 2)
      assert Buffer.take(name, :key) == {:ok, {other}}
    end
  end
end
