defmodule PartitionedBuffer.MapCallsTest do
  # Calls of every function that raise, where keys go, and what processors get.
  use PartitionedBuffer.MapCase, async: true

  alias PartitionedBuffer.Queue

  @moduletag :capture_log

  # As a routing function of a module.
  def route(key, prefix), do: {prefix, key}

  # Every function that works on a key, `call.(name, key, opts)`.
  @calls [
    put: quote(do: &Buffer.put(&1, &2, 1, &3)),
    put_all: quote(do: &Buffer.put_all(&1, [{&2, 1}], &3)),
    put_all_of_a_map: quote(do: &Buffer.put_all(&1, %{&2 => 1}, &3)),
    put_newer: quote(do: &Buffer.put_newer(&1, &2, 1, 1, &3)),
    put_all_newer: quote(do: &Buffer.put_all_newer(&1, [{&2, 1, 1}], &3)),
    get: quote(do: &Buffer.get(&1, &2, nil, &3)),
    fetch: quote(do: &Buffer.fetch(&1, &2, &3)),
    has_key?: quote(do: &Buffer.has_key?(&1, &2, &3)),
    delete: quote(do: &Buffer.delete(&1, &2, &3)),
    take: quote(do: &Buffer.take(&1, &2, &3)),
    update_add: quote(do: &Buffer.update(&1, &2, 1, {:add, 1}, &3)),
    update_max: quote(do: &Buffer.update(&1, &2, 1, {:max, 1}, &3)),
    update_put_new: quote(do: &Buffer.update(&1, &2, 1, {:put_new, 1}, &3)),
    update_fun: quote(do: &Buffer.update(&1, &2, 1, fn value -> value end, &3))
  ]

  defp figures(name), do: Map.drop(PartitionedBuffer.info(name), [:oldest_age_ms, :partitions])

  for {title, call} <- @calls do
    describe "#{title}" do
      setup do
        %{call: unquote(call)}
      end

      test "raises ArgumentError if there is no such buffer", %{call: call} do
        stopped = start_map!()
        :ok = Buffer.stop(stopped)

        for name <- [stopped, unique_name(), nil, "name", self()],
            opts <- [[], [partition_key: 1]] do
          assert_raise ArgumentError, ~r/unknown registry/, fn -> call.(name, :key, opts) end
        end
      end

      test "raises ArgumentError if it is a queue", %{call: call} do
        opts = queue_options(partitions: 2)
        start_supervised!({Queue, opts})
        Queue.push(opts[:name], :item)

        for key <- [:key, :binary.copy("x", 200_000)], options <- [[], [partition_key: 1]] do
          assert_raise ArgumentError, ~r/another kind/, fn ->
            call.(opts[:name], key, options)
          end
        end

        assert %{accepted: 1, queued: 1} = PartitionedBuffer.info(opts[:name])
      end

      test "raises RuntimeError without partitions", %{call: call} do
        name = start_map!(partitions: 0)

        for key <- [:key, :binary.copy("x", 200_000)], opts <- [[], [partition_key: 1]] do
          assert_raise RuntimeError, ~r/no partitions/, fn -> call.(name, key, opts) end
        end

        assert Buffer.size(name) == 0
        assert %{accepted: 0, partitions: []} = PartitionedBuffer.info(name)
      end

      test "raises for wrong options and changes nothing", %{call: call} do
        name = start_map!(partitions: 2)
        Buffer.put(name, :key, 0)
        before = figures(name)

        for opts <- [[unknown: 1], [partition_key: 1, unknown: 1], [partitions: 1]] do
          assert_raise NimbleOptions.ValidationError, fn -> call.(name, :key, opts) end
        end

        for opts <- [nil, :partition_key, %{}, [1], [{"partition_key", 1}], "text"] do
          assert_raise ArgumentError, ~r/keyword list/, fn -> call.(name, :key, opts) end
        end

        fail = fn _key -> raise "no route" end
        assert_raise RuntimeError, "no route", fn -> call.(name, :key, partition_key: fail) end

        assert_raise UndefinedFunctionError, fn ->
          call.(name, :key, partition_key: {__MODULE__, :nothing, []})
        end

        assert figures(name) == before
        assert entries(name) == [{:key, 0, 0, 0}]
      end

      test "calls a partition key with the key, and agrees with get_partition/3", %{call: call} do
        name = start_map!(partitions: 16)
        test = self()

        spy = fn key ->
          send(test, {:routed, key})
          {:route, key}
        end

        for number <- 1..10, key = {:key, number} do
          for {partition_key, same} <- [
                {spy, {:route, key}},
                {{__MODULE__, :route, [:prefix]}, {:prefix, key}},
                {number, number},
                {nil, nil}
              ] do
            # Where others put it, this one finds it; what this one puts, others find.
            :ok = Buffer.put(name, key, 1, partition_key: same)
            partition = PartitionedBuffer.get_partition(name, partition_key, key)
            before = counted(name, partition)
            call.(name, key, partition_key: partition_key)
            if partition_key == spy, do: assert_received({:routed, ^key})
            assert_at(unquote(title), name, key, same, before, partition)
          end
        end
      end
    end
  end

  defp counted(name, partition) do
    figures = Enum.find(PartitionedBuffer.info(name).partitions, &(&1.partition == partition))
    Map.take(figures, [:accepted, :deleted, :queued])
  end

  defp assert_at(title, name, key, route, before, partition) when title in [:delete, :take] do
    assert Buffer.fetch(name, key, partition_key: route) == :error
    now = counted(name, partition)
    assert {now.deleted, now.queued} == {before.deleted + 1, before.queued - 1}
  end

  defp assert_at(title, name, key, route, before, partition) do
    assert {:ok, value} = Buffer.fetch(name, key, partition_key: route)
    assert value == if(title == :update_add, do: 2, else: 1)
    reads = [:get, :fetch, :has_key?, :update_put_new]
    accepted = before.accepted + if(title in reads, do: 0, else: 1)
    assert counted(name, partition) == %{before | accepted: accepted}
  end

  describe "a bad entry" do
    setup do
      name = start_map!(partitions: 3)
      Buffer.put_newer(name, :there, 1, 7)
      %{name: name, before: figures(name)}
    end

    for count <- [0, 1, 70, 1_100, 20_000], place <- [:first, :last] do
      test "that is #{place} beside #{count} good ones: none is written", context do
        %{name: name, before: before} = context
        good = for number <- 1..unquote(count)//1, do: {number, number}
        newer = for number <- 1..unquote(count)//1, do: {number, number, number}

        for opts <- [[], [partition_key: & &1], [partition_key: 1]] do
          for bad <- [:atom, {}, {1}, {1, 2, 3}, [1, 2], nil, %{1 => 2}] do
            invalid(inspect(bad), &Buffer.put_all/3, [
              name,
              around(good, bad, unquote(place)),
              opts
            ])
          end

          for bad <- [{1, 2}, {1, 2, 3, 4}, {1, 2, nil}, {1, 2, 1.0}, {1, 2, "3"}, :atom] do
            list = around(newer, bad, unquote(place))
            invalid(inspect(bad), &Buffer.put_all_newer/3, [name, list, opts])
          end
        end

        assert figures(name) == before
        assert entries(name) == [{:there, 1, 7, 0}]
      end
    end

    test "of put_newer/5 is told as it would be listed", %{name: name, before: before} do
      for version <- [1.0, nil, :one, "1", [1], {1}] do
        invalid(inspect({:key, :value, version}), &Buffer.put_newer/4, [
          name,
          :key,
          :value,
          version
        ])
      end

      assert figures(name) == before
    end

    test "of another kind than a proper list", %{name: name, before: before} do
      for other <- [:atom, 1, "text", {1, 2}, nil, [{1, 2} | {3, 4}], [{1, 2, 3} | :tail]] do
        invalid(inspect(other), &Buffer.put_all/2, [name, other])
        invalid(inspect(other), &Buffer.put_all_newer/2, [name, other])
      end

      invalid(inspect(%{a: 1}), &Buffer.put_all_newer/2, [name, %{a: 1}])

      for struct <- [1..2, MapSet.new([1]), %URI{}],
          do: invalid(inspect(struct), &Buffer.put_all/2, [name, struct])

      assert figures(name) == before
    end

    test "of which the partition key can't be made: none is written", context do
      %{name: name, before: before} = context
      route = fn key -> if key == 2_000, do: raise("no route"), else: key end
      pairs = for number <- 1..2_000, do: {number, number}
      versioned = for number <- 1..2_000, do: {number, number, number}

      assert_raise RuntimeError, "no route", fn ->
        Buffer.put_all(name, pairs, partition_key: route)
      end

      assert_raise RuntimeError, "no route", fn ->
        Buffer.put_all_newer(name, versioned, partition_key: route)
      end

      assert figures(name) == before
    end
  end

  defp around(good, bad, :first), do: [bad | good]
  defp around(good, bad, :last), do: good ++ [bad]

  defp invalid(told, fun, args) do
    error = assert_raise ArgumentError, fn -> apply(fun, args) end
    assert error.message == "invalid entry: " <> told
  end
end
