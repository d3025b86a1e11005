defmodule PartitionedBuffer.MapMemoryTest do
  # However often keys are overwritten, inserted and deleted: memory stays near what is alive. And no
  # call holds a scheduler for longer than a moment.
  use PartitionedBuffer.MapCase, async: false

  import PartitionedBuffer.Alive
  import PartitionedBuffer.HeldSchedulers, only: [assert_short: 2]

  alias PartitionedBuffer.FaultHelpers

  @moduletag timeout: 120_000

  setup_all :assert_alive_baseline
  setup :assert_alive_baseline

  # A million small terms take four thousand arenas when nothing is freed, twenty thousand large ones one
  # each. The thread that frees may be put aside by the system for a while; a few hundred are usual.
  @most 2_000

  # Arenas that are alive beyond those of before. Those that wait for the reclaimer's thread count too.
  defp arenas(before), do: alive().arenas - before.arenas

  # Runs it that often and answers the most arenas that were seen on the way.
  defp most_arenas(before, times, write) do
    Enum.reduce(1..times, 0, fn number, most ->
      write.(number)
      if rem(number, 1_000) == 0, do: max(most, arenas(before)), else: most
    end)
  end

  test "one key that is overwritten a million times" do
    buffer = start_map!()
    before = alive()
    most = most_arenas(before, 1_000_000, &Buffer.put(buffer, :key, {:value, &1, "payload"}))
    assert most < @most
    assert Buffer.size(buffer) == 1
    assert %{bytes: bytes, accepted: 1_000_000} = PartitionedBuffer.info(buffer)
    assert bytes < 200
    FaultHelpers.wait_until(fn -> arenas(before) <= 10 end, 3_000)
  end

  test "keys that are inserted and deleted for ever" do
    buffer = start_map!()
    before = alive()

    most =
      most_arenas(before, 400_000, fn number ->
        Buffer.put_newer(buffer, {:key, number}, {:value, number, "payload"}, number)
        if number > 100, do: Buffer.delete(buffer, {:key, number - 100})
      end)

    assert most < @most
    assert Buffer.size(buffer) == 100
    assert %{deleted: 399_900} = PartitionedBuffer.info(buffer)
    FaultHelpers.wait_until(fn -> arenas(before) <= 150 end, 3_000)
    for number <- 399_901..400_000, do: {:ok, _value} = Buffer.take(buffer, {:key, number})
    assert %{queued: 0, bytes: 0} = PartitionedBuffer.info(buffer)
  end

  for {title, times, size} <- [
        {"of all sizes up to 8 KB", 20_000, quote(do: &rem(&1 * 7_919, 8_100))},
        {"of more than 8 KB", 20_000, quote(do: fn number -> 8_200 + rem(number, 1_000) end)},
        {"of more than 128 KB", 6_000, quote(do: fn number -> 131_100 + rem(number, 100) end)}
      ] do
    test "values #{title}, overwritten, updated and taken" do
      buffer = start_map!(partitions: 2)
      before = alive()
      size = unquote(size)

      most =
        most_arenas(before, unquote(times), fn number ->
          # Words, which are copied; a binary would be shared.
          value = List.duplicate(number, div(size.(number), 16))

          case rem(number, 3) do
            0 -> Buffer.put(buffer, rem(number, 50), value)
            1 -> Buffer.update(buffer, rem(number, 50), value, {:append, :more})
            2 -> Buffer.take(buffer, rem(number, 50))
          end
        end)

      held = PartitionedBuffer.info(buffer).queued
      assert most < div(unquote(times), 3)
      FaultHelpers.wait_until(fn -> arenas(before) <= held + 200 end, 3_000)
    end
  end

  test "lists that overwrite the same keys" do
    buffer = start_map!(partitions: 2)
    before = alive()
    for round <- 1..100, do: Buffer.put_all(buffer, for(key <- 1..3_000, do: {key, {round, key}}))
    assert %{accepted: 300_000, superseded: 297_000} = PartitionedBuffer.info(buffer)
    FaultHelpers.wait_until(fn -> arenas(before) < 200 end, 3_000)
    assert entries(buffer) == for(key <- 1..3_000, do: {key, {100, key}, 0, 0})
  end

  test "all is freed when it has been processed, discarded, or given up at the end" do
    for processor <- [fn _batch -> :ok end, fn _batch -> exit(:shutdown) end],
        time <- [30_000, 0] do
      buffer = start_map!(processor: processor, processing_timeout_ms: time, partitions: 2)
      Buffer.put_all(buffer, for(key <- 1..20_000, do: {{:key, key}, {:value, key}}))
      Buffer.update_options(buffer, processing_batch_size: 5_000)
      Buffer.stop(buffer)
    end
  end

  describe "no scheduler is held" do
    for {title, write} <- [
          put_all: quote(do: &Buffer.put_all(&1, pairs())),
          put_all_of_a_map: quote(do: &Buffer.put_all(&1, Map.new(pairs()))),
          put_all_newer: quote(do: &Buffer.put_all_newer(&1, versioned())),
          put_all_with_a_partition_key:
            quote(do: &Buffer.put_all(&1, pairs(), partition_key: :one))
        ] do
      test "by #{title} of 500,000" do
        start = fn -> start_map!(processor: fn _ -> :ok end, processing_batch_size: 10_000) end

        assert_short(start, fn buffer ->
          task = Task.async(fn -> unquote(write).(buffer) end)
          assert Task.await(task, 60_000) == :ok
          assert Buffer.size(buffer) == 500_000

          # In a process of its own: others use the map while half a million entries are processed.
          Buffer.update_options(buffer, processing_interval_ms: 1)
          user = Task.async(fn -> for n <- 1..20_000, do: Buffer.put(buffer, rem(n, 9), n) end)
          Task.await(user, 60_000)
          await_idle(buffer, 60_000)
        end)
      end
    end

    defp pairs, do: for(number <- 1..500_000, do: {{:key, number}, {:value, number}})
    defp versioned, do: for(number <- 1..500_000, do: {number, {:value, number}, number})
  end
end
