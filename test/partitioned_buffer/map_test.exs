defmodule PartitionedBuffer.MapTest do
  # What is written, and what is read of it.
  use PartitionedBuffer.MapCase, async: true

  # On both sides of what the VM keeps in a word, and of what the library compares as 64 bits.
  @versions [
    -Integer.pow(2, 1_000),
    -Integer.pow(2, 64) - 1,
    -Integer.pow(2, 64),
    -Integer.pow(2, 63) - 1,
    -Integer.pow(2, 63),
    -Integer.pow(2, 59) - 1,
    -Integer.pow(2, 59),
    -2,
    -1,
    0,
    1,
    Integer.pow(2, 59) - 1,
    Integer.pow(2, 59),
    Integer.pow(2, 63) - 1,
    Integer.pow(2, 63),
    Integer.pow(2, 64) - 1,
    Integer.pow(2, 64),
    Integer.pow(2, 1_000),
    Integer.pow(2, 1_000) + 1
  ]

  setup do
    %{name: start_map!(partitions: 3, processing_batch_size: 100_000)}
  end

  describe "put/4" do
    test "writes a key that is not there, and one that is", %{name: name} do
      assert Buffer.put(name, :key, 1) == :ok
      assert Buffer.put(name, :key, 2) == :ok
      assert Buffer.put(name, :other, 3) == :ok
      assert Buffer.get(name, :key) == 2
      assert Buffer.size(name) == 2
      assert entries(name) == [{:key, 2, 0, 0}, {:other, 3, 0, 0}]
    end

    test "starts again with version 0 and no updates", %{name: name} do
      for write <- [
            fn -> Buffer.put(name, :key, :put) end,
            fn -> Buffer.put_all(name, key: :put) end,
            fn -> Buffer.put_all(name, [{:key, :put}], partition_key: &Function.identity/1) end,
            fn -> Buffer.put_all(name, %{key: :put}) end
          ] do
        Buffer.put_newer(name, :key, 1, Integer.pow(2, 70))
        Buffer.update(name, :key, 0, {:max, 7})
        write.()
        # Any version above 0 is newer now.
        Buffer.put_newer(name, :key, :not_newer, 0)
        assert Buffer.get(name, :key) == :put
        Buffer.put_newer(name, :key, :newer, 1)
        assert Buffer.get(name, :key) == :newer
      end

      Buffer.put(name, :key, :last)
      assert entries(name) == [{:key, :last, 0, 0}]
    end
  end

  describe "put_newer/5" do
    test "puts a key that is not there, whatever the version", %{name: name} do
      for version <- @versions do
        assert Buffer.put_newer(name, {:key, version}, version, version) == :ok
      end

      expected = for version <- @versions, do: {{:key, version}, version, version, 0}
      assert entries(name) == Enum.sort(expected)
    end

    test "puts what has a higher version, and counts it", %{name: name} do
      for {version, updates} <- Enum.with_index(@versions) do
        assert Buffer.put_newer(name, :key, {:value, version}, version) == :ok
        assert Buffer.get(name, :key) == {:value, version}
        assert PartitionedBuffer.info(name).superseded == updates
      end

      highest = List.last(@versions)
      assert entries(name) == [{:key, {:value, highest}, highest, length(@versions) - 1}]
    end

    test "passes over what has the same version or a lower one", %{name: name} do
      for there <- @versions, version <- @versions, version <= there do
        key = {there, version}
        Buffer.put_newer(name, key, :there, there)
        assert Buffer.put_newer(name, key, :late, version) == :ok
        assert Buffer.get(name, key) == :there
      end

      for {{there, _late}, value, version, updates} <- entries(name) do
        assert {value, version, updates} == {:there, there, 0}
      end
    end

    test "takes the highest version in whatever order they come", %{name: name} do
      for round <- 1..20, version <- Enum.shuffle(@versions) do
        Buffer.put_newer(name, round, version, version)
      end

      highest = List.last(@versions)
      found = entries(name)
      assert length(found) == 20
      assert Enum.all?(found, &match?({_round, ^highest, ^highest, _updates}, &1))
      info = for {_key, _value, _version, updates} <- found, do: updates
      assert Enum.all?(info, &(&1 in 0..(length(@versions) - 1)))
    end

    test "is about what is in the buffer: versions start again with each cycle", %{name: name} do
      Buffer.put_newer(name, :key, :first, 100)
      cycle(name)
      Buffer.put_newer(name, :key, :second, 1)
      assert Buffer.get(name, :key) == :second
      Buffer.delete(name, :key)
      Buffer.put_newer(name, :key, :third, -1)
      assert entries(name) == [{:key, :first, 100, 0}, {:key, :third, -1, 0}]
    end
  end

  describe "put_all/3" do
    test "takes a list, a map and nothing", %{name: name} do
      assert Buffer.put_all(name, [{:a, 1}, {"b", 2}]) == :ok
      assert Buffer.put_all(name, %{"b" => 3, {:c} => 4}) == :ok
      for none <- [[], %{}], do: assert(Buffer.put_all(name, none) == :ok)
      assert entries(name) == [{:a, 1, 0, 0}, {{:c}, 4, 0, 0}, {"b", 3, 0, 0}]
    end

    # On both sides of what a normal scheduler takes, and of how much is written under one lock.
    for count <- [1, 63, 64, 65, 1_023, 1_024, 1_025, 20_000] do
      test "of #{count} pairs leaves the last one of each key", %{name: name} do
        pairs = for number <- 1..unquote(count), do: {rem(number, 500), {:value, number}}

        for opts <- [[], [partition_key: &{:of, &1}], [partition_key: :one]] do
          assert Buffer.put_all(name, pairs, opts) == :ok

          for {key, value} <- Map.new(pairs),
              do: assert(Buffer.get(name, key, nil, opts) == value)
        end

        assert %{accepted: unquote(3 * count)} = assert_accounted(PartitionedBuffer.info(name))
        expected = for {key, value} <- Map.new(pairs), do: {key, value, 0, 0}
        assert name |> entries() |> Enum.uniq() == Enum.sort(expected)
      end

      test "of a map of #{count} keys takes each", %{name: name} do
        map = Map.new(1..unquote(count), &{{:key, &1}, &1})
        assert Buffer.put_all(name, map) == :ok
        assert Buffer.size(name) == unquote(count)
        assert entries(name) == map |> Enum.map(fn {k, v} -> {k, v, 0, 0} end) |> Enum.sort()
      end
    end
  end

  describe "put_all_newer/3" do
    test "is put_newer/5 for one after the other", %{name: name} do
      assert Buffer.put_all_newer(name, []) == :ok
      assert Buffer.put_all_newer(name, [{:a, 2, 2}, {:a, 1, 1}, {:b, 0, -1}, {:a, 3, 3}]) == :ok
      assert Buffer.put_all_newer(name, [{:b, :no, -1}, {:a, :no, -3}]) == :ok
      assert entries(name) == [{:a, 3, 3, 1}, {:b, 0, -1, 0}]
    end

    for count <- [64, 65, 1_024, 1_025, 20_000] do
      test "of #{count} leaves the newest of each key", %{name: name} do
        listed = for n <- 1..unquote(count), do: {rem(n, 97), n, Enum.random(@versions)}
        for opts <- [[], [partition_key: :one]], do: Buffer.put_all_newer(name, listed, opts)

        newest =
          Enum.reduce(listed, %{}, fn {key, value, version}, newest ->
            Map.update(newest, key, {key, value, version, 0}, fn {_, _, there, updates} = entry ->
              if version > there, do: {key, value, version, updates + 1}, else: entry
            end)
          end)

        assert name |> entries() |> Enum.uniq() == newest |> Map.values() |> Enum.sort()
      end
    end
  end

  describe "reads" do
    test "tell a value that is nil from none", %{name: name} do
      Buffer.put(name, :key, nil)
      assert Buffer.get(name, :key) == nil
      assert Buffer.get(name, :key, :default) == nil
      assert Buffer.fetch(name, :key) == {:ok, nil}
      assert Buffer.has_key?(name, :key)
      assert Buffer.take(name, :key) == {:ok, nil}
    end

    test "of a key that is not there", %{name: name} do
      assert Buffer.get(name, :none) == nil
      assert Buffer.get(name, :none, :default) == :default
      assert Buffer.fetch(name, :none) == :error
      refute Buffer.has_key?(name, :none)
      assert Buffer.take(name, :none) == :error
      assert Buffer.delete(name, :none) == :ok
      assert %{accepted: 0, deleted: 0} = PartitionedBuffer.info(name)
    end

    test "answer values that look like answers", %{name: name} do
      for value <- [:ok, :error, {:ok, 1}, :heavy, :closed, :other_kind, :changed, :improper] do
        Buffer.put(name, :key, value)
        assert Buffer.get(name, :key, :default) == value
        assert Buffer.fetch(name, :key) == {:ok, value}
        assert Buffer.take(name, :key) == {:ok, value}
      end
    end

    test "change nothing", %{name: name} do
      Buffer.put_newer(name, :key, 1, 5)
      for _ <- 1..10, do: {Buffer.get(name, :key), Buffer.has_key?(name, :key)}
      assert %{accepted: 1, superseded: 0, queued: 1} = PartitionedBuffer.info(name)
      assert entries(name) == [{:key, 1, 5, 0}]
    end

    test "see nothing of what is being processed", %{name: _} do
      name = start_map!(processor: GatedProcessor.new())
      Buffer.put(name, :key, 1)
      cycle(name)
      {runner, [{:key, 1, 0, 0}]} = GatedProcessor.next_batch()
      assert Buffer.fetch(name, :key) == :error
      refute Buffer.has_key?(name, :key)
      assert Buffer.take(name, :key) == :error
      assert Buffer.delete(name, :key) == :ok
      assert Buffer.size(name) == 0
      Buffer.update(name, :key, 2, {:add, 1})
      assert Buffer.get(name, :key) == 2
      GatedProcessor.open(runner)
      assert GatedProcessor.drain(name) == [[{:key, 2, 0, 0}]]
    end
  end

  describe "take/3 and delete/3" do
    test "remove the key and nothing else", %{name: name} do
      Buffer.put_all(name, for(key <- 1..300, do: {key, {:value, key}}))
      for key <- 1..300//3, do: assert(Buffer.take(name, key) == {:ok, {:value, key}})
      for key <- 2..300//3, do: assert(Buffer.delete(name, key) == :ok)
      for key <- 1..300, do: assert(Buffer.has_key?(name, key) == (rem(key, 3) == 0))
      assert Buffer.size(name) == 100
      info = assert_accounted(PartitionedBuffer.info(name))
      assert %{accepted: 300, deleted: 200, superseded: 0, queued: 100} = info
      assert entries(name) == for(key <- 3..300//3, do: {key, {:value, key}, 0, 0})
    end

    test "leave nothing of the version and the updates behind", %{name: name} do
      for remove <- [&Buffer.take/2, &Buffer.delete/2] do
        Buffer.put_newer(name, :key, 1, 9)
        Buffer.update(name, :key, 0, {:add, 1})
        remove.(name, :key)
        Buffer.put_newer(name, :key, :new, -9)
        assert Buffer.get(name, :key) == :new
      end

      assert entries(name) == [{:key, :new, -9, 0}]
    end

    test "of all keys leave an empty buffer that calls no processor", %{name: name} do
      Buffer.put_all(name, Map.new(1..1_000, &{&1, &1}))
      for key <- 1..1_000, do: Buffer.delete(name, key)
      assert %{queued: 0, bytes: 0, deleted: 1_000} = PartitionedBuffer.info(name)
      assert drain(name) == []
    end
  end
end
