defmodule PartitionedBuffer.GenBuffer.BoundsTest do
  # Order, bounds, time, and the end.
  use ExUnit.Case, async: true
  use PartitionedBuffer.GenBufferCase

  @moduletag :capture_log

  # The order in which waiting messages are handled.
  defp handled(buffer) do
    {:ok, _} = GenBuffer.set_workers(buffer, 1)
    collect(buffer)
  end

  defp collect(buffer) do
    receive do
      {:reply, _ref, ^buffer, {:handled, message}} -> [message | collect(buffer)]
    after
      if(GenBuffer.size(buffer) > 0 or GenBuffer.info(buffer).in_flight > 0, do: 5_000, else: 0) ->
        []
    end
  end

  defp finished(buffer, count) do
    await(fn -> GenBuffer.info(buffer).processed == count end)
    collect(buffer)
  end

  defp relay(_buffer, n, last, test) when n > last, do: send(test, :all_sent)

  defp relay(buffer, n, last, test) do
    receive do
      :go -> GenBuffer.send(buffer, n, test)
    end

    next = spawn_link(fn -> relay(buffer, n + 1, last, test) end)
    send(next, :go)
  end

  describe "buffer_type" do
    test "fifo, lifo and ring" do
      for {opts, expected} <- [
            {[buffer_type: :fifo], Enum.to_list(1..10)},
            {[buffer_type: :lifo], Enum.to_list(10..1//-1)},
            {[buffer_type: :ring, buffer_size: 5], Enum.to_list(6..10)}
          ] do
        buffer = start_buffer([workers: 0] ++ opts)
        for n <- 1..10, do: GenBuffer.send(buffer, n)
        assert GenBuffer.size(buffer) == length(expected)
        {:ok, _} = GenBuffer.set_workers(buffer, 1)
        assert finished(buffer, length(expected)) == expected
        assert GenBuffer.size(buffer) == 0
      end
    end

    test "what is sent later is handled later, wherever its sender runs" do
      buffer = start_buffer(workers: 0)
      test = self()

      # Each sends its number when the one before has sent, so they come one after the other, from all schedulers.
      first = spawn_link(fn -> relay(buffer, 1, 1_000, test) end)
      send(first, :go)
      assert_receive :all_sent, 10_000
      {:ok, _} = GenBuffer.set_workers(buffer, 1)
      assert finished(buffer, 1_000) == Enum.to_list(1..1_000)
    end

    test "the senders of what a ring has overwritten are told" do
      buffer = start_buffer(workers: 0, buffer_type: :ring, buffer_size: 2)
      refs = for n <- 1..3, do: GenBuffer.send(buffer, n)
      assert GenBuffer.recv(buffer, hd(refs)) == {:error, :full}
      assert %{discarded: %{full: 1}, size: 2} = figures(buffer)
    end

    test "a ring holds 100 for each partition" do
      buffer = start_buffer(workers: 0, buffer_type: :ring, n_partitions: 2, send_replies: false)
      for n <- 1..500, do: GenBuffer.send(buffer, n)
      assert GenBuffer.size(buffer) == 200
    end

    test "partitions share the load" do
      buffer = start_buffer(workers: 0, n_partitions: 4)
      for n <- 1..100, do: GenBuffer.send(buffer, n)
      assert GenBuffer.size(buffer) == 100
      {:ok, _} = GenBuffer.set_workers(buffer, 1)
      assert Enum.sort(finished(buffer, 100)) == Enum.to_list(1..100)
    end
  end

  describe "max" do
    test "error" do
      buffer = start_buffer(workers: 0, max: 2)
      for n <- 1..2, do: assert(is_reference(GenBuffer.send(buffer, n)))
      assert GenBuffer.send(buffer, 3) == {:error, :full}
      assert GenBuffer.send(buffer, 3, self()) == {:error, :full}
      assert GenBuffer.send_recv(buffer, 3) == {:error, :full}
      assert %{size: 2, refused: 3} = figures(buffer)
      assert handled(buffer) == [1, 2]
    end

    test "drop_oldest and drop_newest" do
      for {overflow, lost, kept} <- [{:drop_oldest, 0, [2, 3]}, {:drop_newest, 2, [1, 2]}] do
        buffer = start_buffer(workers: 0, max: 2, overflow: overflow)
        refs = for n <- 1..3, do: GenBuffer.send(buffer, n)
        assert GenBuffer.recv(buffer, Enum.at(refs, lost)) == {:error, :full}
        {:ok, _} = GenBuffer.set_workers(buffer, 1)
        assert finished(buffer, 2) == kept
      end
    end

    test "block: senders wait until there is room" do
      buffer = start_buffer(workers: 0, max: 1, overflow: :block)
      GenBuffer.send(buffer, 0)
      test = self()

      senders =
        for n <- 1..20 do
          Task.async(fn -> GenBuffer.send(buffer, n, test) end)
        end

      assert GenBuffer.send_recv(buffer, :in_vain, 10) == {:error, :timeout}
      assert GenBuffer.size(buffer) == 1
      {:ok, _} = GenBuffer.set_workers(buffer, 1)
      for ref <- Task.await_many(senders), do: assert(is_reference(ref))
      assert Enum.sort(finished(buffer, 21)) == Enum.to_list(0..20)
    end

    test "block: one that waits is told when the buffer stops" do
      buffer = start_buffer(workers: 0, max: 1, overflow: :block)
      GenBuffer.send(buffer, 0)
      sender = Task.async(fn -> catch_error(GenBuffer.send(buffer, 1)) end)
      await(fn -> figures(buffer).refused > 0 end)
      GenBuffer.stop(buffer)
      assert %ArgumentError{} = Task.await(sender)
    end
  end

  test "queue_timeout_ms" do
    buffer = start_buffer(workers: 0, queue_timeout_ms: 10)
    ref = GenBuffer.send(buffer, 1)
    assert GenBuffer.recv(buffer, ref, 5_000) == {:error, :queue_timeout}
    assert GenBuffer.send_recv(buffer, 2) == {:error, :queue_timeout}
    assert %{discarded: %{queue_timeout: 2}, size: 0} = figures(buffer)
  end

  test "the message of a caller that has died is not handled" do
    buffer = start_buffer(workers: 0)
    test = self()
    message = {:call, fn -> send(test, :handled) end}
    {caller, dead} = spawn_monitor(fn -> GenBuffer.send_recv(buffer, message) end)
    await(fn -> GenBuffer.size(buffer) == 1 end)
    Process.exit(caller, :kill)
    assert_receive {:DOWN, ^dead, :process, ^caller, :killed}
    # The message of one that only sends is.
    {sender, monitor} = spawn_monitor(fn -> GenBuffer.send(buffer, message) end)
    assert_receive {:DOWN, ^monitor, :process, ^sender, :normal}
    {:ok, _} = GenBuffer.set_workers(buffer, 1)
    assert_receive :handled
    await(fn -> figures(buffer).processed == 1 end)
    assert %{discarded: %{caller_down: 1}} = figures(buffer)
    refute_received :handled
  end

  describe "stop" do
    test "of what is not there" do
      assert GenBuffer.stop(:not_there) == :ok
      assert GenBuffer.stop(:not_there, 5) == :ok
    end

    test "drains within the time" do
      buffer = start_buffer(workers: 0, drain_timeout_ms: 60_000)
      refs = for n <- 1..100, do: GenBuffer.send(buffer, n)
      {:ok, _} = GenBuffer.set_workers(buffer, 2)
      assert GenBuffer.stop(buffer) == :ok

      for {ref, n} <- Enum.with_index(refs, 1),
          do: assert(GenBuffer.recv(buffer, ref, 0) == {:ok, {:handled, n}})

      assert_raise ArgumentError, fn -> GenBuffer.send(buffer, 1) end
      assert GenBuffer.size(buffer) == :undefined
    end

    test "drains although handlers crash" do
      buffer = start_buffer(workers: 0, drain_timeout_ms: 60_000)
      for _ <- 1..50, do: GenBuffer.send(buffer, {:call, fn -> exit(:crash) end})
      ref = GenBuffer.send(buffer, :last)
      {:ok, _} = GenBuffer.set_workers(buffer, 1)
      assert GenBuffer.stop(buffer) == :ok
      assert GenBuffer.recv(buffer, ref, 0) == {:ok, {:handled, :last}}
    end

    test "reports what is left" do
      buffer = start_buffer(workers: 0)
      refs = for n <- 1..600, do: GenBuffer.send(buffer, n)
      assert GenBuffer.stop(buffer) == :ok
      for ref <- refs, do: assert(GenBuffer.recv(buffer, ref, 0) == {:error, :shutdown})
    end

    test "hands back what is left" do
      buffer = start_buffer()
      gate = close_gate(buffer)
      refs = for n <- 1..600, do: GenBuffer.send(buffer, n)
      stop = Task.async(fn -> GenBuffer.stop(buffer, 20) end)
      for ref <- refs, do: assert(GenBuffer.recv(buffer, ref, 5_000) == {:error, :shutdown})
      open(gate)
      assert Task.await(stop) == {:left, Enum.to_list(1..600)}
      {_pid, name} = gate
      assert_received {:reply, _ref, ^buffer, ^name}
    end

    test "refuses a time that is none" do
      assert_raise ArgumentError, fn -> GenBuffer.stop(start_buffer(), -1) end
    end

    test "a handler that does not end is ended, and that is told" do
      buffer = start_buffer()
      call = Task.async(fn -> GenBuffer.send_recv(buffer, {:gate, self(), :never}) end)
      await(fn -> figures(buffer).in_flight == 1 end)
      {:ok, [pid]} = GenBuffer.get_workers(buffer)
      stop = Task.async(fn -> GenBuffer.stop(buffer) end)
      await(fn -> GenBuffer.get_workers(buffer) == {:error, :no_available_buffer} end)
      Process.exit(pid, :kill)
      assert {:error, {:worker_down, _}} = Task.await(call)
      assert Task.await(stop) == :ok
    end
  end
end
