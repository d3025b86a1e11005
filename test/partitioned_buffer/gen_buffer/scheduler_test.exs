defmodule PartitionedBuffer.GenBuffer.SchedulerTest do
  # No call holds a scheduler for longer than a moment, however many messages wait and however large they
  # are. Messages are sent before the watch begins: that is a loop of short calls.
  use ExUnit.Case, async: false
  use PartitionedBuffer.GenBufferCase

  import PartitionedBuffer.Alive
  import PartitionedBuffer.HeldSchedulers, only: [assert_short: 2]

  @moduletag :capture_log
  @moduletag timeout: 300_000

  setup_all :assert_alive_baseline

  defp start(opts) do
    start_buffer([workers: 0, send_replies: false, drain_timeout_ms: 0] ++ opts)
  end

  defp fill(buffer, count) do
    for n <- 1..count, do: GenBuffer.send(buffer, {:event, n, "x"})
    buffer
  end

  test "a million messages that are looked at, taken, and handed back" do
    assert_short(fn -> fill(start([]), 1_000_000) end, fn buffer ->
      assert %{size: 1_000_000} = figures(buffer)

      # One: several that take turns at a lock are slowed down by other programs more than by messages.
      {:ok, _pids} = GenBuffer.set_workers(buffer, 1)
      await(fn -> GenBuffer.size(buffer) < 200_000 end, 60_000)
      {:ok, []} = GenBuffer.set_workers(buffer, 0)
      assert {:left, [_ | _]} = GenBuffer.stop(buffer, 0)
    end)
  end

  test "a million messages whose time is up" do
    prepare = fn -> fill(start(queue_timeout_ms: 5_000), 1_000_000) end

    assert_short(prepare, fn buffer ->
      await(fn -> GenBuffer.info(buffer).discarded.queue_timeout == 1_000_000 end, 60_000)
    end)
  end

  test "messages of 50 MB" do
    message = Enum.reduce(1..600_000, [], fn n, deep -> {n, [deep], %{n => []}} end)
    assert :erts_debug.flat_size(message) * 8 > 50_000_000

    assert_short(fn -> start([]) end, fn buffer ->
      for _ <- 1..3, do: GenBuffer.send(buffer, {:return, {:ok, :ok, message}})
      {:ok, _pids} = GenBuffer.set_workers(buffer, 1)
      await(fn -> figures(buffer).processed == 3 end, 60_000)
    end)
  end
end
