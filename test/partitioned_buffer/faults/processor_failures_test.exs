defmodule PartitionedBuffer.Faults.ProcessorFailuresTest do
  # However a processor ends, the batch that it had is lost, and no other one.
  use ExUnit.Case, async: false

  import PartitionedBuffer.Alive
  import PartitionedBuffer.FaultHelpers

  alias PartitionedBuffer.Queue

  @moduletag :capture_log

  setup_all :assert_alive_baseline

  # What the third of five batches does, as what it is discarded, and what `processing_failed` says.
  @failures [
    {"raises", :raise, :exception},
    {"throws", :throw, :exception},
    {"exits", :exit, :exception},
    {"exits as if all were well", :exit_normal, :exception},
    {"calls a function that does not exist", :undefined, :exception},
    {"dies with a process that it is linked to", :linked, :exception},
    {"dies with a process that it is linked to and that is killed", :linked_kill, :killed},
    {"kills itself", :kill_self, :killed},
    {"is killed from outside", :kill, :killed},
    {"hangs", :hang, :timeout},
    {"hangs and ignores exits", :hang_deaf, :timeout},
    {"never ends to work", :spin, :timeout}
  ]

  for {title, failure, reason} <- @failures do
    test "a processor that #{title} loses the batch that it had, and no other" do
      lose_one_batch(unquote(failure), unquote(reason))
    end
  end

  defp lose_one_batch(failure, reason) do
    buffer = start_queue(processor: gated(), processing_timeout_ms: timeout(reason))
    attach(buffer)
    :ok = Queue.push(buffer, Enum.to_list(1..50))
    :ok = PartitionedBuffer.update_options(buffer, processing_interval_ms: 1)

    for number <- 1..5 do
      expected = Enum.to_list((number * 10 - 9)..(number * 10))
      assert {pid, ^expected} = await_batch()
      if number == 3, do: fail(pid, failure), else: go(pid)
    end

    # The next generation.
    :ok = Queue.push(buffer, Enum.to_list(51..60))
    assert {pid, batch} = await_batch()
    assert batch == Enum.to_list(51..60)
    go(pid)

    info = await_empty(buffer)
    assert info.accepted == 60
    assert info.processed == 50
    assert info.discarded == Map.merge(no_discards(), %{reason => 10})

    assert [{%{size: 10, bytes: bytes}, %{reason: ^reason} = metadata}] = events([:discarded])
    assert is_integer(bytes)
    assert metadata.partition == PartitionedBuffer.get_partition(buffer, nil, 1)
    assert [{_measurements, %{reason: failed}}] = events([:processing_failed])
    assert_failed(failure, failed)

    assert length(events([:processing, :start])) == 6
    assert length(events([:processing, :stop])) == 5
    raised? = failure in [:raise, :throw, :exit, :exit_normal, :undefined]
    assert length(events([:processing, :exception])) == if(raised?, do: 1, else: 0)
  end

  # Only those that have to time out may: the machine may be slow.
  defp timeout(:timeout), do: 100
  defp timeout(_reason), do: 30_000

  defp no_discards,
    do: %{exception: 0, killed: 0, timeout: 0, shutdown: 0, failed: 0, expired: 0, overflow: 0}

  defp fail(pid, :kill), do: Process.exit(pid, :kill)
  defp fail(pid, failure), do: go(pid, fn _batch -> fail(failure) end)

  defp fail(:raise), do: raise("boom")
  defp fail(:throw), do: throw(:boom)
  defp fail(:exit), do: exit(:boom)
  defp fail(:exit_normal), do: exit(:normal)
  defp fail(:undefined), do: apply(__MODULE__, :no_such_function, [])
  defp fail(:kill_self), do: Process.exit(self(), :kill)
  defp fail(:hang), do: Process.sleep(:infinity)
  defp fail(:spin), do: fail(:spin)

  defp fail(:linked) do
    spawn_link(fn -> exit(:boom) end)
    Process.sleep(:infinity)
  end

  defp fail(:linked_kill) do
    Process.exit(spawn_link(fn -> Process.sleep(:infinity) end), :kill)
    Process.sleep(:infinity)
  end

  defp fail(:hang_deaf) do
    Process.flag(:trap_exit, true)
    Process.sleep(:infinity)
  end

  defp assert_failed(:raise, reason) do
    assert {%RuntimeError{message: "boom"}, [_ | _]} = reason
  end

  defp assert_failed(:throw, reason), do: assert({{:nocatch, :boom}, [_ | _]} = reason)
  defp assert_failed(:undefined, reason), do: assert({:undef, [_ | _]} = reason)

  defp assert_failed(failure, reason) when failure in [:exit, :linked],
    do: assert(reason == :boom)

  defp assert_failed(:exit_normal, reason), do: assert(reason == :normal)

  defp assert_failed(failure, reason) when failure in [:hang, :hang_deaf, :spin] do
    assert reason == :timeout
  end

  defp assert_failed(_killed, reason), do: assert(reason == :killed)

  test "a processor that kills its partition's process loses nothing" do
    buffer = start_queue(processor: gated())
    attach(buffer)
    :ok = Queue.push(buffer, Enum.to_list(1..30))
    :ok = PartitionedBuffer.update_options(buffer, processing_interval_ms: 1)

    for number <- 1..3 do
      {pid, batch} = await_batch()
      assert batch == Enum.to_list((number * 10 - 9)..(number * 10))
      former = partition(buffer)
      go(pid, fn _batch -> Process.exit(former, :kill) end)
      await_down(former)
    end

    info = await_empty(buffer)
    assert info.processed == 30
    assert events([:discarded]) == []
    assert events([:processing_failed]) == []
  end

  test "a processor that kills its partition's process and raises loses its batch, which is reported" do
    buffer = start_queue(processor: gated())
    attach(buffer)
    :ok = Queue.push(buffer, Enum.to_list(1..30))
    :ok = PartitionedBuffer.update_options(buffer, processing_interval_ms: 1)
    {pid, [1 | _]} = await_batch()
    partition = partition(buffer)

    go(pid, fn _batch ->
      kill(partition)
      raise "boom"
    end)

    # What it died of went to the process that was killed; the next one knows that it died.
    assert {%{size: 10}, %{reason: reason}} = await_event([:discarded])
    assert reason in [:exception, :killed]

    for first <- [11, 21] do
      assert {pid, [^first | _]} = await_batch()
      go(pid)
    end

    assert %{processed: 20, accepted: 30} = info = await_empty(buffer)
    assert discarded(info) == 10
  end

  test "a processor that always fails loses one batch after the other, each reported" do
    buffer = start_queue(processor: {__MODULE__, :no_such_processor, []}, partitions: 3)
    attach(buffer)
    :ok = Queue.push(buffer, Enum.to_list(1..500))
    cycle(buffer)
    assert %{processed: 0, discarded: %{exception: 500}} = await_empty(buffer)
    :ok = PartitionedBuffer.stop(buffer, :normal, :infinity)

    assert discard_events() == %{exception: 500}
  end

  test "all partitions at once" do
    partitions = 4
    buffer = start_queue(processor: gated(), partitions: partitions, processing_timeout_ms: 100)
    attach(buffer)
    :ok = Queue.push(buffer, Enum.to_list(1..400))
    :ok = PartitionedBuffer.update_options(buffer, processing_interval_ms: 1)

    # The first batch of each: two hang, one raises, one is killed; all others are let through.
    firsts = for _partition <- 1..partitions, do: await_batch()
    [{_, _}, {_, _}, {raises, _}, {killed, _}] = firsts
    go(raises, fn _batch -> raise "boom" end)
    Process.exit(killed, :kill)
    lost = Enum.flat_map(firsts, fn {_pid, batch} -> batch end)
    assert length(lost) == 40

    others = let_through(360)
    assert Enum.sort(lost ++ others) == Enum.to_list(1..400)
    info = await_empty(buffer)

    assert info.discarded ==
             Map.merge(no_discards(), %{exception: 10, killed: 10, timeout: 20})

    assert discard_events() == %{exception: 10, killed: 10, timeout: 20}
    assert info.processed == 360
  end

  defp let_through(0), do: []

  defp let_through(left) do
    {pid, batch} = await_batch()
    go(pid)
    batch ++ let_through(left - length(batch))
  end

  test "a table is one batch: all of that generation is lost, and nothing of the next one" do
    test = self()

    processor = fn table ->
      items = for {:entry, _key, item, 0, 0} <- :ets.tab2list(table), do: item
      gated_by(test, items)
    end

    buffer = start_queue(processor: processor, processing_batch_size: :table)
    attach(buffer)
    :ok = Queue.push(buffer, Enum.to_list(1..100))
    :ok = PartitionedBuffer.update_options(buffer, processing_interval_ms: 1)
    {pid, batch} = await_batch()
    assert batch == Enum.to_list(1..100)
    :ok = Queue.push(buffer, Enum.to_list(101..150))
    Process.exit(pid, :kill)

    {pid, batch} = await_batch()
    assert batch == Enum.to_list(101..150)
    go(pid)
    assert %{processed: 50, discarded: %{killed: 100}} = await_empty(buffer)
    assert discard_events() == %{killed: 100}
  end

  defp gated_by(test, items) do
    send(test, {:batch, self(), items})
    receive(do: ({:go, action} -> action.(items)))
  end

  test "a shorter time limit ends a processor that hangs already" do
    buffer = start_queue(processor: gated(), processing_timeout_ms: :infinity)
    attach(buffer)
    :ok = Queue.push(buffer, :stuck)
    cycle(buffer)
    {pid, [:stuck]} = await_batch()
    :ok = PartitionedBuffer.update_options(buffer, processing_timeout_ms: 20)
    assert {%{size: 1}, %{reason: :timeout}} = await_event([:discarded])
    refute Process.alive?(pid)
  end

  test "the time limit holds for a processor that has outlived its partition's process" do
    buffer = start_queue(processor: gated(), processing_timeout_ms: 200)
    attach(buffer)
    :ok = Queue.push(buffer, :stuck)
    cycle(buffer)
    {_pid, [:stuck]} = await_batch()
    kill(partition(buffer))
    assert {%{size: 1}, %{reason: :timeout}} = await_event([:discarded])
    assert %{discarded: %{timeout: 1}} = await_empty(buffer)
  end

  test "a processor that stops its own buffer is ended when the time for stopping is up" do
    buffer = start_queue([processor: gated(), processing_timeout_ms: 300], restart: :temporary)
    attach(buffer)
    :ok = Queue.push(buffer, Enum.to_list(1..20))
    cycle(buffer)
    {pid, [1 | _]} = await_batch()
    go(pid, fn _batch -> Queue.stop(buffer) end)

    assert {_measurements, %{reason: :shutdown}} = await_event([:stop])
    lost = discard_events()
    assert Map.keys(lost) -- [:timeout, :shutdown] == []
    assert lost |> Map.values() |> Enum.sum() == 20 - length(reported_items())
  end
end
