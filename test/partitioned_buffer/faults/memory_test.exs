defmodule PartitionedBuffer.Faults.MemoryTest do
  # What was alive before is alive after, and no more.
  use ExUnit.Case, async: false

  import PartitionedBuffer.Alive
  import PartitionedBuffer.FaultHelpers

  alias PartitionedBuffer.{Names, Queue}

  @moduletag :capture_log

  setup_all :assert_alive_baseline
  setup :assert_alive_baseline

  defp ignoring, do: fn _batch -> :ok end
  defp start_once(opts), do: start_queue(opts, restart: :temporary)

  test "entries and bytes are counted while they are held, arenas too" do
    before = alive()
    buffer = start_queue(processor: ignoring())
    # One arena holds the options of the buffer.
    assert alive() == %{before | arenas: before.arenas + 1}

    :ok = Queue.push(buffer, List.duplicate({:event, "payload"}, 100_000))
    held = alive()
    assert held.entries == before.entries + 100_000
    assert held.bytes == before.bytes + PartitionedBuffer.info(buffer).bytes
    assert held.bytes >= before.bytes + 100_000 * 3 * 8
    assert (held.arenas - before.arenas) in 300..1_000
  end

  test "all is freed when it has been processed" do
    buffer = start_queue(processor: ignoring(), partitions: 3, processing_batch_size: 1_000)
    baseline = baseline()
    for _time <- 1..5, do: :ok = Queue.push(buffer, Enum.to_list(1..200_000))
    for number <- 1..10_000, do: :ok = Queue.push(buffer, number)
    cycle(buffer)
    assert %{processed: 1_010_000} = await_empty(buffer)
    assert_alive(baseline)
  end

  test "all is freed when it has been discarded" do
    buffer = start_queue(processor: fn _batch -> raise "boom" end, processing_batch_size: 5_000)
    baseline = baseline()
    :ok = Queue.push(buffer, Enum.to_list(1..100_000))
    cycle(buffer)
    assert %{discarded: %{exception: 100_000}} = await_empty(buffer)
    assert_alive(baseline)
  end

  test "all is freed when there was no time for it at the end" do
    baseline = baseline()
    buffer = start_once(processor: ignoring(), processing_timeout_ms: 0, partitions: 3)
    attach(buffer)
    :ok = Queue.push(buffer, Enum.to_list(1..100_000))
    :ok = Queue.stop(buffer)
    assert_alive(baseline)
  end

  test "all is freed after tables" do
    buffer = start_queue(processor: ignoring(), processing_batch_size: :table)
    baseline = baseline()

    for _time <- 1..5 do
      :ok = Queue.push(buffer, Enum.to_list(1..10_000))
      cycle(buffer)
      await_empty(buffer)
    end

    assert_alive(baseline)
  end

  test "writes that are refused leave nothing behind" do
    buffer = start_once(processor: ignoring())
    baseline = baseline()
    items = Enum.to_list(1..10_000)
    for _time <- 1..10, do: assert_raise(ArgumentError, fn -> Queue.push(buffer, items ++ :x) end)

    for _time <- 1..10 do
      raising = fn item -> if item == 9_999, do: raise("boom"), else: item end
      assert_raise RuntimeError, fn -> Queue.push(buffer, items, partition_key: raising) end
    end

    assert_alive(baseline)
    assert PartitionedBuffer.buffer_size(buffer) == 0
    :ok = Queue.stop(buffer)
    for _time <- 1..10, do: assert_raise(ArgumentError, fn -> Queue.push(buffer, items) end)
  end

  test "options that are changed leave nothing behind" do
    buffer = start_queue(processor: ignoring(), partitions: 2)
    baseline = baseline()

    for number <- 1..500 do
      :ok = PartitionedBuffer.update_options(buffer, processing_batch_size: number)
    end

    assert_alive(baseline)
  end

  test "buffers that are started and stopped leave nothing behind" do
    for number <- 1..100 do
      options = queue_options(processor: ignoring(), partitions: 4)
      {:ok, pid} = Queue.start_link(options)
      buffer = options[:name]
      :ok = Queue.push(buffer, Enum.to_list(1..number))
      :ok = Queue.stop(pid)
    end
  end

  test "a start that fails leaves nothing behind" do
    buffer = start_queue(processor: ignoring())
    baseline = baseline()
    options = queue_options(name: buffer, processor: ignoring())
    for _time <- 1..20, do: assert({:error, {:already_started, _}} = Queue.start_link(options))
    assert_alive(baseline)
  end

  test "processes that are killed leave nothing behind" do
    buffer = start_queue(processor: ignoring(), partitions: 2, processing_interval_ms: 1)
    baseline = baseline()

    names = [
      Names.partition(buffer, 0),
      Names.partition_supervisor(buffer),
      Names.task_supervisor(buffer),
      Names.owner(buffer)
    ]

    for _time <- 1..100 do
      :ok = Queue.push(buffer, Enum.to_list(1..1_000))
      pid = Process.whereis(Enum.random(names))
      if pid, do: Process.exit(pid, :kill)
    end

    await_empty(buffer)
    assert_alive(baseline)
  end

  for partitions <- [2, 3] do
    test "a buffer that is killed and taken over by #{partitions} partitions leaves nothing behind" do
      options = [processor: ignoring(), partitions: 2, name: unique_name()]
      buffer = start_once(options)
      :ok = Queue.push(buffer, Enum.to_list(1..10_000))
      kill(Names.supervisor(buffer))
      wait_until(fn -> Process.whereis(Names.partition_supervisor(buffer)) == nil end)

      options = Keyword.put(options, :partitions, unquote(partitions))
      start_queue(options, id: :next, restart: :temporary)
      assert PartitionedBuffer.buffer_size(buffer) == 10_000
      cycle(buffer)
      await_empty(buffer)
      :ok = Queue.stop(buffer)
    end
  end

  test "large binaries are let go" do
    buffer = start_queue(processor: ignoring())
    size = 100_000
    collect = fn -> Enum.each(Process.list(), &:erlang.garbage_collect/1) end
    collect.()
    before = :erlang.memory(:binary)
    for _time <- 1..500, do: :ok = Queue.push(buffer, :binary.copy(<<0>>, size))
    collect.()
    assert :erlang.memory(:binary) - before > 400 * size
    assert PartitionedBuffer.info(buffer).bytes >= 500 * size

    cycle(buffer)
    await_empty(buffer)
    wait_until(fn -> collect.() && :erlang.memory(:binary) - before < 10 * size end)
  end
end
