defmodule PartitionedBuffer.RunnerTest do
  # The process that runs a partition's processor, from cycle to cycle.
  use PartitionedBuffer.BoundsCase, async: true

  alias PartitionedBuffer.{Handle, Native, Telemetry}

  @moduletag :capture_log

  defp start_runner!(processor, opts \\ []) do
    name = unique_name()
    listen(name, Telemetry.events())
    start_queue!([name: name, processor: processor] ++ opts)
  end

  defp runners(name), do: Task.Supervisor.children(Names.task_supervisor(name))

  test "is one for many cycles, and ends when there is nothing to do" do
    name = start_runner!(fn _batch -> self() end)
    pids = for i <- 1..100, do: Queue.push_await(name, i)
    assert [{:ok, runner}] = Enum.uniq(pids)
    assert runners(name) == [runner]
    await_down(runner)
    assert runners(name) == []
    assert {:ok, other} = Queue.push_await(name, :more)
    assert other != runner
    assert for({[:flush], %{size: 1}, %{trigger: :flush}} <- events(), do: 1) |> length() == 101
    assert %{processed: 101} = assert_nothing_held(name)
  end

  test "drops what a processor has left in its mailbox" do
    name =
      start_runner!(fn [item] ->
        send(self(), {:late, item})
        send(self(), {make_ref(), :done})
        self()
      end)

    pids = for i <- 1..1_000, do: Queue.push_await(name, i)
    assert [{:ok, runner}] = Enum.uniq(pids)
    wait_until(fn -> Process.info(runner, :message_queue_len) == {:message_queue_len, 0} end)
  end

  test "that traps exits or has links left ends as a new one would, and nothing is lost" do
    linked = spawn(fn -> receive(do: (:stop -> :ok)) end)

    for leave <- [fn -> Process.flag(:trap_exit, true) end, fn -> Process.link(linked) end] do
      name = start_runner!(fn _batch -> {self(), leave.()} |> elem(0) end)
      pids = for i <- 1..20, do: name |> Queue.push_await(i) |> elem(1)
      assert length(Enum.uniq(pids)) == 20
      assert %{processed: 20} = assert_nothing_held(name)
      assert for({[:processing_failed], _, _} = event <- events(), do: event) == []
    end

    assert Process.alive?(linked)
    send(linked, :stop)
  end

  test "killed while it waits is replaced, and nothing has failed" do
    name = start_runner!(fn _batch -> self() end)

    for i <- 1..50 do
      {:ok, runner} = Queue.push_await(name, i)
      if rem(i, 2) == 0, do: Process.exit(runner, :kill), else: kill(runner)
      assert {:ok, other} = Queue.push_await(name, i)
      assert other != runner
    end

    assert %{processed: 100} = assert_nothing_held(name)
    assert for({[:discarded], _, _} = event <- events(), do: event) == []
  end

  test "ends with its partition's process, whose successor starts another one" do
    name = start_runner!(fn _batch -> self() end)

    for i <- 1..20 do
      {:ok, runner} = Queue.push_await(name, i)
      kill(Process.whereis(Names.partition(name, 0)))
      assert {:ok, _runner} = Queue.push_await(name, i)
      await_down(runner)
      await_successor(Names.partition(name, 0), nil)
    end

    assert %{processed: 40} = assert_nothing_held(name)
  end

  test "that hangs in a later cycle is killed in time" do
    processor = fn
      [:hang] -> receive(do: (:nothing -> :ok))
      _batch -> self()
    end

    name = start_runner!(processor, processing_timeout_ms: 100)
    {:ok, runner} = Queue.push_await(name, 1)
    for i <- 1..30, do: {:ok, ^runner} = Queue.push_await(name, i)
    assert Queue.push_await(name, :hang) == {:error, :processing_timeout}
    assert {_, %{reason: :timeout}} = next_event([:processing_failed])
    assert {:ok, _other} = Queue.push_await(name, 2)
  end

  describe "the processor's time" do
    # A processor or a handler of `stop` that does this at that very moment.
    defp when_stopped(name, fun) do
      id = {__MODULE__, name}
      event = [:partitioned_buffer, :partition, :processing, :stop]
      :ok = :telemetry.attach(id, event, &__MODULE__.stopped/4, {name, fun})
      on_exit(fn -> :telemetry.detach(id) end)
    end

    # As the partition's process does it when no time is left.
    defp time_out(name), do: Native.partition_time_out(Handle.fetch!(name).ref, 0, 0)

    defp settled(name) do
      wait_until(fn -> match?(%{queued: 0, in_flight: 0}, PartitionedBuffer.info(name)) end)
      PartitionedBuffer.info(name)
    end

    defp told(wanted), do: for({event, _, _} <- events(), event in wanted, do: event)

    for size <- [10, :table] do
      test "is over before its return is told, with batches of #{size}" do
        name = start_runner!(fn _batch -> :fine end, processing_batch_size: unquote(size))
        test = self()
        when_stopped(name, fn -> send(test, {:left, time_out(name)}) end)
        assert {:ok, _result} = Queue.push_await(name, [1, 2, 3])
        assert_receive {:left, left}
        assert left > 0
        assert %{processed: 3} = assert_nothing_held(name)
        assert told([[:processing, :stop], [:discarded]]) == [[:processing, :stop]]
      end

      test "is up before its return is told, or not at all, with batches of #{size}" do
        test = self()

        for {how, i} <-
              Enum.with_index([fn -> :fine end, fn -> raise "late" end, fn -> {:error, :late} end]) do
          name = :"#{unique_name()}_#{i}"

          processor = fn _batch ->
            send(test, {:left, time_out(name)})
            how.()
          end

          listen(name, Telemetry.events())
          opts = [name: name, processor: processor, processing_batch_size: unquote(size)]
          start_supervised!({Queue, queue_options(opts)}, id: name)
          assert {:error, :processing_timeout} = Queue.push_await(name, [1, 2, 3])
          assert_receive {:left, 0}
          assert {%{size: 3}, %{reason: :timeout}} = next_event([:discarded])
          assert told([[:processing, :stop], [:processing, :exception]]) == []
          assert %{processed: 0, discarded: %{timeout: 3}} = assert_nothing_held(name)
        end
      end

      test "is over: who is killed then has processed its batch of #{size}" do
        name = start_runner!(fn _batch -> :fine end, processing_batch_size: unquote(size))
        when_stopped(name, fn -> Process.exit(self(), :kill) end)
        assert Queue.push_await(name, [1, 2, 3]) == {:ok, [nil]}
        :telemetry.detach({__MODULE__, name})
        assert {_, %{reason: :killed}} = next_event([:processing_failed])
        assert {:ok, _} = Queue.push_await(name, [4])
        assert %{processed: 4, retries: 0} = assert_nothing_held(name)
        assert told([[:discarded]]) == []
      end
    end

    test "is over: who has failed and is killed then has failed" do
      name = start_runner!(fn _batch -> {:error, :bad} end)
      when_stopped(name, fn -> Process.exit(self(), :kill) end)
      assert Queue.push_await(name, [1, 2, 3]) == {:error, :failed}
      assert {%{size: 3}, %{reason: :failed}} = next_event([:discarded])
      assert %{processed: 0, discarded: %{failed: 3}} = settled(name)
    end

    for size <- [1, :table] do
      test "is up while it returns, with batches of #{size}: what is told is what has become of each" do
        # Each takes about as long as it may, on the scheduler: some are ended on their way to be told of.
        name =
          start_runner!(fn _batch -> spin(2_900 + :rand.uniform(1_200)) end,
            processing_timeout_ms: 3,
            processing_batch_size: unquote(size)
          )

        for i <- 1..300 do
          :ok = Queue.push(name, i)
          :ok = PartitionedBuffer.flush(name)
          if unquote(size) == :table, do: pause(1)
        end

        counts = count(300, %{processed: 0, timeout: 0})
        assert %{accepted: 300, processed: processed, discarded: discarded} = settled(name)
        assert counts == %{processed: processed, timeout: discarded.timeout}
        assert told([[:processing, :stop], [:discarded]]) == []
      end
    end

    defp spin(us), do: spin_until(System.monotonic_time(:microsecond) + us)

    defp spin_until(moment) do
      if System.monotonic_time(:microsecond) < moment, do: spin_until(moment), else: :ok
    end

    # What was told of so many entries.
    defp count(0, counts), do: counts

    defp count(entries, counts) do
      receive do
        {:event, [:processing, :stop], %{size: size}, _} ->
          count(entries - size, %{counts | processed: counts.processed + size})

        {:event, [:discarded], %{size: size}, %{reason: :timeout}} ->
          count(entries - size, %{counts | timeout: counts.timeout + size})
      after
        5_000 -> flunk("nothing was told of #{entries} entries")
      end
    end
  end

  @doc false
  def stopped(_event, _measurements, %{buffer: name}, {name, fun}), do: fun.()
  def stopped(_event, _measurements, _metadata, _other), do: :ok

  test "goes by the options of now" do
    name = start_runner!(fn _batch, info -> info.size end, processing_batch_size: 10)
    assert {:ok, 1} = Queue.push_await(name, 1)
    :ok = Queue.update_options(name, max_retries: 3, processing_batch_size: 2)
    assert {:ok, [2]} = Queue.push_await(name, [1, 2, 3, 4])
  end

  test "takes nothing else with what is left when it was just time" do
    processor = GatedProcessor.new()
    name = start_runner!(processor, partitions: 1, processing_batch_size: 2)
    Queue.push(name, [1, 2, 3])
    PartitionedBuffer.flush(name)
    {runner, [1, 2]} = GatedProcessor.next_batch()
    Queue.push(name, 4)
    # The next tick is noted.
    PartitionedBuffer.update_options(name, processing_interval_ms: 1)
    wait_until(fn -> Native.partition_noted(Handle.fetch!(name).ref, 0) == :interval end)
    GatedProcessor.open(runner)
    {^runner, [3]} = GatedProcessor.next_batch()
    GatedProcessor.open(runner)
    {^runner, [4]} = GatedProcessor.next_batch()
    GatedProcessor.open(runner)
    assert :ok = PartitionedBuffer.await_empty(name)
    assert_nothing_held(name)
  end

  test "takes what is next with what is left for less than a batch, when writers wait for room" do
    processor = GatedProcessor.new()
    opts = [partitions: 1, processing_batch_size: 2, capacity: 5]
    name = start_runner!(processor, opts)
    Queue.push(name, [1, 2, 3])
    PartitionedBuffer.flush(name)
    {runner, [1, 2]} = GatedProcessor.next_batch()
    Queue.push(name, [4, 5])
    writer = Task.async(fn -> Queue.push(name, 6, timeout: :infinity) end)
    wait_until(fn -> PartitionedBuffer.info(name).blocked == 1 end)
    GatedProcessor.open(runner)
    {^runner, [3, 4]} = GatedProcessor.next_batch()
    assert Task.await(writer) == :ok
    PartitionedBuffer.flush(name)
    GatedProcessor.open(runner)
    # Nobody waits any more: a cycle by itself.
    {^runner, [5]} = GatedProcessor.next_batch()
    GatedProcessor.open(runner)
    {^runner, [6]} = GatedProcessor.next_batch()
    GatedProcessor.open(runner)
    assert :ok = PartitionedBuffer.await_empty(name)
    assert %{processed: 6} = assert_nothing_held(name)
    flushes = for {[:flush], %{size: size}, %{trigger: trigger}} <- events(), do: {trigger, size}
    assert flushes == [flush: 3, capacity: 2, flush: 1]
  end

  test "many writers that start cycles at once lose nothing" do
    name = start_runner!(&length/1, partitions: 2, processing_batch_size: 3)

    tasks =
      for i <- 1..20 do
        Task.async(fn -> for j <- 1..200, do: {:ok, _} = Queue.push_await(name, {i, j}) end)
      end

    Task.await_many(tasks, 60_000)
    assert %{processed: 4_000, accepted: 4_000} = assert_nothing_held(name)
  end
end
