defmodule PartitionedBuffer.InfoTest do
  # The figures of `PartitionedBuffer.info/1`, step by step.
  use PartitionedBuffer.BufferCase, async: true

  import PartitionedBuffer.TelemetryCase

  @moduletag :capture_log

  @none %{exception: 0, killed: 0, timeout: 0, shutdown: 0, failed: 0, expired: 0, overflow: 0}
  @sums [:queued, :in_flight, :accepted, :processed, :bytes, :high_water]

  defp start_gated!(opts) do
    [processing_interval_ms: 1, processor: GatedProcessor.new()]
    |> Keyword.merge(opts)
    |> start_queue!()
  end

  # The figures that count entries.
  defp counts(name) when is_atom(name), do: name |> PartitionedBuffer.info() |> counts()

  defp counts(info) do
    assert_accounted(info)
    {info.queued, info.in_flight, info.processed, info.discarded |> Map.values() |> Enum.sum()}
  end

  test "of a new buffer is all zero" do
    name = start_queue!(partitions: 2)

    figures = %{
      queued: 0,
      in_flight: 0,
      accepted: 0,
      processed: 0,
      superseded: 0,
      deleted: 0,
      discarded: @none,
      bytes: 0,
      oldest_age_ms: nil,
      high_water: 0,
      retries: 0
    }

    partitions =
      for index <- ["0", "1"] do
        Map.merge(figures, %{partition: Module.concat(name, index), trigger: nil})
      end

    {ticks, info} =
      name
      |> PartitionedBuffer.info()
      |> get_and_update_in(
        [:partitions, Access.all()],
        &{&1.next_flush_ms, Map.delete(&1, :next_flush_ms)}
      )

    assert info ==
             Map.merge(figures, %{
               buffer: name,
               module: Queue,
               partitions: partitions,
               blocked: 0,
               rejected: 0,
               room: nil
             })

    assert Enum.all?(ticks, &(&1 in 1..3_600_000))
  end

  test "follows each entry from push to processed" do
    name = start_gated!(processing_batch_size: 2)
    Queue.push(name, [1, 2, 3, 4, 5])
    {runner, [1, 2]} = GatedProcessor.next_batch()
    assert counts(name) == {3, 2, 0, 0}
    Queue.push(name, 6)
    assert counts(name) == {4, 2, 0, 0}
    GatedProcessor.open(runner)
    {runner, [3, 4]} = GatedProcessor.next_batch()
    assert counts(name) == {2, 2, 2, 0}
    GatedProcessor.open(runner)
    {runner, [5]} = GatedProcessor.next_batch()
    assert counts(name) == {1, 1, 4, 0}
    GatedProcessor.open(runner)
    {runner, [6]} = GatedProcessor.next_batch()
    assert counts(name) == {0, 1, 5, 0}
    GatedProcessor.open(runner)
    assert runner |> then(&info_after(name, &1)) |> counts() == {0, 0, 6, 0}
  end

  test "tells for which reason entries were discarded" do
    name = unique_name()
    listen(name)
    start_gated!(name: name, processing_batch_size: 10)

    for {how, size} <- [
          {{:raise, "boom"}, 1},
          {{:throw, 1}, 2},
          {{:exit, :reason}, 3},
          {:kill, 4}
        ] do
      Queue.push(name, Enum.to_list(1..size))
      {runner, _batch} = GatedProcessor.next_batch()
      GatedProcessor.open(runner, how)
      assert {%{size: ^size}, _} = next_event([:discarded])
    end

    Queue.update_options(name, processing_timeout_ms: 1)
    Queue.push(name, Enum.to_list(1..5))
    assert {%{size: 5}, %{reason: :timeout}} = next_event([:discarded])

    assert %{accepted: 15, discarded: discarded, partitions: [%{discarded: same}]} =
             name |> PartitionedBuffer.info() |> assert_accounted()

    assert discarded == %{@none | exception: 6, killed: 4, timeout: 5}
    assert same == discarded
    assert counts(name) == {0, 0, 0, 15}
  end

  test "has the totals of all partitions" do
    name = start_queue!(partitions: 3)
    Queue.push(name, Enum.map(1..100, &{:item, &1, String.duplicate("x", &1)}))
    info = PartitionedBuffer.info(name)
    assert info.accepted == 100
    assert Enum.all?(info.partitions, &(&1.accepted > 0))

    for key <- @sums do
      assert info[key] == info.partitions |> Enum.map(& &1[key]) |> Enum.sum()
    end

    assert info.oldest_age_ms == info.partitions |> Enum.map(& &1.oldest_age_ms) |> Enum.max()
    assert_accounted(info)
  end

  test "tells the partition that an entry is in" do
    name = start_queue!(partitions: 4)

    for key <- 1..20 do
      partition = PartitionedBuffer.get_partition(name, key, :item)
      before = accepted(name, partition)
      Queue.push(name, :item, partition_key: key)
      assert accepted(name, partition) == before + 1
    end
  end

  defp accepted(name, partition) do
    %{partitions: partitions} = PartitionedBuffer.info(name)
    Enum.find(partitions, &(&1.partition == partition)).accepted
  end

  describe "bytes" do
    test "grow with what is pushed and shrink to zero" do
      name = start_gated!(processing_batch_size: 1)
      Queue.push(name, [{:tuple, 1}, String.duplicate("x", 10_000)])
      {runner, _first} = GatedProcessor.next_batch()
      both = PartitionedBuffer.info(name).bytes
      assert both > 10_000
      GatedProcessor.open(runner)
      {runner, _second} = GatedProcessor.next_batch()
      second = PartitionedBuffer.info(name).bytes
      assert second >= 10_000 and second < both
      GatedProcessor.open(runner)
      assert %{bytes: 0} = info_after(name, runner)
    end

    test "are those of the terms, whatever way they were pushed" do
      items = [{:a, 1}, %{b: [2, 3]}, "text", String.duplicate("y", 100), 1.5, :atom, <<1::3>>]

      bytes =
        for push <- [
              &Enum.each(items, fn item -> Queue.push(&1, item) end),
              &Queue.push(&1, items),
              &Queue.push(&1, items, partition_key: :key),
              &Enum.each(items, fn item -> Queue.push(&1, item, partition_key: :key) end)
            ] do
          name = start_queue!()
          push.(name)
          PartitionedBuffer.info(name).bytes
        end

      assert [bytes] = Enum.uniq(bytes)
      # The words of these terms alone, and the long binary.
      assert bytes > :erlang.external_size(items) / 2
      assert bytes < 5_000
    end

    test "go to zero with entries that are discarded" do
      name = unique_name()
      listen(name)
      start_gated!(name: name)
      Queue.push(name, [String.duplicate("x", 1_000), {:tuple, 1}])
      {runner, _batch} = GatedProcessor.next_batch()
      bytes = PartitionedBuffer.info(name).bytes
      GatedProcessor.open(runner, {:raise, "boom"})
      assert {%{bytes: ^bytes}, _} = next_event([:discarded])
      assert %{bytes: 0} = PartitionedBuffer.info(name)
    end

    test "come to the same for every kind of term, entry by entry and all together" do
      items = Enum.map(1..1_000, &{&1, String.duplicate("x", rem(&1, 200)), [&1 * 1.0]})

      one_by_one = start_queue!()
      for item <- items, do: Queue.push(one_by_one, item)
      together = start_queue!()
      Queue.push(together, items)
      assert PartitionedBuffer.info(one_by_one).bytes == PartitionedBuffer.info(together).bytes
    end
  end

  describe "oldest_age_ms" do
    # The test's own clock around a push and a reading tells what the age may be.
    test "is the age of the oldest entry" do
      name = start_gated!(processing_batch_size: 1)
      before_push = now()
      Queue.push(name, [1, 2])
      after_push = now()
      {runner, [1]} = GatedProcessor.next_batch()
      spin_until(after_push + 5)

      before_reading = now()
      age = PartitionedBuffer.info(name).oldest_age_ms
      # Both clocks cut off parts of a millisecond.
      assert age >= before_reading - after_push - 1
      assert age <= now() - before_push + 1

      # While it is in flight, and while the next one waits.
      Queue.push(name, 3)
      assert PartitionedBuffer.info(name).oldest_age_ms >= age
      GatedProcessor.open(runner)
      {runner, [2]} = GatedProcessor.next_batch()
      assert PartitionedBuffer.info(name).oldest_age_ms >= age
      GatedProcessor.open(runner)
      {runner, [3]} = GatedProcessor.next_batch()
      GatedProcessor.open(runner)
      assert %{oldest_age_ms: nil} = info_after(name, runner)
    end

    test "is nil when nothing is held, in a partition and in all" do
      name = start_queue!(partitions: 4)
      Queue.push(name, :item, partition_key: :key)
      partition = PartitionedBuffer.get_partition(name, :key, :item)
      info = PartitionedBuffer.info(name)

      for figures <- info.partitions do
        assert is_integer(figures.oldest_age_ms) == (figures.partition == partition)
      end

      assert is_integer(info.oldest_age_ms)
    end

    defp now, do: System.monotonic_time(:millisecond)
    defp spin_until(time), do: if(now() < time, do: spin_until(time))
  end

  describe "high_water" do
    test "is the most that was held at once" do
      name = start_gated!(processing_batch_size: 100)
      Queue.push(name, [1, 2, 3])
      {runner, [1, 2, 3]} = GatedProcessor.next_batch()
      assert PartitionedBuffer.info(name).high_water == 3
      Queue.push(name, [4, 5])
      assert PartitionedBuffer.info(name).high_water == 5
      GatedProcessor.open(runner)
      {runner, [4, 5]} = GatedProcessor.next_batch()
      Queue.push(name, 6)
      assert PartitionedBuffer.info(name).high_water == 5
      GatedProcessor.open(runner)
      {runner, [6]} = GatedProcessor.next_batch()
      GatedProcessor.open(runner)
      assert %{high_water: 5, queued: 0, in_flight: 0} = info_after(name, runner)
    end
  end

  test "of an unknown buffer raises" do
    assert_raise ArgumentError, ~r/unknown registry/, fn ->
      PartitionedBuffer.info(unique_name())
    end
  end
end
