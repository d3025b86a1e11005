defmodule PartitionedBuffer.DataBufferTest do
  # The functions and options of module buffers, what starts a flush, and what it gets.
  use PartitionedBuffer.DataBufferCase, async: true

  @never_ms 3_600_000

  defmodule Bare do
    use PartitionedBuffer.DataBuffer

    @impl DataBuffer
    def handle_flush(items, _opts), do: Enum.count(items)
  end

  defmodule Started do
    use PartitionedBuffer.DataBuffer

    # As a module has it that was written for the other library.
    def start_link(opts), do: DataBuffer.start_link(__MODULE__, opts)

    @impl DataBuffer
    def handle_flush(items, opts), do: {:data, Enum.to_list(items), opts}
  end

  describe "use" do
    test "defines a child specification of a supervisor, with the name as its id" do
      assert Bare.child_spec(partitions: 2) == %{
               id: Bare,
               start: {Bare, :start_link, [[partitions: 2]]},
               type: :supervisor
             }

      assert Bare.child_spec(name: :bare_one).id == :bare_one
    end

    test "defines a function that starts the buffer, under the module's name" do
      start_supervised!(Bare)
      assert DataBuffer.insert(Bare, 1) == :ok
      assert DataBuffer.sync_flush(Bare) == [1]
      assert DataBuffer.stop(Bare) == :ok
    end

    test "leaves it to the module to define its own" do
      start_supervised!({Started, flush_meta: :meta})
      assert DataBuffer.insert(Started, 1) == :ok
      assert DataBuffer.sync_flush(Started) == [{:data, [1], [size: 1, meta: :meta]}]
    end
  end

  describe "start_link/2" do
    test "starts several buffers of one module under names of their own" do
      [one, other] = [start_buffer!(), start_buffer!()]
      DataBuffer.insert(one, :one)
      DataBuffer.insert_batch(other, [:other, :another])
      assert {DataBuffer.size(one), DataBuffer.size(other)} == {1, 2}
      assert DataBuffer.dump(one) == [{1, :one}]
    end

    test "finds a buffer of this name" do
      name = start_buffer!()
      assert {:error, {:already_started, pid}} = DataBuffer.start_link(Watched, name: name)
      assert is_pid(pid)
    end

    test "ignores options that it does not know" do
      assert start_buffer!(strict: true, unknown: 1)
    end

    test "answers an error for one that is wrong" do
      for {key, wrong} <- [
            partitions: 0,
            partitions: 1.5,
            max_size: -1,
            max_size: "5",
            max_size_jitter: -1,
            flush_interval: 0,
            flush_interval: :never,
            flush_jitter: nil,
            flush_timeout: -5,
            flush_empty: :yes,
            event_prefix: [],
            event_prefix: [:a, "b"],
            event_prefix: :a,
            name: "string",
            max_retries: -1,
            on_discard: 1,
            manual: 1
          ] do
        opts = Keyword.merge([name: unique_name()], [{key, wrong}])

        assert {:error, {:shutdown, {:failed_to_start_child, DataBuffer, error}}} =
                 DataBuffer.start_link(Watched, opts)

        assert %NimbleOptions.ValidationError{key: ^key} = error
        assert Exception.message(error) =~ inspect(key)
      end

      assert {:error, {:shutdown, {:failed_to_start_child, DataBuffer, %ArgumentError{}}}} =
               DataBuffer.start_link(Watched, [:not_a_keyword])
    end

    test "has the documented defaults" do
      name = unique_name()
      start_supervised!({Watched, name: name})
      assert [info] = DataBuffer.info(name)

      assert %{
               size: 0,
               flush_size: 5_000,
               flush_interval: 10_000,
               flush_jitter: 2_000,
               flush_timeout: 60_000
             } = info
    end
  end

  describe "insert/3" do
    test "goes to one partition after the other, to the second one first" do
      name = start_buffer!(partitions: 2)
      for item <- [:a, :b, :c], do: assert(DataBuffer.insert(name, item) == :ok)
      assert DataBuffer.dump(name) == [{1, :b}, {1, :a}, {2, :c}]
    end

    test "spreads evenly over three" do
      name = start_buffer!(partitions: 3)
      for item <- 1..300, do: DataBuffer.insert(name, item)
      assert Enum.map(DataBuffer.info(name), & &1.size) == [100, 100, 100]
    end

    test "keeps what is the same, and the order" do
      name = start_buffer!(flush_meta: nil)
      for item <- [1, 1, 2, 1], do: DataBuffer.insert(name, item)
      assert [{:flushed, [1, 1, 2, 1], _opts}] = DataBuffer.sync_flush(name)
      for item <- 0..500, do: DataBuffer.insert(name, item)
      assert [{:flushed, items, _opts}] = DataBuffer.sync_flush(name)
      assert items == Enum.to_list(0..500)
    end

    test "takes any term, of any size" do
      name = start_buffer!(flush_meta: nil)
      large = List.duplicate(String.duplicate("x", 100), 5_000)

      terms = [
        nil,
        [],
        [1 | 2],
        self(),
        make_ref(),
        &is_atom/1,
        %{a: {1.0, "b"}},
        large,
        2 ** 200
      ]

      for term <- terms, do: DataBuffer.insert(name, term)
      assert [{:flushed, ^terms, [size: 9, meta: nil]}] = DataBuffer.sync_flush(name)
    end

    test "takes 20,000 of a hundred processes" do
      name = start_buffer!(partitions: 4, max_size: 100_000)

      1..100
      |> Enum.map(fn _ ->
        Task.async(fn -> for i <- 1..200, do: DataBuffer.insert(name, i) end)
      end)
      |> Task.await_many(30_000)

      assert DataBuffer.size(name) == 20_000
    end

    test "raises for what is no buffer of this kind, and for a timeout that is none" do
      queue = PartitionedBuffer.BufferCase.start_queue!()

      for buffer <- [:no_such_buffer, queue], what <- [:insert, :insert_batch] do
        assert_raise ArgumentError, fn -> apply(DataBuffer, what, [buffer, []]) end
      end

      for function <- [:flush, :sync_flush, :dump, :size, :info], buffer <- [:none, queue] do
        assert_raise ArgumentError, fn -> apply(DataBuffer, function, [buffer]) end
      end

      name = start_buffer!()

      for wrong <- [-1, 1.0, nil, :soon] do
        assert_raise ArgumentError, fn -> DataBuffer.insert(name, 1, wrong) end
        assert_raise ArgumentError, fn -> DataBuffer.insert_batch(name, [1], wrong) end
      end

      for wrong <- [[timeout: -1], [on_timeout: :drop], [unknown: 1]] do
        assert_raise NimbleOptions.ValidationError, fn -> DataBuffer.insert(name, 1, wrong) end

        assert_raise NimbleOptions.ValidationError, fn ->
          DataBuffer.insert_batch(name, [1], wrong)
        end
      end

      assert DataBuffer.size(name) == 0
      assert PartitionedBuffer.info(queue).accepted == 0
    end
  end

  describe "insert_batch/3" do
    test "goes to one partition as a whole" do
      name = start_buffer!(partitions: 2, max_size: 3)
      assert DataBuffer.insert_batch(name, 1..10) == :ok
      assert DataBuffer.insert_batch(name, [:a]) == :ok
      assert Enum.map(DataBuffer.info(name), & &1.size) == [1, 10]
    end

    test "takes lists, ranges, maps, streams, large ones and large items" do
      name = start_buffer!(flush_meta: nil, max_size: 1_000_000)
      large = String.duplicate("x", 20_000)
      DataBuffer.insert_batch(name, [1, 2])
      DataBuffer.insert_batch(name, 3..4)
      DataBuffer.insert_batch(name, %{five: 6})
      DataBuffer.insert_batch(name, Stream.map([7], & &1))
      DataBuffer.insert_batch(name, [large, List.duplicate(large, 100)])
      DataBuffer.insert_batch(name, Enum.to_list(1..5_000))
      assert DataBuffer.insert_batch(name, []) == :ok

      expected =
        [1, 2, 3, 4, {:five, 6}, 7, large, List.duplicate(large, 100)] ++ Enum.to_list(1..5_000)

      assert [{:flushed, ^expected, _opts}] = DataBuffer.sync_flush(name)
    end

    test "raises where an enumerable does, or is none, and writes nothing" do
      name = start_buffer!()
      raising = Stream.map(1..10, fn i -> if i == 5, do: raise("boom"), else: i end)
      assert_raise RuntimeError, "boom", fn -> DataBuffer.insert_batch(name, raising) end
      assert_raise ArgumentError, fn -> DataBuffer.insert_batch(name, [1 | 2]) end
      assert_raise Protocol.UndefinedError, fn -> DataBuffer.insert_batch(name, :none) end
      assert DataBuffer.size(name) == 0
      assert DataBuffer.insert(name, :item) == :ok
    end
  end

  describe "a full partition" do
    test "is so from the first write on, however soon that comes" do
      name = unique_name()
      test = self()

      # The partition's process has not returned from its start.
      tell = fn _event, _measured, %{buffer: buffer}, _config ->
        if buffer == name do
          ref = PartitionedBuffer.Handle.fetch!(name).ref
          send(test, {:full, PartitionedBuffer.Native.data_buffer_standings(ref, 0) |> elem(2)})
        end
      end

      :telemetry.attach(name, [:partitioned_buffer, :partition, :start], tell, nil)
      on_exit(fn -> :telemetry.detach(name) end)
      start_buffer!(name: name, max_size: 2)
      assert_received {:full, 2}
    end

    test "is flushed by the next write, which is the first of the next batch" do
      name = start_buffer!(max_size: 3)
      for item <- 1..3, do: DataBuffer.insert(name, item)
      assert DataBuffer.size(name) == 3
      assert PartitionedBuffer.info(name).in_flight == 0
      DataBuffer.insert(name, 4)
      assert DataBuffer.size(name) == 1
      {flush, [1, 2, 3], size: 3, meta: _} = next_flush()
      assert DataBuffer.dump(name) == [{1, 4}]
      close(flush, name)
      refute_flush()
    end

    test "is more than full after a batch, and flushed by whatever is written next, be it nothing" do
      name = start_buffer!(max_size: 3)
      DataBuffer.insert_batch(name, 1..10)
      assert DataBuffer.size(name) == 10
      DataBuffer.insert_batch(name, [])
      assert DataBuffer.size(name) == 0
      {flush, items, size: 10, meta: _} = next_flush()
      assert items == Enum.to_list(1..10)
      close(flush, name)
    end

    test "of one item each, in two partitions" do
      name = start_buffer!(partitions: 2, max_size: 1, flush_meta: tell())
      for item <- 1..4, do: DataBuffer.insert(name, item)
      assert Enum.sort([elem(next_flush(), 1), elem(next_flush(), 1)]) == [[1], [2]]
      assert DataBuffer.size(name) == 2
    end

    test "has one item at least" do
      name = start_buffer!(max_size: 0, flush_meta: tell())
      DataBuffer.insert(name, 1)
      assert DataBuffer.size(name) == 1
      DataBuffer.insert(name, 2)
      assert {_flush, [1], _opts} = next_flush()
      assert DataBuffer.size(name) == 1
    end

    test "is another size for each batch where there is jitter" do
      name = start_buffer!(max_size: 10, max_size_jitter: 5, flush_meta: tell())
      for item <- 1..2_000, do: DataBuffer.insert(name, item)
      await(fn -> PartitionedBuffer.info(name).in_flight == 0 end)
      sizes = Enum.map(flushed(), &length/1)
      assert Enum.all?(sizes, &(&1 in 10..15))
      assert length(Enum.uniq(sizes)) > 1
      assert [%{flush_size: size}] = DataBuffer.info(name)
      assert size in 10..15
    end

    test "with jitter on nothing" do
      name = start_buffer!(max_size: 0, max_size_jitter: 1, flush_meta: tell())
      for item <- 1..3, do: DataBuffer.insert(name, item)
      assert {_flush, [1], _opts} = next_flush()
      assert {_flush, [2], _opts} = next_flush()
    end
  end

  describe "time" do
    test "flushes what there is, and nothing where there is nothing" do
      name = start_buffer!(flush_interval: 10, flush_jitter: 5, flush_meta: tell())
      DataBuffer.insert_batch(name, 1..50)
      DataBuffer.insert(name, 51)
      assert {_flush, items, size: 51, meta: _} = next_flush()
      assert items == Enum.to_list(1..51)
      DataBuffer.insert(name, 52)
      assert {_flush, [52], _opts} = next_flush()
      assert flushed() == []
    end

    test "flushes nothing too where that is asked for" do
      start_buffer!(flush_interval: 5, flush_jitter: 0, flush_empty: true, flush_meta: tell())
      assert {_flush, [], size: 0, meta: _} = next_flush()
      assert {_flush, [], size: 0, meta: _} = next_flush()
    end

    test "is counted from the last flush, and a stray message does not matter" do
      name = start_buffer!(flush_interval: @never_ms, flush_jitter: 0, flush_meta: tell())
      [%{name: partition}] = DataBuffer.info(name)
      left = fn -> hd(PartitionedBuffer.info(name).partitions).next_flush_ms end
      await(fn -> left.() < @never_ms - 20 end)
      before = System.monotonic_time(:millisecond)
      DataBuffer.insert(name, 1)
      DataBuffer.flush(name)
      next_flush()
      # It has heard of the flush by then.
      _state = :sys.get_state(partition)

      # Counted from the start, it would come 20 ms too early. Whatever passes between the two readings is no
      # matter: the clock is read last. The clocks may differ by a little.
      moment = left.() + System.monotonic_time(:millisecond)
      assert moment >= before + @never_ms - 5
      send(partition, {:flush_schedule, make_ref()})
      send(partition, {:tick, make_ref()})
      DataBuffer.insert(name, 2)
      assert DataBuffer.size(name) == 1
      assert flushed() == []
    end
  end

  describe "flush/2" do
    test "flushes all partitions and does not wait" do
      name = start_buffer!(partitions: 2)
      for item <- 1..4, do: DataBuffer.insert(name, item)
      assert DataBuffer.flush(name) == :ok
      flushes = for _partition <- 1..2, do: next_flush()
      assert flushes |> Enum.map(&elem(&1, 1)) |> Enum.sort() == [[1, 3], [2, 4]]
      assert DataBuffer.size(name) == 0
      for {flush, _items, _opts} <- flushes, do: open(flush)
    end

    test "starts one flush of a partition after the other, however often it is called" do
      name = start_buffer!()
      DataBuffer.insert(name, 1)
      DataBuffer.flush(name)
      {flush, [1], _opts} = next_flush()
      DataBuffer.insert(name, 2)
      for _time <- 1..5, do: DataBuffer.flush(name, 100)
      DataBuffer.insert(name, 3)
      assert DataBuffer.size(name) == 2
      open(flush)
      {flush, [2, 3], _opts} = next_flush()
      close(flush, name)
      refute_flush()
    end

    test "of nothing" do
      name = start_buffer!(flush_meta: tell())
      DataBuffer.flush(name)
      DataBuffer.insert(name, 1)
      DataBuffer.flush(name)
      assert {_flush, [1], _opts} = next_flush()
      empty = start_buffer!(flush_meta: tell(), flush_empty: true)
      DataBuffer.flush(empty)
      assert {_flush, [], size: 0, meta: _} = next_flush()
    end
  end

  describe "sync_flush/2" do
    test "returns what the flushes returned, that of the last partition first" do
      name = start_buffer!(partitions: 2, flush_meta: :meta, flush_empty: true)
      DataBuffer.insert(name, "foo")

      assert DataBuffer.sync_flush(name) ==
               [
                 {:flushed, ["foo"], [size: 1, meta: :meta]},
                 {:flushed, [], [size: 0, meta: :meta]}
               ]

      assert DataBuffer.size(name) == 0
    end

    test "returns nil for partitions that were empty, unless they are to be flushed" do
      name = start_buffer!(partitions: 3, flush_meta: nil)
      assert DataBuffer.sync_flush(name) == [nil, nil, nil]
      DataBuffer.insert_batch(name, [1, 2, 3])
      assert [nil, {:flushed, [1, 2, 3], [size: 3, meta: nil]}, nil] = DataBuffer.sync_flush(name)
    end

    test "returns whatever it is that the flush returned" do
      defmodule Returning do
        use PartitionedBuffer.DataBuffer
        @impl DataBuffer
        def handle_flush(items, _opts), do: Enum.at(items, 0)
      end

      name = unique_name()
      start_supervised!({Returning, name: name})

      for result <- [:ok, nil, {:error, :because}, {:failed, [1]}, [], {:ok, 1}] do
        DataBuffer.insert(name, result)
        assert DataBuffer.sync_flush(name) == [result]
      end

      assert %{processed: 6} = PartitionedBuffer.info(name)
    end

    test "returns it whatever options of the queue that it is are changed" do
      name = start_buffer!(flush_meta: nil)

      for change <- [processor_info: false, processing_batch_size: 2, split_on_failure: true] do
        assert PartitionedBuffer.update_options(name, [change]) == :ok
        DataBuffer.insert(name, :item)
        assert [{:flushed, [:item], [size: 1, meta: nil]}] = DataBuffer.sync_flush(name)
      end
    end

    test "has no capacity, and takes none" do
      name = start_buffer!(flush_meta: nil)

      for option <- [:capacity, :capacity_bytes] do
        assert_raise ArgumentError, ~r/has no :#{option}/, fn ->
          PartitionedBuffer.update_options(name, [{option, 5}, {:max_size, 3}])
        end

        assert PartitionedBuffer.update_options(name, [{option, :infinity}]) == :ok
      end

      assert [%{flush_size: 5_000}] = DataBuffer.info(name)
    end

    test "flushes all partitions at the same time" do
      name = start_buffer!(partitions: 2)
      for item <- 1..2, do: DataBuffer.insert(name, item)
      call = Task.async(fn -> DataBuffer.sync_flush(name) end)
      {one, _items, _opts} = next_flush()
      {other, _items, _opts} = next_flush()
      open(one)
      open(other)
      assert [{:flushed, [1], _}, {:flushed, [2], _}] = Task.await(call)
    end

    test "waits for a flush that is running, and flushes what came meanwhile" do
      name = start_buffer!()
      DataBuffer.insert(name, 1)
      DataBuffer.flush(name)
      {flush, [1], _opts} = next_flush()
      DataBuffer.insert(name, 2)
      call = Task.async(fn -> DataBuffer.sync_flush(name) end)
      open(flush)
      {flush, [2], _opts} = next_flush()
      open(flush)
      assert [{:flushed, [2], _opts}] = Task.await(call)
    end

    test "exits when it takes too long, and the flush goes on" do
      name = start_buffer!()
      DataBuffer.insert(name, 1)

      assert catch_exit(DataBuffer.sync_flush(name, 1)) ==
               {:timeout, {DataBuffer, :sync_flush, [name, 1]}}

      {flush, [1], _opts} = next_flush()
      close(flush, name)
      assert %{processed: 1} = PartitionedBuffer.info(name)

      empty = start_buffer!(flush_empty: true)
      assert {:timeout, _call} = catch_exit(DataBuffer.sync_flush(empty, 1))
      {flush, [], _opts} = next_flush()
      open(flush)
      DataBuffer.insert(empty, 1)
      call = Task.async(fn -> DataBuffer.sync_flush(empty) end)
      {flush, [1], _opts} = next_flush()
      open(flush)
      assert [{:flushed, [1], _opts}] = Task.await(call)
      refute_receive {_alias, _late_answer}, 0
    end
  end

  describe "dump/2, size/2 and info/2" do
    test "look at what waits and leave it there" do
      name = start_buffer!(partitions: 2)
      for item <- 1..4, do: DataBuffer.insert(name, item)
      rows = [{1, 2}, {2, 4}, {1, 1}, {2, 3}]
      assert DataBuffer.dump(name) == rows
      assert DataBuffer.dump(name, 10) == rows
      assert DataBuffer.size(name, 10) == 4
      DataBuffer.flush(name)
      {one, _items, _opts} = next_flush()
      {other, _items, _opts} = next_flush()
      assert DataBuffer.dump(name) == []
      assert DataBuffer.size(name) == 0
      DataBuffer.insert(name, 5)
      assert DataBuffer.dump(name) == [{1, 5}]
      for flush <- [one, other], do: open(flush)
    end

    test "read large partitions" do
      name = start_buffer!(max_size: 10_000)
      DataBuffer.insert_batch(name, 1..5_000)
      assert DataBuffer.dump(name) == Enum.map(1..5_000, &{&1, &1})
    end

    test "tell of each partition what there is to tell" do
      name = start_buffer!(partitions: 2, max_size: 7, flush_jitter: 3, flush_timeout: 50_000)
      DataBuffer.insert(name, 1)
      assert [one, other] = DataBuffer.info(name, 10)

      keys = [:flush_interval, :flush_jitter, :flush_size, :flush_timeout, :name, :pid, :size]
      assert Enum.sort(Map.keys(one)) == keys
      assert one.name == Module.concat(name, "0") and other.name == Module.concat(name, "1")
      assert one.pid == Process.whereis(one.name)
      assert {one.size, other.size} == {0, 1}
      assert one.flush_size == 7 and one.flush_jitter == 3 and one.flush_timeout == 50_000
    end
  end

  describe "the items of a flush" do
    test "are read as they are needed, as often as they are needed, by whom they are needed" do
      defmodule Reading do
        use PartitionedBuffer.DataBuffer
        @impl DataBuffer
        def handle_flush(items, size: size, meta: test) do
          true = not is_list(items)
          two = Enum.take(items, 2)
          ^size = Enum.count(items)
          last = Task.await(Task.async(fn -> Enum.at(items, size - 1) end))
          send(test, {:read, two, last, items})
        end
      end

      name = unique_name()
      start_supervised!({Reading, name: name, flush_meta: self(), max_size: 10_000})
      DataBuffer.insert_batch(name, 1..3_000)
      DataBuffer.flush(name)
      assert_receive {:read, [1, 2], 3_000, items}, 5_000
      await(fn -> PartitionedBuffer.info(name).processed == 3_000 end)
      assert_raise RuntimeError, ~r/settled/, fn -> Enum.to_list(items) end
    end

    # What a process may have on its heap, in words; a million items take 46 million.
    @most_words 1_000_000

    test "are not on the heap all at once, a million of them" do
      defmodule Counting do
        use PartitionedBuffer.DataBuffer
        @impl DataBuffer
        def handle_flush(items, size: size, meta: {test, most_words}) do
          # More than that, garbage and all, ends the process, at whatever moment.
          Process.flag(:max_heap_size, %{size: most_words, kill: true, error_logger: false})
          send(test, {:counted, size, Enum.reduce(items, 0, fn [_ | _], count -> count + 1 end)})
        end
      end

      name = unique_name()
      meta = {self(), @most_words}
      start_supervised!({Counting, name: name, flush_meta: meta, max_size: 10_000_000})
      payload = List.duplicate(:x, 20)
      for part <- 0..99, do: insert_parts(name, 1..10_000, [part | payload])
      DataBuffer.flush(name)
      assert_receive {:counted, 1_000_000, 1_000_000}, 60_000
      await(fn -> PartitionedBuffer.info(name).processed == 1_000_000 end)
      assert %{discarded: discarded} = PartitionedBuffer.info(name)
      assert Enum.sum(Map.values(discarded)) == 0
    end

    test "would be if they were made a list: that ends a flush with such a limit" do
      defmodule Listing do
        use PartitionedBuffer.DataBuffer
        @impl DataBuffer
        def handle_flush(items, size: _, meta: most_words) do
          Process.flag(:max_heap_size, %{size: most_words, kill: true, error_logger: false})
          Enum.to_list(items) |> length()
        end
      end

      name = unique_name()
      start_supervised!({Listing, name: name, flush_meta: @most_words, max_size: 10_000_000})
      payload = List.duplicate(:x, 20)
      for part <- 0..49, do: insert_parts(name, 1..10_000, [part | payload])
      assert {{:flush_failed, :killed}, _call} = catch_exit(DataBuffer.sync_flush(name, 60_000))
      assert PartitionedBuffer.info(name).discarded.killed == 500_000
    end

    defp insert_parts(name, part, payload) do
      :ok = DataBuffer.insert_batch(name, Enum.map(part, &[&1 | payload]))
    end
  end
end
