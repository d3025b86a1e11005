defmodule PartitionedBuffer.GenPoolPatienceTest do
  # Callers that wait with no timer and no monitor, until they are told that they have waited for long: whatever ends, they
  # do not wait for ever, and what they are told is not in their mailbox afterwards.
  use PartitionedBuffer.GenPoolCase, async: true

  alias PartitionedBuffer.{Broker, Names}
  alias PartitionedBuffer.GenPool.Handle

  @moduletag capture_log: true

  defmodule Handlers do
    # A message names what is done: functions are copied elsewhere, and not handed to a worker.
    def init(state), do: {:ok, state}
    def handle_call({name, args}, from, state), do: apply(__MODULE__, name, [from, state | args])

    def get(_from, state), do: {:reply, state, state}
    def who(_from, state), do: {:reply, self(), state}
    def crash(_from, _state), do: exit(:crash)
    def sleep(_from, _state), do: Process.sleep(:infinity)

    def block(_from, state, test) do
      send(test, {:busy, self()})

      receive do
        :release -> {:reply, :released, state}
        :crash -> exit(:crash)
      end
    end

    def defer(from, state, test) do
      send(test, {:from, from})
      {:noreply, state}
    end

    def take(from, state, ms, how) do
      receive do
      after
        ms -> :ok
      end

      case how do
        :reply -> {:reply, :taken, state}
        :crash -> exit(:crash)
        :answer -> answer(from, state)
      end
    end

    defp answer(from, state) do
      :ok = PartitionedBuffer.GenPool.reply(from, :taken)
      {:noreply, state}
    end
  end

  defmodule NamedHandlers do
    defdelegate init(state), to: Handlers
    defdelegate handle_call(message, from, state), to: Handlers
    def read_only?(_callback, _message), do: false
  end

  @pools [
    exclusive: [module: Handlers],
    named: [module: NamedHandlers],
    optimistic: [module: Handlers, isolation: :optimistic],
    "own state": [module: Handlers, shared_state?: false]
  ]

  # All of its workers are idle: so what is sent is handed over.
  defp start!(opts) do
    {module, opts} = Keyword.pop!(opts, :module)
    opts = Keyword.put_new_lazy(opts, :name, &unique_name/0)
    spec = Supervisor.child_spec({GenPool, {module, 0, opts}}, restart: :temporary)
    start_supervised!(spec)
    await_idle(opts[:name])
    opts[:name]
  end

  defp await_idle(pool) do
    {:ok, %{broker: broker}} = Handle.fetch(pool)
    size = length(GenPool.get_children(pool))
    eventually(fn -> Broker.idle(broker) == size end)
  end

  defp calls(pool, name, args \\ [], timeout \\ :infinity),
    do: calling(pool, {name, args}, timeout)

  @nothing [messages: [], monitors: []]

  defp processes_of(pool) do
    pid = Process.whereis(pool)
    %{broker: %{pid: broker}, supervisor: supervisor} = :sys.get_state(pid)
    %{keeper_pid: keeper} = :sys.get_state(broker)
    [pid, broker, keeper, supervisor | GenPool.get_children(pool)]
  end

  for {kind, opts} <- @pools do
    describe "#{kind}:" do
      @describetag opts: opts

      test "a caller that has waited for long is told, and answered", %{opts: opts} do
        pool = start!(opts)
        caller = calls(pool, :block, [self()])
        assert_receive {:busy, worker}, 5_000
        await_told(caller)
        send(worker, :release)
        assert returned(caller) == {:released, @nothing}
      end

      test "a caller whose handler crashes is told why, early and late", %{opts: opts} do
        pool = start!(opts)

        for late? <- [false, true] do
          await_idle(pool)
          caller = calls(pool, :block, [self()])
          assert_receive {:busy, worker}, 5_000
          if late?, do: await_told(caller)
          send(worker, :crash)
          assert returned(caller) == {{:error, :crash}, @nothing}
        end
      end

      test "a caller whose worker is killed is told, early and late", %{opts: opts} do
        pool = start!(opts)

        for late? <- [false, true] do
          await_idle(pool)
          caller = calls(pool, :block, [self()])
          assert_receive {:busy, worker}, 5_000
          if late?, do: await_told(caller)
          Process.exit(worker, :kill)
          assert returned(caller) == {{:error, :killed}, @nothing}
          eventually(fn -> worker not in GenPool.get_children(pool) end)
        end
      end

      test "a caller is answered by somebody else, early and late", %{opts: opts} do
        pool = start!(opts)

        for late? <- [false, true] do
          await_idle(pool)
          caller = calls(pool, :defer, [self()])
          assert_receive {:from, from}, 5_000
          if late?, do: await_told(caller)
          :ok = GenPool.reply(from, :later)
          assert returned(caller) == {:later, @nothing}
        end
      end

      test "no caller leaves before its time is up", %{opts: opts} do
        pool = start!(opts)

        for timeout <- [0, 49, 50, 80, 100] do
          await_idle(pool)
          started = System.monotonic_time(:millisecond)
          caller = calls(pool, :sleep, [], timeout)
          assert {{:exit, {:timeout, _call}}, @nothing} = returned(caller)
          assert System.monotonic_time(:millisecond) - started >= timeout
          workers = GenPool.get_children(pool)
          for pid <- workers, do: Process.exit(pid, :kill)
          eventually(fn -> not Enum.any?(workers, &(&1 in GenPool.get_children(pool))) end)
        end
      end

      test "callers exit when all processes of the pool are killed at once", %{opts: opts} do
        Process.flag(:trap_exit, true)
        {module, opts} = Keyword.pop!(opts, :module)

        for _ <- 1..10 do
          opts = [name: pool = unique_name(), pool_size: 2] ++ opts
          {:ok, _pid} = GenPool.start_link(module, 0, opts)
          await_idle(pool)
          deferred = calls(pool, :defer, [self()])
          assert_receive {:from, _from}, 5_000
          await_idle(pool)
          in_flight = calls(pool, :block, [self()])
          assert_receive {:busy, _worker}, 5_000
          pids = processes_of(pool)

          # None of them sees another one's end before its own. One is sent to a worker that does not come to it, or waits.
          for pid <- pids, do: :erlang.suspend_process(pid)
          {:ok, %{broker: broker}} = Handle.fetch(pool)
          handed = calls(pool, :get)
          eventually(fn -> match?(%{accepted: 3}, Broker.info(broker)) end)
          waiting = calls(pool, :get)
          for pid <- pids, do: Process.exit(pid, :kill)
          for pid <- pids, do: down(pid)

          for caller <- [deferred, in_flight, handed, waiting] do
            assert {{:exit, {_reason, {GenPool, :call, _args}}}, @nothing} = returned(caller)
          end

          # It takes away what the killed one has left.
          {:ok, _pid} = GenPool.start_link(module, 0, opts)
          :ok = GenPool.stop(pool)
        end
      end
    end
  end

  test "a request that was handed to a worker that dies before it starts it goes to another one" do
    pool = start!(module: Handlers, pool_size: 2, shared_state?: false)

    for _ <- 1..20 do
      await_idle(pool)
      workers = GenPool.get_children(pool)
      for pid <- workers, do: :erlang.suspend_process(pid)
      caller = calls(pool, :who)
      eventually(fn -> GenPool.info(pool).in_flight == 1 end)
      for pid <- workers, do: Process.exit(pid, :kill)
      assert {worker, @nothing} = returned(caller)
      assert is_pid(worker) and worker not in workers
    end
  end

  test "callers wait on when the keeper is killed, and are told of what happens then" do
    pool = start!(module: Handlers, pool_size: 2)
    caller = calls(pool, :block, [self()])
    assert_receive {:busy, worker}, 5_000
    keeper = Process.whereis(Names.keeper(Names.broker(pool)))
    Process.exit(keeper, :kill)
    down(keeper)
    await_told(caller)
    send(worker, :release)
    assert returned(caller) == {:released, @nothing}
    assert_accounted(pool)
  end

  test "callers of a pool with a broker outside of it exit when all is killed" do
    Process.flag(:trap_exit, true)

    for _ <- 1..10 do
      broker = unique_name("broker")
      module = broker!([])
      {:ok, server} = GenPool.Broker.start_link(module, name: broker)
      opts = [name: pool = unique_name(), broker: broker, external_broker?: true, pool_size: 2]
      {:ok, _pid} = GenPool.start_link(Handlers, 0, opts)
      await_idle(pool)
      caller = calls(pool, :block, [self()])
      assert_receive {:busy, _worker}, 5_000
      pids = [server | processes_of(pool)]
      for pid <- pids, do: :erlang.suspend_process(pid)
      for pid <- pids, do: Process.exit(pid, :kill)
      for pid <- pids, do: down(pid)
      assert {{:exit, {_reason, {GenPool, :call, _args}}}, @nothing} = returned(caller)
      # It takes away what the killed one has left.
      {:ok, server} = GenPool.Broker.start_link(module, name: broker)
      {:ok, _pid} = GenPool.start_link(Handlers, 0, opts)
      :ok = GenPool.stop(pool)
      :ok = GenServer.stop(server)
    end
  end

  test "nothing is left in a mailbox by answers that come about when a caller is told" do
    pool = start!(module: Handlers, pool_size: 8, shared_state?: false)

    callers =
      for caller <- 1..8 do
        Task.async(fn ->
          for i <- 1..60 do
            # Callers are told when they have waited for 10 to 20 ms.
            ms = 9 + rem(caller + i, 12)
            how = Enum.at([:reply, :crash, :answer], rem(i, 3))
            expected = if how == :crash, do: {:error, :crash}, else: :taken
            assert GenPool.call(pool, {:take, [ms, how]}) == expected
            assert Process.info(self(), [:messages, :monitors]) == @nothing
          end
        end)
      end

    Task.await_many(callers, 60_000)
    assert_accounted(pool)
  end
end
