defmodule PartitionedBuffer.QueueTest do
  # What a push takes, and in what order and batches it comes out.
  use PartitionedBuffer.BufferCase, async: true

  defmodule Event do
    defstruct [:user, :type]
  end

  # Called as a processor with further arguments.
  def process(batch, test, tag), do: send(test, {tag, batch})

  describe "push/3" do
    test "takes an item of any kind" do
      name = start_queue!()
      items = [:atom, nil, 1, 1.5, "text", {:tuple, 1}, %{map: 1}, %Event{user: 1}, <<1::3>>]
      for item <- items, do: assert(Queue.push(name, item) == :ok)
      assert Queue.size(name) == length(items)
      assert name |> drain() |> Enum.concat() === items
    end

    test "takes each item of a list" do
      name = start_queue!()
      assert Queue.push(name, [1, 2, 3]) == :ok
      assert Queue.push(name, [4]) == :ok
      assert Queue.size(name) == 4
      assert drain(name) == [[1, 2, 3, 4]]
    end

    test "takes an empty list and keeps nothing of it" do
      name = start_queue!()
      assert Queue.push(name, []) == :ok
      assert Queue.push(name, [], partition_key: :key) == :ok
      assert Queue.push(name, [], partition_key: & &1.nothing) == :ok
      assert Queue.size(name) == 0
      assert drain(name) == []
    end

    test "takes a list as one item when it is in a list" do
      name = start_queue!()
      assert Queue.push(name, [[1, 2], [3], []]) == :ok
      assert Queue.size(name) == 3
      assert drain(name) == [[[1, 2], [3], []]]
    end

    test "takes keyword lists, charlists and strings for what they are" do
      name = start_queue!()
      Queue.push(name, a: 1, b: 2)
      Queue.push(name, [?a, ?b])
      Queue.push(name, "ab")
      assert drain(name) == [[{:a, 1}, {:b, 2}, ?a, ?b, "ab"]]
    end

    test "takes equal items as often as they are pushed" do
      name = start_queue!(partitions: 3)
      for _ <- 1..5, do: Queue.push(name, [:same, :same])
      assert drain(name) == [List.duplicate(:same, 10)]
    end

    # Around the limits at which the native side changes its way: entries of a segment, of a list that
    # is copied under the lock, of a list that a normal scheduler takes; bytes of each of them.
    for count <- [63, 64, 65, 255, 256, 257, 512, 1_023, 1_024, 1_025, 8_001] do
      test "keeps #{count} items in order, in one push and one by one" do
        items = Enum.map(1..unquote(count), &{:item, &1})

        for partitions <- [1, 3] do
          name = start_queue!(partitions: partitions, processing_batch_size: 100_000)
          Queue.push(name, items)
          for item <- items, do: Queue.push(name, item)
          Queue.push(name, items, partition_key: fn {:item, number} -> number end)
          assert Queue.size(name) == 3 * unquote(count)
          assert PartitionedBuffer.info(name).bytes > 0

          batches = drain(name)
          assert length(batches) <= partitions
          # Three copies of each; within a partition each push kept its order.
          assert batches |> Enum.concat() |> Enum.sort() == Enum.sort(items ++ items ++ items)

          if partitions == 1, do: assert(batches == [items ++ items ++ items])
        end
      end
    end

    for bytes <- [63, 64, 65, 8_191, 8_192, 8_193, 131_071, 131_072, 131_073, 600_000] do
      test "keeps items of #{bytes} bytes, in words and in binaries" do
        name = start_queue!(partitions: 2)
        words = List.to_tuple(Enum.to_list(1..max(div(unquote(bytes), 8), 1)))
        binary = :binary.copy(<<7>>, unquote(bytes))
        for item <- [words, binary, {binary, words}], do: Queue.push(name, item)
        Queue.push(name, [words, binary, {binary, words}])
        Queue.push(name, [words, binary, {binary, words}], partition_key: :key)

        expected = Enum.sort(List.flatten(List.duplicate([words, binary, {binary, words}], 3)))
        assert name |> drain() |> Enum.concat() |> Enum.sort() === expected
      end
    end

    test "is independent of the process that pushed" do
      name = start_queue!()
      test = self()

      {pid, monitor} =
        spawn_monitor(fn ->
          Queue.push(
            name,
            {:from, test, "a binary of more than sixty-four bytes: " <> name_of(test)}
          )
        end)

      assert_receive {:DOWN, ^monitor, :process, ^pid, :normal}
      :erlang.garbage_collect()
      assert [[{:from, ^test, "a binary" <> _}]] = drain(name)
    end

    test "of many processes at once keeps each one's order" do
      name = start_queue!(partitions: 2, processing_interval_ms: 1, processing_batch_size: 7)

      tasks =
        for pusher <- 1..20 do
          Task.async(fn ->
            for i <- 1..200, do: Queue.push(name, {pusher, i}, partition_key: pusher)
          end)
        end

      Task.await_many(tasks)
      items = name |> drain() |> Enum.concat()
      assert length(items) == 4_000

      for {_pusher, own} <- Enum.group_by(items, &elem(&1, 0), &elem(&1, 1)) do
        assert own == Enum.to_list(1..200)
      end
    end
  end

  describe "batches" do
    for {size, lengths} <- [{1, [1, 1, 1]}, {2, [2, 1]}, {3, [3]}, {10, [3]}] do
      test "have up to #{size} items" do
        name = start_queue!(processing_batch_size: unquote(size))
        Queue.push(name, [1, 2, 3])
        batches = drain(name)
        assert Enum.map(batches, &length/1) == unquote(lengths)
        assert Enum.concat(batches) == [1, 2, 3]
      end
    end

    test "have up to ten items by default" do
      name = start_queue!()
      Queue.push(name, Enum.to_list(1..25))
      assert name |> drain() |> Enum.map(&length/1) == [10, 10, 5]
    end

    test "come one after the other within a partition" do
      name =
        start_queue!(
          processing_interval_ms: 1,
          processing_batch_size: 1,
          processor: GatedProcessor.new()
        )

      Queue.push(name, [1, 2])
      {runner, [1]} = GatedProcessor.next_batch()
      Queue.push(name, 3)
      GatedProcessor.refute_batch()
      GatedProcessor.open(runner)
      {runner, [2]} = GatedProcessor.next_batch()
      GatedProcessor.open(runner)
      {runner, [3]} = GatedProcessor.next_batch()
      GatedProcessor.open(runner)
    end

    test "are never empty" do
      name = start_queue!(partitions: 4, processing_interval_ms: 1)
      Queue.push(name, :only)
      assert_receive {:processed, _runner, [:only]}, 5_000

      # Every partition has had cycles by the time that another one of them has processed something.
      Queue.push(name, :other)
      assert_receive {:processed, _runner, [:other]}, 5_000
      assert drain(name) == []
    end

    test "as large as can be told are all that there is" do
      for size <- [1_000_000, 4_294_967_296] do
        name = start_queue!(processing_batch_size: size)
        Queue.push(name, Enum.to_list(1..2_000))
        assert drain(name) == [Enum.to_list(1..2_000)]
      end
    end

    test "whose size is beyond any machine's are all that there is" do
      for size <- [Integer.pow(2, 64), Integer.pow(10, 30)] do
        name = start_queue!(processing_batch_size: size)
        Queue.push(name, [1, 2, 3])
        Queue.update_options(name, processing_batch_size: size + 1)
        assert drain(name) == [[1, 2, 3]]
      end
    end
  end

  describe "processor" do
    test "may be a function" do
      test = self()
      name = start_queue!(processor: fn batch -> send(test, {:called, batch}) end)
      Queue.push(name, [1, 2])
      Queue.stop(name)
      assert_received {:called, [1, 2]}
    end

    test "may be a module, a function and arguments" do
      name = start_queue!(processor: {__MODULE__, :process, [self(), :tag]})
      Queue.push(name, [1, 2])
      Queue.stop(name)
      assert_received {:tag, [1, 2]}
    end

    test "may return anything but an error" do
      for value <- [:ok, :error, {:ok, :error}, {:failed, []}, nil, false, [], self()] do
        name = start_queue!(processing_interval_ms: 1, processor: GatedProcessor.new())
        Queue.push(name, :item)
        {runner, [:item]} = GatedProcessor.next_batch()
        GatedProcessor.open(runner, {:call, fn _batch -> value end})
        assert %{processed: 1, accepted: 1} = info_after(name, runner)
      end
    end

    test "may push into its own buffer" do
      name = start_queue!(processing_interval_ms: 1, processor: GatedProcessor.new())
      Queue.push(name, :first)
      {runner, [:first]} = GatedProcessor.next_batch()
      GatedProcessor.open(runner, {:call, fn _batch -> Queue.push(name, :second) end})
      {runner, [:second]} = GatedProcessor.next_batch()
      GatedProcessor.open(runner)
      assert %{processed: 2, accepted: 2} = info_after(name, runner)
    end
  end

  test "child_spec/1 has the name as its id" do
    opts = [name: :some_queue, processor: &Function.identity/1]

    assert Queue.child_spec(opts) == %{
             id: :some_queue,
             start: {Queue, :start_link, [opts]},
             type: :supervisor
           }

    assert Queue.child_spec([]).id == Queue
  end

  test "ets_type/0 keeps order" do
    assert Queue.ets_type() == :ordered_set
  end

  defp name_of(pid), do: String.duplicate(inspect(pid), 10)
end
