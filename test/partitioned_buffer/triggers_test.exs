defmodule PartitionedBuffer.TriggersTest do
  # What starts processing: time, the write that reaches a size, somebody who asks; and what a batch may be.
  use PartitionedBuffer.BoundsCase, async: true

  alias PartitionedBuffer.{Handle, Native}

  @flush [[:partitioned_buffer, :partition, :flush]]

  defp listened(opts) do
    name = unique_name()
    listen(name, @flush)
    start_queue!([name: name] ++ opts)
  end

  defp flushes do
    for {[:flush], %{size: size}, %{trigger: trigger}} <- events(), do: {trigger, size}
  end

  describe "max_size" do
    test "starts processing on the write that reaches it" do
      name = listened(max_size: 3, processing_batch_size: 100)
      Queue.push(name, 1)
      Queue.push(name, 2)
      assert Queue.size(name) == 2
      Queue.push(name, 3)
      assert_receive {:processed, _runner, [1, 2, 3]}, 5_000
      assert {%{size: 3}, %{trigger: :max_size, buffer: ^name}} = next_event([:flush])
      assert [%{trigger: :max_size}] = PartitionedBuffer.info(name).partitions
    end

    test "counts each partition by itself, and lists" do
      name = listened(partitions: 2, max_size: 4, processing_batch_size: 100)
      Queue.push(name, [1, 2, 3], partition_key: fn _ -> 0 end)
      others = Enum.find(1..100, &(other_partition?(name, 0, &1) and &1))
      Queue.push(name, [:a, :b, :c], partition_key: others)
      assert Queue.size(name) == 6
      Queue.push(name, [:d, :e], partition_key: others)
      assert_receive {:processed, _runner, [:a, :b, :c, :d, :e]}, 5_000
      assert Queue.size(name) == 3
      assert flushes() == [{:max_size, 5}]
    end

    test "wakes who drains, and sends the partition's process no message" do
      name = listened(max_size: 10, processing_batch_size: 1_000, processor: GatedProcessor.new())
      Queue.push(name, Enum.to_list(1..10))
      {runner, batch} = GatedProcessor.next_batch()
      assert length(batch) == 10
      partition = Process.whereis(Names.partition(name, 0))
      :erlang.trace(partition, true, [:receive])
      for i <- 1..500, do: Queue.push(name, i)
      _state = :sys.get_state(partition)
      :erlang.trace(partition, false, [:receive])
      assert traced(partition) == []
      GatedProcessor.open(runner)
      {runner, batch} = GatedProcessor.next_batch()
      assert length(batch) == 500
      GatedProcessor.open(runner)
    end

    test "is looked at again when it is changed at run time" do
      name = listened(max_size: 100, processing_batch_size: 100)
      Queue.push(name, [1, 2, 3])
      Queue.update_options(name, max_size: 3)
      assert_receive {:processed, _runner, [1, 2, 3]}, 5_000
      Queue.update_options(name, max_size: :infinity)
      Queue.push(name, Enum.to_list(1..10))
      assert Queue.size(name) == 10
      Queue.update_options(name, max_size: 11)
      Queue.push(name, 11)
      assert_receive {:processed, _runner, [_ | _] = batch}, 5_000
      assert length(batch) == 11
    end

    test "is looked at by a process that takes the place of a killed one" do
      name = start_queue!(max_size: 5, processing_batch_size: 100)
      PartitionedBuffer.pause(name)
      Queue.push(name, [1, 2, 3, 4, 5])
      partition = Process.whereis(Names.partition(name, 0))
      kill(partition)
      await_successor(Names.partition(name, 0), partition)
      refute_received {:processed, _runner, _batch}
      PartitionedBuffer.resume(name)
      assert_receive {:processed, _runner, [1, 2, 3, 4, 5]}, 5_000
      Queue.push(name, [1, 2, 3, 4, 5])
      assert_receive {:processed, _runner, [1, 2, 3, 4, 5]}, 5_000
    end

    test "reached while a cycle runs starts the next one when that is done" do
      name = listened(max_size: 2, processing_batch_size: 2, processor: GatedProcessor.new())
      Queue.push(name, [1, 2])
      {runner, [1, 2]} = GatedProcessor.next_batch()
      Queue.push(name, [3, 4])
      GatedProcessor.refute_batch()
      GatedProcessor.open(runner)
      {runner, [3, 4]} = GatedProcessor.next_batch()
      GatedProcessor.open(runner)
      assert flushes() == [{:max_size, 2}, {:max_size, 2}]
    end

    test "with a jitter is drawn for each generation, within its bounds" do
      name = listened(max_size: 5, max_size_jitter: 5, processing_batch_size: 1_000)

      for i <- 1..500 do
        Queue.push(name, i)
        # What the write has sent is handled by then.
        _state = :sys.get_state(Names.partition(name, 0))
        ref = Handle.fetch!(name).ref
        # Noted, or at work.
        wait_until(fn -> not Native.partition_pending(ref, 0) end)
      end

      :ok = PartitionedBuffer.flush(name)
      :ok = PartitionedBuffer.await_empty(name)
      sizes = for {:max_size, size} <- flushes(), do: size
      assert Enum.all?(sizes, &(&1 in 5..10))
      assert length(Enum.uniq(sizes)) > 1
      assert length(Enum.concat(forwarded())) == 500
    end

    test "of a map counts keys, not writes" do
      name = start_map!(max_size: 3, processing_batch_size: 100)
      for i <- 1..10, do: Buffer.put(name, :a, i)
      Buffer.put(name, :b, 1)
      assert Buffer.size(name) == 2
      Buffer.put_newer(name, :c, 1, 1)
      assert_receive {:processed, _runner, batch}, 5_000
      assert Enum.sort(batch) == [{:a, 10, 0, 0}, {:b, 1, 0, 0}, {:c, 1, 1, 0}]
    end
  end

  describe "max_bytes" do
    test "starts processing on the write that reaches it" do
      name = listened(max_bytes: 10_000, processing_batch_size: 1_000)
      large = :binary.copy("x", 3_000)
      for _ <- 1..3, do: Queue.push(name, large)
      assert Queue.size(name) == 3
      Queue.push(name, large)
      assert_receive {:processed, _runner, [^large, ^large, ^large, ^large]}, 5_000
      assert flushes() == [{:max_size, 4}]
    end

    test "of a map" do
      name = start_map!(max_bytes: 5_000, processing_batch_size: 1_000)
      for i <- 1..100, do: Buffer.put(name, :same, i)
      assert Buffer.size(name) == 1
      Buffer.put(name, :large, :binary.copy("x", 5_000))
      assert_receive {:processed, _runner, [_, _]}, 5_000
    end

    test "is reached by one item that is larger" do
      name = listened(max_bytes: 100)
      large = :binary.copy("x", 1_000_000)
      Queue.push(name, large)
      assert_receive {:processed, _runner, [^large]}, 5_000
    end
  end

  describe "the interval" do
    test "starts nothing in an empty partition" do
      name = listened(processing_interval_ms: 1)

      # Ticks are handled in order: when an item pushed after many of them has been processed, they were.
      wait_until(fn ->
        PartitionedBuffer.info(name).partitions |> hd() |> Map.get(:next_flush_ms)
      end)

      Queue.push(name, :only)
      assert_receive {:processed, _runner, [:only]}, 5_000
      assert flushes() == [{:interval, 1}]
    end

    test "that ended while a cycle was running starts the next one at once" do
      name = listened(processing_interval_ms: 100, processor: GatedProcessor.new())
      Queue.push(name, 1)
      {runner, [1]} = GatedProcessor.next_batch()
      Queue.update_options(name, processing_interval_ms: 1)
      Queue.push(name, 2)
      wait_until(fn -> Native.partition_noted(Handle.fetch!(name).ref, 0) == :interval end)
      Queue.update_options(name, processing_interval_ms: never_ms())
      GatedProcessor.open(runner)
      {runner, [2]} = GatedProcessor.next_batch()
      GatedProcessor.open(runner)
    end

    test "with a jitter lies within its bounds, and info tells when it ends" do
      name =
        start_queue!(processing_interval_ms: 1_000_000, processing_interval_jitter_ms: 500_000)

      drawn =
        for _ <- 1..20 do
          Queue.update_options(name, processing_interval_jitter_ms: 500_000)
          [%{next_flush_ms: ms, trigger: nil}] = PartitionedBuffer.info(name).partitions
          ms
        end

      assert Enum.all?(drawn, &(&1 in 900_000..1_500_000))
      assert length(Enum.uniq(drawn)) > 1
    end

    test "is none in manual mode" do
      name = start_queue!(manual: true, processing_interval_ms: 1, max_size: 1, max_bytes: 1)
      Queue.push(name, Enum.to_list(1..100))
      assert [%{next_flush_ms: nil, trigger: nil}] = PartitionedBuffer.info(name).partitions
      assert Queue.size(name) == 100
      assert Enum.concat(drain(name)) == Enum.to_list(1..100)
    end
  end

  describe "max_batch_bytes" do
    test "bounds a batch; an item that is larger is a batch of its own" do
      name = start_queue!(processing_batch_size: 100, max_batch_bytes: 1_000)
      small = :binary.copy("s", 200)
      large = :binary.copy("l", 5_000)
      items = [small, small, small, large, small, large, large] ++ List.duplicate(small, 10)
      Queue.push(name, items)
      batches = drain(name)
      assert Enum.concat(batches) == items
      assert Enum.filter(batches, &(large in &1)) == [[large], [large], [large]]
      assert Enum.all?(batches, &(&1 == [large] or length(&1) in 1..4))
      assert length(batches) < 10
    end

    test "is reached exactly, but not exceeded by a byte" do
      item = :binary.copy("x", 500)
      probe = start_queue!()
      Queue.push(probe, item)
      %{bytes: weight} = PartitionedBuffer.info(probe)

      for {bytes, sizes} <- [
            {3 * weight, [3, 3]},
            {3 * weight - 1, [2, 2, 2]},
            {1, List.duplicate(1, 6)}
          ] do
        name = start_queue!(processing_batch_size: 100, max_batch_bytes: bytes)
        Queue.push(name, List.duplicate(item, 6), partition_key: 1)
        assert name |> drain() |> Enum.map(&length/1) == sizes
      end
    end

    test "of a map, and changed while it runs" do
      name = start_map!(processing_batch_size: 100, max_batch_bytes: 1)
      Buffer.put_all(name, for(i <- 1..5, do: {i, i}))
      :ok = PartitionedBuffer.flush(name)
      :ok = PartitionedBuffer.await_empty(name)
      assert Enum.map(forwarded(), &length/1) == [1, 1, 1, 1, 1]
      Buffer.update_options(name, max_batch_bytes: :infinity)
      Buffer.put_all(name, for(i <- 1..5, do: {i, i}))
      assert name |> drain() |> Enum.map(&length/1) == [5]
    end
  end

  test "each cycle tells what has started it" do
    name = listened(max_size: 2, processing_interval_ms: never_ms())
    Queue.push(name, [1, 2])
    assert {_, %{trigger: :max_size}} = next_event([:flush])
    :ok = PartitionedBuffer.await_empty(name)
    Queue.push(name, 1)
    :ok = PartitionedBuffer.flush(name)
    assert {%{size: 1, system_time: _}, %{trigger: :flush}} = next_event([:flush])
    :ok = PartitionedBuffer.await_empty(name)
    :ok = PartitionedBuffer.pause(name)
    Queue.push(name, 1)
    :ok = PartitionedBuffer.resume(name)
    assert {_, %{trigger: :resume}} = next_event([:flush])
    :ok = PartitionedBuffer.await_empty(name)
    Queue.push(name, 1)
    Queue.update_options(name, processing_interval_ms: 1)
    assert {_, %{trigger: :interval, partition: partition}} = next_event([:flush])
    assert partition == Names.partition(name, 0)
    :ok = PartitionedBuffer.await_empty(name)
    Queue.update_options(name, processing_interval_ms: never_ms())
    Queue.push(name, 1)
    Queue.stop(name)
    assert {_, %{trigger: :stop}} = next_event([:flush])
  end

  test "options that are wrong are refused, and nothing changes" do
    name = start_queue!(max_size: 10)

    for {option, value} <- [
          max_size: 0,
          max_size: nil,
          max_size: 1.0,
          max_size_jitter: -1,
          max_size_jitter: :infinity,
          max_bytes: -1,
          max_batch_bytes: 0,
          processing_interval_jitter_ms: -1,
          capacity: 0,
          capacity: "10",
          capacity_bytes: 0,
          overflow: :drop,
          max_retries: -1,
          max_retries: :infinity,
          backoff: 100,
          backoff: {0, 1},
          backoff: {10, 1},
          split_on_failure: nil,
          max_age_ms: 0,
          on_discard: fn _ -> :ok end,
          on_discard: :fun,
          processor_info: 1
        ] do
      assert_raise NimbleOptions.ValidationError, fn ->
        PartitionedBuffer.update_options(name, [{option, value}])
      end

      assert_raise NimbleOptions.ValidationError, fn ->
        Queue.start_link(queue_options([{option, value}]))
      end
    end

    assert_raise NimbleOptions.ValidationError, fn ->
      PartitionedBuffer.update_options(name, manual: true)
    end

    assert_raise NimbleOptions.ValidationError, fn ->
      Queue.start_link(queue_options(manual: 1))
    end

    Queue.push(name, Enum.to_list(1..10))
    assert_receive {:processed, _runner, batch}, 5_000
    assert length(batch) == 10
  end

  defp traced(partition) do
    receive do
      {:trace, ^partition, :receive, message} when message in [:due, :noted] ->
        [message | traced(partition)]

      {:trace, ^partition, :receive, _other} ->
        traced(partition)
    after
      0 -> []
    end
  end

  defp other_partition?(name, key, other) do
    PartitionedBuffer.get_partition(name, key, nil) !=
      PartitionedBuffer.get_partition(name, other, nil)
  end
end
