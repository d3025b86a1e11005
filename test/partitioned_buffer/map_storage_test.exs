defmodule PartitionedBuffer.MapStorageTest do
  # What a map takes stays within a multiple of what is alive in it, whatever is overwritten, and for however
  # long: here the operating system is asked how much memory a VM has, since a VM does not know of what native
  # code allocates. (map_memory_test.exs counts arenas, `native/buffer_core/tests/map_bounds.rs` has the exact bound.)
  use ExUnit.Case, async: false

  alias PartitionedBuffer.MapWorkload

  @moduletag timeout: 1_800_000

  # Three times what is alive, as `info/1` has it: twice is what segments may take, and they are blocks of an
  # allocator's. Beyond that are what waits to be freed, what the VM itself takes for the writes, and their garbage.
  @multiple 3
  @slack 48 * 1024 * 1024
  # When nothing is written any more: hardly anything, but for what was drained a moment ago.
  @slack_at_rest 8 * 1024 * 1024
  @slack_when_drained 32 * 1024 * 1024

  defp assert_bounded(writes, workload, slack_at_rest \\ @slack_at_rest) do
    %{most: most, rest: rest, info: info} =
      MapWorkload.measure(workload, writes, @multiple, slack_at_rest)

    assert most <= @slack
    assert rest <= slack_at_rest
    info
  end

  for {tag, times} <- [{:short, 1}, {:soak, 10}] do
    describe "#{tag}:" do
      @describetag tag
      @times times

      test "one key that is overwritten" do
        assert %{queued: 1} = assert_bounded(@times * 1_000_000, :one_key)
      end

      test "keys that are overwritten at random" do
        keys = @times * 100_000
        assert assert_bounded(6 * keys, {:at_random, keys}).queued > 0.99 * keys
      end

      test "keys that are overwritten at random with values of any size" do
        assert %{queued: 1_000} = assert_bounded(@times * 50_000, {:any_size, 1_000})
      end

      test "values that alternate between a word and a megabyte of words" do
        assert %{queued: 7} = assert_bounded(@times * 1_000, :word_or_list)
      end

      test "values that alternate between a word and a binary of a megabyte" do
        assert %{queued: 7} = assert_bounded(@times * 600, :word_or_binary)
      end

      test "keys that are inserted and deleted for ever" do
        assert %{queued: 100} = assert_bounded(@times * 500_000, :inserted_and_deleted)
      end

      test "versions of keys that leave, of which some are remembered" do
        assert %{queued: 0} = assert_bounded(@times * 10, :versions, @slack_when_drained)
      end
    end
  end
end
