defmodule PartitionedBuffer.Faults.SupervisorKillsTest do
  # The buffer's own supervisor is killed, and with it every process of the buffer. What is started
  # again under the name goes on with what was held.
  use ExUnit.Case, async: false

  import PartitionedBuffer.Alive
  import PartitionedBuffer.FaultHelpers

  alias PartitionedBuffer.{Names, Queue}

  @moduletag :capture_log

  setup_all :assert_alive_baseline

  defp kill_buffer(buffer), do: buffer |> Names.supervisor() |> kill()

  # For tests that start the next one themselves.
  defp start_once(opts), do: start_queue(opts, restart: :temporary)

  defp start_again(buffer, opts) do
    start_queue([name: buffer] ++ opts, id: make_ref(), restart: :temporary)
  end

  # Nobody tells when a whole tree has come down; these are the last ones.
  defp await_gone(buffer) do
    names = [
      Names.owner(buffer),
      Names.partition_supervisor(buffer),
      Names.task_supervisor(buffer)
    ]

    wait_until(fn -> Enum.all?([buffer | names], &(Process.whereis(&1) == nil)) end)
  end

  test "what was queued is processed by the buffer that its supervisor starts again" do
    buffer = start_queue(processor: reporting(), partitions: 3)
    :ok = Queue.push(buffer, Enum.to_list(1..1_000))
    former = Process.whereis(Names.supervisor(buffer))
    kill(former)
    await_successor(Names.supervisor(buffer), former)

    wait_until(fn -> Process.whereis(Names.owner(buffer)) end)
    assert PartitionedBuffer.buffer_size(buffer) == 1_000
    cycle(buffer)
    assert Enum.sort(await_items(1_000)) == Enum.to_list(1..1_000)
    assert %{accepted: 1_000, processed: 1_000} = await_empty(buffer)
  end

  test "pushes while no process of the buffer is there are processed by the next one" do
    buffer = start_once(processor: reporting())
    kill_buffer(buffer)
    await_gone(buffer)
    :ok = Queue.push(buffer, Enum.to_list(1..100))
    :ok = Queue.push(buffer, Enum.to_list(101..200), partition_key: :any)

    start_again(buffer, processor: reporting())
    cycle(buffer)
    assert await_items(200) == Enum.to_list(1..200)
  end

  test "the batch in flight is reported, the others are processed" do
    buffer = start_once(processor: gated())
    attach(buffer)
    :ok = Queue.push(buffer, Enum.to_list(1..30))
    cycle(buffer)
    {pid, batch} = await_batch()
    assert batch == Enum.to_list(1..10)
    :ok = Queue.push(buffer, Enum.to_list(31..40))
    kill_buffer(buffer)
    await_down(pid)
    await_gone(buffer)

    start_again(buffer, processor: reporting())
    cycle(buffer)
    assert await_items(30) == Enum.to_list(11..40)
    info = await_empty(buffer)
    assert %{accepted: 40, processed: 30, discarded: %{killed: 10}} = info
    assert discard_events() == %{killed: 10}
  end

  for {former, next} <- [{4, 1}, {1, 4}, {4, 3}, {3, 5}] do
    test "#{former} partitions are taken over by #{next}, and items of one keep their order" do
      {former, next} = {unquote(former), unquote(next)}
      buffer = start_once(processor: reporting(), partitions: former)
      items = for seq <- 1..200, key <- 1..20, do: {key, seq}
      :ok = Queue.push(buffer, items, partition_key: fn {key, _seq} -> key end)
      kill_buffer(buffer)
      await_gone(buffer)

      start_again(buffer, processor: reporting(), partitions: next)
      assert PartitionedBuffer.buffer_size(buffer) == 4_000
      cycle(buffer)
      processed = await_items(4_000)
      assert Enum.sort(processed) == Enum.sort(items)

      for {_key, seqs} <- Enum.group_by(processed, &elem(&1, 0), &elem(&1, 1)) do
        assert seqs == Enum.to_list(1..200)
      end

      assert_identity(await_empty(buffer))
    end
  end

  for next <- [1, 4] do
    test "2 partitions with batches in flight are taken over by #{next}: they are reported" do
      buffer = start_once(processor: gated(), partitions: 2)
      attach(buffer)
      :ok = Queue.push(buffer, Enum.to_list(1..100))
      cycle(buffer)
      lost = for _partition <- 1..2, do: await_batch()
      kill_buffer(buffer)
      for {pid, _batch} <- lost, do: await_down(pid)
      await_gone(buffer)

      start_again(buffer, processor: reporting(), partitions: unquote(next))
      cycle(buffer)
      lost = Enum.flat_map(lost, fn {_pid, batch} -> batch end)
      assert Enum.sort(await_items(80) ++ lost) == Enum.to_list(1..100)
      assert_identity(await_empty(buffer))
      assert discard_events() == %{killed: 20}
    end
  end

  test "it can't go on without partitions, and says so" do
    Process.flag(:trap_exit, true)
    buffer = start_once(processor: reporting())
    :ok = Queue.push(buffer, :kept)
    kill_buffer(buffer)
    await_gone(buffer)

    options = queue_options(name: buffer, processor: reporting(), partitions: 0)
    assert {:error, {%ArgumentError{message: message}, _stack}} = Queue.start_link(options)
    assert message =~ "without partitions"

    start_again(buffer, processor: reporting())
    cycle(buffer)
    assert await_items(1) == [:kept]
  end

  test "a partition that starts while the next supervisor is there already does not end the buffer" do
    buffer = start_queue(processor: reporting())
    :ok = Queue.push(buffer, :kept)
    former = Process.whereis(Names.supervisor(buffer))
    partitions = Process.whereis(Names.partition_supervisor(buffer))

    # The partition waits for its name when its supervisors end.
    :ok = :sys.suspend(partitions)
    name = Names.partition(buffer, 0)
    partition = Process.whereis(name)
    kill(partition)
    gate = self()

    squatter =
      spawn(fn ->
        Process.register(self(), name)
        send(gate, :registered)
        receive do: (:go -> :ok)
      end)

    assert_receive :registered, 5_000
    :ok = :sys.resume(partitions)
    kill(former)
    await_successor(Names.supervisor(buffer), former)
    send(squatter, :go)

    cycle(buffer)
    assert await_items(1) == [:kept]
    assert %{accepted: 1, processed: 1} = await_empty(buffer)
  end

  test "a processor that was about to end leaves nothing twice" do
    # Processors that end at the very moment of the kill: recorded once, or reported, never twice.
    counted = :counters.new(1, [])
    processor = fn batch -> :counters.add(counted, 1, length(batch)) end

    buffer =
      start_queue(
        processor: processor,
        partitions: 2,
        processing_interval_ms: 1,
        processing_batch_size: 3
      )

    attach(buffer)

    for _round <- 1..30 do
      :ok = Queue.push(buffer, Enum.to_list(1..100))
      former = Process.whereis(Names.supervisor(buffer))
      kill(former)
      await_successor(Names.supervisor(buffer), former)
    end

    assert %{accepted: 3_000} = info = await_empty(buffer)
    assert :counters.get(counted, 1) in info.processed..3_000
    assert discarded(info) == discard_events() |> Map.values() |> Enum.sum()
  end

  for {title, partitions} <- [{"the same number of", [2]}, {"other numbers of", [1, 3, 2, 4]}] do
    test "writers go on while it is killed and started with #{title} partitions" do
      write_through_kills(unquote(partitions))
    end
  end

  # Each push is `:ok`, or raises as documented while one storage takes over from another.
  defp write_through_kills(partitions) do
    seen = :ets.new(:seen, [:public, :duplicate_bag, write_concurrency: true])
    processor = fn batch -> :ets.insert(seen, Enum.map(batch, &{&1})) end
    options = [processor: processor, processing_interval_ms: 1, processing_batch_size: 50]
    buffer = start_once(options ++ [partitions: hd(partitions)])
    attach(buffer)
    stop? = :atomics.new(1, [])
    writers = for id <- 1..4, do: Task.async(fn -> write(buffer, id, 0, {0, []}, stop?) end)

    next = partitions |> Stream.cycle() |> Stream.drop(1) |> Enum.take(16)

    Enum.each(next, fn partitions ->
      pause(:rand.uniform(10))
      kill_buffer(buffer)
      start_again(buffer, options ++ [partitions: partitions])
    end)

    :atomics.put(stop?, 1, 1)
    written = for writer <- writers, {refused, ok} = Task.await(writer), do: {refused, ok}
    await_empty(buffer)
    :ok = PartitionedBuffer.stop(buffer, :normal, :infinity)

    ok = Enum.flat_map(written, fn {_refused, ok} -> ok end)
    seen = for {item} <- :ets.tab2list(seen), do: item
    assert length(seen) == length(Enum.uniq(seen)), "processed twice"
    missing = MapSet.size(MapSet.difference(MapSet.new(ok), MapSet.new(seen)))
    reported = discard_events() |> Map.values() |> Enum.sum()
    assert missing <= reported, "#{missing} are missing, #{reported} were reported"
    assert MapSet.subset?(MapSet.new(seen), MapSet.new(ok)), "refused and yet processed"
  end

  defp write(buffer, id, seq, {refused, ok}, stop?) do
    if :atomics.get(stop?, 1) == 1 do
      {refused, ok}
    else
      items = if rem(seq, 3) == 0, do: [{id, seq, 1}, {id, seq, 2}], else: [{id, seq, 0}]
      result = push(buffer, items)
      if rem(seq, 100) == 0, do: pause(1)
      write(buffer, id, seq + 1, note(result, items, refused, ok), stop?)
    end
  end

  defp note(:ok, items, refused, ok), do: {refused, items ++ ok}
  defp note(:refused, _items, refused, ok), do: {refused + 1, ok}

  defp push(buffer, [item]), do: push_item(buffer, item)
  defp push(buffer, items), do: push_item(buffer, items)

  defp push_item(buffer, item) do
    Queue.push(buffer, item)
  rescue
    error in ArgumentError ->
      assert error.message =~ "unknown registry"
      :refused
  end
end
