defmodule PartitionedBuffer.BoundsTest do
  # Bounds under load: never exceeded by one entry or byte, nobody served out of turn, nothing left behind.
  use PartitionedBuffer.BoundsCase, async: false

  import PartitionedBuffer.Alive

  @moduletag :capture_log
  @moduletag timeout: 300_000

  setup_all :assert_alive_baseline

  @capacity 50

  for kind <- [:queue, :map] do
    @kind kind

    for overflow <- [:block, :reject, :drop_newest, :drop_oldest] do
      @overflow overflow

      test "a #{kind} under #{overflow}: many writers, a slow processor, and the bound holds at every reading" do
        holding = :counters.new(2, [])
        {name, table} = bounded(@kind, @overflow, holding)
        reader = start_reader(name, fn info -> assert info.room.entries <= @capacity end)
        results = write_all(@kind, name, 8, 400)
        :ok = PartitionedBuffer.flush(name)
        :ok = flush_until_empty(name)
        assert stop_reader(reader) > 0

        ok = Enum.count(results, &match?({:ok, _}, &1))
        full = Enum.count(results, &match?({{:error, :full}, _}, &1))
        assert ok + full == length(results)
        info = assert_nothing_held(name)
        # Never more in processors than the capacity.
        assert :counters.get(holding, 2) <= @capacity
        dropped = info.discarded.overflow
        seen = for {number, _} <- :ets.tab2list(table), do: number
        written = for {:ok, numbers} <- results, number <- numbers, do: number
        assert length(seen) == info.processed
        assert MapSet.subset?(MapSet.new(seen), MapSet.new(written))
        assert length(written) == length(seen) + dropped
        assert info.accepted == length(written)
        assert info.rejected == full

        case @overflow do
          :block -> assert {full, dropped} == {0, 0}
          :reject -> assert dropped == 0
          _drop -> :ok
        end
      end
    end

    test "a #{kind}: bytes are never exceeded, large entries among small ones" do
      name =
        start!(@kind,
          capacity_bytes: 100_000,
          overflow: :block,
          processing_interval_ms: 1,
          processor: fn _ -> :ok end
        )

      reader =
        start_reader(name, fn info ->
          assert info.bytes <= 100_000 and info.room.bytes <= 100_000
        end)

      writers =
        for writer <- 1..6 do
          Task.async(fn ->
            for i <- 1..200 do
              term = :binary.copy("x", :rand.uniform(if(rem(i, 20) == 0, do: 90_000, else: 500)))
              key = writer * 1_000 + i

              assert :ok =
                       if(@kind == :queue,
                         do: Queue.push(name, term, timeout: :infinity),
                         else: Buffer.put(name, key, term, timeout: :infinity)
                       )
            end
          end)
        end

      Task.await_many(writers, 120_000)
      :ok = PartitionedBuffer.await_empty(name, 60_000)
      assert stop_reader(reader) > 0
      assert %{processed: 1_200} = assert_nothing_held(name)
    end

    test "a #{kind}: of 1,000 that wait 300 die and 300 give up; the others are served in their order" do
      {processor, table} = PartitionedBuffer.MapCase.recorder()
      name = start!(@kind, capacity: 10, processing_batch_size: 5, processor: processor)
      PartitionedBuffer.pause(name)
      :ok = write(@kind, name, Enum.to_list(1..10))
      test = self()

      callers =
        for i <- 1..1_000 do
          timeout = if rem(i, 10) in 3..5, do: 500, else: :infinity

          {pid, monitor} =
            spawn_monitor(fn ->
              send(test, {:result, 100 + i, write(@kind, name, 100 + i, timeout: timeout)})
            end)

          # In a known order: each waits before the next one comes.
          wait_until_waiting(pid)
          {100 + i, pid, monitor, rem(i, 10)}
        end

      dying =
        for {number, pid, monitor, digit} <- callers, digit in 0..2, do: {number, pid, monitor}

      for {_, pid, _} <- dying, do: Process.exit(pid, :kill)
      for {_, _, monitor} <- dying, do: assert_receive({:DOWN, ^monitor, _, _, :killed}, 5_000)
      leaving = for {number, _, _, digit} <- callers, digit in 3..5, do: number
      for number <- leaving, do: assert_receive({:result, ^number, {:error, :timeout}}, 30_000)
      assert %{blocked: 400} = assert_room(name)
      PartitionedBuffer.resume(name)
      PartitionedBuffer.update_options(name, processing_interval_ms: 1)
      served = for {number, _, _, digit} <- callers, digit in 6..9, do: number
      for number <- served, do: assert_receive({:result, ^number, :ok}, 30_000)
      :ok = PartitionedBuffer.await_empty(name, 30_000)
      recorded = numbers(PartitionedBuffer.MapCase.recorded(table))
      if @kind == :queue, do: assert(recorded == Enum.to_list(1..10) ++ served)
      assert Enum.sort(recorded) == Enum.to_list(1..10) ++ served
      assert %{accepted: 410, processed: 410, rejected: 300} = assert_nothing_held(name)
      # The entries and requests of the dead are gone: `setup_all`.
    end

    test "a #{kind}: bounds come and go and change under load, and room is exact afterwards" do
      name = start!(@kind, partitions: 3, processing_interval_ms: 1, processor: fn _ -> :ok end)
      stop = :atomics.new(1, [])

      writers =
        for writer <- 1..4 do
          Task.async(fn -> write_until(stop, @kind, name, writer * 1_000_000, %{}) end)
        end

      for round <- 1..150 do
        PartitionedBuffer.update_options(name,
          capacity: Enum.random([:infinity, 1_000, 20, 5]),
          capacity_bytes: Enum.random([:infinity, 100_000]),
          overflow: Enum.random([:block, :reject, :drop_newest, :drop_oldest]),
          processing_batch_size: Enum.random([1, 10, 100, :table]),
          max_size: Enum.random([:infinity, 1, 10]),
          max_batch_bytes: Enum.random([:infinity, 100]),
          max_size_jitter: Enum.random([0, 5]),
          on_discard: Enum.random([nil, {__MODULE__, :ignore, []}])
        )

        assert_accounted(PartitionedBuffer.info(name))
        if rem(round, 10) == 0, do: kill(partition(name))
      end

      PartitionedBuffer.update_options(name,
        capacity: 100_000,
        capacity_bytes: :infinity,
        on_discard: nil
      )

      :atomics.put(stop, 1, 1)

      counts =
        Task.await_many(writers, 60_000)
        |> Enum.reduce(&Map.merge(&1, &2, fn _, a, b -> a + b end))

      PartitionedBuffer.pause(name)
      :ok = write(@kind, name, Enum.to_list(1..100))
      wait_until(fn -> PartitionedBuffer.info(name).in_flight == 0 end)
      assert_room(name)
      PartitionedBuffer.resume(name)
      :ok = PartitionedBuffer.await_empty(name, 30_000)
      info = assert_nothing_held(name)
      assert info.room == %{entries: 0, bytes: 0}
      assert counts.ok + 100 == info.accepted

      assert info.rejected ==
               Map.get(counts, {:error, :full}, 0) + Map.get(counts, {:error, :too_large}, 0) +
                 Map.get(counts, {:error, :timeout}, 0)
    end

    test "a #{kind} that retries: each accepted entry is processed at least once, whoever is killed" do
      at_least_once(@kind)
    end

    test "a #{kind} that does not: each is processed once at the most, whoever is killed" do
      at_most_once(@kind)
    end
  end

  @doc false
  def ignore(_batch, _reason), do: :ok

  defp bounded(kind, overflow, holding) do
    table = :ets.new(:seen, [:public, :duplicate_bag])

    processor = fn batch ->
      size = length(batch)
      :counters.add(holding, 1, size)
      now = :counters.get(holding, 1)
      if now > :counters.get(holding, 2), do: :counters.put(holding, 2, now)
      pause(1)
      for number <- numbers(batch), do: :ets.insert(table, {number, self()})
      :counters.sub(holding, 1, size)
    end

    opts = [
      partitions: 3,
      capacity: @capacity,
      overflow: overflow,
      processing_batch_size: 7,
      processing_interval_ms: 2,
      processor: processor
    ]

    {start!(kind, opts), table}
  end

  # Single ones and lists of up to five; each number once.
  defp write_all(kind, name, writers, writes) do
    tasks =
      for writer <- 1..writers do
        Task.async(fn ->
          for i <- 1..writes do
            first = writer * 1_000_000 + i * 10
            numbers = Enum.to_list(first..(first + rem(i, 5)))
            argument = if length(numbers) == 1, do: first, else: numbers
            {write(kind, name, argument, timeout: :infinity), numbers}
          end
        end)
      end

    tasks |> Task.await_many(120_000) |> Enum.concat()
  end

  defp write_until(stop, kind, name, number, counts) do
    if :atomics.get(stop, 1) == 1 do
      counts
    else
      {argument, size} =
        if rem(number, 3) == 0, do: {[number, -number, number + 500_000], 3}, else: {number, 1}

      result = write(kind, name, argument, timeout: 50)
      add = if result == :ok, do: size, else: 1
      write_until(stop, kind, name, number + 1, Map.update(counts, result, add, &(&1 + add)))
    end
  end

  defp flush_until_empty(name) do
    case PartitionedBuffer.await_empty(name, 50) do
      :ok -> :ok
      _ -> flush_until_empty(name)
    end
  end

  defp wait_until_waiting(pid) do
    wait_until(fn ->
      Process.info(pid, :current_function) ==
        {:current_function, {PartitionedBuffer.Room, :await, 4}}
    end)
  end

  defp start_reader(name, check) do
    Task.async(fn -> read(name, check, 0) end)
  end

  defp read(name, check, count) do
    check.(assert_accounted(PartitionedBuffer.info(name)))

    receive do
      :stop -> count + 1
    after
      0 -> read(name, check, count + 1)
    end
  end

  defp stop_reader(reader) do
    send(reader.pid, :stop)
    Task.await(reader, 30_000)
  end

  # A processor that fails at random, and marks what it got with the id of the batch and the attempt.
  defp faulty(table) do
    fn batch, info ->
      for number <- numbers(batch), do: :ets.insert(table, {number, info.batch, info.attempt})

      case :rand.uniform(12) do
        1 -> raise "at random"
        2 -> exit(:at_random)
        3 -> {:error, :at_random}
        4 -> {:failed, Enum.take_random(batch, 1)}
        5 -> pause(1)
        _ -> :ok
      end
    end
  end

  defp chaos(kind, opts) do
    table = :ets.new(:seen, [:public, :duplicate_bag])

    name =
      start!(
        kind,
        [
          partitions: 2,
          processing_interval_ms: 1,
          processing_batch_size: 10,
          processor: faulty(table),
          backoff: {1, 2}
        ] ++ opts
      )

    stop = :atomics.new(1, [])
    killer = Task.async(fn -> kill_until(stop, name) end)
    results = write_all(kind, name, 4, 300)
    :atomics.put(stop, 1, 1)
    Task.await(killer, 30_000)
    assert Enum.all?(results, &match?({:ok, _}, &1))
    :ok = PartitionedBuffer.await_empty(name, 60_000)
    written = for {:ok, numbers} <- results, number <- numbers, do: number
    {name, written, :ets.tab2list(table)}
  end

  defp kill_until(stop, name) do
    pause(:rand.uniform(5))

    victim =
      case :rand.uniform(5) do
        1 -> Process.whereis(Names.partition(name, 0))
        2 -> Process.whereis(Names.partition(name, 1))
        3 -> Process.whereis(Names.owner(name))
        _ -> a_task(name)
      end

    if victim, do: Process.exit(victim, :kill)
    if :atomics.get(stop, 1) == 0, do: kill_until(stop, name), else: :ok
  end

  defp a_task(name) do
    case Task.Supervisor.children(Names.task_supervisor(name)) do
      [] -> nil
      tasks -> Enum.random(tasks)
    end
  catch
    :exit, _reason -> nil
  end

  defp at_least_once(kind) do
    {name, written, seen} = chaos(kind, max_retries: 1_000_000)
    info = assert_nothing_held(name)
    assert info.processed == info.accepted and info.accepted == length(written)
    assert MapSet.new(written) == MapSet.new(seen, &elem(&1, 0))

    for {_number, tries} <- Enum.group_by(seen, &elem(&1, 0)) do
      assert [_id] = tries |> Enum.map(&elem(&1, 1)) |> Enum.uniq()
      attempts = Enum.map(tries, &elem(&1, 2))
      assert Enum.uniq(attempts) == attempts
    end
  end

  defp at_most_once(kind) do
    {name, written, seen} = chaos(kind, [])
    info = assert_nothing_held(name)
    numbers = Enum.map(seen, &elem(&1, 0))
    assert numbers == Enum.uniq(numbers)
    assert MapSet.subset?(MapSet.new(numbers), MapSet.new(written))
    assert Enum.all?(seen, &(elem(&1, 2) == 1))
    lost = info.discarded |> Map.values() |> Enum.sum()
    assert info.accepted == info.processed + lost
    # What was discarded may have been seen, or not.
    assert length(numbers) >= info.processed
  end
end
