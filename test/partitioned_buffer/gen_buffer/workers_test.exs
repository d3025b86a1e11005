defmodule PartitionedBuffer.GenBuffer.WorkersTest do
  # What workers do: their state, other messages, their end, and who takes their place.
  use ExUnit.Case, async: true
  use PartitionedBuffer.GenBufferCase

  @moduletag :capture_log

  defp worker(buffer) do
    {:ok, [pid]} = GenBuffer.get_workers(buffer)
    pid
  end

  defp monitor(pid), do: {Process.monitor(pid), pid}

  defp assert_down({monitor, pid}) do
    assert_receive {:DOWN, ^monitor, :process, ^pid, reason}, 5_000
    reason
  end

  test "a worker keeps its state" do
    buffer = start_buffer(init_args: 0)
    assert GenBuffer.send_recv(buffer, :state) == {:ok, 0}
    assert GenBuffer.send_recv(buffer, {:put, 1}) == {:ok, :ok}
    assert GenBuffer.send_recv(buffer, :state) == {:ok, 1}
    assert GenBuffer.eval(buffer, :state, :infinity) == 1
    assert :sys.get_state(worker(buffer)) == 1
    :sys.replace_state(worker(buffer), &(&1 + 1))
    assert GenBuffer.send_recv(buffer, :state) == {:ok, 2}
  end

  test "messages go to all workers" do
    buffer = start_buffer(workers: 4)
    gates = for _ <- 1..4, do: close_gate(buffer)
    assert gates |> Enum.uniq_by(&elem(&1, 0)) |> length() == 4
    assert GenBuffer.eval(buffer, 1, 0) == :no_available_workers
    Enum.each(gates, &open/1)
    await(fn -> figures(buffer).idle == 4 end)
  end

  describe "handle_info" do
    test "what it may return" do
      buffer = start_buffer(init_args: 0)
      pid = worker(buffer)

      for {message, expected} <- [
            {{:return, {:noreply, 1}}, 1},
            {{:return, {:noreply, 2, 60_000}}, 2},
            {{:return, {:noreply, 3, :hibernate}}, 3},
            {{:throw, {:noreply, 4}}, 4}
          ] do
        send(pid, message)
        assert GenBuffer.send_recv(buffer, :state) == {:ok, expected}
      end
    end

    test "a timeout comes when there is nothing to do" do
      buffer = start_buffer(init_args: 0)
      pid = worker(buffer)
      send(pid, {:return, {:noreply, %{test: self()}, 1}})
      assert_receive {:info, ^pid, :timeout}
      assert {:ok, %{}} = GenBuffer.send_recv(buffer, :state)
    end

    test "is not called with what a GenServer would be asked" do
      buffer = start_buffer(init_args: 0)
      pid = worker(buffer)
      assert GenServer.call(pid, {:return, :garbage}) == :ok
      assert GenServer.cast(pid, {:return, :garbage}) == :ok
      assert GenBuffer.send_recv(buffer, :state) == {:ok, 0}
      assert worker(buffer) == pid
    end

    test "what ends the worker" do
      for {message, reason} <- [
            {{:return, {:stop, :enough, %{}}}, :enough},
            {{:throw, {:stop, :enough, %{}}}, :enough},
            {{:return, :garbage}, {:bad_return_value, :garbage}},
            {{:return, {:noreply, 1, -5}}, {:bad_return_value, {:noreply, 1, -5}}},
            {{:call, fn _ -> exit(:out) end}, :out}
          ] do
        buffer = start_buffer(init_args: 0)
        down = monitor(worker(buffer))
        send(elem(down, 1), message)
        assert assert_down(down) == reason
        # Another one is there.
        assert GenBuffer.send_recv(buffer, :state) == {:ok, 0}
      end

      buffer = start_buffer(init_args: 0)
      down = monitor(worker(buffer))
      send(elem(down, 1), {:call, fn _ -> raise "oh" end})
      assert {%RuntimeError{}, [_ | _]} = assert_down(down)
    end

    test "while it runs the worker is not available, and nobody waits for it" do
      buffer = start_buffer(workers: 2, buffer_type: :fifo)
      await(fn -> figures(buffer).idle == 2 end)
      {:ok, pids} = GenBuffer.get_workers(buffer)
      test = self()

      block = fn state ->
        send(test, {:blocked, self()})
        receive(do: (:unblock -> state))
      end

      for pid <- pids do
        send(pid, {:call, block})
        assert_receive {:blocked, ^pid}
      end

      assert GenBuffer.eval(buffer, 1, 3) == :no_available_workers
      ref = GenBuffer.send(buffer, :message)
      send(hd(pids), :unblock)
      assert GenBuffer.recv(buffer, ref) == {:ok, {:handled, :message}}
      send(List.last(pids), :unblock)
    end

    test "without the callback, other messages are dropped and linked deaths are not survived" do
      buffer = start_buffer(message_handler: Bare, init_args: 0)
      pid = worker(buffer)
      send(pid, :stray)
      send(pid, {:EXIT, self(), :normal})
      assert GenBuffer.send_recv(buffer, 1) == {:ok, {1, 0}}
      assert worker(buffer) == pid
      down = monitor(pid)
      send(pid, {:EXIT, self(), :crashed})
      assert assert_down(down) == :crashed
    end
  end

  describe "terminate" do
    test "is told the reason" do
      buffer = start_buffer(init_args: %{test: self()})
      pid = worker(buffer)
      GenBuffer.decr_worker(buffer)
      assert_receive {:terminated, ^pid, :normal}
      GenBuffer.incr_worker(buffer)
      pid = worker(buffer)
      assert GenBuffer.send_recv(buffer, {:call, fn -> exit(:crash) end}) == {:error, :crash}
      assert_receive {:terminated, ^pid, :crash}
      await(fn -> match?({:ok, [other]} when other != pid, GenBuffer.get_workers(buffer)) end)
      pid = worker(buffer)
      GenBuffer.stop(buffer)
      assert_receive {:terminated, ^pid, :shutdown}
    end

    test "what it throws is ignored" do
      buffer = start_buffer(init_args: %{test: self(), throws: true})
      down = monitor(worker(buffer))
      GenBuffer.set_workers(buffer, 0)
      assert assert_down(down) == :normal
    end
  end

  describe "those that end" do
    test "are replaced, with the options they had" do
      buffer = start_buffer(workers: 3, init_args: :same)
      {:ok, pids} = GenBuffer.get_workers(buffer)
      for pid <- pids, do: Process.exit(pid, :kill)

      await(fn ->
        case GenBuffer.get_workers(buffer) do
          {:ok, [_, _, _] = others} -> others -- pids == others
          _fewer -> false
        end
      end)

      assert GenBuffer.send_recv(buffer, :state) == {:ok, :same}
    end

    test "may do so as often as they like" do
      buffer = start_buffer(workers: 2)

      for n <- 1..2_000 do
        assert GenBuffer.send_recv(buffer, {:call, fn -> exit(n) end}) == {:error, n}
      end

      assert GenBuffer.send_recv(buffer, 1) == {:ok, {:handled, 1}}
      assert %{failed: 2_000} = figures(buffer)
    end

    test "are tried again when they can't be started" do
      gate = :atomics.new(1, [])
      test = self()

      init = fn ->
        if :atomics.get(gate, 1) == 0 do
          {:ok, :fine}
        else
          send(test, :tried)
          {:stop, :not_now}
        end
      end

      buffer = start_buffer(init_args: {:call, init})
      :atomics.put(gate, 1, 1)
      Process.exit(worker(buffer), :kill)
      assert_receive :tried, 5_000
      assert_receive :tried, 5_000
      ref = GenBuffer.send(buffer, :state)
      :atomics.put(gate, 1, 0)
      assert GenBuffer.recv(buffer, ref, 5_000) == {:ok, :fine}
    end
  end

  describe "the backlog" do
    test "is taken by workers that are added, without a poll" do
      buffer = start_buffer(workers: 0)
      refs = for n <- 1..5, do: GenBuffer.send(buffer, n)
      assert {:ok, _pid} = GenBuffer.incr_worker(buffer)

      for {ref, n} <- Enum.with_index(refs, 1),
          do: assert(GenBuffer.recv(buffer, ref) == {:ok, {:handled, n}})

      assert GenBuffer.size(buffer) == 0
    end

    test "survives the death of every process" do
      buffer = start_buffer(workers: 0)
      refs = for n <- 1..3, do: GenBuffer.send(buffer, n)
      supervisor = PartitionedBuffer.Names.supervisor(buffer)

      for {_id, pid, _type, _modules} <- Supervisor.which_children(supervisor) do
        down = monitor(pid)
        Process.exit(pid, :kill)
        assert_down(down)
      end

      await(fn -> match?({:ok, [_]}, GenBuffer.set_workers(buffer, 1)) end)

      for {ref, n} <- Enum.with_index(refs, 1),
          do: assert(GenBuffer.recv(buffer, ref) == {:ok, {:handled, n}})
    end

    test "is taken on by a buffer that is started again" do
      Process.flag(:trap_exit, true)
      name = PartitionedBuffer.BufferCase.unique_name()
      opts = [message_handler: Handler, workers: 0, send_replies: true]
      {:ok, pid} = GenBuffer.start_link(name, opts)
      ref = GenBuffer.send(name, :kept)
      down = monitor(pid)
      Process.exit(pid, :kill)
      assert assert_down(down) == :killed
      # Nobody is there, and messages are taken all the same.
      later = GenBuffer.send(name, :later)
      {:ok, _pid} = GenBuffer.start_link(name, Keyword.put(opts, :workers, 1))
      assert GenBuffer.recv(name, ref) == {:ok, {:handled, :kept}}
      assert GenBuffer.recv(name, later) == {:ok, {:handled, :later}}
      assert GenBuffer.stop(name) == :ok
    end
  end

  test "the manager that is killed finds its workers again" do
    buffer = start_buffer(workers: 3)
    GenBuffer.set_workers(buffer, 2)
    {:ok, pids} = GenBuffer.get_workers(buffer)
    manager = Process.whereis(Module.concat(buffer, Manager))
    down = monitor(manager)
    Process.exit(manager, :kill)
    assert_down(down)
    assert {:ok, again} = GenBuffer.get_workers(buffer)
    assert Enum.sort(again) == Enum.sort(pids)
  end

  # It can't tell a stranger from its supervisor, and has closed the buffer. So all of it begins anew.
  for reason <- [:normal, :shutdown] do
    test "a manager that is told to end by a stranger (#{reason}) ends the buffer, and it is started again" do
      buffer = PartitionedBuffer.BufferCase.unique_name()
      opts = [buffer: buffer, message_handler: Handler, workers: 2, send_replies: true]
      start_supervised!({GenBuffer, opts}, restart: :permanent)
      assert GenBuffer.send_recv(buffer, :one) == {:ok, {:handled, :one}}
      former = monitor(Process.whereis(PartitionedBuffer.Names.supervisor(buffer)))
      :ok = GenServer.stop(Module.concat(buffer, Manager), unquote(reason))
      assert_down(former)

      await(fn ->
        try do
          GenBuffer.send_recv(buffer, :other) == {:ok, {:handled, :other}}
        rescue
          ArgumentError -> false
        end
      end)

      assert {:ok, [_, _]} = GenBuffer.get_workers(buffer)
    end
  end
end
