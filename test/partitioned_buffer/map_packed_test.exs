defmodule PartitionedBuffer.MapPackedTest do
  # Short terms are kept as bytes, others in the VM's own form: nobody sees which, wherever the border is, and
  # however the VM holds a term that is given.
  use PartitionedBuffer.MapCase, async: true

  @sized [partitions: 2, processing_batch_size: 1_000]

  defp forwarding, do: [processor: {PartitionedBuffer.BufferCase, :forward, [self()]}]

  # Around all sizes at which another form is taken.
  defp terms do
    binaries = for size <- [0, 1, 7, 8, 9, 14, 15, 16, 63, 64, 65, 300], do: bytes(size)
    tuples = for size <- [1, 2, 15, 16, 17, 200, 254, 255, 256], do: :erlang.make_tuple(size, 7)
    lists = for size <- [1, 2, 100, 254, 255, 256, 600], do: List.duplicate(:x, size)
    maps = for size <- [1, 2, 31, 32, 33], do: Map.new(1..size, &{&1, bytes(3)})
    deep = for depth <- [1, 14, 15, 16, 17, 18, 40], do: Enum.reduce(1..depth, 1, &{&1, &2})

    deep_lists =
      for depth <- [7, 8, 15, 16, 17], do: Enum.reduce(1..depth, [], fn _, x -> [x] end)

    integers =
      for bits <- [0, 3, 4, 7, 8, 11, 12, 51, 52, 58, 59, 60, 63, 64, 65, 500, 1000, 2000],
          sign <- [1, -1],
          around <- [-1, 0, 1] do
        {sign * Integer.pow(2, bits) + around}
      end

    floats = [1.5, -1.5, 1.0e300, {0.0}, {-0.0}, [0.0], %{0.0 => 1}]

    mixed = [
      {:event, 123_456, "payload"},
      [1 | 2],
      [1 | "tail"],
      [{1, "a"}, {2, "b"} | %{a: [1.5]}],
      %{{1, "a"} => %{b: [c: 2.5]}},
      {self(), :a, nil, [], true},
      {make_ref(), 1},
      {fn -> :ok end, 1},
      <<1::1>>,
      <<bytes(8)::binary, 1::7>>,
      {"short", <<5::12>>},
      {},
      %{},
      {{}, %{}},
      {bytes(64), bytes(64), bytes(64), bytes(46)},
      {bytes(64), bytes(64), bytes(64), bytes(47)},
      List.duplicate(bytes(60), 4)
    ]

    Enum.concat([binaries, tuples, lists, maps, deep, deep_lists, integers, floats, mixed])
    |> Enum.uniq()
  end

  defp bytes(size), do: for(i <- 1..size//1, into: <<>>, do: <<i>>)

  # The same, but all binaries in it are parts of other ones.
  defp in_parts(term) when is_bitstring(term) do
    <<_::3, part::bitstring>> = <<0::3, term::bitstring>>
    part
  end

  defp in_parts([head | tail]), do: [in_parts(head) | in_parts(tail)]
  defp in_parts(tuple) when is_tuple(tuple), do: map_tuple(tuple)

  defp in_parts(map) when is_map(map),
    do: Map.new(map, fn {key, value} -> {in_parts(key), in_parts(value)} end)

  defp in_parts(other), do: other

  defp map_tuple(tuple) do
    tuple |> Tuple.to_list() |> Enum.map(&in_parts/1) |> List.to_tuple()
  end

  # Binaries that are shared, though they may be short.
  defp shared(binary) when is_binary(binary) do
    binary_part(binary <> String.duplicate("x", 100), 0, byte_size(binary))
  end

  defp shared(other), do: other

  test "a key is found however the VM holds it" do
    name = start_map!(@sized)
    all = terms()

    for term <- all, put <- [& &1, &in_parts/1, &shared/1] do
      assert Buffer.put(name, put.(term), {:value, term}) == :ok
    end

    assert Buffer.size(name) == length(all)

    for term <- all, get <- [& &1, &in_parts/1, &shared/1] do
      assert Buffer.fetch(name, get.(term)) === {:ok, {:value, term}}
    end

    for term <- all do
      assert Buffer.take(name, in_parts(term)) === {:ok, {:value, term}}
    end

    assert Buffer.size(name) == 0
  end

  test "values come back as they were, one by one and in batches" do
    name = start_map!([processing_interval_ms: 3_600_000] ++ forwarding() ++ @sized)
    numbered = Enum.with_index(terms(), fn term, index -> {index, term} end)
    Buffer.put_all(name, Enum.map(numbered, fn {index, term} -> {index, in_parts(term)} end))

    for {index, term} <- numbered, do: assert(Buffer.get(name, index) === term)
    assert name |> Buffer.to_list() |> Enum.sort() === Enum.sort(numbered)
    for {index, term} <- numbered, do: Buffer.put_newer(name, {:newer, index}, term, index)

    processed = entries(name)
    assert length(processed) == 2 * length(numbered)

    for {index, term} <- numbered do
      assert {index, term, 0, 0} in processed
      assert {{:newer, index}, term, index, 0} in processed
    end
  end

  test "a value is written over any other one" do
    name = start_map!(@sized)
    all = terms()

    for {one, other} <- Enum.zip(all, Enum.reverse(all)), key <- [1, "key", {make_ref()}] do
      Buffer.put(name, key, one)
      assert Buffer.get(name, key) === one
      Buffer.put(name, key, other)
      assert Buffer.get(name, key) === other
      Buffer.put_newer(name, key, one, 1)
      assert Buffer.get(name, key) === one
      Buffer.put_newer(name, key, other, 1)
      assert Buffer.get(name, key) === one
    end
  end

  test "a version may be of any size beside a value of any form" do
    name = start_map!(@sized)
    big = Integer.pow(2, 100)

    for term <- terms() do
      for version <- [-big, -1, 0, big, big + 1] do
        assert Buffer.put_newer(name, term, {version, term}, version) == :ok
        assert Buffer.put_newer(name, term, :older, version - 1) == :ok
        assert Buffer.put_newer(name, term, :as_old, version) == :ok
        assert Buffer.get(name, term) === {version, term}
      end
    end
  end
end
