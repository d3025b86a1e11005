defmodule PartitionedBufferTest do
  # What all buffers share: start, names, stop, size.
  use PartitionedBuffer.BufferCase, async: true

  import PartitionedBuffer.TelemetryCase

  # What Elixir calls each process of a buffer.
  defp process(name, part), do: name |> Module.concat(part) |> Process.whereis()

  describe "start_link/1" do
    test "starts the kind of buffer that :module names" do
      opts = queue_options(module: Queue)
      assert {:ok, pid} = PartitionedBuffer.start_link(opts)
      assert process(opts[:name], Supervisor) == pid
      assert PartitionedBuffer.info(opts[:name]).module == Queue
      assert :ok = PartitionedBuffer.stop(opts[:name], :normal, :infinity)
    end

    test "links the buffer to its caller" do
      {:ok, pid} = Queue.start_link(queue_options())
      assert {:links, links} = Process.info(self(), :links)
      assert pid in links
      Queue.stop(pid)
    end

    test "refuses a name that is in use and leaves its buffer alone" do
      name = start_queue!()
      Queue.push(name, :item)
      pid = process(name, Supervisor)
      assert {:error, {:already_started, ^pid}} = Queue.start_link(queue_options(name: name))

      assert {:error, {:already_started, ^pid}} =
               Queue.start_link(queue_options(name: name, partitions: 7))

      assert Queue.size(name) == 1
      assert drain(name) == [[:item]]
    end

    test "has as many partitions as there are schedulers, unless told otherwise" do
      opts = Keyword.delete(queue_options(), :partitions)
      start_supervised!({Queue, opts})
      info = PartitionedBuffer.info(opts[:name])
      assert length(info.partitions) == System.schedulers_online()
    end
  end

  test "any atom of reasonable length is a name" do
    for name <- [:"with space", :bücher, :日本語, :"A.b.0", Some.Module, :"Elixir.lower", :"1"] do
      name = unique_name(name)
      start_queue!(name: name, partitions: 2)
      Queue.push(name, [1, 2, 3])
      assert %{buffer: ^name, accepted: 3} = PartitionedBuffer.info(name)
      assert name |> drain() |> Enum.concat() |> Enum.sort() == [1, 2, 3]
    end
  end

  describe "under a supervisor" do
    test "a buffer is a child like any other" do
      opts = queue_options()
      {:ok, supervisor} = Supervisor.start_link([{Queue, opts}], strategy: :one_for_one)
      assert [{id, pid, :supervisor, [Queue]}] = Supervisor.which_children(supervisor)
      assert id == opts[:name]
      assert pid == process(opts[:name], Supervisor)

      Queue.push(opts[:name], [1, 2, 3])
      assert :ok = Supervisor.stop(supervisor)
      assert forwarded() == [[1, 2, 3]]
      refute Process.alive?(pid)
    end

    test "several buffers are told apart by their names" do
      one = queue_options(name: unique_name(), processor: GatedProcessor.new(:one))
      two = queue_options(name: unique_name(), processor: GatedProcessor.new(:two))

      {:ok, supervisor} =
        Supervisor.start_link([{Queue, one}, {Queue, two}], strategy: :one_for_one)

      Queue.push(one[:name], :for_one)
      Queue.push(two[:name], :for_two)
      assert {Queue.size(one[:name]), Queue.size(two[:name])} == {1, 1}

      assert GatedProcessor.drain(one[:name], :one) == [[:for_one]]
      assert Queue.size(two[:name]) == 1
      GatedProcessor.refute_batch(:two)
      assert GatedProcessor.drain(two[:name], :two) == [[:for_two]]
      Supervisor.stop(supervisor)
    end
  end

  describe "names" do
    test "the buffer's own is that of its Registry; the others are made from it" do
      name = start_queue!(partitions: 3)

      assert Registry.count(name) == 3
      assert Task.Supervisor.children(Module.concat(name, TaskSupervisor)) == []

      for index <- ["0", "1", "2"] do
        assert is_pid(process(name, index))
      end

      assert process(name, "3") == nil
    end

    test "a processor runs in a task of the buffer" do
      name = start_queue!(processing_interval_ms: 1, processor: GatedProcessor.new())
      Queue.push(name, :item)
      {runner, _batch} = GatedProcessor.next_batch()
      assert Task.Supervisor.children(Module.concat(name, TaskSupervisor)) == [runner]
      GatedProcessor.open(runner)
    end

    test "those of partitions are the ones of info, of get_partition and of events" do
      name = unique_name()
      listen(name)
      start_queue!(name: name, partitions: 2)
      expected = [Module.concat(name, "0"), Module.concat(name, "1")]

      assert Enum.map(PartitionedBuffer.info(name).partitions, & &1.partition) == expected

      routed = for key <- 1..50, do: PartitionedBuffer.get_partition(name, key, :any)
      assert routed |> Enum.uniq() |> Enum.sort() == expected

      started = for {[:start], _measurements, %{partition: partition}} <- events(), do: partition
      assert Enum.sort(started) == expected
    end
  end

  describe "stop/3" do
    test "takes a name or a pid" do
      by_name = start_queue!()
      assert :ok = Queue.stop(by_name)
      assert :ok = by_name |> restart() |> Queue.stop()
      assert :ok = PartitionedBuffer.stop(restart(by_name), :shutdown, 5_000)
      assert :ok = PartitionedBuffer.stop(restart(by_name))
    end

    test "ends every process and every name" do
      name = start_queue!(partitions: 2)
      parts = [Supervisor, TaskSupervisor, "0", "1"]
      pids = [Process.whereis(name) | Enum.map(parts, &process(name, &1))]
      assert Enum.all?(pids, &is_pid/1)
      Queue.stop(name)
      refute Enum.any?(pids, &Process.alive?/1)

      assert Enum.map([name | Enum.map(parts, &Module.concat(name, &1))], &Process.whereis/1) ==
               [nil, nil, nil, nil, nil]
    end

    test "exits with :noproc the second time" do
      name = unique_name()
      {:ok, pid} = Queue.start_link(queue_options(name: name))
      assert :ok = Queue.stop(name)
      assert {:noproc, _call} = catch_exit(Queue.stop(name))
      assert {:noproc, _call} = catch_exit(Queue.stop(pid))
      assert {:noproc, _call} = catch_exit(PartitionedBuffer.stop(name, :normal, 100))
    end

    test "ends with the reason that it is given" do
      Process.flag(:trap_exit, true)

      for reason <- [:normal, :shutdown, {:shutdown, :update}] do
        {:ok, pid} = Queue.start_link(queue_options())
        assert :ok = Queue.stop(pid, reason)
        assert_receive {:EXIT, ^pid, ^reason}
      end
    end

    test "processes what is left, in all partitions at the same time" do
      name = start_queue!(partitions: 3, processor: GatedProcessor.new())
      Queue.push(name, Enum.to_list(1..30))
      stop = Task.async(fn -> Queue.stop(name) end)
      # All three are in flight together.
      batches = for _ <- 1..3, do: GatedProcessor.next_batch()
      for {runner, _batch} <- batches, do: GatedProcessor.open(runner)
      rest = drain_rest(30 - length(Enum.flat_map(batches, &elem(&1, 1))))
      assert Task.await(stop) == :ok

      items = Enum.flat_map(batches, &elem(&1, 1)) ++ rest
      assert Enum.sort(items) == Enum.to_list(1..30)
    end

    test "exits with :timeout when it takes too long" do
      name = start_queue!(processor: GatedProcessor.new())
      Queue.push(name, :item)
      monitor = Process.monitor(process(name, Supervisor))
      assert {:timeout, _call} = catch_exit(Queue.stop(name, :normal, 100))
      {runner, [:item]} = GatedProcessor.next_batch()
      GatedProcessor.open(runner)
      assert_receive {:DOWN, ^monitor, :process, _pid, :normal}, 5_000
    end

    test "leaves a name that can be used again, from nothing" do
      name = start_queue!(partitions: 2)
      Queue.push(name, [1, 2, 3])
      assert name |> drain() |> Enum.concat() |> Enum.sort() == [1, 2, 3]

      restart(name, partitions: 5)
      info = PartitionedBuffer.info(name)
      assert {info.accepted, info.processed, length(info.partitions)} == {0, 0, 5}
      Queue.push(name, :again)
      assert drain(name) == [[:again]]
    end

    test "refuses writes and readings from then on" do
      name = start_queue!()
      Queue.stop(name)
      message = ~r/unknown registry: #{inspect(name)}/
      assert_raise ArgumentError, message, fn -> Queue.push(name, :item) end
      assert_raise ArgumentError, message, fn -> Queue.push(name, [:item]) end
      assert_raise ArgumentError, message, fn -> Queue.push(name, :item, partition_key: 1) end
      assert_raise ArgumentError, message, fn -> Queue.push(name, [:item], partition_key: 1) end
      assert_raise ArgumentError, message, fn -> Queue.size(name) end
      assert_raise ArgumentError, message, fn -> PartitionedBuffer.buffer_size(name) end
      assert_raise ArgumentError, message, fn -> PartitionedBuffer.info(name) end
      assert_raise ArgumentError, message, fn -> Queue.update_options(name, []) end
      assert_raise ArgumentError, message, fn -> PartitionedBuffer.get_partition(name, nil, 1) end
    end
  end

  describe "buffer_size/1" do
    test "counts what is not yet being drained, in all partitions" do
      name = start_queue!(partitions: 3, processor: GatedProcessor.new())
      assert PartitionedBuffer.buffer_size(name) == 0
      Queue.push(name, Enum.to_list(1..100))
      assert PartitionedBuffer.buffer_size(name) == 100
      assert Queue.size(name) == 100
      assert name |> GatedProcessor.drain() |> Enum.concat() |> length() == 100
    end

    test "does not count what is in flight or waits behind it" do
      name =
        start_queue!(
          processing_interval_ms: 1,
          processing_batch_size: 2,
          processor: GatedProcessor.new()
        )

      Queue.push(name, [1, 2, 3, 4, 5])
      {runner, [1, 2]} = GatedProcessor.next_batch()
      assert Queue.size(name) == 0
      Queue.push(name, [6, 7])
      assert Queue.size(name) == 2
      GatedProcessor.open(runner)
    end
  end

  # One queue again, under the same name.
  defp restart(name, opts \\ []) do
    opts = queue_options([name: name] ++ opts)
    start_supervised!({Queue, opts}, id: make_ref(), restart: :temporary)
  end

  defp drain_rest(0), do: []

  defp drain_rest(left) do
    {runner, batch} = GatedProcessor.next_batch()
    GatedProcessor.open(runner)
    batch ++ drain_rest(left - length(batch))
  end
end
