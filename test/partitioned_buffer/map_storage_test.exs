defmodule PartitionedBuffer.MapStorageTest do
  # What a map takes stays within a multiple of what is alive in it, whatever is overwritten, and for however
  # long: here the VM itself is asked how much memory it has. (map_memory_test.exs counts arenas,
  # `native/buffer_core/tests/map_bounds.rs` has the exact bound.)
  use PartitionedBuffer.MapCase, async: false

  import PartitionedBuffer.Alive

  alias PartitionedBuffer.FaultHelpers

  @moduletag timeout: 1_800_000

  setup_all :assert_alive_baseline
  setup :assert_alive_baseline

  # Three times what is alive, as `info/1` has it: twice is what the segments may take, and they are
  # blocks of the allocator's. And what waits to be freed, at most two hundred segments of 512 KB, or one
  # that is larger.
  @multiple 3
  @slack 128 * 1024 * 1024
  # When nothing is written any more.
  @slack_at_rest 16 * 1024 * 1024

  defp memory do
    :erlang.garbage_collect()
    :erlang.memory(:total)
  end

  defp limit(buffer, slack), do: @multiple * PartitionedBuffer.info(buffer).bytes + slack

  # Looks at it a hundred times.
  defp assert_bounded(times, write) do
    buffer = start_map!(partitions: 2)
    before = memory()
    step = max(div(times, 100), 1)

    for from <- 1..times//step do
      Enum.each(from..(from + step - 1), &write.(buffer, &1))
      assert memory() - before <= limit(buffer, @slack)
    end

    FaultHelpers.wait_until(fn -> memory() - before <= limit(buffer, @slack_at_rest) end, 10_000)
    buffer
  end

  for {tag, times} <- [{:short, 1}, {:soak, 10}] do
    describe "#{tag}:" do
      @describetag tag

      test "one key that is overwritten" do
        times = unquote(times) * 1_000_000
        buffer = assert_bounded(times, &Buffer.put(&1, :key, {:value, &2, "payload"}))
        assert Buffer.get(buffer, :key) == {:value, times, "payload"}
        assert %{accepted: ^times, queued: 1} = PartitionedBuffer.info(buffer)
      end

      test "keys that are overwritten at random" do
        keys = unquote(times) * 100_000

        buffer =
          assert_bounded(6 * keys, fn buffer, number ->
            Buffer.put(buffer, :rand.uniform(keys), {:value, number, "payload"})
          end)

        assert Buffer.size(buffer) > 0.99 * keys
      end

      test "keys that are overwritten at random with values of any size" do
        keys = 1_000

        assert_bounded(unquote(times) * 50_000, fn buffer, number ->
          size = Enum.random([1, 1, 1, 3, 10, 30, 100, 300, 1_000, 3_000])
          Buffer.put(buffer, {:key, :rand.uniform(keys)}, List.duplicate(number, size))
        end)
      end

      test "values that alternate between a word and a megabyte of words" do
        assert_bounded(unquote(times) * 1_000, fn buffer, number ->
          value = if rem(number, 2) == 0, do: number, else: List.duplicate(number, 65_536)
          Buffer.put(buffer, rem(div(number, 2), 7), value)
        end)
      end

      test "values that alternate between a word and a binary of a megabyte" do
        assert_bounded(unquote(times) * 600, fn buffer, number ->
          value = if rem(number, 2) == 0, do: number, else: :binary.copy(<<number>>, 1_048_576)
          Buffer.put_newer(buffer, rem(div(number, 2), 7), value, number)
        end)
      end

      test "keys that are inserted and deleted for ever" do
        times = unquote(times) * 500_000

        buffer =
          assert_bounded(times, fn buffer, number ->
            Buffer.put(buffer, {:key, number}, {:value, number, "payload"})
            Buffer.delete(buffer, {:key, number - 100})
          end)

        assert Buffer.size(buffer) == 100
      end

      test "versions of keys that leave, of which some are remembered" do
        buffer =
          start_map!(
            partitions: 2,
            version_memory: 1_000,
            processing_batch_size: 10_000,
            processor: fn _ -> :ok end
          )

        before = memory()

        for round <- 1..(unquote(times) * 10) do
          for number <- 1..20_000 do
            Buffer.put_newer(buffer, {:key, round, number}, number, number * Integer.pow(2, 48))
          end

          cycle(buffer)
          await_idle(buffer)
          assert memory() - before <= @slack
        end

        FaultHelpers.wait_until(fn -> memory() - before <= @slack_at_rest end, 10_000)
      end
    end
  end
end
