defmodule PartitionedBuffer.AwaitTest do
  # Writes that return when they have been processed.
  use PartitionedBuffer.BoundsCase, async: true

  alias PartitionedBuffer.{Awaited, Handle, Native}

  @moduletag :capture_log

  for kind <- [:queue, :map] do
    @kind kind

    describe "an acknowledged write to a #{kind}" do
      test "returns what the processor has returned for its batch" do
        name = start!(@kind, processor: fn batch -> {:did, numbers(batch)} end)
        assert write_await(@kind, name, 1) == {:ok, {:did, [1]}}
        assert write_await(@kind, name, 2, partition_key: :key) == {:ok, {:did, [2]}}
        assert [%{trigger: :flush}] = PartitionedBuffer.info(name).partitions
      end

      # What a cycle has left is used again by one of the next, if it is little.
      test "has what was written, cycle after cycle, whatever that takes" do
        name = start!(@kind, partitions: 1, processor: & &1)

        for round <- 1..300 do
          item = {:item, round, item(round)}
          assert {:ok, [got]} = await_one(@kind, name, item)
          assert got == one(@kind, item)
        end

        assert %{processed: 300} = assert_nothing_held(name)
      end

      test "waits for its own batch, not for others" do
        name = start!(@kind, processing_batch_size: 1, processor: GatedProcessor.new())
        :ok = write(@kind, name, 1)
        task = Task.async(fn -> write_await(@kind, name, 2, timeout: :infinity) end)
        {runner, [one]} = GatedProcessor.next_batch()
        :ok = write(@kind, name, 3)
        GatedProcessor.open(runner)
        {runner, [two]} = GatedProcessor.next_batch()
        assert numbers([one, two]) == [1, 2]
        assert Task.yield(task, 0) == nil
        GatedProcessor.open(runner, {:call, fn _ -> :two end})
        assert Task.await(task) == {:ok, :two}
        GatedProcessor.drain(name)
      end

      for {how, reason} <- [
            raise: :exception,
            exit: :exception,
            kill: :killed,
            error: :failed,
            failed: :failed,
            hang: :processing_timeout
          ] do
        test "returns why it was discarded (#{how})" do
          name =
            start!(@kind,
              processor: {__MODULE__, :fail, [unquote(how)]},
              processing_timeout_ms: unquote(if how == :hang, do: 50, else: 60_000)
            )

          assert write_await(@kind, name, 1) == {:error, unquote(reason)}
          assert_nothing_held(name)
        end
      end

      test "waits through retries" do
        processor = fn _batch, info ->
          if info.attempt < 4, do: {:error, :no}, else: {:attempt, info.attempt}
        end

        name = start!(@kind, processor: processor, max_retries: 5, backoff: {1, 2})
        assert write_await(@kind, name, 1) == {:ok, {:attempt, 4}}
        name = start!(@kind, processor: processor, max_retries: 1, backoff: {1, 2})
        assert write_await(@kind, name, 1) == {:error, :failed}
      end

      test "that times out stays in the buffer, and nothing comes later" do
        name = start!(@kind, processor: GatedProcessor.new())
        assert write_await(@kind, name, 1, timeout: 20) == {:error, :timeout}
        {runner, _batch} = GatedProcessor.next_batch()
        GatedProcessor.open(runner)
        :ok = PartitionedBuffer.await_empty(name)
        assert %{processed: 1} = assert_nothing_held(name)
        refute_received {:partitioned_buffer, _token, _outcome}
      end

      test "that finds no room in time was not written" do
        name = start!(@kind, capacity: 1)
        PartitionedBuffer.pause(name)
        :ok = write(@kind, name, 1)
        assert write_await(@kind, name, 2, timeout: 20) == {:error, :timeout}
        assert %{accepted: 1, blocked: 0} = assert_room(name)
        PartitionedBuffer.update_options(name, overflow: :reject)
        assert write_await(@kind, name, 2) == {:error, :full}
        PartitionedBuffer.update_options(name, capacity: :infinity, capacity_bytes: 1)
        assert write_await(@kind, name, :binary.copy("x", 100)) == {:error, :too_large}
      end

      test "without flush waits for the next cycle, whatever starts it" do
        name = start!(@kind, max_size: 3)
        tasks = for i <- 1..2, do: Task.async(fn -> write_await(@kind, name, i, flush: false) end)
        wait_until(fn -> Queue.size(name) == 2 end)
        assert Enum.all?(tasks, &(Task.yield(&1, 0) == nil))
        :ok = write(@kind, name, 3)
        assert [{:ok, _}, {:ok, _}] = Task.await_many(tasks)
      end

      test "is told when the buffer is stopped, processed or not" do
        name = start!(@kind)
        task = Task.async(fn -> write_await(@kind, name, 1, flush: false, timeout: :infinity) end)
        wait_until(fn -> Queue.size(name) == 1 end)
        PartitionedBuffer.stop(name, :normal, :infinity)
        assert {:ok, _} = Task.await(task)

        name = start!(@kind, processor: fn _ -> pause(10_000) end, processing_timeout_ms: 30)
        task = Task.async(fn -> write_await(@kind, name, 1, flush: false, timeout: :infinity) end)
        wait_until(fn -> Queue.size(name) == 1 end)
        PartitionedBuffer.stop(name, :normal, :infinity)
        assert {:error, reason} = Task.await(task)
        assert reason in [:shutdown, :processing_timeout]
      end

      for victim <- [:partition, :partition_supervisor, :owner, :supervisor] do
        test "waits when the #{victim} is killed" do
          name = start!(@kind, [processor: GatedProcessor.new()], restart: :permanent)
          task = Task.async(fn -> write_await(@kind, name, 1, timeout: :infinity) end)
          {runner, _batch} = GatedProcessor.next_batch()

          process =
            if unquote(victim) == :partition,
              do: Names.partition(name, 0),
              else: apply(Names, unquote(victim), [name])

          pid = Process.whereis(process)
          kill(pid)
          await_successor(process, pid)
          # With its supervisor its processors may end.
          if unquote(victim) != :supervisor do
            GatedProcessor.open(runner, {:call, fn _ -> :done end})
            assert Task.await(task) == {:ok, :done}
          else
            GatedProcessor.open(runner, {:call, fn _ -> :done end})
            assert Task.await(task) in [{:ok, :done}, {:error, :killed}]
          end
        end
      end

      test "whose caller dies is processed all the same" do
        name = start!(@kind, processor: GatedProcessor.new())
        {pid, monitor} = spawn_monitor(fn -> write_await(@kind, name, 1, timeout: :infinity) end)
        {runner, _batch} = GatedProcessor.next_batch()
        Process.exit(pid, :kill)
        assert_receive {:DOWN, ^monitor, _, _, _}
        GatedProcessor.open(runner)
        :ok = PartitionedBuffer.await_empty(name)
        assert %{processed: 1} = assert_nothing_held(name)
      end

      test "by many at once: each gets the result of its own batch" do
        name =
          start!(@kind,
            partitions: 2,
            processing_batch_size: 7,
            processor: fn batch -> MapSet.new(numbers(batch)) end
          )

        tasks =
          for caller <- 1..20 do
            Task.async(fn ->
              for i <- 1..50 do
                number = caller * 1_000 + i
                {:ok, batch} = write_await(@kind, name, number)
                assert number in batch
              end
            end)
          end

        Task.await_many(tasks, 60_000)
        assert %{processed: 1_000} = assert_nothing_held(name)
      end
    end
  end

  describe "a list that is pushed and awaited" do
    test "returns the results of the last batch in each partition" do
      name = start!(:queue, partitions: 4, processing_batch_size: 1_000, processor: &length/1)
      assert {:ok, results} = Queue.push_await(name, Enum.to_list(1..100))
      assert Enum.sum(results) == 100 and length(results) == 4
      assert {:ok, [3]} = Queue.push_await(name, [1, 2, 3], partition_key: :same)
      assert {:ok, []} = Queue.push_await(name, [])
    end

    test "larger than a normal scheduler takes" do
      name = start!(:queue, processing_batch_size: 10_000, processor: &length/1)
      assert {:ok, [5_000]} = Queue.push_await(name, Enum.to_list(1..5_000))
      assert {:ok, 1} = Queue.push_await(name, :binary.copy("x", 1_000_000))
    end

    test "fails if any of it does" do
      name =
        start!(:queue,
          partitions: 4,
          processing_batch_size: 10,
          processor: fn batch -> if(50 in batch, do: raise("no"), else: :ok) end
        )

      assert {:error, :exception} = Queue.push_await(name, Enum.to_list(1..100))
      :ok = PartitionedBuffer.await_empty(name)
      assert %{discarded: %{exception: lost}} = assert_nothing_held(name)
      assert lost in 1..10
    end
  end

  test "a key that is put and awaited has the value that it has by then" do
    name = start!(:map, processor: GatedProcessor.new())
    PartitionedBuffer.pause(name)
    task = Task.async(fn -> Buffer.put_await(name, :a, 1, timeout: :infinity) end)
    wait_until(fn -> Buffer.size(name) == 1 end)
    Buffer.put(name, :a, 2)
    PartitionedBuffer.resume(name)
    {runner, [{:a, 2, 0, 0}]} = GatedProcessor.next_batch()
    GatedProcessor.open(runner, {:call, fn _ -> :two end})
    assert Task.await(task) == {:ok, :two}
  end

  test "a key that is put, awaited and deleted has left" do
    name = start!(:map)
    PartitionedBuffer.pause(name)
    task = Task.async(fn -> Buffer.put_await(name, :a, 1, timeout: :infinity) end)
    wait_until(fn -> Buffer.size(name) == 1 end)
    Buffer.delete(name, :a)
    PartitionedBuffer.resume(name)
    assert {:ok, _} = Task.await(task)
  end

  test "an outcome that does not come in time does not come later" do
    for {kind, write} <- [
          queue: &Native.queue_push_await(&1, :item, &2),
          map: &Native.map_put_await(&1, :key, :value, nil, &2)
        ] do
      name = start!(kind)
      PartitionedBuffer.pause(name)
      %{ref: ref} = Handle.fetch!(name)
      [late, heard] = [Awaited.token(), Awaited.token()]
      assert write.(ref, late) == :ok
      assert write.(ref, heard) == :ok
      assert Awaited.await(ref, late, 0) == {:error, :timeout}
      PartitionedBuffer.resume(name)
      PartitionedBuffer.flush(name)
      assert {:ok, _result} = Awaited.await(ref, heard, 5_000)
      refute_received {:partitioned_buffer, ^late, _outcome}
    end
  end

  test "a single entry that is awaited takes room, or is dropped" do
    for kind <- [:queue, :map] do
      name = start!(kind, capacity: 1, overflow: :drop_newest)
      PartitionedBuffer.pause(name)
      :ok = write(kind, name, 1)
      assert write_await(kind, name, 2) == {:error, :overflow}
      PartitionedBuffer.update_options(name, overflow: :drop_oldest)
      task = Task.async(fn -> write_await(kind, name, 3) end)
      wait_until(fn -> PartitionedBuffer.info(name).discarded.overflow == 2 end)
      PartitionedBuffer.resume(name)
      PartitionedBuffer.flush(name)
      assert {:ok, _result} = Task.await(task)
      :ok = PartitionedBuffer.await_empty(name)
      assert %{accepted: 3, processed: 1} = assert_nothing_held(name)
    end
  end

  test "a buffer of another kind, or none, raises" do
    queue = start!(:queue)
    map = start!(:map)
    assert_raise ArgumentError, ~r/another kind/, fn -> Queue.push_await(map, 1) end
    assert_raise ArgumentError, ~r/another kind/, fn -> Buffer.put_await(queue, 1, 1) end
    assert_raise ArgumentError, ~r/unknown registry/, fn -> Queue.push_await(:nothing_here, 1) end
    assert_raise RuntimeError, fn -> Queue.push_await(start!(:queue, partitions: 0), 1) end
    assert_raise ArgumentError, ~r/proper/, fn -> Queue.push_await(queue, [1 | 2]) end
  end

  @doc false
  def fail(_batch, :raise), do: raise("no")
  def fail(_batch, :exit), do: exit(:no)
  def fail(_batch, :kill), do: Process.exit(self(), :kill)
  def fail(_batch, :error), do: {:error, :no}
  def fail(batch, :failed), do: {:failed, batch}
  def fail(_batch, :hang), do: receive(do: (:nothing -> :ok))

  defp await_one(:queue, name, item), do: PartitionedBuffer.Queue.push_await(name, item)
  defp await_one(:map, name, item), do: PartitionedBuffer.Map.put_await(name, item, item)

  defp one(:queue, item), do: item
  defp one(:map, item), do: {item, item, 0, 0}

  # In no order that is the same for two generations: in a word, packed, copied word by word and by the VM, small and large.
  defp item(round) do
    case rem(round * round, 11) do
      0 -> round
      1 -> {round, "payload", 1.5}
      3 -> String.duplicate("x", 50 + round)
      4 -> %{round: round, list: Enum.to_list(1..round)}
      5 -> {self(), make_ref(), &length/1}
      9 -> :binary.copy(<<round>>, 20_000)
      _ -> Enum.map(1..(20 * round), &{&1, "item"})
    end
  end
end
