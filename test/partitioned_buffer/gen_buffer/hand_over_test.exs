defmodule PartitionedBuffer.GenBuffer.HandOverTest do
  # A message of `send_recv` goes straight to a worker that is idle. Until that one starts it, it is nobody's: what
  # happens to the worker meanwhile does not happen to the message.
  use ExUnit.Case, async: true
  use PartitionedBuffer.GenBufferCase

  # One that is idle and stopped in its tracks: what it is sent stays in its mailbox.
  defp suspend(buffer) do
    await(fn -> figures(buffer).idle == 1 end)
    {:ok, worker} = GenBuffer.get_worker(buffer)
    true = :erlang.suspend_process(worker)
    worker
  end

  defp call(buffer, message, timeout \\ :infinity),
    do: Task.async(fn -> GenBuffer.send_recv(buffer, message, timeout) end)

  defp await_handed(buffer),
    do: await(fn -> match?(%{in_flight: 1, size: 0}, figures(buffer)) end)

  test "a worker that is killed before it starts a message leaves it to another one" do
    buffer = start_buffer()
    worker = suspend(buffer)
    task = call(buffer, :self)
    await_handed(buffer)
    true = Process.exit(worker, :kill)
    assert {:ok, other} = Task.await(task)
    assert other != worker
    assert %{accepted: 1, processed: 1, failed: 0, in_flight: 0} = figures(buffer)
  end

  test "a worker that is killed after it has started one takes it along" do
    buffer = start_buffer()
    {worker, _name} = first = close_gate(buffer)
    gate = make_ref()
    open(first)
    await(fn -> figures(buffer).idle == 1 end)
    task = call(buffer, {:gate, self(), gate})
    assert_receive {:at_gate, ^gate, ^worker}
    true = Process.exit(worker, :kill)
    assert Task.await(task) == {:error, {:worker_down, :killed}}
    assert %{failed: 1, in_flight: 0} = figures(buffer)
  end

  test "a worker that is dismissed before it starts a message leaves it to another one" do
    buffer = start_buffer()
    worker = suspend(buffer)
    task = call(buffer, :self)
    await_handed(buffer)
    assert {:ok, []} = GenBuffer.set_workers(buffer, 0)
    await(fn -> match?(%{in_flight: 0, size: 1}, figures(buffer)) end)
    assert {:ok, other} = GenBuffer.incr_worker(buffer)
    assert Task.await(task) == {:ok, other}
    monitor = Process.monitor(worker)
    true = :erlang.resume_process(worker)
    assert_receive {:DOWN, ^monitor, :process, ^worker, :normal}
    assert %{processed: 1} = figures(buffer)
  end

  test "a worker that has something else to do first leaves it to another one" do
    test = self()
    buffer = start_buffer()
    worker = suspend(buffer)

    send(
      worker,
      {:call,
       fn state ->
         send(test, {:at_info, self()})
         receive(do: (:go_on -> state))
       end}
    )

    task = call(buffer, :self)
    await_handed(buffer)
    true = :erlang.resume_process(worker)
    assert_receive {:at_info, ^worker}
    # It waits for whoever is free first.
    assert %{in_flight: 0, size: 1} = figures(buffer)
    assert {:ok, other} = GenBuffer.incr_worker(buffer)
    assert Task.await(task) == {:ok, other}
    send(worker, :go_on)
    await(fn -> match?(%{processed: 1, idle: 2}, figures(buffer)) end)
  end

  test "who gives up takes back what was not started" do
    buffer = start_buffer()
    worker = suspend(buffer)
    assert GenBuffer.send_recv(buffer, :self, 1) == {:error, :timeout}
    assert %{cancelled: 1, in_flight: 0} = figures(buffer)
    true = :erlang.resume_process(worker)
    assert GenBuffer.send_recv(buffer, :self) == {:ok, worker}
    assert %{processed: 1, cancelled: 1} = figures(buffer)
  end

  test "who calls while the buffer is stopped is answered, told, or refused" do
    buffer = start_buffer(workers: 4)
    callers = for _ <- 1..20, do: Task.async(fn -> call_on(buffer, 0) end)
    await(fn -> figures(buffer).processed > 1_000 end)
    assert GenBuffer.stop(buffer) == :ok
    assert Enum.all?(Task.await_many(callers), &(&1 in [:refused, :shutdown]))
  end

  defp call_on(buffer, n) do
    case GenBuffer.send_recv(buffer, n) do
      {:ok, {:handled, ^n}} -> call_on(buffer, n + 1)
      {:error, :shutdown} -> :shutdown
    end
  rescue
    ArgumentError -> :refused
  end

  test "other messages wait behind it, and are not handed over past one that waits" do
    buffer = start_buffer(workers: 2)
    gates = for _ <- 1..2, do: close_gate(buffer)
    tasks = for n <- 1..3, do: call_in_order(buffer, n)
    Enum.each(gates, &open/1)
    assert Enum.map(tasks, &Task.await/1) == [{:ok, 1}, {:ok, 2}, {:ok, 3}]
    # What was at the gates is through when its workers have come back from there.
    await(fn -> match?(%{processed: 5, size: 0, in_flight: 0}, figures(buffer)) end)
  end

  defp call_in_order(buffer, n) do
    task = call(buffer, {:call, fn -> n end})
    await(fn -> figures(buffer).size == n end)
    task
  end

  test "a message of any size and kind is handed over or stored" do
    buffer = start_buffer()

    for message <- [[], make_ref(), String.duplicate("a", 10_000), Enum.to_list(1..50_000)] do
      assert GenBuffer.send_recv(buffer, message) == {:ok, {:handled, message}}
    end
  end
end
