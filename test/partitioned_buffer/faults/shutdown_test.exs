defmodule PartitionedBuffer.Faults.ShutdownTest do
  # The orderly end: what was accepted is processed or reported, later writes are refused, and it takes
  # no longer than it may.
  use ExUnit.Case, async: false

  import PartitionedBuffer.Alive
  import PartitionedBuffer.FaultHelpers

  alias PartitionedBuffer.{Names, Native, Queue}

  @moduletag :capture_log

  # What an end may take longer than its budget on a machine that does other things as well.
  @slack_ms 2_000

  setup_all :assert_alive_baseline

  defp start_once(opts), do: start_queue(opts, restart: :temporary)

  # The supervisor has to answer to nobody but this task.
  defp stop_in_background(buffer) do
    Task.async(fn ->
      started = System.monotonic_time(:millisecond)
      :ok = Queue.stop(buffer)
      System.monotonic_time(:millisecond) - started
    end)
  end

  defp push(buffer, item) do
    Queue.push(buffer, item)
  rescue
    error in ArgumentError ->
      assert error.message =~ "unknown registry: #{inspect(buffer)}"
      :closed
  end

  for round <- 1..5 do
    test "under full write load, round #{round}" do
      seen = :ets.new(:seen, [:public, :duplicate_bag, write_concurrency: true])
      processor = fn batch -> :ets.insert(seen, Enum.map(batch, &{&1})) end
      options = [processing_batch_size: 100, processing_interval_ms: 2, partitions: 3]
      buffer = start_once([processor: processor] ++ options)
      attach(buffer)
      stopped = :atomics.new(1, [])
      writers = for id <- 1..8, do: Task.async(fn -> write(buffer, id, 0, [], stopped) end)
      pause(20 + :rand.uniform(50))
      taken = buffer |> stop_in_background() |> Task.await(:infinity)
      :atomics.put(stopped, 1, 1)
      accepted = Enum.flat_map(writers, &Task.await(&1, :infinity))

      assert taken < 30_000 + @slack_ms
      assert Enum.sort(for {item} <- :ets.tab2list(seen), do: item) == Enum.sort(accepted)
      assert events([:discarded]) == []
      assert Enum.map(events([:stop]), fn {%{left: left}, _metadata} -> left end) == [0, 0, 0]
    end
  end

  # Single items and lists; a list is accepted as a whole or not at all. Answers what was accepted.
  # Partitions are closed one after the other, so one write may be refused and the next one taken.
  defp write(buffer, id, seq, accepted, stopped) do
    stopped? = :atomics.get(stopped, 1) == 1
    size = if rem(seq, 7) == 0, do: 20, else: 1
    items = for part <- 1..size, do: {id, seq, part}

    case push(buffer, if(size == 1, do: hd(items), else: items)) do
      :ok ->
        refute stopped?
        write(buffer, id, seq + 1, items ++ accepted, stopped)

      :closed when stopped? and rem(seq, 100) == 0 ->
        accepted

      :closed ->
        unless stopped?, do: pause(1)
        write(buffer, id, seq + 1, accepted, stopped)
    end
  end

  test "slow processors: what is left when the time is up is discarded and reported" do
    buffer = start_once(processor: gated(), partitions: 2, processing_timeout_ms: 400)
    attach(buffer)
    for key <- 1..10, do: :ok = Queue.push(buffer, Enum.to_list(1..50), partition_key: key)
    stop = stop_in_background(buffer)

    # One batch of each is done, the second one is not.
    for _partition <- 1..2, do: await_batch() |> elem(0) |> go()
    for _partition <- 1..2, do: await_batch()
    assert Task.await(stop, :infinity) in 400..(400 + @slack_ms)

    assert reported_items() == []
    # The time of the last call and that of the end are up together: either may be the reason.
    discards = discard_events()
    assert discards |> Map.values() |> Enum.sum() == 480
    stops = events([:stop])
    assert length(stops) == 2
    assert Enum.all?(stops, fn {_measurements, metadata} -> metadata.reason == :shutdown end)
    left = stops |> Enum.map(fn {%{left: left}, _metadata} -> left end) |> Enum.sum()
    assert left == Map.get(discards, :shutdown, 0)
    assert length(events([:processing, :stop])) == 2
  end

  test "a processor that has hung since long before is ended, and the rest is discarded" do
    buffer = start_once(processor: gated(), processing_timeout_ms: :infinity)
    attach(buffer)
    :ok = Queue.push(buffer, Enum.to_list(1..20))
    cycle(buffer)
    {pid, [1 | _]} = await_batch()
    :ok = Queue.push(buffer, Enum.to_list(21..25))
    :ok = PartitionedBuffer.update_options(buffer, processing_timeout_ms: 300)
    assert buffer |> stop_in_background() |> Task.await(:infinity) < 300 + 5_000 + @slack_ms
    refute Process.alive?(pid)

    # Which of the two ends it first is open: the limit of the call, or that of the stop.
    lost = discard_events()
    assert Map.keys(lost) -- [:timeout, :shutdown] == []
    left = for {_pid, item} <- Enum.map(reported_items(), &{nil, &1}), do: item
    assert lost |> Map.values() |> Enum.sum() == 25 - length(left -- Enum.to_list(11..25))
  end

  test "without a limit it waits for as long as the processors take" do
    buffer = start_once(processor: gated(), processing_timeout_ms: :infinity)
    attach(buffer)
    :ok = Queue.push(buffer, Enum.to_list(1..30))
    stop = stop_in_background(buffer)
    for _batch <- 1..3, do: await_batch() |> elem(0) |> go()
    Task.await(stop, :infinity)
    assert [{%{left: 0}, _metadata}] = events([:stop])
    assert events([:discarded]) == []
  end

  test "without time everything is discarded and reported" do
    buffer = start_once(processor: gated(), processing_timeout_ms: 0, partitions: 3)
    attach(buffer)
    :ok = Queue.push(buffer, Enum.to_list(1..1_000))
    assert buffer |> stop_in_background() |> Task.await(:infinity) < @slack_ms
    assert discard_events() |> Map.values() |> Enum.sum() == 1_000
  end

  test "a generation that is done when the time is up does not start the next one" do
    buffer = start_once(processor: gated(), processing_timeout_ms: 1_500)
    attach(buffer)
    :ok = Queue.push(buffer, [1, 2])
    cycle(buffer)
    {pid, [1, 2]} = await_batch()
    :ok = Queue.push(buffer, [3, 4])
    partition = partition(buffer)

    # The partition is told to finish, that the processor has been at it for long, and that the time is
    # up, before it hears that the processor is done.
    :erlang.suspend_process(partition)
    stop = stop_in_background(buffer)
    pause(2_000)
    go(pid)
    await_down(pid)
    :erlang.resume_process(partition)

    assert Task.await(stop, :infinity) < 1_500 + 1_500 + @slack_ms
    assert discard_events() == %{shutdown: 2}
  end

  test "a failure at the end loses its batch only" do
    buffer = start_once(processor: gated())
    attach(buffer)
    :ok = Queue.push(buffer, Enum.to_list(1..40))
    stop = stop_in_background(buffer)
    {pid, [1 | _]} = await_batch()
    go(pid, fn _batch -> raise "boom" end)

    for first <- [11, 21] do
      assert {pid, [^first | _]} = await_batch()
      go(pid)
    end

    {pid, [31 | _]} = await_batch()
    Process.exit(pid, :kill)
    Task.await(stop, :infinity)
    assert discard_events() == %{exception: 10, killed: 10}
    assert length(events([:processing_failed])) == 2
    assert [{%{left: 0}, %{reason: :shutdown}}] = events([:stop])
  end

  for {victim, lossless?} <- [
        partition: true,
        partition_supervisor: true,
        registry: true,
        owner: false
      ] do
    test "killing the #{victim} during the end loses nothing that is not reported" do
      kill_during_end(unquote(victim), unquote(lossless?))
    end
  end

  test "a partition that is killed during the end, and started again when all has been processed, is through" do
    buffer = start_once(processor: gated(), partitions: 1)
    attach(buffer)
    :ok = Queue.push(buffer, Enum.to_list(1..20))
    stop = stop_in_background(buffer)
    {first, _batch} = await_batch()
    ref = PartitionedBuffer.Handle.fetch!(buffer).ref

    # Nobody takes its place meanwhile.
    supervisor = Process.whereis(Names.partition_supervisor(buffer))
    :erlang.suspend_process(supervisor)
    kill(partition(buffer))
    go(first)
    {second, _batch} = await_batch()
    go(second)
    wait_until(fn -> PartitionedBuffer.Native.partition_status(ref, 0) == {nil, nil} end)
    :erlang.resume_process(supervisor)

    assert Task.await(stop, 10_000) < 10_000
    assert discard_events() == %{}
  end

  defp kill_during_end(victim, lossless?) do
    buffer = start_once(processor: gated(), partitions: 2)
    attach(buffer)
    for key <- 1..10, do: :ok = Queue.push(buffer, Enum.to_list(1..10), partition_key: key)
    stop = stop_in_background(buffer)
    firsts = for _partition <- 1..2, do: await_batch()
    kill(victim(victim, buffer))
    for {pid, _batch} <- firsts, do: go(pid)
    done = Enum.flat_map(firsts, &elem(&1, 1)) ++ let_through(stop)

    lost = discard_events() |> Map.values() |> Enum.sum()

    if lossless?,
      do: assert({length(done), lost} == {100, 0}),
      else: assert(length(done) + lost >= 100)

    assert push(buffer, :late) == :closed
    assert_raise ArgumentError, fn -> PartitionedBuffer.info(buffer) end
  end

  defp victim(:partition, buffer), do: partition(buffer)
  defp victim(:partition_supervisor, buffer), do: Names.partition_supervisor(buffer)
  defp victim(:registry, buffer), do: buffer
  defp victim(:owner, buffer), do: Names.owner(buffer)

  # Lets all batches through until the stop has returned; answers their items.
  defp let_through(%{ref: ref} = stop) do
    receive do
      {:batch, pid, batch} ->
        go(pid)
        batch ++ let_through(stop)

      {^ref, _taken} ->
        Process.demonitor(ref, [:flush])
        reported_items()
    after
      20_000 -> flunk("the stop does not return")
    end
  end

  test "killing the owner just before it closes the buffer loses nothing" do
    buffer = start_once(processor: reporting())
    attach(buffer)
    supervisor = Process.whereis(Names.supervisor(buffer))
    :ok = Queue.push(buffer, Enum.to_list(1..20))

    # The supervisor is told to end, and only then hears of the owner's death.
    :erlang.suspend_process(supervisor)
    stop = stop_in_background(buffer)
    wait_until(fn -> Process.info(supervisor, :message_queue_len) > {:message_queue_len, 0} end)
    kill(Names.owner(buffer))
    :erlang.resume_process(supervisor)
    Task.await(stop, :infinity)

    processed = reported_items()
    lost = discard_events() |> Map.values() |> Enum.sum()
    assert length(processed) + lost == 20, "held for ever: #{20 - length(processed) - lost}"
    assert push(buffer, :late) == :closed
  end

  test "killing the buffer's supervisor during the end: all is accounted for, and the next one works" do
    gated = gated()
    report = reporting()

    processor = fn [first | _] = batch ->
      if first == 1, do: gated.(batch), else: report.(batch)
    end

    buffer = start_queue(processor: processor, processing_timeout_ms: 3_000)
    attach(buffer)
    :ok = Queue.push(buffer, Enum.to_list(1..30))
    supervisor = Process.whereis(Names.supervisor(buffer))
    owner = Process.whereis(Names.owner(buffer))
    {:ok, stop} = Task.start(fn -> Queue.stop(supervisor) end)
    {first, [1 | _]} = await_batch()
    kill(supervisor)
    await_down(stop)
    go(first)

    await_successor(Names.owner(buffer), owner)
    :ok = Queue.push(buffer, :next)
    cycle(buffer)
    await_empty(buffer)
    items = reported_items()
    assert :next in items
    lost = discard_events() |> Map.values() |> Enum.sum()
    # The first batch was either lost with its process, or processed.
    assert (length(items -- [:next]) + lost) in [20, 30]
    assert items -- [:next] == items |> List.delete(:next) |> Enum.sort() |> Enum.uniq()
  end

  # To close it is to go through all of them, so each of them doing it made an end take longer by their square.
  test "a buffer of many partitions is closed once, by its owner" do
    buffer = start_once(processor: fn _batch -> :ok end, partitions: 100)
    owner = Process.whereis(Names.owner(buffer))
    partitions = for index <- 0..99, do: Process.whereis(Names.partition(buffer, index))

    for function <- [buffer_close: 1, buffer_erase_name: 2],
        do: trace(function, [owner | partitions])

    :ok = Queue.push(buffer, Enum.to_list(1..1_000))
    :ok = Queue.stop(buffer)
    delivered = :erlang.trace_delivered(:all)

    assert traced(delivered, %{}) == %{
             {:buffer_close, owner} => 1,
             {:buffer_erase_name, owner} => 1
           }
  end

  defp trace({name, arity}, pids) do
    for pid <- pids, do: :erlang.trace(pid, true, [:call])
    1 = :erlang.trace_pattern({Native, name, arity}, true, [])
    on_exit(fn -> :erlang.trace_pattern({Native, name, arity}, false, []) end)
  end

  defp traced(delivered, counts) do
    receive do
      {:trace, pid, :call, {Native, name, _args}} ->
        traced(delivered, Map.update(counts, {name, pid}, 1, &(&1 + 1)))

      {:trace_delivered, :all, ^delivered} ->
        counts
    end
  end

  test "a stop that is given up by its caller goes on" do
    buffer = start_once(processor: gated())
    attach(buffer)
    :ok = Queue.push(buffer, Enum.to_list(1..10))
    assert catch_exit(Queue.stop(buffer, :normal, 50))
    supervisor = Process.whereis(Names.supervisor(buffer))
    {pid, [1 | _]} = await_batch()
    go(pid)
    if supervisor, do: await_down(supervisor)
    assert events([:discarded]) == []
  end
end
