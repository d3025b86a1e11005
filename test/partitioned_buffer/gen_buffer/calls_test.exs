defmodule PartitionedBuffer.GenBuffer.CallsTest do
  # Every call with every shape that it returns.
  use ExUnit.Case, async: true
  use PartitionedBuffer.GenBufferCase

  import PartitionedBuffer.BufferCase, only: [unique_name: 0]

  describe "start_link/2" do
    test "options as a keyword list, a map, and of child_spec" do
      for opts <- [[message_handler: Bare], %{message_handler: Bare}] do
        buffer = unique_name()
        assert {:ok, pid} = GenBuffer.start_link(buffer, opts)
        assert GenBuffer.start_link(buffer, opts) == {:error, {:already_started, pid}}
        assert GenBuffer.stop(buffer) == :ok
      end
    end

    test "exits for handlers that are none" do
      assert {{:missing_option, :message_handler}, _} = catch_exit(GenBuffer.start_link(:b, []))

      assert {{:invalid_message_handler, NoSuchModule}, _} =
               catch_exit(GenBuffer.start_link(:b, message_handler: NoSuchModule))

      assert {{:invalid_message_handler, 1}, _} =
               catch_exit(GenBuffer.start_link(:b, message_handler: 1))

      assert {{:missing_callback, :handle_message}, _} =
               catch_exit(GenBuffer.start_link(:b, message_handler: Enum))
    end

    test "raises for other wrong options" do
      for wrong <- [
            [workers: -1],
            [workers: :many],
            [send_replies: 1],
            [buffer_type: :heap],
            [buffer_size: 0],
            [n_partitions: 0],
            [max: 0],
            [overflow: :maybe],
            [queue_timeout_ms: -1],
            [drain_timeout_ms: :soon]
          ] do
        assert_raise NimbleOptions.ValidationError, fn ->
          GenBuffer.start_link(unique_name(), [message_handler: Bare] ++ wrong)
        end
      end

      assert_raise ArgumentError, fn -> GenBuffer.start_link(nil, message_handler: Bare) end
      assert_raise ArgumentError, fn -> GenBuffer.start_link(:b, :options) end
    end

    test "what init returns" do
      Process.flag(:trap_exit, true)
      start = &GenBuffer.start_link(&1, message_handler: Handler, workers: 2, init_args: &2)

      for {return, expected} <- [
            {{:ok, 1}, {:ok, 1}},
            {{:ok, 1, 60_000}, {:ok, 1}},
            {{:ok, 1, :hibernate}, {:ok, 1}}
          ] do
        buffer = unique_name()
        assert {:ok, _pid} = start.(buffer, {:return, return})
        assert GenBuffer.send_recv(buffer, :state) == expected
        assert GenBuffer.stop(buffer) == :ok
      end

      assert start.(unique_name(), {:return, {:stop, :no}}) == {:error, :no}
      assert {:error, {:bad_return_value, :what}} = start.(unique_name(), {:return, :what})
      assert {:error, {:bad_return_value, _}} = start.(unique_name(), {:return, {:ok, 1, -1}})

      assert {:error, {%RuntimeError{}, [_ | _]}} =
               start.(unique_name(), {:call, fn -> raise "no" end})

      ignored = unique_name()
      assert {:ok, _pid} = start.(ignored, {:return, :ignore})
      assert GenBuffer.get_workers(ignored) == {:error, :no_available_workers}
      GenBuffer.send(ignored, :message)
      assert GenBuffer.size(ignored) == 1
      assert GenBuffer.stop(ignored, 0) == {:left, [:message]}
    end

    test "one that could not be started leaves nothing behind" do
      Process.flag(:trap_exit, true)
      buffer = unique_name()
      opts = [message_handler: Handler, init_args: {:return, {:stop, :no}}]
      assert {:error, :no} = GenBuffer.start_link(buffer, opts)
      assert GenBuffer.size(buffer) == :undefined
      assert_raise ArgumentError, fn -> GenBuffer.send(buffer, :message) end
    end

    test "a timeout of init reaches handle_info when nothing comes" do
      test = self()
      state = {:return, {:ok, %{test: test}, 1}}
      _buffer = start_buffer(init_args: state)
      assert_receive {:info, _worker, :timeout}
    end

    test "a module without init" do
      buffer = start_buffer(message_handler: Bare, init_args: :args)
      assert GenBuffer.send_recv(buffer, 1) == {:ok, {1, :args}}
    end
  end

  defmodule WithOptions do
    use PartitionedBuffer.GenBuffer, workers: 3, init_args: :of_use

    @impl true
    def handle_message(_buffer, :state, state), do: {:ok, state, state}
  end

  describe "child_spec/1" do
    test "takes the options of use, unless it is given others" do
      buffer = unique_name()
      start_supervised!({WithOptions, %{buffer: buffer, workers: 1}})
      assert %{workers: 1} = GenBuffer.info(buffer)
      assert GenBuffer.send_recv(buffer, :state) == {:ok, :of_use}

      start_supervised!(WithOptions)
      assert %{workers: 3} = GenBuffer.info(WithOptions)
    end

    test "names the buffer" do
      spec = GenBuffer.child_spec(buffer: :b, message_handler: Bare)
      assert %{id: :b, type: :supervisor, start: {GenBuffer, :start_link, [_]}} = spec
      assert GenBuffer.child_spec(%{buffer: :b}).id == :b
      assert_raise KeyError, fn -> GenBuffer.child_spec(message_handler: Bare) end
    end

    test "that of a module that uses it" do
      assert Handler.child_spec([]).id == Handler
      assert Handler.child_spec(buffer: :mine).id == :mine
      pid = start_supervised!({Handler, workers: 1})
      assert is_pid(pid)
      assert GenBuffer.send_recv(Handler, :buffer) == {:ok, Handler}
    end
  end

  describe "send and recv" do
    test "an answer" do
      buffer = start_buffer()
      ref = GenBuffer.send(buffer, :hello)
      assert is_reference(ref)
      assert GenBuffer.recv(buffer, ref) == {:ok, {:handled, :hello}}
      assert GenBuffer.recv(buffer, ref, 0) == {:error, :timeout}
    end

    test "answers have the shape of messages" do
      buffer = start_buffer()
      ref = GenBuffer.send(buffer, :hello)
      assert_receive {:reply, ^ref, ^buffer, {:handled, :hello}}
      ref = GenBuffer.send(buffer, {:call, fn -> raise "oh" end})
      assert_receive {:error, ^ref, ^buffer, %RuntimeError{message: "oh"}}
    end

    test "to somebody else" do
      buffer = start_buffer()
      test = self()
      name = unique_name()
      Process.register(self(), name)
      other = spawn_link(fn -> receive(do: (message -> send(test, {:other, message}))) end)

      ref = GenBuffer.send(buffer, 1, other)
      assert_receive {:other, {:reply, ^ref, ^buffer, {:handled, 1}}}

      for to <- [self(), name, {name, node()}] do
        ref = GenBuffer.send(buffer, 2, to)
        assert_receive {:reply, ^ref, ^buffer, {:handled, 2}}
        ref = GenBuffer.send(buffer, {:call, fn -> exit(:failed) end}, to)
        assert_receive {:error, ^ref, ^buffer, :failed}
      end

      # Nobody has this name: the worker goes on.
      GenBuffer.send(buffer, 3, :nobody_has_this_name)
      assert GenBuffer.send_recv(buffer, 4) == {:ok, {:handled, 4}}
    end

    test "a reply_to that is none" do
      buffer = start_buffer()

      for wrong <- [nil, 1, "name", {self(), node()}, make_ref()] do
        assert_raise ArgumentError, fn -> GenBuffer.send(buffer, 1, wrong) end
      end

      assert %{accepted: 0} = figures(buffer)
    end

    test "no answers" do
      buffer = start_buffer(send_replies: false)
      ref = GenBuffer.send(buffer, :hello)
      assert GenBuffer.recv(buffer, ref, 10) == {:error, :timeout}
      _ref = GenBuffer.send(buffer, :hello, self())
      assert GenBuffer.send_recv(buffer, :again) == {:ok, {:handled, :again}}
      refute_received {:reply, _, _, _}
    end

    test "to a buffer that is not there" do
      for call <- [&GenBuffer.send/2, &GenBuffer.send_recv/2, &GenBuffer.eval/2] do
        assert_raise ArgumentError, ~r/unknown buffer: :not_there/, fn ->
          call.(:not_there, :message)
        end
      end

      assert_raise ArgumentError, fn -> GenBuffer.send(:not_there, 1, self()) end
      assert_raise ArgumentError, fn -> GenBuffer.send("not even a name", 1) end
    end

    test "a late answer that is not wanted" do
      buffer = start_buffer()
      gate = close_gate(buffer)
      ref = GenBuffer.send(buffer, :late)
      assert GenBuffer.recv(buffer, ref, 0) == {:error, :timeout}
      assert GenBuffer.discard(buffer, ref) == :ok
      open(gate)
      arrived = GenBuffer.send(buffer, :arrived)
      assert_receive {:reply, _ref, ^buffer, {:handled, :arrived}} = message
      send(self(), message)
      assert GenBuffer.discard(buffer, arrived) == :ok
      assert GenBuffer.send_recv(buffer, :last) == {:ok, {:handled, :last}}
      refute_received {:reply, ^ref, _, _}
      refute_received {:reply, ^arrived, _, _}
    end

    test "any term is a message" do
      buffer = start_buffer()

      for message <- [
            {self(), :b, :c},
            {:reply, make_ref(), buffer, 1},
            {:"$gen_buffer", :leave},
            nil,
            [],
            [1 | 2],
            %{self() => fn -> :ok end},
            :binary.copy("x", 1_000_000),
            Enum.to_list(1..100_000),
            1.5,
            Integer.pow(3, 1_000),
            <<1::3>>
          ] do
        assert GenBuffer.send_recv(buffer, message) == {:ok, {:handled, message}}
        assert GenBuffer.eval(buffer, message, :infinity) == {:handled, message}
      end
    end
  end

  describe "send_recv" do
    test "answers and errors" do
      buffer = start_buffer()
      assert GenBuffer.send_recv(buffer, 1) == {:ok, {:handled, 1}}
      assert GenBuffer.send_recv(buffer, 1, 5_000) == {:ok, {:handled, 1}}

      assert {:error, %RuntimeError{}} =
               GenBuffer.send_recv(buffer, {:call, fn -> raise "oh" end})

      assert GenBuffer.send_recv(buffer, {:call, fn -> throw(:ball) end}) == {:error, :ball}
      assert GenBuffer.send_recv(buffer, {:call, fn -> exit(:why) end}) == {:error, :why}

      assert GenBuffer.send_recv(buffer, {:call, fn -> :erlang.error(:handler_exception) end}) ==
               {:error, :handler_exception}

      assert GenBuffer.send_recv(buffer, {:return, :garbage}) ==
               {:error, {:bad_return_value, :garbage}}

      assert %{failed: 5, processed: 2} = figures(buffer)
    end

    test "what still waits when the time is up is never handled" do
      buffer = start_buffer()
      gate = close_gate(buffer)
      test = self()
      message = {:call, fn -> send(test, :handled_after_all) end}
      assert GenBuffer.send_recv(buffer, message, 5) == {:error, :timeout}
      open(gate)
      assert GenBuffer.send_recv(buffer, :next) == {:ok, {:handled, :next}}
      refute_received :handled_after_all
      assert %{cancelled: 1} = figures(buffer)
    end

    test "a late answer does not reach the mailbox" do
      buffer = start_buffer()
      assert GenBuffer.send_recv(buffer, {:gate, self(), :late}, 5) == {:error, :timeout}
      assert_receive {:at_gate, :late, worker}
      send(worker, {:open, :late})
      assert GenBuffer.send_recv(buffer, :next) == {:ok, {:handled, :next}}
      assert Process.info(self(), :messages) == {:messages, []}
    end

    test "a worker that is killed with the message" do
      buffer = start_buffer()
      call = Task.async(fn -> GenBuffer.send_recv(buffer, {:gate, self(), :never}) end)
      await(fn -> match?(%{in_flight: 1}, figures(buffer)) end)
      {:ok, [pid]} = GenBuffer.get_workers(buffer)
      Process.exit(pid, :kill)
      assert Task.await(call) == {:error, {:worker_down, :killed}}
      assert GenBuffer.send_recv(buffer, :next) == {:ok, {:handled, :next}}
      assert %{failed: 1} = figures(buffer)
    end
  end

  describe "eval" do
    test "what the handler replies, without a wrapping" do
      buffer = start_buffer(send_replies: false)
      assert GenBuffer.eval(buffer, :hello, :infinity) == {:handled, :hello}
      assert GenBuffer.eval(buffer, {self(), :b, :c}, :infinity) == {:handled, {self(), :b, :c}}
      assert GenBuffer.eval(buffer, {:put, 1}, :infinity) == :ok
      assert GenBuffer.eval(buffer, :state, :infinity) == 1
      assert Process.info(self(), :messages) == {:messages, []}
    end

    test "what the handler fails with, the caller exits with" do
      buffer = start_buffer()

      assert catch_exit(
               GenBuffer.eval(buffer, {:call, fn -> exit(:handler_exception) end}, :infinity)
             ) == :handler_exception

      assert %RuntimeError{} =
               catch_exit(GenBuffer.eval(buffer, {:call, fn -> raise "oh" end}, :infinity))
    end

    test "retries, even and odd, end" do
      empty = start_buffer(workers: 0)
      busy = start_buffer()
      gate = close_gate(busy)

      for buffer <- [empty, busy], retries <- 0..6 do
        assert GenBuffer.eval(buffer, :message, retries) == :no_available_workers
      end

      assert GenBuffer.eval(empty, :message) == :no_available_workers
      for buffer <- [empty, busy], do: assert(GenBuffer.size(buffer) == 0)
      open(gate)
      assert GenBuffer.eval(busy, :message, :infinity) == {:handled, :message}

      for wrong <- [-1, :many, 1.0],
          do: assert_raise(FunctionClauseError, fn -> GenBuffer.eval(busy, 1, wrong) end)
    end
  end

  describe "workers" do
    test "get_worker and get_workers" do
      buffer = start_buffer(workers: 3)
      assert {:ok, [_, _, _] = pids} = GenBuffer.get_workers(buffer)
      assert {:ok, pid} = GenBuffer.get_worker(buffer)
      assert pid in pids
      assert GenBuffer.set_workers(buffer, 0) == {:ok, []}
      assert GenBuffer.get_worker(buffer) == {:error, :no_available_workers}
      assert GenBuffer.get_workers(buffer) == {:error, :no_available_workers}
      assert GenBuffer.get_worker(:not_there) == {:error, :no_available_buffer}
      assert GenBuffer.get_workers(:not_there) == {:error, :no_available_buffer}
    end

    test "incr_worker and decr_worker" do
      buffer = start_buffer(workers: 0)
      assert GenBuffer.decr_worker(buffer) == {:error, :no_available_workers}
      for _ <- 1..5, do: assert({:ok, _pid} = GenBuffer.incr_worker(buffer))
      assert {:ok, [_, _, _, _, _]} = GenBuffer.get_workers(buffer)
      assert GenBuffer.decr_worker(buffer) == :ok
      assert {:ok, [_, _, _, _]} = GenBuffer.get_workers(buffer)
      for _ <- 1..4, do: assert(GenBuffer.decr_worker(buffer) == :ok)
      assert GenBuffer.decr_worker(buffer) == {:error, :no_available_workers}
      assert GenBuffer.decr_worker(:not_there) == :ok
      assert GenBuffer.incr_worker(:not_there) == {:error, :no_available_buffer}
    end

    test "incr_worker with options of its own" do
      buffer = start_buffer(workers: 0)
      assert {:ok, _pid} = GenBuffer.incr_worker(buffer, init_args: :other)
      assert GenBuffer.send_recv(buffer, :state) == {:ok, :other}
      assert GenBuffer.incr_worker(buffer, %{init_args: {:return, :ignore}}) == :ignore

      assert GenBuffer.incr_worker(buffer, init_args: {:return, {:stop, :no}}) ==
               {:error, :no}

      assert_raise NimbleOptions.ValidationError, fn ->
        GenBuffer.incr_worker(buffer, workers: 1)
      end

      assert {:ok, [_]} = GenBuffer.get_workers(buffer)
    end

    test "no worker is added whose module handles no messages" do
      buffer = start_buffer(workers: 1)

      for {module, error} <- [
            {NoSuchModule, {:invalid_message_handler, NoSuchModule}},
            {"module", {:invalid_message_handler, "module"}},
            {Enum, {:missing_callback, :handle_message}}
          ] do
        assert apply(GenBuffer, :incr_worker, [buffer, [message_handler: module]]) ==
                 {:error, error}

        assert apply(GenBuffer, :set_workers, [buffer, 0, %{message_handler: module}]) ==
                 {:error, error}
      end

      assert {:ok, [_]} = GenBuffer.get_workers(buffer)
      assert GenBuffer.send_recv(buffer, :state) == {:ok, :undefined}
    end

    test "of an option that is given twice, the first counts" do
      buffer = start_buffer(workers: 0)
      assert {:ok, _pid} = GenBuffer.incr_worker(buffer, init_args: :first, init_args: :second)
      assert GenBuffer.send_recv(buffer, :state) == {:ok, :first}
    end

    # Seconds, if each was looked for among all.
    test "thousands are started in a moment" do
      buffer = start_buffer(workers: 10_000)
      assert %{workers: 10_000} = GenBuffer.info(buffer)
      assert {:ok, [_]} = GenBuffer.set_workers(buffer, 1)
      await(fn -> GenBuffer.info(buffer).workers == 1 end)
      assert {:ok, pids} = GenBuffer.set_workers(buffer, 5_000)
      assert length(pids) == 5_000
    end

    test "set_workers sets how many there are" do
      buffer = start_buffer(workers: 2)
      assert {:ok, [_, _, _, _]} = GenBuffer.set_workers(buffer, 4)
      assert {:ok, [_, _, _]} = GenBuffer.set_workers(buffer, 3)
      assert {:ok, [_, _, _]} = GenBuffer.get_workers(buffer)
      assert GenBuffer.set_workers(buffer, 0) == {:ok, []}
      assert {:ok, [_]} = GenBuffer.set_workers(buffer, 1, init_args: :new)
      assert GenBuffer.send_recv(buffer, :state) == {:ok, :new}
      assert_raise FunctionClauseError, fn -> GenBuffer.set_workers(buffer, -1) end
      assert GenBuffer.set_workers(:not_there, 1) == {:error, :no_available_buffer}
    end

    test "poll" do
      buffer = start_buffer()
      assert GenBuffer.poll(buffer) == :ok
      GenBuffer.set_workers(buffer, 0)
      assert GenBuffer.poll(buffer) == {:error, :no_available_workers}
      assert GenBuffer.poll(:not_there) == {:error, :no_available_buffer}
    end

    test "a worker that is to go finishes its message" do
      buffer = start_buffer()
      ref = GenBuffer.send(buffer, {:gate, self(), :last})
      assert_receive {:at_gate, :last, worker}
      monitor = Process.monitor(worker)
      assert GenBuffer.decr_worker(buffer) == :ok
      assert GenBuffer.get_workers(buffer) == {:error, :no_available_workers}
      send(worker, {:open, :last})
      assert GenBuffer.recv(buffer, ref) == {:ok, :last}
      assert_receive {:DOWN, ^monitor, :process, ^worker, :normal}
    end
  end

  describe "size and info" do
    test "size" do
      buffer = start_buffer(workers: 0)
      for n <- 1..10, do: GenBuffer.send(buffer, n)
      assert GenBuffer.size(buffer) == 10
      assert GenBuffer.size(:not_there) == :undefined
    end

    test "info/1" do
      buffer = start_buffer(workers: 2)
      assert %{workers: 2, size: 0, in_flight: 0, accepted: 0} = figures(buffer)
      await(fn -> figures(buffer).idle == 2 end)
      gates = [close_gate(buffer), close_gate(buffer)]
      GenBuffer.send(buffer, :waits)
      assert %{size: 1, in_flight: 2, idle: 0, accepted: 3, bytes: bytes} = figures(buffer)
      assert bytes > 0
      Enum.each(gates, &open/1)
      await(fn -> figures(buffer).processed == 3 end)
      assert %{size: 0, bytes: 0, oldest_age_ms: nil} = figures(buffer)
      assert GenBuffer.info(:not_there) == :undefined
    end

    test "info/0 knows them all" do
      names = for _ <- 1..3, do: start_buffer(workers: 0)
      info = GenBuffer.info()
      for name <- names, do: assert(%{workers: 0, size: 0} = info[name])
    end

    test "the busy share of workers" do
      buffer = start_buffer(workers: 1)
      gate = close_gate(buffer)
      await(fn -> GenBuffer.info(buffer).busy > 0.9 end)
      open(gate)
      await(fn -> GenBuffer.info(buffer).busy < 0.1 end)
    end
  end
end
