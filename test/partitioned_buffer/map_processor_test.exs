defmodule PartitionedBuffer.MapProcessorTest do
  # What a processor gets of a map, and what the whole buffer has in common with a queue.
  use PartitionedBuffer.MapCase, async: true

  alias PartitionedBuffer.Queue

  @moduletag :capture_log

  describe "batches" do
    test "have {key, value, version, updates}", %{} do
      name = start_map!()
      Buffer.put(name, :put, 1)
      Buffer.put_newer(name, :newer, 2, 20)
      Buffer.put_newer(name, :newest, 2, -20)
      Buffer.put_newer(name, :newest, 3, 30)
      Buffer.update(name, :put, 0, {:add, 1})
      Buffer.put_all(name, [{nil, nil}])
      assert [batch] = drain(name)

      assert Enum.sort(batch) ==
               [{:newer, 2, 20, 0}, {:newest, 3, 30, 1}, {nil, nil, 0, 0}, {:put, 2, 0, 1}]
    end

    for {size, count} <- [{1, 30}, {7, 30}, {10, 30}, {30, 30}, {1_000, 30}, {300, 2_000}] do
      test "of up to #{size} entries: #{count} keys, each of them once" do
        name = start_map!(processing_batch_size: unquote(size))
        for round <- 1..3, key <- 1..unquote(count), do: Buffer.put(name, key, {round, key})
        batches = drain(name)
        sizes = Enum.map(batches, &length/1)
        assert Enum.sum(sizes) == unquote(count)
        assert Enum.all?(Enum.drop(sizes, -1), &(&1 == unquote(min(size, count))))
        expected = for key <- 1..unquote(count), do: {key, {3, key}, 0, 0}
        assert batches |> Enum.concat() |> Enum.sort() == expected
      end
    end

    test "leave out what was deleted, wherever it was" do
      name = start_map!(processing_batch_size: 16)
      Buffer.put_all(name, for(key <- 1..2_000, do: {key, key}))
      for key <- 1..2_000, rem(key, 100) != 7, do: Buffer.delete(name, key)
      assert entries(name) == for(key <- 7..2_000//100, do: {key, key, 0, 0})
    end

    test "of a batch that fails are discarded, and the next ones come" do
      name = start_map!(processor: GatedProcessor.new(), processing_batch_size: 2)
      Buffer.put_all(name, a: 1, b: 2, c: 3)
      cycle(name)
      {runner, [_, _]} = GatedProcessor.next_batch()
      Buffer.put(name, :a, 4)
      GatedProcessor.open(runner, {:raise, "boom"})
      {runner, [_]} = GatedProcessor.next_batch()
      GatedProcessor.open(runner)
      assert GatedProcessor.drain(name) == [[{:a, 4, 0, 0}]]
    end

    test "of the next cycle are another generation, and wait for this one" do
      name = start_map!(processor: GatedProcessor.new())
      Buffer.put_newer(name, :key, 1, 1)
      cycle(name)
      {runner, [{:key, 1, 1, 0}]} = GatedProcessor.next_batch()
      Buffer.put_newer(name, :key, 2, 1)
      Buffer.put_newer(name, :key, 3, 2)
      Buffer.update_options(name, processing_interval_ms: 1)
      GatedProcessor.refute_batch()
      GatedProcessor.open(runner)
      {runner, [{:key, 3, 2, 1}]} = GatedProcessor.next_batch()
      GatedProcessor.open(runner)
      info = await_idle(name)
      assert %{accepted: 3, processed: 2, superseded: 1, deleted: 0} = info
    end

    test "go to a processor that writes to its own buffer" do
      name = start_map!(processor: GatedProcessor.new())
      Buffer.put(name, :key, 1)
      cycle(name)
      {runner, [{:key, 1, 0, 0}]} = GatedProcessor.next_batch()

      GatedProcessor.open(
        runner,
        {:call, fn [{key, value, _, _}] -> Buffer.put(name, key, {:again, value}) end}
      )

      await_size(name, 1)
      assert GatedProcessor.drain(name) == [[{:key, {:again, 1}, 0, 0}]]
    end
  end

  defp await_size(name, size) do
    PartitionedBuffer.FaultHelpers.wait_until(fn -> Buffer.size(name) == size end)
  end

  describe "a table" do
    test "is a :set with rows of five, the key in the second place" do
      assert Buffer.ets_type() == :set
      name = start_map!(processing_batch_size: :table, processor: GatedProcessor.new())
      for key <- 1..3_000, do: Buffer.put_newer(name, {:key, key}, :old, -key)
      for key <- 1..3_000, do: Buffer.put_newer(name, {:key, key}, {:value, key}, key)
      for key <- [1, 1.0], do: Buffer.put(name, key, key)
      Buffer.update(name, {:key, 1}, 0, {:max, 0})
      for key <- 2_001..3_000, do: Buffer.delete(name, {:key, key})
      cycle(name)

      {runner, table} = GatedProcessor.next_batch()
      info = :ets.info(table)
      assert {info[:type], info[:keypos], info[:size]} == {:set, 2, 2_002}
      assert info[:named_table]
      assert :ets.lookup(table, {:key, 1}) == [{:entry, {:key, 1}, {:value, 1}, 1, 2}]
      assert :ets.lookup(table, 1) === [{:entry, 1, 1, 0, 0}]
      assert :ets.lookup(table, 1.0) === [{:entry, 1.0, 1.0, 0, 0}]

      for key <- 2..2_000 do
        assert :ets.lookup(table, {:key, key}) == [{:entry, {:key, key}, {:value, key}, key, 1}]
      end

      assert %{in_flight: 2_002, queued: 0} = PartitionedBuffer.info(name)
      GatedProcessor.open(runner)
      assert %{processed: 2_002, deleted: 1_000} = info_after(name, runner)
    end

    test "is one for each partition and each cycle" do
      name =
        start_map!(processing_batch_size: :table, processor: GatedProcessor.new(), partitions: 3)

      for round <- 1..2 do
        Buffer.put_all(name, for(key <- 1..100, do: {key, round}))
        cycle(name)
        runs = for _ <- 1..3, do: GatedProcessor.next_batch()
        rows = Enum.flat_map(runs, fn {_runner, table} -> :ets.tab2list(table) end)
        assert Enum.sort(rows) == for(key <- 1..100, do: {:entry, key, round, 0, 0})
        for {runner, _table} <- runs, do: GatedProcessor.open(runner)
        await_idle(name)
      end
    end
  end

  test "size/1 counts the keys of all partitions that are live" do
    name = start_map!(partitions: 3, processor: GatedProcessor.new())
    assert Buffer.size(name) == 0
    for round <- 1..3, key <- 1..100, do: Buffer.put(name, key, round)
    assert Buffer.size(name) == 100
    assert PartitionedBuffer.buffer_size(name) == 100
    Buffer.delete(name, 1)
    assert Buffer.size(name) == 99
    cycle(name)
    Buffer.put(name, 1, 1)
    assert Buffer.size(name) == 1
    info = assert_accounted(PartitionedBuffer.info(name))
    assert info.queued + info.in_flight == 100
    GatedProcessor.drain(name)
  end

  test "info/1 tells the module, and no bytes when nothing is left" do
    name = start_map!(partitions: 2)
    assert %{module: PartitionedBuffer.Map, bytes: 0} = PartitionedBuffer.info(name)
    Buffer.put(name, "key", :binary.copy("v", 1_000))
    assert %{bytes: bytes} = PartitionedBuffer.info(name)
    assert bytes in 1_000..1_500
    Buffer.put(name, "key", 1)
    assert PartitionedBuffer.info(name).bytes < 200
    Buffer.delete(name, "key")
    assert %{bytes: 0, oldest_age_ms: nil, high_water: 1} = PartitionedBuffer.info(name)
  end

  test "a function of queues raises ArgumentError" do
    name = start_map!(partitions: 2)

    for items <- [:item, [1, 2], [:binary.copy("x", 200_000)], []],
        opts <- [[], [partition_key: 1]] do
      assert_raise ArgumentError, ~r/another kind/, fn -> Queue.push(name, items, opts) end
    end

    assert %{accepted: 0} = PartitionedBuffer.info(name)
  end

  test "lists and maps of nothing" do
    for partitions <- [0, 2] do
      name = start_map!(partitions: partitions)
      opts = queue_options()
      start_supervised!({Queue, opts}, id: opts[:name])

      for none <- [[], %{}], options <- [[], [partition_key: 1]] do
        assert_raise ArgumentError, ~r/unknown/, fn ->
          Buffer.put_all(unique_name(), none, options)
        end

        assert_raise ArgumentError, ~r/another kind/, fn ->
          Buffer.put_all(opts[:name], none, options)
        end
      end

      if partitions > 0, do: assert(Buffer.put_all(name, []) == :ok)
      assert %{accepted: 0, queued: 0} = PartitionedBuffer.info(name)
    end
  end

  test "start_link/1, child_spec/1, stop/3 and update_options/2" do
    Process.flag(:trap_exit, true)
    opts = queue_options()
    assert {:ok, pid} = Buffer.start_link(opts)
    assert {:error, {:already_started, ^pid}} = Buffer.start_link(opts)

    assert Buffer.child_spec(opts) == %{
             id: opts[:name],
             start: {Buffer, :start_link, [opts]},
             type: :supervisor
           }

    assert Buffer.child_spec([]).id == Buffer
    assert Buffer.update_options(opts[:name], processing_batch_size: 2) == :ok
    assert_raise NimbleOptions.ValidationError, fn -> Buffer.start_link(name: unique_name()) end
    assert_raise NimbleOptions.ValidationError, fn -> Buffer.update_options(opts[:name], a: 1) end
    assert_raise ArgumentError, fn -> Buffer.start_link(:no_list) end

    Buffer.put_all(opts[:name], %{a: 1, b: 2, c: 3})
    assert Buffer.stop(pid, :normal, 5_000) == :ok
    assert forwarded() |> Enum.map(&length/1) == [2, 1]
    assert {:noproc, _} = catch_exit(Buffer.stop(opts[:name]))
  end
end
