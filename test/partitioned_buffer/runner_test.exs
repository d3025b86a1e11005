defmodule PartitionedBuffer.RunnerTest do
  # The process that runs a partition's processor, from cycle to cycle.
  use PartitionedBuffer.BoundsCase, async: true

  alias PartitionedBuffer.Telemetry

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

  test "goes by the options of now" do
    name = start_runner!(fn _batch, info -> info.size end, processing_batch_size: 10)
    assert {:ok, 1} = Queue.push_await(name, 1)
    :ok = Queue.update_options(name, max_retries: 3, processing_batch_size: 2)
    assert {:ok, [2]} = Queue.push_await(name, [1, 2, 3, 4])
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
