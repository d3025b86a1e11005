defmodule PartitionedBuffer.Faults.SchedulerTest do
  # No call of the native library holds a scheduler for longer than a moment, however much it is
  # given: what is large is handled by dirty schedulers, and nobody waits for them on a normal one.
  use ExUnit.Case, async: false

  import PartitionedBuffer.Alive
  import PartitionedBuffer.FaultHelpers
  import PartitionedBuffer.HeldSchedulers, only: [assert_short: 1, watch: 1]

  alias PartitionedBuffer.Queue

  @moduletag :capture_log
  @moduletag timeout: 300_000

  setup_all :assert_alive_baseline

  defp process_all(buffer) do
    cycle(buffer)
    await_processed(buffer)
  end

  defp start(opts), do: start_queue(Keyword.put_new(opts, :processor, fn _batch -> :ok end))

  defp items(count), do: for(number <- 1..count, do: {:event, number, "payload"})

  defp await_processed(buffer) do
    done? = fn -> match?(%{queued: 0, in_flight: 0}, PartitionedBuffer.info(buffer)) end
    wait_until(done?, 60_000)
  end

  test "the watch itself sees a call that takes long" do
    # One of the VM's own that counts the words of a term in one go.
    {_size, long} = watch(fn -> :erts_debug.flat_size(Enum.to_list(1..20_000_000)) end)
    assert [_ | _] = long
  end

  test "a push of a list of a million items" do
    buffer = start(partitions: 2)
    assert_short(fn -> Queue.push(buffer, items(1_000_000)) end)
    assert_short(fn -> Queue.push(buffer, items(1_000_000), partition_key: :one) end)
    info = assert_short(fn -> PartitionedBuffer.info(buffer) end)
    assert info.queued >= 2_000_000
  end

  test "a push and a batch of an item of 50 MB" do
    buffer = start([])

    assert_short(fn ->
      item = Enum.reduce(1..600_000, [], fn number, deep -> {number, [deep], %{number => []}} end)
      assert :erts_debug.flat_size(item) * 8 > 50_000_000
      :ok = Queue.push(buffer, item)
      :ok = Queue.push(buffer, [item, item])
      :ok = Queue.push(buffer, item, partition_key: fn _item -> 1 end)
      cycle(buffer)
      await_processed(buffer)
    end)
  end

  test "a batch of a million items, and questions and pushes meanwhile" do
    buffer = start(processing_batch_size: 1_000_000)

    assert_short(fn ->
      before = PartitionedBuffer.info(buffer).processed
      :ok = Queue.push(buffer, items(1_000_000))
      asker = Task.async(fn -> ask(buffer, 0) end)
      :ok = PartitionedBuffer.update_options(buffer, processing_interval_ms: 1)
      wait_until(fn -> PartitionedBuffer.info(buffer).processed >= before + 1_000_000 end, 60_000)
      send(asker.pid, :enough)
      assert Task.await(asker) > 0
    end)
  end

  defp ask(buffer, count) do
    _info = PartitionedBuffer.info(buffer)
    _size = PartitionedBuffer.buffer_size(buffer)
    :ok = Queue.push(buffer, count)
    receive(do: (:enough -> count), after: (0 -> ask(buffer, count + 1)))
  end

  test "the end of a generation of two million items" do
    # In lists that are freed together: a batch that is done is freed as a whole.
    for size <- [1_000, 500_000] do
      buffer = start(processing_batch_size: size)
      push_parts(buffer, 20)
      assert_short(fn -> process_all(buffer) end)
    end
  end

  @tag :soak
  test "the end of a generation of five million items" do
    buffer = start(processing_batch_size: 5_000_000)
    push_parts(buffer, 50)
    assert_short(fn -> process_all(buffer) end)
  end

  test "the discarding of a batch of a million items" do
    buffer = start(processor: fn _ -> raise "boom" end, processing_batch_size: 1_000_000)
    push_parts(buffer, 10)
    assert_short(fn -> process_all(buffer) end)
    assert %{discarded: %{exception: 1_000_000}} = PartitionedBuffer.info(buffer)
  end

  test "a stop that discards two million items" do
    assert_short(fn ->
      opts = queue_options(processor: fn _batch -> :ok end, processing_timeout_ms: 0)
      {:ok, _pid} = Queue.start_link(opts)
      push_parts(opts[:name], 20)
      :ok = Queue.stop(opts[:name])
    end)
  end

  # Each in a process of its own, whose heap goes with it.
  defp push_parts(buffer, parts) do
    for _part <- 1..parts do
      Task.await(Task.async(fn -> Queue.push(buffer, items(100_000)) end), 60_000)
    end
  end
end
