defmodule PartitionedBuffer.OnDemandTest do
  # What is done to a buffer when somebody asks for it: flush, sync_flush, await_empty, dump, info.
  use PartitionedBuffer.BoundsCase, async: true

  alias PartitionedBuffer.{Handle, Native}

  @moduletag :capture_log

  for kind <- [:queue, :map] do
    @kind kind

    describe "flush of a #{kind}" do
      test "starts all partitions, or one" do
        name = start!(@kind, partitions: 3)
        :ok = write(@kind, name, Enum.to_list(1..30))
        :ok = PartitionedBuffer.flush(name, partition: 1)
        wait_until(fn -> Enum.at(PartitionedBuffer.info(name).partitions, 1).queued == 0 end)
        %{partitions: [one, _, three]} = PartitionedBuffer.info(name)
        assert one.queued > 0 and three.queued > 0
        :ok = PartitionedBuffer.flush(name, partition: one.partition)
        :ok = PartitionedBuffer.flush(name)
        :ok = PartitionedBuffer.await_empty(name)
        assert %{processed: 30} = assert_nothing_held(name)

        for wrong <- [3, -1, :nothing, "0"],
            do:
              assert_raise(ArgumentError, ~r/no partition/, fn ->
                PartitionedBuffer.flush(name, partition: wrong)
              end)
      end
    end

    describe "sync_flush of a #{kind}" do
      test "returns what the processor has returned last, of each partition" do
        name = start!(@kind, partitions: 2, processing_batch_size: 100, processor: &length/1)
        assert [{_, {:ok, nil}}, {_, {:ok, nil}}] = PartitionedBuffer.sync_flush(name)
        :ok = write(@kind, name, Enum.to_list(1..50))
        assert [{first, {:ok, one}}, {second, {:ok, other}}] = PartitionedBuffer.sync_flush(name)
        assert {first, second} == {Names.partition(name, 0), Names.partition(name, 1)}
        assert one + other == 50
        :ok = write(@kind, name, [1])
        assert [{^second, _}] = PartitionedBuffer.sync_flush(name, partition: 1)
      end

      test "processes what was accepted before, and does not wait for what comes later" do
        name = start!(@kind, processing_batch_size: 1, processor: GatedProcessor.new())
        :ok = write(@kind, name, 1)
        :ok = PartitionedBuffer.flush(name)
        {runner, [one]} = GatedProcessor.next_batch()
        :ok = write(@kind, name, 2)
        task = Task.async(fn -> PartitionedBuffer.sync_flush(name, timeout: :infinity) end)
        wait_until(fn -> Native.partition_noted(Handle.fetch!(name).ref, 0) == :flush end)
        # Not held up, and not waited for.
        GatedProcessor.open(runner)
        {runner, [two]} = GatedProcessor.next_batch()
        :ok = write(@kind, name, 3)
        GatedProcessor.open(runner, {:call, fn _ -> :two end})
        assert [{_, {:ok, :two}}] = Task.await(task)
        assert numbers([one, two]) == [1, 2]
        assert %{queued: 1} = PartitionedBuffer.info(name)
        GatedProcessor.drain(name)
      end

      test "tells what was discarded meanwhile, and that there was not enough time" do
        name =
          start!(@kind,
            processor: fn batch -> if(2 in numbers(batch), do: raise("no"), else: :ok) end,
            processing_batch_size: 1
          )

        :ok = write(@kind, name, [1, 2, 3])
        assert [{_, {:error, :exception}}] = PartitionedBuffer.sync_flush(name)
        assert %{processed: 2} = assert_nothing_held(name)
        name = start!(@kind, processor: GatedProcessor.new())
        :ok = write(@kind, name, 1)
        assert [{_, {:error, :timeout}}] = PartitionedBuffer.sync_flush(name, timeout: 20)
        {runner, _} = GatedProcessor.next_batch()
        assert [{_, {:error, :timeout}}] = PartitionedBuffer.sync_flush(name, timeout: 0)
        GatedProcessor.open(runner)
        :ok = PartitionedBuffer.await_empty(name)
        refute_received {:partitioned_buffer, _, _}
      end

      test "tells a processor's timeout from its own" do
        name = start!(@kind, processor: fn _ -> pause(10_000) end, processing_timeout_ms: 30)
        :ok = write(@kind, name, 1)
        assert [{_, {:error, :processing_timeout}}] = PartitionedBuffer.sync_flush(name)
        :ok = write(@kind, name, 1)
        :ok = PartitionedBuffer.flush(name)
        assert :ok = PartitionedBuffer.await_empty(name)
      end

      test "goes on when processes of the buffer are killed" do
        for victim <- [:partition, :task_supervisor, :owner] do
          name = start!(@kind, processor: GatedProcessor.new(), max_retries: 1, backoff: {1, 1})
          :ok = write(@kind, name, 1)
          task = Task.async(fn -> PartitionedBuffer.sync_flush(name, timeout: :infinity) end)
          {runner, _} = GatedProcessor.next_batch()

          process =
            if victim == :partition,
              do: Names.partition(name, 0),
              else: apply(Names, victim, [name])

          pid = Process.whereis(process)
          kill(pid)
          await_successor(process, pid)

          runner =
            if victim == :task_supervisor do
              {runner, _} = GatedProcessor.next_batch()
              runner
            else
              runner
            end

          GatedProcessor.open(runner, {:call, fn _ -> :done end})
          assert [{_, {:ok, :done}}] = Task.await(task)
        end
      end

      test "does not wait for a cycle that was asked for before its partition's process was killed" do
        name = start!(@kind)
        partition = partition(name)
        :erlang.suspend_process(partition)
        :ok = write(@kind, name, 1)
        task = Task.async(fn -> PartitionedBuffer.sync_flush(name, timeout: 20_000) end)

        wait_until(fn ->
          Process.info(partition, :message_queue_len) == {:message_queue_len, 1}
        end)

        kill(partition)
        assert [{_, {:ok, _}}] = Task.await(task, 20_000)
      end
    end

    describe "await_empty of a #{kind}" do
      test "waits for what is held, and for what comes meanwhile, and starts nothing" do
        name = start!(@kind, processor: GatedProcessor.new())
        assert PartitionedBuffer.await_empty(name, 0) == :ok
        :ok = write(@kind, name, 1)
        assert PartitionedBuffer.await_empty(name, 20) == {:error, :timeout}
        GatedProcessor.refute_batch()
        task = Task.async(fn -> PartitionedBuffer.await_empty(name, :infinity) end)
        :ok = PartitionedBuffer.flush(name)
        {runner, _} = GatedProcessor.next_batch()
        :ok = write(@kind, name, 2)
        GatedProcessor.open(runner)
        assert Task.yield(task, 20) == nil
        :ok = PartitionedBuffer.flush(name)
        {runner, _} = GatedProcessor.next_batch()
        GatedProcessor.open(runner)
        assert Task.await(task) == :ok
      end
    end

    describe "dump of a #{kind}" do
      test "copies what is queued and leaves it there" do
        name = start!(@kind, partitions: 3)
        :ok = write(@kind, name, Enum.to_list(1..500))

        assert name |> PartitionedBuffer.dump() |> numbers() |> Enum.sort() ==
                 Enum.to_list(1..500)

        parts = for index <- 0..2, do: PartitionedBuffer.dump(name, partition: index)
        assert Enum.concat(parts) == PartitionedBuffer.dump(name)
        assert %{queued: 500, processed: 0} = PartitionedBuffer.info(name)

        assert PartitionedBuffer.dump(name, partition: Names.partition(name, 1)) ==
                 Enum.at(parts, 1)
      end

      test "has neither what a processor has nor what it has had" do
        name =
          start!(@kind,
            processing_batch_size: 10,
            processor: GatedProcessor.new(),
            max_retries: 1,
            backoff: {100_000, 100_000}
          )

        :ok = write(@kind, name, Enum.to_list(1..100))
        :ok = PartitionedBuffer.flush(name)
        {runner, first} = GatedProcessor.next_batch()
        :ok = write(@kind, name, Enum.to_list(101..110))
        assert dumped(name) == Enum.sort(Enum.to_list(1..110) -- numbers(first))
        GatedProcessor.open(runner)
        {runner, second} = GatedProcessor.next_batch()
        failed = Enum.take_every(second, 3)
        GatedProcessor.open(runner, {:call, fn _ -> {:failed, failed} end})
        next_event([:retry])
        # What is to be tried again is queued, and no other of its batch.
        expected = Enum.to_list(1..110) -- numbers(first ++ (second -- failed))
        assert dumped(name) == Enum.sort(expected)
        assert length(expected) == PartitionedBuffer.info(name).queued
        if @kind == :queue, do: assert(numbers(PartitionedBuffer.dump(name)) == expected)
      end

      test "misses nothing that is there all the time, while cycles run and others write" do
        name = start!(@kind, processing_interval_ms: never_ms(), processing_batch_size: 5)
        PartitionedBuffer.pause(name)
        :ok = write(@kind, name, Enum.to_list(1..2_000))
        writer = Task.async(fn -> for i <- 2_001..6_000, do: write(@kind, name, i) end)

        for _ <- 1..5 do
          all = name |> PartitionedBuffer.dump() |> numbers()
          assert MapSet.subset?(MapSet.new(1..2_000), MapSet.new(all))
          assert all == Enum.uniq(all)
        end

        Task.await(writer, 30_000)
        PartitionedBuffer.resume(name)

        wait_until(fn ->
          all = name |> PartitionedBuffer.dump() |> numbers()
          if @kind == :queue, do: assert(all == Enum.sort(all))
          PartitionedBuffer.info(name).queued == 0
        end)
      end
    end
  end

  test "info tells how the buffer stands" do
    name = start!(:queue, partitions: 2, capacity: 10, processing_interval_ms: 1_000_000)

    assert %{
             blocked: 0,
             rejected: 0,
             retries: 0,
             room: %{entries: 0, bytes: 0},
             partitions: [one, _]
           } = PartitionedBuffer.info(name)

    assert %{trigger: nil, retries: 0, next_flush_ms: ms} = one
    assert ms in 1..1_000_000

    for reason <- [:exception, :killed, :timeout, :failed, :expired, :overflow, :shutdown],
        do: assert(one.discarded[reason] == 0)

    PartitionedBuffer.update_options(name, capacity: :infinity)
    assert %{room: nil} = PartitionedBuffer.info(name)
  end

  test "a buffer without partitions" do
    name = start!(:queue, partitions: 0)
    assert PartitionedBuffer.flush(name) == :ok
    assert PartitionedBuffer.sync_flush(name) == []
    assert PartitionedBuffer.dump(name) == []
    assert PartitionedBuffer.await_empty(name) == :ok
    assert PartitionedBuffer.pause(name) == :ok
    assert PartitionedBuffer.resume(name) == :ok
  end

  defp dumped(name), do: name |> PartitionedBuffer.dump() |> numbers() |> Enum.sort()
end
