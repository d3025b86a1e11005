defmodule PartitionedBuffer.OverflowTest do
  # A capacity, and what happens to a write for which there is no room, under each policy. A buffer that is to
  # stay full is a manual one: others start processing then.
  use PartitionedBuffer.BoundsCase, async: true

  @moduletag :capture_log

  for kind <- [:queue, :map] do
    @kind kind

    describe "a #{kind} that rejects" do
      test "takes what there is room for, and not one more" do
        name = start!(@kind, manual: true, capacity: 3, overflow: :reject, partitions: 4)
        assert [:ok, :ok, :ok] = for(i <- 1..3, do: write(@kind, name, i))
        assert write(@kind, name, 4) == {:error, :full}
        assert write(@kind, name, [5]) == {:error, :full}
        assert {%{count: 1}, %{buffer: ^name, reason: :full}} = next_event([:write, :rejected])
        assert %{accepted: 3, queued: 3, rejected: 2, room: %{entries: 3}} = assert_room(name)
        :ok = PartitionedBuffer.flush(name)
        :ok = PartitionedBuffer.await_empty(name)
        assert %{rejected: 2, room: %{entries: 0, bytes: 0}} = assert_nothing_held(name)
        assert :ok = write(@kind, name, [4, 5, 6])
        assert name |> drain() |> Enum.concat() |> numbers() |> Enum.sort() == [1, 2, 3, 4, 5, 6]
      end

      test "takes a list as a whole or not at all" do
        name = start!(@kind, manual: true, capacity: 5, overflow: :reject, partitions: 3)
        assert :ok = write(@kind, name, [1, 2, 3])
        assert {:error, :full} = write(@kind, name, [4, 5, 6])
        assert %{accepted: 3} = assert_room(name)
        assert :ok = write(@kind, name, [4, 5])
        assert {:error, :too_large} = write(@kind, name, Enum.to_list(1..6))
        assert %{rejected: 2, room: %{entries: 5}} = assert_room(name)
      end

      test "counts what a processor has" do
        name = start!(@kind, capacity: 2, overflow: :reject, processor: GatedProcessor.new())
        :ok = write(@kind, name, [1, 2])
        :ok = PartitionedBuffer.flush(name)
        {runner, _batch} = GatedProcessor.next_batch()
        assert {:error, :full} = write(@kind, name, 3)
        assert %{queued: 0, in_flight: 2, room: %{entries: 2}} = assert_room(name)
        GatedProcessor.open(runner)
        :ok = PartitionedBuffer.await_empty(name)
        assert :ok = write(@kind, name, 3)
        GatedProcessor.drain(name)
      end

      test "bounds bytes to the byte" do
        probe = start!(@kind)
        big = :binary.copy("x", 10_000)
        put = fn name, i -> write_term(@kind, name, i, big) end
        :ok = put.(probe, 1)
        %{bytes: weight} = PartitionedBuffer.info(probe)
        name = start!(@kind, manual: true, capacity_bytes: 3 * weight, overflow: :reject)
        assert [:ok, :ok, :ok, {:error, :full}] = for(i <- 1..4, do: put.(name, i))
        assert %{room: %{entries: 3, bytes: bytes}} = assert_room(name)
        assert bytes == 3 * weight
        name = start!(@kind, manual: true, capacity_bytes: 3 * weight - 1, overflow: :reject)
        assert [:ok, :ok, {:error, :full}] = for(i <- 1..3, do: put.(name, i))
        name = start!(@kind, manual: true, capacity_bytes: weight - 1, overflow: :reject)
        assert {:error, :too_large} = put.(name, 1)
        assert_receive {:event, [:write, :rejected], _, %{buffer: ^name, reason: :too_large}}
        assert %{accepted: 0, rejected: 1} = assert_nothing_held(name)
      end

      test "starts to process by itself, unless it is paused" do
        name = start!(@kind, capacity: 2, overflow: :reject)
        PartitionedBuffer.pause(name)
        :ok = write(@kind, name, [1, 2])
        assert write(@kind, name, 3) == {:error, :full}
        assert %{queued: 2} = assert_room(name)
        PartitionedBuffer.resume(name)
        :ok = PartitionedBuffer.await_empty(name)
        :ok = write(@kind, name, [3, 4])
        assert write(@kind, name, 5) == {:error, :full}
        :ok = PartitionedBuffer.await_empty(name)
        assert [%{trigger: :capacity}] = PartitionedBuffer.info(name).partitions
        assert %{processed: 4, rejected: 2} = assert_nothing_held(name)
      end

      test "gives the room of what was discarded back" do
        name = start!(@kind, capacity: 4, overflow: :reject, processor: GatedProcessor.new())
        :ok = write(@kind, name, [1, 2, 3, 4])
        :ok = PartitionedBuffer.flush(name)
        {runner, _batch} = GatedProcessor.next_batch()
        GatedProcessor.open(runner, {:raise, "no"})
        :ok = PartitionedBuffer.await_empty(name)
        assert %{discarded: %{exception: 4}} = assert_nothing_held(name)
        assert :ok = write(@kind, name, [1, 2, 3, 4])
        GatedProcessor.drain(name)
      end
    end

    describe "a #{kind} that drops the newest" do
      test "answers :ok, counts and reports what it drops, and tells on_discard" do
        name =
          start!(@kind,
            manual: true,
            capacity: 3,
            overflow: :drop_newest,
            on_discard: {BoundsCase, :tell, [self()]}
          )

        :ok = write(@kind, name, [1, 2, 3])
        :ok = write(@kind, name, 4)
        :ok = write(@kind, name, [5, 6])
        assert_receive {:given_up, _, :overflow, first}, 5_000
        rest = if length(first) == 3, do: [], else: receive_given_up(3 - length(first))
        assert numbers(first) ++ rest == [4, 5, 6]
        info = assert_room(name)
        assert %{accepted: 6, queued: 3, discarded: %{overflow: 3}, rejected: 0} = info
        assert overflow_events(3) == 3
        assert name |> drain() |> Enum.concat() |> numbers() |> Enum.sort() == [1, 2, 3]
      end

      test "refuses what could never be taken" do
        name = start!(@kind, manual: true, capacity: 2, overflow: :drop_newest)
        assert {:error, :too_large} = write(@kind, name, [1, 2, 3])
        assert %{accepted: 0, rejected: 1} = assert_nothing_held(name)
      end

      test "tells an acknowledged write that was dropped" do
        name = start!(@kind, capacity: 1, overflow: :drop_newest)
        PartitionedBuffer.pause(name)
        :ok = write(@kind, name, 1)
        assert write_await(@kind, name, 2) == {:error, :overflow}
      end
    end

    describe "a #{kind} that blocks" do
      test "has a caller wait until there is room" do
        name = start!(@kind, capacity: 2, processor: GatedProcessor.new())
        :ok = write(@kind, name, [1, 2])
        task = blocked(@kind, name, 3)
        assert %{blocked: 1, accepted: 2, rejected: 0} = assert_room(name)
        :ok = PartitionedBuffer.flush(name)
        {runner, _batch} = GatedProcessor.next_batch()
        assert Task.yield(task, 0) == nil
        GatedProcessor.open(runner)
        assert Task.await(task) == :ok
        assert {%{duration: duration}, %{result: :ok}} = next_event([:write, :blocked])
        assert duration > 0
        assert %{blocked: 0} = PartitionedBuffer.info(name)
        assert GatedProcessor.drain(name) |> Enum.concat() |> numbers() == [3]
      end

      test "starts to process by itself, as often as it takes" do
        name = start!(@kind, capacity: 2, partitions: 2)

        tasks =
          for i <- 1..20, do: Task.async(fn -> write(@kind, name, i, timeout: :infinity) end)

        lists = for i <- 11..15, do: Task.async(fn -> write(@kind, name, [2 * i, 2 * i + 1]) end)
        assert Enum.all?(Task.await_many(tasks ++ lists), &(&1 == :ok))
        assert %{trigger: :capacity} = next_event([:flush]) |> elem(1)
        :ok = PartitionedBuffer.flush(name)
        :ok = PartitionedBuffer.await_empty(name)
        assert %{accepted: 30, processed: 30, blocked: 0} = assert_nothing_held(name)
      end

      test "gives up after the timeout, with nothing written" do
        name = start!(@kind, manual: true, capacity: 1)
        :ok = write(@kind, name, 1)
        assert write(@kind, name, 2, timeout: 20) == {:error, :timeout}
        assert write(@kind, name, 2, timeout: 0) == {:error, :timeout}
        assert {_, %{result: :timeout}} = next_event([:write, :blocked])
        assert {_, %{reason: :timeout}} = next_event([:write, :rejected])
        assert %{accepted: 1, blocked: 0, rejected: 2} = assert_room(name)
        assert name |> drain() |> Enum.concat() |> numbers() == [1]
      end

      test "refuses at once what could never be taken" do
        name = start!(@kind, manual: true, capacity: 2)
        assert {:error, :too_large} = write(@kind, name, [1, 2, 3], timeout: :infinity)
      end

      test "serves in the order of arrival, lists among single entries" do
        name = start!(@kind, capacity: 4, processing_batch_size: 1)
        PartitionedBuffer.pause(name)
        :ok = write(@kind, name, [1, 2, 3, 4])
        tasks = for i <- [5, [6, 7, 8], 9, [10, 11], 12], do: blocked(@kind, name, i)
        # Would fit as soon as one has left, but it is not its turn.
        :ok = PartitionedBuffer.resume(name)
        flush_until(name, tasks)
        assert Enum.map(tasks, &Task.await/1) == List.duplicate(:ok, 5)
        order = name |> drain() |> Enum.concat() |> numbers()
        assert Enum.sort(order) == Enum.to_list(1..12)
        if @kind == :queue, do: assert(order == Enum.to_list(1..12))
      end

      test "has newcomers wait behind those who wait, although they would fit" do
        name = start!(@kind, capacity: 10, processing_batch_size: 1)
        PartitionedBuffer.pause(name)
        :ok = write(@kind, name, Enum.to_list(1..8))
        list = blocked(@kind, name, [9, 10, 11])
        assert write(@kind, name, 12, timeout: 10) == {:error, :timeout}
        one = blocked(@kind, name, 12)
        assert %{room: %{entries: 8}, blocked: 2} = assert_room(name)
        PartitionedBuffer.resume(name)
        flush_until(name, [list, one])
        assert [:ok, :ok] = Enum.map([list, one], &Task.await/1)
      end

      test "serves those behind one that gives up, or dies" do
        name = start!(@kind, capacity: 10, processing_interval_ms: never_ms())
        PartitionedBuffer.pause(name)
        :ok = write(@kind, name, Enum.to_list(1..8))
        dying = blocked(@kind, name, [20, 21, 22])
        small = blocked(@kind, name, 9)
        Process.unlink(dying.pid)
        kill(dying.pid)
        # Whoever looks notices.
        wait_until(fn -> PartitionedBuffer.info(name).blocked == 0 end)
        assert Task.await(small) == :ok
        leaving = Task.async(fn -> write(@kind, name, [20, 21], timeout: 200) end)
        wait_until(fn -> PartitionedBuffer.info(name).blocked == 1 end)
        small = blocked(@kind, name, 10)
        assert Task.await(leaving) == {:error, :timeout}
        assert Task.await(small) == :ok
        assert %{room: %{entries: 10}, blocked: 0} = assert_room(name)
        PartitionedBuffer.resume(name)
        assert name |> drain() |> Enum.concat() |> numbers() |> Enum.sort() == Enum.to_list(1..10)
      end

      test "notices the death of the one whose turn it is without being looked at" do
        name = start!(@kind, capacity: 10)
        PartitionedBuffer.pause(name)
        :ok = write(@kind, name, Enum.to_list(1..8))
        dying = blocked(@kind, name, [20, 21, 22])
        small = blocked(@kind, name, 9)
        Process.unlink(dying.pid)
        kill(dying.pid)
        Queue.update_options(name, processing_interval_ms: 5)
        assert Task.await(small) == :ok
      end

      test "has no dead one hold up those behind it when there is room for them" do
        opts = [processing_batch_size: 1, processor: GatedProcessor.new()]
        name = start!(@kind, [capacity: 4, processing_interval_ms: never_ms()] ++ opts)
        :ok = write(@kind, name, Enum.to_list(1..4))
        dying = blocked(@kind, name, [20, 21, 22])
        small = blocked(@kind, name, 5)
        {runner, _batch} = GatedProcessor.next_batch()
        Process.unlink(dying.pid)
        kill(dying.pid)
        # Nobody looks.
        GatedProcessor.open(runner)
        assert Task.await(small) == :ok
      end

      test "tells those who wait when it is stopped" do
        name = start!(@kind, manual: true, capacity: 1, processor: GatedProcessor.new())
        :ok = write(@kind, name, 1)
        test = self()

        callers =
          for i <- 2..5 do
            task =
              Task.async(fn ->
                Process.put(:"$callers", [test])

                assert_raise ArgumentError, ~r/unknown registry/, fn ->
                  write(@kind, name, i, timeout: :infinity)
                end
              end)

            wait_until(fn -> PartitionedBuffer.info(name).blocked == i - 1 end)
            task
          end

        awaited =
          Task.async(fn ->
            assert_raise(ArgumentError, fn -> write_await(@kind, name, 9, timeout: :infinity) end)
          end)

        wait_until(fn -> PartitionedBuffer.info(name).blocked == 5 end)
        assert [[entry]] = GatedProcessor.drain(name)
        assert numbers([entry]) == [1]
        for task <- [awaited | callers], do: assert(%ArgumentError{} = Task.await(task))
      end

      test "serves all when the bound is lifted, made larger or smaller" do
        name = start!(@kind, manual: true, capacity: 2)
        :ok = write(@kind, name, [1, 2])
        tasks = for i <- 3..6, do: blocked(@kind, name, i)
        PartitionedBuffer.update_options(name, capacity: 4)
        assert [:ok, :ok] = tasks |> Enum.take(2) |> Enum.map(&Task.await/1)
        assert %{blocked: 2, room: %{entries: 4}} = assert_room(name)
        large = blocked(@kind, name, [7, 8, 9])
        PartitionedBuffer.update_options(name, capacity: 2)
        assert %{blocked: 3, room: %{entries: 4}} = assert_room(name)
        PartitionedBuffer.update_options(name, capacity: :infinity)

        assert [:ok, :ok, :ok] =
                 tasks |> Enum.drop(2) |> Kernel.++([large]) |> Enum.map(&Task.await/1)

        assert %{room: nil, blocked: 0, queued: 9} = PartitionedBuffer.info(name)
        PartitionedBuffer.update_options(name, capacity: 20)
        assert %{room: %{entries: 9}} = assert_room(name)
      end

      test "refuses one that has become too large, and serves those behind it" do
        name = start!(@kind, capacity: 5, processing_batch_size: 1)
        PartitionedBuffer.pause(name)
        :ok = write(@kind, name, [1, 2, 3, 4, 5])
        large = blocked(@kind, name, [6, 7, 8, 9])
        small = blocked(@kind, name, 10)
        PartitionedBuffer.update_options(name, capacity: 3)
        assert Task.await(large) == {:error, :too_large}
        PartitionedBuffer.resume(name)
        assert Task.await(small) == :ok
      end

      test "keeps those who wait when its processes are killed, its supervisor among them" do
        name = start!(@kind, [manual: true, capacity: 2], restart: :permanent)
        :ok = write(@kind, name, [1, 2])
        tasks = for i <- 3..6, do: blocked(@kind, name, i)

        for process <- [
              Names.partition(name, 0),
              Names.owner(name),
              Names.task_supervisor(name),
              Names.supervisor(name)
            ] do
          pid = Process.whereis(process)
          kill(pid)
          await_successor(process, pid)
        end

        await_successor(Names.partition(name, 0), nil)
        assert %{blocked: 4} = assert_room(name)
        flush_until(name, tasks)
        assert Enum.map(tasks, &Task.await/1) == List.duplicate(:ok, 4)
        assert name |> drain() |> Enum.concat() |> numbers() |> Enum.sort() == Enum.to_list(1..6)
      end

      test "serves an acknowledged write in its turn" do
        name = start!(@kind, capacity: 1)
        PartitionedBuffer.pause(name)
        :ok = write(@kind, name, 1)
        first = blocked(@kind, name, 2)
        awaited = Task.async(fn -> write_await(@kind, name, 3, timeout: :infinity) end)
        wait_until(fn -> PartitionedBuffer.info(name).blocked == 2 end)
        last = blocked(@kind, name, 4)
        PartitionedBuffer.resume(name)
        flush_until(name, [first, awaited, last])
        assert Task.await(first) == :ok
        assert {:ok, _result} = Task.await(awaited)
        assert Task.await(last) == :ok
        numbers = name |> drain() |> Enum.concat() |> numbers()
        assert numbers == [1, 2, 3, 4]
      end
    end
  end

  describe "a queue that drops the oldest" do
    test "takes the newest, in order, and tells of what it has dropped" do
      name =
        start!(:queue,
          capacity: 3,
          overflow: :drop_oldest,
          on_discard: {BoundsCase, :tell, [self()]}
        )

      for i <- 1..10, do: :ok = Queue.push(name, i)

      assert %{accepted: 10, queued: 3, discarded: %{overflow: 7}, rejected: 0} =
               assert_room(name)

      assert receive_given_up(7) == Enum.to_list(1..7)
      assert overflow_events(7) == 7
      assert name |> drain() |> Enum.concat() == [8, 9, 10]
    end

    test "takes those of other partitions, when there are none in its own" do
      name = start!(:queue, capacity: 4, partitions: 4, overflow: :drop_oldest)
      for i <- 0..50, do: :ok = Queue.push(name, i, partition_key: i)
      assert %{accepted: 51, queued: 4, discarded: %{overflow: 47}} = assert_room(name)
    end

    test "makes room for a list and for something large, and for nothing that is too large" do
      name = start!(:queue, capacity: 5, overflow: :drop_oldest)
      :ok = Queue.push(name, [1, 2, 3, 4])
      :ok = Queue.push(name, [5, 6, 7, 8])
      assert %{queued: 5, discarded: %{overflow: 3}} = assert_room(name)
      assert {:error, :too_large} = Queue.push(name, Enum.to_list(1..6))
      :ok = Queue.push(name, :binary.copy("x", 1_000_000))
      assert %{queued: 5, discarded: %{overflow: 4}} = assert_room(name)
      Queue.update_options(name, capacity: :infinity, capacity_bytes: 1_000_100)
      :ok = Queue.push(name, :small)
      assert %{room: %{bytes: bytes}} = assert_room(name)
      assert bytes <= 1_000_100
    end

    test "drops nothing that a processor has" do
      name =
        start!(:queue,
          capacity: 4,
          overflow: :drop_oldest,
          processing_batch_size: 2,
          processor: GatedProcessor.new()
        )

      :ok = Queue.push(name, [1, 2, 3, 4])
      :ok = PartitionedBuffer.flush(name)
      {runner, [1, 2]} = GatedProcessor.next_batch()
      :ok = Queue.push(name, [5, 6])
      assert %{queued: 2, in_flight: 2, discarded: %{overflow: 2}} = assert_room(name)
      assert {:error, :full} = Queue.push(name, [7, 8, 9])
      assert %{accepted: 6, rejected: 1} = assert_room(name)
      GatedProcessor.open(runner)
      {runner, [5, 6]} = GatedProcessor.next_batch()
      GatedProcessor.open(runner)
      :ok = PartitionedBuffer.await_empty(name)
      assert_nothing_held(name)
    end

    test "processes everything when asked to, batch by batch, in manual mode too" do
      for manual <- [false, true] do
        name =
          start!(:queue,
            capacity: 100,
            overflow: :drop_oldest,
            processing_batch_size: 3,
            manual: manual
          )

        :ok = Queue.push(name, Enum.to_list(1..10))
        assert [{_, {:ok, _}}] = PartitionedBuffer.sync_flush(name, timeout: 5_000)
        assert Enum.concat(forwarded()) == Enum.to_list(1..10)
      end
    end
  end

  describe "a map that drops the oldest" do
    test "keeps within its bound and accounts for all" do
      name =
        start!(:map,
          capacity: 3,
          overflow: :drop_oldest,
          on_discard: {BoundsCase, :tell, [self()]}
        )

      for i <- 1..10, do: :ok = Buffer.put(name, i, i)
      assert %{accepted: 10, queued: 3, discarded: %{overflow: 7}} = assert_room(name)
      dropped = receive_given_up(7)
      kept = name |> drain() |> Enum.concat() |> numbers()
      assert Enum.sort(dropped ++ kept) == Enum.to_list(1..10)
      assert 10 in kept
    end

    test "needs no room for what is there" do
      name = start!(:map, capacity: 2, overflow: :drop_oldest)
      Buffer.put_all(name, a: 1, b: 2)
      for i <- 1..100, do: :ok = Buffer.put(name, :a, i)
      assert %{queued: 2, discarded: %{overflow: 0}, superseded: 100} = assert_room(name)
    end
  end

  describe "a bounded map" do
    test "takes a value in place of another without room for an entry, or waits for its bytes" do
      name = start!(:map, manual: true, capacity: 1, overflow: :reject)
      :ok = Buffer.put(name, :a, 1)
      :ok = Buffer.put(name, :a, :binary.copy("x", 10_000))
      :ok = Buffer.put_newer(name, :a, 2, 7)
      :ok = Buffer.update(name, :a, 0, {:add, 1})
      :ok = Buffer.update(name, :a, 0, &(&1 + 1))
      assert Buffer.get(name, :a) == 4
      assert {:error, :full} = Buffer.put(name, :b, 1)
      assert {:error, :full} = Buffer.put_newer(name, :b, 1, 1)
      assert {:error, :full} = Buffer.update(name, :b, 0, {:add, 1})
      assert {:error, :full} = Buffer.update(name, :b, 0, & &1)
      assert {:error, :full} = Buffer.update(name, :b, 0, {:put_new, 1})
      assert {:error, :full} = Buffer.put_all_newer(name, [{:b, 1, 1}])
      assert %{queued: 1, rejected: 6} = assert_room(name)
      :ok = Buffer.delete(name, :a)
      assert %{room: %{entries: 0, bytes: 0}} = assert_room(name)
      :ok = Buffer.update(name, :b, 0, {:add, 1})
      assert {:ok, 0} = Buffer.take(name, :b)
      assert %{room: %{entries: 0, bytes: 0}} = assert_room(name)
    end

    test "gives back what a list did not need" do
      name = start!(:map, manual: true, capacity: 4, overflow: :reject)
      :ok = Buffer.put_all(name, a: 1, b: 2)
      :ok = Buffer.put_all(name, a: 3, b: 4)
      :ok = Buffer.put_all_newer(name, [{:a, 0, -1}, {:c, 1, 1}])
      assert %{queued: 3} = assert_room(name)
    end

    test "has update/5 wait, up to the timeout" do
      name = start!(:map, manual: true, capacity: 1)
      :ok = Buffer.put(name, :a, 1)
      assert {:error, :timeout} = Buffer.update(name, :b, 0, {:add, 1}, timeout: 10)
      assert {:error, :timeout} = Buffer.update(name, :b, 0, & &1, timeout: 10)
      task = Task.async(fn -> Buffer.update(name, :b, 5, {:add, 1}, timeout: :infinity) end)
      :ok = PartitionedBuffer.flush(name)
      assert Task.await(task) == :ok
      assert Buffer.get(name, :b) == 5
      test = self()

      task =
        Task.async(fn ->
          send(test, :waiting)

          assert_raise ArgumentError, fn ->
            Buffer.update(name, :c, 0, {:add, 1}, timeout: :infinity)
          end
        end)

      assert_receive :waiting
      Buffer.stop(name)
      assert %ArgumentError{} = Task.await(task)
    end
  end

  test "a bound may be there from the beginning, for nothing but bytes, and both" do
    name = start!(:queue, manual: true, capacity: 10, capacity_bytes: 10_000, overflow: :reject)
    big = :binary.copy("x", 5_000)
    assert [:ok, {:error, :full}] = for(_ <- 1..2, do: Queue.push(name, big))
    assert {:error, :full} = Queue.push(name, Enum.to_list(1..10))
    assert :ok = Queue.push(name, Enum.to_list(1..9))
    assert_room(name)
  end

  test "the options of a write are checked" do
    name = start!(:queue, manual: true, capacity: 1)

    for timeout <- [-1, 1.5, nil, :never] do
      assert_raise NimbleOptions.ValidationError, fn -> Queue.push(name, 1, timeout: timeout) end

      assert_raise NimbleOptions.ValidationError, fn ->
        Queue.push_await(name, 1, timeout: timeout)
      end
    end

    assert_raise ArgumentError, fn -> Queue.push_await(name, 1, flush: :yes) end
    assert %{accepted: 0} = assert_nothing_held(name)
  end

  defp write_term(:queue, name, _i, term), do: Queue.push(name, term)
  defp write_term(:map, name, i, term), do: Buffer.put(name, i, term)

  defp receive_given_up(count) when count <= 0, do: []

  defp receive_given_up(count) do
    assert_receive {:given_up, _, :overflow, batch}, 5_000
    numbers(batch) ++ receive_given_up(count - length(batch))
  end

  # How many entries the discard events tell of, once there are as many.
  defp overflow_events(count) do
    assert_receive {:event, [:discarded], %{size: size, bytes: bytes}, %{reason: :overflow}},
                   5_000

    assert bytes > 0
    if size < count, do: size + overflow_events(count - size), else: size
  end

  # Cycles, until these have been served.
  defp flush_until(name, tasks) do
    wait_until(fn ->
      :ok = PartitionedBuffer.flush(name)
      Enum.all?(tasks, &(not Process.alive?(&1.pid)))
    end)
  end
end
