defmodule PartitionedBuffer.Faults.RegressionsTest do
  # Where buffers that are made of ETS tables lose something: a test for each.
  use ExUnit.Case, async: false

  import PartitionedBuffer.Alive
  import PartitionedBuffer.FaultHelpers

  alias PartitionedBuffer.{Names, Queue}

  @moduletag :capture_log

  setup_all :assert_alive_baseline

  defp start_once(opts), do: start_queue(opts, restart: :temporary)

  test "items that are pushed while the last batch is processed are not lost with its generation" do
    buffer = start_queue(processor: gated())
    :ok = Queue.push(buffer, :first)
    cycle(buffer)
    {pid, [:first]} = await_batch()
    :ok = Queue.push(buffer, Enum.to_list(1..9))
    go(pid, fn _batch -> Queue.push(buffer, 10) end)
    cycle(buffer)
    {pid, batch} = await_batch()
    assert batch == Enum.to_list(1..10)
    go(pid)
    assert %{processed: 11} = await_empty(buffer)
  end

  test "items of writers that are stopped in the middle of a push are not lost in a swap" do
    counted = :counters.new(1, [])
    processor = fn batch -> :counters.add(counted, 1, length(batch)) end
    buffer = start_queue(processor: processor, partitions: 2, processing_interval_ms: 1)
    stop? = :atomics.new(1, [])
    writers = for _id <- 1..50, do: Task.async(fn -> count_pushes(buffer, stop?, 0) end)

    for _round <- 1..100 do
      some = Enum.take_random(writers, 25)
      Enum.each(some, &:erlang.suspend_process(&1.pid))
      pause(1)
      Enum.each(some, &:erlang.resume_process(&1.pid))
    end

    :atomics.put(stop?, 1, 1)
    pushed = writers |> Task.await_many() |> Enum.sum()
    assert %{accepted: ^pushed, processed: ^pushed} = await_empty(buffer)
    assert :counters.get(counted, 1) == pushed
  end

  defp count_pushes(buffer, stop?, count) do
    if :atomics.get(stop?, 1) == 1 do
      count
    else
      :ok = Queue.push(buffer, count)
      if rem(count, 50) == 0, do: pause(0)
      count_pushes(buffer, stop?, count + 1)
    end
  end

  test "batches that were not tried yet are not lost with the one that fails" do
    buffer = start_queue(processor: gated())
    :ok = Queue.push(buffer, Enum.to_list(1..100))
    cycle(buffer)

    for first <- 1..100//10 do
      assert {pid, [^first | _]} = await_batch()
      if first == 11, do: go(pid, fn _batch -> raise "boom" end), else: go(pid)
    end

    assert %{processed: 90, discarded: %{exception: 10}} = await_empty(buffer)
  end

  test "buffered items are not lost with the partition's process" do
    buffer = start_queue(processor: reporting())
    :ok = Queue.push(buffer, Enum.to_list(1..100))
    kill(partition(buffer))
    assert PartitionedBuffer.buffer_size(buffer) == 100
    cycle(buffer)
    assert await_items(100) == Enum.to_list(1..100)
  end

  for fault <- [:kill, :stray] do
    test "the buffer is not lost when a partition's process gets a #{fault} during a long processor" do
      buffer = start_queue(processor: gated(), partitions: 2)
      for key <- 1..10, do: :ok = Queue.push(buffer, Enum.to_list(1..30), partition_key: key)
      cycle(buffer)
      [{one, first}, {other, second}] = for _partition <- 1..2, do: await_batch()
      supervisor = Process.whereis(Names.supervisor(buffer))

      for _time <- 1..20, index <- 0..1 do
        case unquote(fault) do
          :kill -> kill(partition(buffer, index))
          :stray -> stray(partition(buffer, index))
        end

        :ok = Queue.push(buffer, :meanwhile)
      end

      assert Process.whereis(Names.supervisor(buffer)) == supervisor
      go(one)
      go(other)
      :ok = PartitionedBuffer.update_options(buffer, processing_interval_ms: 1)
      items = let_through(340 - length(first ++ second))
      assert length(items ++ first ++ second) == 340
      assert %{accepted: 340, processed: 340} = await_empty(buffer)
    end
  end

  defp let_through(left) when left <= 0, do: []

  defp let_through(left) do
    {pid, batch} = await_batch()
    go(pid)
    batch ++ let_through(left - length(batch))
  end

  defp stray(pid) do
    messages = [
      :stray,
      {:tick, make_ref()},
      {:watchdog, make_ref()},
      {make_ref(), :done},
      {:DOWN, make_ref(), :process, self(), :normal},
      {:EXIT, self(), :normal},
      {:"$gen_cast", :stray},
      {:"$gen_call", {self(), make_ref()}, :stray},
      {:drained, 0}
    ]

    Enum.each(messages, &send(pid, &1))
    # It has taken them all.
    _state = :sys.get_state(pid)
  end

  test "a key's partition is the same after the partition's process was started again" do
    buffer = start_queue(processor: gated(), partitions: 4)
    route = fn -> for key <- 1..1_000, do: PartitionedBuffer.get_partition(buffer, key, nil) end
    before = route.()
    for key <- 1..100, do: :ok = Queue.push(buffer, {key, 1}, partition_key: key)
    for index <- [2, 0], do: kill(partition(buffer, index))
    for index <- 0..3, do: partition(buffer, index)
    assert route.() == before
    for key <- 1..100, do: :ok = Queue.push(buffer, {key, 2}, partition_key: key)

    :ok = PartitionedBuffer.update_options(buffer, processing_interval_ms: 1)
    items = let_through(200)
    for key <- 1..100, do: assert(for({^key, n} <- items, do: n) == [1, 2])
  end

  test "what takes longer than five seconds is not lost at the end" do
    buffer = start_once(processor: gated())
    :ok = Queue.push(buffer, Enum.to_list(1..20))
    stop = Task.async(fn -> Queue.stop(buffer) end)
    {pid, [1 | _]} = await_batch()
    # The default of supervisors and servers.
    refute_receive {:batch, _pid, _batch}, 5_200
    go(pid)
    {pid, [11 | _]} = await_batch()
    go(pid)
    Task.await(stop)
  end

  test "partitions do not wait for each other at the end" do
    buffer = start_once(processor: gated(), partitions: 4)
    for key <- 1..20, do: :ok = Queue.push(buffer, key, partition_key: key)
    stop = Task.async(fn -> Queue.stop(buffer) end)
    # All of them are at work before one is let through.
    pids = for _partition <- 1..4, do: elem(await_batch(), 0)
    assert length(Enum.uniq(pids)) == 4
    Enum.each(pids, &go/1)
    let_rest_through(stop)
  end

  defp let_rest_through(%{ref: ref} = stop) do
    receive do
      {:batch, pid, _batch} ->
        go(pid)
        let_rest_through(stop)

      {^ref, :ok} ->
        Process.demonitor(ref, [:flush])
    end
  end

  test "a processor that hangs does not end its partition for ever" do
    buffer = start_queue(processor: gated(), processing_timeout_ms: 100)
    :ok = Queue.push(buffer, :stuck)
    cycle(buffer)
    {_pid, [:stuck]} = await_batch()
    wait_until(fn -> PartitionedBuffer.info(buffer).discarded.timeout == 1 end)
    # The next one has all the time that this test may take.
    :ok = PartitionedBuffer.update_options(buffer, processing_timeout_ms: 30_000)
    :ok = Queue.push(buffer, :next)
    cycle(buffer)
    {pid, [:next]} = await_batch()
    go(pid)
    assert %{processed: 1, discarded: %{timeout: 1}} = await_empty(buffer)
  end

  test "an interval that ends while a batch is processed is not lost" do
    buffer = start_queue(processor: gated(), processing_interval_ms: 1)
    :ok = Queue.push(buffer, :first)
    {pid, [:first]} = await_batch()
    :ok = Queue.push(buffer, :second)
    partition = partition(buffer)
    1 = :erlang.trace(partition, true, [:receive])
    assert_receive {:trace, ^partition, :receive, {:tick, _tick}}, 10_000
    assert_receive {:trace, ^partition, :receive, {:tick, _tick}}, 10_000
    1 = :erlang.trace(partition, false, [:receive])
    # There will not be another one.
    :ok = PartitionedBuffer.update_options(buffer, processing_interval_ms: 3_600_000)
    go(pid)
    {pid, [:second]} = await_batch()
    go(pid)
  end

  test "items in flight are not lost from view" do
    buffer = start_queue(processor: gated())
    :ok = Queue.push(buffer, Enum.to_list(1..15))
    cycle(buffer)
    {pid, _batch} = await_batch()
    assert %{in_flight: 10, queued: 5, accepted: 15} = PartitionedBuffer.info(buffer)
    assert PartitionedBuffer.buffer_size(buffer) == 0
    go(pid)
    {pid, _batch} = await_batch()
    assert %{in_flight: 5, queued: 0, processed: 10} = PartitionedBuffer.info(buffer)
    go(pid)
  end

  test "the size can be asked for at any moment of a swap" do
    buffer = start_queue(processor: fn _batch -> :ok end, processing_interval_ms: 1)

    for number <- 1..20_000 do
      :ok = Queue.push(buffer, number)
      assert PartitionedBuffer.buffer_size(buffer) in 0..number
      if rem(number, 1_000) == 0, do: assert_identity(PartitionedBuffer.info(buffer))
    end
  end

  test "no event is lost at the end: each batch has its own, and the end comes last" do
    buffer = start_once(processor: gated())
    attach(buffer)
    :ok = Queue.push(buffer, Enum.to_list(1..25))
    stop = Task.async(fn -> Queue.stop(buffer) end)
    for _batch <- 1..2, do: await_batch() |> elem(0) |> go()
    {pid, [21 | _]} = await_batch()
    refute_received {:event, [:stop], _measurements, _metadata}
    go(pid, fn _batch -> raise "boom" end)
    :ok = Task.await(stop)

    names = for {:event, name, _measurements, _metadata} <- messages(), do: name
    one = [[:processing, :start], [:processing, :stop]]

    failed = [
      [:processing, :start],
      [:processing, :exception],
      [:processing_failed],
      [:discarded]
    ]

    assert names == one ++ one ++ failed ++ [[:stop]]
    assert [10, 10] == for({%{size: size}, _} <- events([:processing, :stop]), do: size)
    assert [{%{size: 5}, %{reason: :exception}}] = events([:discarded])
    assert [{%{left: 0}, %{reason: :shutdown}}] = events([:stop])
  end

  defp messages, do: self() |> Process.info(:messages) |> elem(1)

  test "a generation is not lost when there is nobody to start its processor" do
    buffer = start_queue(processor: reporting())
    supervisor = Process.whereis(Names.supervisor(buffer))
    :ok = Queue.push(buffer, Enum.to_list(1..20))
    # It is not started again meanwhile.
    :erlang.suspend_process(supervisor)
    kill(Names.task_supervisor(buffer))
    cycle(buffer)
    items = await_items(20)
    :erlang.resume_process(supervisor)
    assert items == Enum.to_list(1..20)
    assert %{accepted: 20, processed: 20} = await_empty(buffer)
  end

  test "options that are not given to an update are not lost" do
    buffer = start_queue(processor: reporting(), processing_batch_size: 7)
    :ok = PartitionedBuffer.update_options(buffer, processing_timeout_ms: 50)
    :ok = PartitionedBuffer.update_options(buffer, processing_interval_ms: 1)
    :ok = PartitionedBuffer.update_options(buffer, [])
    kill(partition(buffer))
    :ok = Queue.push(buffer, Enum.to_list(1..14))
    # Neither ten items nor after five seconds, which are the defaults.
    assert_receive {:batch, _pid, [1, 2, 3, 4, 5, 6, 7]}, 2_000
  end

  test "nothing is left of a buffer that has been stopped, and its writers are told" do
    buffer = start_once(processor: fn _batch -> :ok end)
    :ok = Queue.push(buffer, 1)
    :ok = Queue.stop(buffer)
    mine = inspect(buffer)
    refute Enum.any?(:persistent_term.get(), fn {key, _value} -> inspect(key) =~ mine end)

    told = ~r/unknown registry: #{mine}/
    push = fn items -> fn -> Queue.push(buffer, items) end end
    for items <- [1, [1], []], do: assert_raise(ArgumentError, told, push.(items))
    assert_raise ArgumentError, told, fn -> Queue.size(buffer) end
    assert {:noproc, _call} = catch_exit(Queue.stop(buffer))
  end
end
