defmodule PartitionedBuffer.MapConcurrencyTest do
  # Many processes and few keys, lists that are longer than a cycle, and an end in the middle of it.
  use PartitionedBuffer.MapCase, async: false

  import PartitionedBuffer.Alive

  alias PartitionedBuffer.FaultHelpers

  @moduletag :capture_log
  @moduletag timeout: 120_000

  setup_all :assert_alive_baseline

  # Adds up the values of all entries.
  defp summing do
    sums = :counters.new(1, [])

    processor = fn batch ->
      for {_key, value, _, _} <- batch, do: :counters.add(sums, 1, value)
    end

    {processor, sums}
  end

  # Counts how often each of the keys `1..count` was processed with its own value and version.
  defp ticking(count) do
    seen = :counters.new(count, [:write_concurrency])

    processor = fn batch ->
      for {key, {:value, key}, key, _updates} <- batch, do: :counters.add(seen, key, 1)
    end

    {processor, seen}
  end

  defp at_once(count, fun) do
    1..count |> Enum.map(&Task.async(fn -> fun.(&1) end)) |> Task.await_many(60_000)
  end

  describe "update/5 of hot keys by many" do
    for {title, change} <- [
          operations: quote(do: fn _number -> {:add, 1} end),
          functions: quote(do: fn _number -> &(&1 + 1) end),
          both: quote(do: fn number -> if rem(number, 3) == 0, do: {:add, 1}, else: &(&1 + 1) end)
        ] do
      test "adds up across cycles: #{title}" do
        {processor, sums} = summing()
        buffer = start_map!(processor: processor, partitions: 2, processing_interval_ms: 1)
        change = unquote(change)

        at_once(8, fn _writer ->
          for number <- 1..4_000, do: Buffer.update(buffer, rem(number, 3), 1, change.(number))
        end)

        assert %{accepted: 32_000} = info = await_idle(buffer)
        assert :counters.get(sums, 1) == 32_000
        assert info.processed + info.superseded == 32_000
      end
    end

    test "adds up with what is taken meanwhile" do
      {processor, sums} = summing()
      buffer = start_map!(processor: processor, partitions: 2, processing_interval_ms: 1)

      taken =
        at_once(6, fn
          taker when taker < 3 ->
            Enum.sum(for _ <- 1..4_000, do: take(buffer))

          _writer ->
            for _ <- 1..4_000, do: Buffer.update(buffer, :hot, 1, {:add, 1})
            0
        end)

      await_idle(buffer)
      assert :counters.get(sums, 1) + Enum.sum(taken) == 16_000
    end

    defp take(buffer) do
      case Buffer.take(buffer, :hot) do
        {:ok, value} -> value
        :error -> 0
      end
    end

    test "loses no appended term, and keeps the order of each process" do
      {processor, table} = recorder()
      buffer = start_map!(processor: processor, processing_interval_ms: 1)

      at_once(4, fn writer ->
        for number <- 1..2_000 do
          Buffer.update(buffer, :log, [{writer, number}], {:append, {writer, number}})
        end
      end)

      Buffer.stop(buffer)
      log = for {:log, list, 0, _updates} <- recorded(table), item <- list, do: item
      numbers = Enum.group_by(log, &elem(&1, 0), &elem(&1, 1))
      assert numbers == Map.new(1..4, &{&1, Enum.to_list(1..2_000)})
    end

    test "puts a key that is not there once" do
      buffer = start_map!(partitions: 2)

      at_once(6, fn writer ->
        for key <- 1..2_000, do: Buffer.update(buffer, key, 0, {:put_new, writer})
      end)

      assert %{accepted: 2_000, superseded: 0} = PartitionedBuffer.info(buffer)
    end
  end

  test "take/3 gives each value to one process" do
    buffer = start_map!(partitions: 2)
    Buffer.put_all(buffer, for(key <- 1..5_000, do: {key, {:value, key}}))

    taken =
      at_once(4, fn _ -> for key <- 1..5_000, {:ok, v} <- [Buffer.take(buffer, key)], do: v end)

    assert taken |> Enum.concat() |> Enum.sort() == for(key <- 1..5_000, do: {:value, key})
    assert %{queued: 0, deleted: 5_000, bytes: 0} = PartitionedBuffer.info(buffer)
  end

  describe "versions" do
    test "rise for everybody who looks, and the highest one stays" do
      buffer = start_map!(partitions: 2)
      writers = Task.async(fn -> at_once(4, &write_versions(buffer, &1)) end)
      at_once(2, fn _reader -> watch(buffer, %{}, 5_000) end)
      Task.await(writers, 60_000)

      for key <- 1..4 do
        {version, _padding} = Buffer.get(buffer, key)
        assert version == highest()
      end

      updates = for {_key, {version, _}, version, updates} <- entries(buffer), do: updates
      assert length(updates) == 4
    end

    test "of all cycles: the highest one is processed, with its value" do
      {processor, table} = recorder()
      buffer = start_map!(processor: processor, partitions: 2, processing_interval_ms: 1)
      at_once(4, &write_versions(buffer, &1))
      await_idle(buffer)
      entries = recorded(table)
      assert Enum.all?(entries, fn {_key, {value, _}, version, _} -> value == version end)

      for key <- 1..4 do
        versions = for {^key, _value, version, _updates} <- entries, do: version
        assert Enum.max(versions) == highest()
      end
    end
  end

  # Small integers, and those that are none.
  defp version(number), do: number * Integer.pow(2, 50)
  defp highest, do: version(20_003)

  defp write_versions(buffer, writer) do
    for number <- Enum.shuffle(1..5_000) do
      version = version(4 * number + writer - 1)
      padding = String.duplicate("p", rem(number, 90))
      for key <- 1..4, do: Buffer.put_newer(buffer, key, {version, padding}, version)
    end
  end

  defp watch(_buffer, _seen, 0), do: :ok

  defp watch(buffer, seen, times) do
    {version, _padding} = Buffer.get(buffer, rem(times, 4) + 1, {-1, ""})
    assert version >= Map.get(seen, rem(times, 4), -1)
    watch(buffer, Map.put(seen, rem(times, 4), version), times - 1)
  end

  describe "lists that are longer than a cycle" do
    for {count, partitions} <- [{100_000, 1}, {300_000, 2}, {500_000, 3}] do
      test "put_all_newer/3 of #{count}, in #{partitions} partitions: each is processed once" do
        count = unquote(count)
        {processor, seen} = ticking(count)
        sizes = [partitions: unquote(partitions), processing_batch_size: 1_000]
        buffer = start_map!([processor: processor, processing_interval_ms: 1] ++ sizes)
        entries = for number <- 1..count, do: {number, {:value, number}, number}
        assert Buffer.put_all_newer(buffer, entries) == :ok
        info = await_idle(buffer)
        assert %{accepted: ^count, processed: ^count, superseded: 0} = info
        assert Enum.all?(1..count, &(:counters.get(seen, &1) == 1))
      end
    end

    test "of several processes, with the same keys" do
      {processor, seen} = ticking(50_000)

      buffer =
        start_map!(
          processor: processor,
          partitions: 2,
          processing_interval_ms: 1,
          processing_batch_size: 1_000
        )

      entries = for number <- 1..50_000, do: {number, {:value, number}, number}
      at_once(4, fn _writer -> Buffer.put_all_newer(buffer, entries) end)
      assert %{accepted: 200_000} = info = await_idle(buffer)
      assert info.processed + info.superseded == 200_000
      assert Enum.all?(1..50_000, &(:counters.get(seen, &1) in 1..4))
    end
  end

  describe "a stop while processes write" do
    test "everything that was accepted is in the sum" do
      for _round <- 1..10 do
        {processor, sums} = summing()
        buffer = start_map!(processor: processor, partitions: 3, processing_interval_ms: 1)
        writers = for _ <- 1..4, do: Task.async(fn -> count_accepted(buffer, 0) end)
        FaultHelpers.wait_until(fn -> PartitionedBuffer.info(buffer).accepted > 500 end)
        Buffer.stop(buffer)
        accepted = writers |> Task.await_many() |> Enum.sum()
        assert :counters.get(sums, 1) == accepted
      end
    end

    defp count_accepted(buffer, accepted) do
      Buffer.update(buffer, rem(accepted, 5), 1, {:add, 1})
      count_accepted(buffer, accepted + 1)
    rescue
      error in ArgumentError ->
        assert error.message =~ "unknown registry"
        accepted
    end

    test "a list is accepted as a whole, or not at all" do
      for _round <- 1..10 do
        {processor, sums} = summing()
        buffer = start_map!(processor: processor, partitions: 3, processing_interval_ms: 1)
        writers = for id <- 1..4, do: Task.async(fn -> count_lists(buffer, id, 0) end)
        FaultHelpers.wait_until(fn -> PartitionedBuffer.info(buffer).accepted > 5_000 end)
        Buffer.stop(buffer)
        lists = writers |> Task.await_many() |> Enum.sum()
        assert :counters.get(sums, 1) == 300 * lists
      end
    end

    defp count_lists(buffer, id, lists) do
      Buffer.put_all(buffer, for(number <- 1..300, do: {{id, lists, number}, 1}))
      count_lists(buffer, id, lists + 1)
    rescue
      ArgumentError -> lists
    end
  end
end
