defmodule PartitionedBuffer.Faults.ProcessKillsTest do
  # Any process inside a buffer is killed, at any moment: nothing is lost but batches that were in
  # flight in a process that was killed, and those are reported.
  use ExUnit.Case, async: false

  import PartitionedBuffer.Alive
  import PartitionedBuffer.FaultHelpers

  alias PartitionedBuffer.{Names, Queue}

  @moduletag :capture_log

  setup_all :assert_alive_baseline

  # None of these runs a processor, so with none of them anything may be lost.
  @bystanders [:partition, :partition_supervisor, :registry, :owner]

  defp victim(:partition, buffer), do: partition(buffer)
  defp victim(kind, buffer), do: Process.whereis(name(kind, buffer))

  defp name(:partition, buffer), do: Names.partition(buffer, 0)
  defp name(:partition_supervisor, buffer), do: Names.partition_supervisor(buffer)
  defp name(:registry, buffer), do: buffer
  defp name(:owner, buffer), do: Names.owner(buffer)
  defp name(:task_supervisor, buffer), do: Names.task_supervisor(buffer)

  # Kills it and waits until another one is in its place.
  defp replace(kind, buffer) do
    former = victim(kind, buffer)
    kill(former)
    await_successor(name(kind, buffer), former)
    # A buffer is whole again when each partition and the owner are there.
    for kind <- [:partition, :owner], do: await_successor(name(kind, buffer), nil)
  end

  test "an owner that is told to end by a stranger ends the buffer, and it is started again" do
    buffer = start_queue(processor: reporting())
    supervisor = Process.whereis(Names.supervisor(buffer))
    :ok = Queue.push(buffer, Enum.to_list(1..100))
    :ok = GenServer.stop(Names.owner(buffer), :shutdown)
    assert await_items(100) == Enum.to_list(1..100)
    await_successor(Names.supervisor(buffer), supervisor)
    await_successor(Names.owner(buffer), nil)
    assert Queue.push(buffer, 101) == :ok
    cycle(buffer)
    assert await_items(1) == [101]
  end

  for kind <- [:task_supervisor | @bystanders] do
    test "#{kind}: what is buffered stays" do
      buffer = start_queue(processor: reporting())
      :ok = Queue.push(buffer, Enum.to_list(1..100))
      replace(unquote(kind), buffer)
      :ok = Queue.push(buffer, Enum.to_list(101..200))
      assert PartitionedBuffer.buffer_size(buffer) == 200
      cycle(buffer)
      assert await_items(200) == Enum.to_list(1..200)
      assert %{accepted: 200, processed: 200} = await_empty(buffer)
    end
  end

  for kind <- @bystanders do
    test "#{kind}: a batch in flight is not lost, nor is what comes after it" do
      buffer = start_queue(processor: gated())
      attach(buffer)
      :ok = Queue.push(buffer, Enum.to_list(1..30))
      :ok = PartitionedBuffer.update_options(buffer, processing_interval_ms: 1)

      for first <- 1..30//10 do
        assert {pid, [^first | _]} = await_batch()
        replace(unquote(kind), buffer)
        assert Process.alive?(pid)
        go(pid)
      end

      :ok = Queue.push(buffer, 31)
      assert {pid, [31]} = await_batch()
      go(pid)
      assert %{accepted: 31, processed: 31} = await_empty(buffer)
      assert events([:discarded]) == []
    end
  end

  test "task_supervisor: the batches in flight are lost and reported, no other one" do
    buffer = start_queue(processor: gated(), partitions: 2)
    attach(buffer)
    :ok = Queue.push(buffer, Enum.to_list(1..100))
    :ok = PartitionedBuffer.update_options(buffer, processing_interval_ms: 1)
    lost = Enum.flat_map(1..2, fn _partition -> elem(await_batch(), 1) end)
    replace(:task_supervisor, buffer)
    done = let_through(80)
    assert Enum.sort(lost ++ done) == Enum.to_list(1..100)
    assert %{processed: 80, discarded: %{killed: 20}} = await_empty(buffer)
    assert discard_events() == %{killed: 20}
  end

  defp let_through(0), do: []

  defp let_through(left) do
    {pid, batch} = await_batch()
    go(pid)
    batch ++ let_through(left - length(batch))
  end

  test "a partition that is killed between two batches goes on with the next one" do
    buffer = start_queue(processor: gated())
    :ok = Queue.push(buffer, Enum.to_list(1..1_000))
    cycle(buffer)

    items =
      Enum.flat_map(1..100, fn _batch ->
        {pid, batch} = await_batch()
        Process.exit(partition(buffer), :kill)
        go(pid)
        batch
      end)

    assert items == Enum.to_list(1..1_000)
    assert %{processed: 1_000} = await_empty(buffer)
  end

  test "a processor that ends while there is no partition process is not taken for one that failed" do
    buffer = start_queue(processor: gated())
    attach(buffer)
    supervisor = Process.whereis(Names.partition_supervisor(buffer))

    for number <- 1..5 do
      :ok = Queue.push(buffer, number)
      cycle(buffer)
      {pid, [^number]} = await_batch()
      :erlang.suspend_process(supervisor)
      kill(partition(buffer))
      go(pid)
      await_down(pid)
      :erlang.resume_process(supervisor)
    end

    assert %{processed: 5} = await_empty(buffer)
    assert events([:discarded]) == []
  end

  test "a processor that fails while there is no partition process is reported by the next one" do
    buffer = start_queue(processor: gated())
    attach(buffer)
    :ok = Queue.push(buffer, Enum.to_list(1..15))
    cycle(buffer)
    {pid, [1 | _]} = await_batch()
    supervisor = Process.whereis(Names.partition_supervisor(buffer))
    :erlang.suspend_process(supervisor)
    kill(partition(buffer))
    go(pid, fn _batch -> raise "boom" end)
    await_down(pid)
    :erlang.resume_process(supervisor)

    {pid, batch} = await_batch()
    assert batch == Enum.to_list(11..15)
    go(pid)
    assert %{processed: 5} = info = await_empty(buffer)
    assert discarded(info) == 10
    assert discard_events() |> Map.values() |> Enum.sum() == 10
  end

  test "a discarded batch is reported although the partition's process is killed before it can" do
    buffer = start_queue(processor: gated())
    attach(buffer)
    test = self()
    id = make_ref()

    # It hears of the failure in the partition's process, before that tells what was discarded.
    kill_once = fn _event, _measurements, metadata, _config ->
      if metadata.buffer == buffer do
        :telemetry.detach(id)
        send(test, :killing)
        Process.exit(self(), :kill)
      end
    end

    event = [:partitioned_buffer, :partition, :processing_failed]
    :ok = :telemetry.attach(id, event, kill_once, nil)
    on_exit(fn -> :telemetry.detach(id) end)
    :ok = Queue.push(buffer, Enum.to_list(1..10))
    cycle(buffer)
    {pid, _batch} = await_batch()
    go(pid, fn _batch -> raise "boom" end)
    assert_receive :killing
    assert {%{size: 10}, _metadata} = await_event([:discarded])
    assert discarded(await_empty(buffer)) == 10
  end

  test "a partition and the Registry that are killed while nobody restarts them come back" do
    buffer = start_queue(processor: reporting(), partitions: 2)
    :ok = Queue.push(buffer, Enum.to_list(1..100))
    supervisor = Process.whereis(Names.supervisor(buffer))
    :erlang.suspend_process(supervisor)
    kill(buffer)
    former = partition(buffer, 0)
    kill(former)
    # It can't register, again and again, until its supervisor gives up or the Registry is back.
    pause(100)
    :erlang.resume_process(supervisor)
    wait_until(fn -> length(registered(buffer)) == 2 end)
    cycle(buffer)
    assert Enum.sort(await_items(100)) == Enum.to_list(1..100)
    assert Process.whereis(Names.supervisor(buffer)) == supervisor
  end

  defp registered(buffer) do
    Registry.select(buffer, [{{:"$1", :"$2", :_}, [], [{{:"$2", :"$1"}}]}])
  rescue
    ArgumentError -> []
  end

  test "a Registry whose own process is slow to end does not take the buffer with it" do
    buffer = start_queue(processor: reporting())
    supervisor = Process.whereis(Names.supervisor(buffer))
    :ok = Queue.push(buffer, 1)
    # Orphaned by the kill, it keeps its name for as long as it has not run.
    [{_id, orphan, _type, _modules}] = Supervisor.which_children(buffer)
    :erlang.suspend_process(orphan)
    former = Process.whereis(buffer)
    kill(former)
    pause(200)
    :erlang.resume_process(orphan)
    await_successor(buffer, former)
    assert Process.whereis(Names.supervisor(buffer)) == supervisor
    wait_until(fn -> length(registered(buffer)) == 1 end)
    cycle(buffer)
    assert await_items(1) == [1]
  end

  test "partitions are found in the Registry again after it was killed" do
    buffer = start_queue(processor: reporting(), partitions: 3)
    names = fn -> buffer |> registered() |> Enum.map(&elem(&1, 1)) |> Enum.sort() end
    before = names.()
    assert length(before) == 3

    for _time <- 1..20 do
      replace(:registry, buffer)
      wait_until(fn -> names.() == before end)
    end
  end

  test "options can be changed while the owner is killed" do
    buffer = start_queue(processor: reporting())

    for number <- 1..50 do
      owner = victim(:owner, buffer)
      if owner, do: Process.exit(owner, :kill)
      :ok = PartitionedBuffer.update_options(buffer, processing_batch_size: number)
    end

    :ok = Queue.push(buffer, Enum.to_list(1..100))
    cycle(buffer)
    assert {_pid, batch} = await_batch()
    assert length(batch) == 50
    await_batch()
  end

  test "kills at random moments: all is processed once, in order, or reported" do
    test = self()
    processor = fn batch -> send(test, {:batch, self(), batch}) end
    buffer = start_queue(processor: processor, processing_interval_ms: 1)
    attach(buffer)

    for round <- 1..300 do
      :ok = Queue.push(buffer, Enum.to_list((round * 20 - 19)..(round * 20)))
      kind = Enum.random([:task_supervisor | @bystanders])
      pid = victim(kind, buffer)
      if pid, do: Process.exit(pid, :kill)
      if rem(round, 3) == 0, do: pause(:rand.uniform(3))
    end

    info = await_empty(buffer)
    assert info.accepted == 6_000
    items = reported_items()
    assert items == Enum.sort(Enum.uniq(items)), "twice, or out of order"
    reported = discard_events()
    assert Map.keys(reported) -- [:killed] == []
    assert 6_000 - length(items) <= discarded(info)
    assert Map.get(reported, :killed, 0) == info.discarded.killed
  end
end
