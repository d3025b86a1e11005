defmodule PartitionedBuffer.MapFaultsTest do
  # Processes of a map are killed: what it held is there afterwards, and is processed once.
  use PartitionedBuffer.MapCase, async: false

  import PartitionedBuffer.Alive

  alias PartitionedBuffer.{FaultHelpers, Names}

  @moduletag :capture_log

  setup_all :assert_alive_baseline

  # Of every way that the native side has for a key.
  defp key(number) do
    case rem(number, 5) do
      0 -> number
      1 -> number / 1
      2 -> {:key, number}
      3 -> "key #{number}"
      4 -> %{key: number, padding: String.duplicate("p", rem(number, 100))}
    end
  end

  # Large ones among them.
  defp value(number) when rem(number, 100) == 99, do: {number, :binary.copy("v", 10_000)}
  defp value(number), do: {:value, number}

  # Each key with a version of its own and, some of them, updates.
  defp fill(buffer, numbers, opts \\ []) do
    for number <- numbers do
      Buffer.put_newer(buffer, key(number), :old, version(number), opts)
      Buffer.update(buffer, key(number), nil, fn :old -> value(number) end, opts)
    end
  end

  defp version(number), do: number * Integer.pow(2, rem(number, 70))

  defp filled(numbers) do
    Enum.sort(for number <- numbers, do: {key(number), value(number), version(number), 1})
  end

  defp start_again(buffer, opts) do
    start_map!([name: buffer, processing_batch_size: 100] ++ opts, id: make_ref())
  end

  defp assert_there(buffer, numbers, opts \\ []) do
    for number <- numbers do
      assert Buffer.fetch(buffer, key(number), opts) == {:ok, value(number)}
    end
  end

  defp kill_partitions(buffer) do
    for %{partition: name} <- PartitionedBuffer.info(buffer).partitions do
      former = Process.whereis(name)
      FaultHelpers.kill(former)
      FaultHelpers.await_successor(name, former)
    end
  end

  test "the process of a partition: everything stays, and can be read and written" do
    buffer = start_map!(partitions: 3)
    fill(buffer, 1..500)
    kill_partitions(buffer)
    assert_there(buffer, 1..500)
    for number <- 1..500, do: Buffer.put_newer(buffer, key(number), :late, version(number))
    fill(buffer, 501..600)
    assert entries(buffer) == filled(1..600)
  end

  for victim <- [:partition, :partition_supervisor, :owner] do
    test "#{victim}, with a batch in flight: nothing is lost or processed twice" do
      buffer = start_map!(processor: GatedProcessor.new(), processing_batch_size: 10)
      fill(buffer, 1..30)
      cycle(buffer)

      processed =
        for round <- 1..3, reduce: [] do
          processed ->
            {runner, batch} = GatedProcessor.next_batch()
            fill(buffer, [100 + round])
            kill_named(buffer, unquote(victim))
            assert_there(buffer, 101..(100 + round))
            GatedProcessor.open(runner)
            batch ++ processed
        end

      assert Enum.sort(processed) == filled(1..30)
      assert buffer |> GatedProcessor.drain() |> Enum.concat() |> Enum.sort() == filled(101..103)
    end
  end

  defp kill_named(buffer, victim) do
    name =
      case victim do
        :partition -> Names.partition(buffer, 0)
        :partition_supervisor -> Names.partition_supervisor(buffer)
        :owner -> Names.owner(buffer)
      end

    former = Process.whereis(name)
    FaultHelpers.kill(former)
    FaultHelpers.await_successor(name, former)
    FaultHelpers.partition(buffer)
  end

  test "sums are exact while partitions are killed all the time" do
    sums = :counters.new(1, [])

    processor = fn batch ->
      for {_key, sum, _version, _updates} <- batch, do: :counters.add(sums, 1, sum)
    end

    buffer = start_map!(processor: processor, partitions: 2, processing_interval_ms: 1)

    writers =
      for writer <- 1..3 do
        Task.async(fn ->
          for number <- 1..3_000 do
            change = if rem(number, 10) == 0, do: &(&1 + 1), else: {:add, 1}
            Buffer.update(buffer, rem(number * writer, 7), 1, change)
          end
        end)
      end

    for _ <- 1..30 do
      pid = Process.whereis(Names.partition(buffer, :rand.uniform(2) - 1))
      if pid, do: Process.exit(pid, :kill)
      FaultHelpers.pause(2)
    end

    Task.await_many(writers, 30_000)
    assert %{accepted: 9_000} = info = await_idle(buffer)
    assert FaultHelpers.discarded(info) == 0
    assert :counters.get(sums, 1) == 9_000
  end

  for {former, next} <- [{3, 3}, {1, 1}, {4, 1}, {1, 4}, {4, 3}, {3, 5}] do
    test "the whole buffer of #{former}, started again with #{next}: everything is where get looks" do
      {former, next} = {unquote(former), unquote(next)}
      buffer = start_map!(partitions: former)
      fill(buffer, 1..1_000)
      for number <- 1..1_000//10, do: Buffer.delete(buffer, key(number))
      left = for number <- 1..1_000, rem(number, 10) != 1, do: number
      kill_buffer(buffer)

      # There is nobody, and it works all the same.
      assert_there(buffer, Enum.take(left, 100))
      fill(buffer, 1_001..1_050)
      left = left ++ Enum.to_list(1_001..1_050)

      start_again(buffer, partitions: next)
      assert Buffer.size(buffer) == length(left)
      assert_there(buffer, left)
      for number <- 1..1_000//10, do: assert(Buffer.fetch(buffer, key(number)) == :error)

      # Versions and updates came along: what is not newer is passed over.
      for number <- left, do: Buffer.put_newer(buffer, key(number), :late, version(number))
      info = assert_accounted(PartitionedBuffer.info(buffer))
      assert %{accepted: accepted, deleted: 100} = info
      assert accepted == 2 * 1_050 + length(left)
      assert entries(buffer) == filled(left)
    end
  end

  test "the whole buffer: a partition key finds its keys again, with as many partitions" do
    buffer = start_map!(partitions: 5)
    opts = [partition_key: &{:route, &1}]
    fill(buffer, 1..500, opts)
    kill_buffer(buffer)
    start_again(buffer, partitions: 5)
    assert_there(buffer, 1..500, opts)
    assert entries(buffer) == filled(1..500)
  end

  test "the whole buffer: what a partition key wrote is processed, whatever the number of partitions" do
    buffer = start_map!(partitions: 5)
    fill(buffer, 1..500, partition_key: &{:route, &1})
    kill_buffer(buffer)
    start_again(buffer, partitions: 3)
    assert entries(buffer) == filled(1..500)
  end

  for next <- [2, 1, 3] do
    test "the whole buffer of 2 with batches in flight, started again with #{next}" do
      options = [processor: GatedProcessor.new(), partitions: 2, processing_batch_size: 10]
      buffer = start_map!(options)
      fill(buffer, 1..100)
      cycle(buffer)
      in_flight = for _partition <- 1..2, do: GatedProcessor.next_batch()
      fill(buffer, 101..150)
      kill_buffer(buffer)
      for {runner, _batch} <- in_flight, do: FaultHelpers.await_down(runner)

      # What the processor had is reported, all else is processed, as other keys are.
      start_again(buffer, partitions: unquote(next))
      assert_there(buffer, 101..150)
      lost = Enum.flat_map(in_flight, fn {_runner, batch} -> batch end)
      assert Enum.sort(lost ++ entries(buffer)) == filled(1..150)
    end
  end

  test "the whole buffer again and again, with writers: sums are exact, with as many partitions" do
    sums = :counters.new(1, [])

    processor = fn batch ->
      for {_key, sum, _version, _updates} <- batch, do: :counters.add(sums, 1, sum)
    end

    options = [processor: processor, partitions: 2]
    buffer = start_map!(options)

    writers =
      for _writer <- 1..3 do
        Task.async(fn ->
          for number <- 1..5_000, do: :ok = Buffer.update(buffer, rem(number, 7), 1, {:add, 1})
        end)
      end

    for _ <- 1..10 do
      kill_buffer(buffer)
      start_again(buffer, options)
      FaultHelpers.pause(1)
    end

    Task.await_many(writers, 30_000)
    assert Buffer.size(buffer) == 7
    Buffer.stop(buffer)
    assert :counters.get(sums, 1) == 15_000
  end

  # A key may be in a batch that waits and in the live generation. Neither is newer than the other:
  # each was accepted, and a sum is what both of them hold.
  for next <- [2, 1, 3] do
    test "a key that waits to be processed and is live, started again with #{next} of 2" do
      buffer =
        start_map!(processor: GatedProcessor.new(), partitions: 2, processing_batch_size: 1)

      for number <- 1..20, do: Buffer.update(buffer, number, 100, {:add, 1})
      cycle(buffer)
      in_flight = for _partition <- 1..2, do: GatedProcessor.next_batch()
      for number <- 1..20, do: Buffer.update(buffer, number, 1, {:add, 1})
      kill_buffer(buffer)
      for {runner, _batch} <- in_flight, do: FaultHelpers.await_down(runner)
      lost = Enum.flat_map(in_flight, fn {_runner, batch} -> batch end)

      start_again(buffer, partitions: unquote(next))
      for number <- 1..20, do: assert(Buffer.get(buffer, number) == 1)
      sum = fn entries -> Enum.sum(for {_key, value, _, _} <- entries, do: value) end
      assert sum.(lost) == 200
      assert sum.(entries(buffer)) == 20 * 101 - 200
    end
  end
end
