defmodule PartitionedBuffer.GenPoolEndsTest do
  # How a call ends when a process of its pool does: wherever the call is by then, whichever process it is, and whether
  # the call has waited for long. What is promised is the table "How a call ends" of `GenPool`.
  use PartitionedBuffer.GenPoolCase, async: true

  alias PartitionedBuffer.{Broker, Names}
  alias PartitionedBuffer.GenPool.{Backend, Handle}

  @moduletag capture_log: true

  defmodule Handlers do
    @moduledoc false
    # A message names what is done: functions are copied elsewhere, and not handed to a worker.
    def init(state), do: {:ok, state}
    def handle_call({name, args}, from, state), do: apply(__MODULE__, name, [from, state | args])
    def handle_cast(_message, state), do: {:noreply, state}

    def add(_from, state), do: {:reply, state, state + 1}
    def get(_from, state), do: {:reply, state, state}

    def slow(_from, state, ms) do
      receive do
      after
        ms -> {:reply, state, state + 1}
      end
    end

    def block(_from, state, test, ref) do
      send(test, {:busy, ref, self()})

      receive do
        {:release, ^ref} -> {:reply, :done, state}
      end
    end

    def defer(from, state, test) do
      send(test, {:from, from})
      {:noreply, state}
    end

    def crash_after(_from, _state, test, owner) do
      monitor = Process.monitor(owner)
      send(test, {:busy, self()})

      receive do
        {:DOWN, ^monitor, :process, _pid, _reason} -> exit(:crash)
      end
    end
  end

  defmodule NamedHandlers do
    @moduledoc false
    defdelegate init(state), to: Handlers
    defdelegate handle_call(message, from, state), to: Handlers
    defdelegate handle_cast(message, state), to: Handlers
    def read_only?(_callback, _message), do: false
  end

  @kinds [
    exclusive: [],
    named: [module: NamedHandlers],
    optimistic: [isolation: :optimistic],
    "exclusive in ETS": [backend: Backend.ETS],
    "optimistic in ETS": [backend: Backend.ETS, isolation: :optimistic],
    "own state": [shared_state?: false]
  ]

  @nothing [messages: [], monitors: []]

  # A pool with one worker, started again when it ends.
  defp start!(opts, restart \\ :permanent) do
    {module, opts} = opts |> Keyword.put(:pool_size, 1) |> Keyword.pop(:module, Handlers)
    opts = Keyword.put_new_lazy(opts, :name, &unique_name/0)

    pool = Supervisor.child_spec({GenPool, {module, 0, opts}}, restart: restart)
    strategy = [strategy: :one_for_one, max_restarts: 1_000_000]

    start_supervised!(%{
      id: opts[:name],
      type: :supervisor,
      start: {Supervisor, :start_link, [[pool], strategy]}
    })

    await_idle(opts[:name])
    opts[:name]
  end

  defp start_outside!(opts) do
    broker = unique_name("broker")
    module = broker!([])
    # It is not started again by itself, but each pool finds one.
    start_supervised!(Supervisor.child_spec({GenPool.Broker, {module, name: broker}}, id: broker))
    {start!([broker: broker, external_broker?: true] ++ opts), broker}
  end

  defp await_idle(pool) do
    eventually(fn ->
      with {:ok, %{broker: broker}} <- Handle.fetch(pool), do: Broker.idle(broker) == 1
    end)
  end

  defp pid(pool, :owner), do: Process.whereis(pool)
  defp pid(pool, :supervisor), do: Process.whereis(Names.worker_supervisor(pool))
  defp pid(pool, :broker), do: Process.whereis(Names.broker(pool))
  defp pid(pool, :keeper), do: Process.whereis(Names.keeper(Names.broker(pool)))
  defp pid(pool, :worker), do: hd(GenPool.get_children(pool))

  defp messages(pid), do: pid |> Process.info(:messages) |> elem(1)

  defp kill(pid) do
    Process.exit(pid, :kill)
    down(pid)
  end

  defp got(caller) do
    assert {result, @nothing} = returned(caller)
    result
  end

  # The calls of one pool, and where they are: one that a handler runs for, one that is sent to a worker that does not come
  # to it, one that waits, one that its handler has left to be answered. `worker` has what there is to kill.
  defp arrange(pool, :in_flight) do
    ref = make_ref()
    caller = calling(pool, {:block, [self(), ref]})
    assert_receive {:busy, ^ref, worker}, 5_000
    %{caller: caller, let_go: fn -> send(worker, {:release, ref}) end}
  end

  defp arrange(pool, :handed) do
    worker = pid(pool, :worker)
    :erlang.suspend_process(worker)
    caller = calling(pool, {:get, []})
    {:ok, %{broker: broker}} = Handle.fetch(pool)
    eventually(fn -> match?(%{in_flight: 1}, Broker.info(broker)) end)
    %{caller: caller, let_go: fn -> :erlang.resume_process(worker) end}
  end

  defp arrange(pool, :waiting) do
    busy = arrange(pool, :in_flight)
    caller = calling(pool, {:get, []})
    {:ok, %{broker: broker}} = Handle.fetch(pool)
    eventually(fn -> match?(%{waiting: 1}, Broker.info(broker)) end)
    %{caller: caller, let_go: busy.let_go}
  end

  defp arrange(pool, :deferred) do
    caller = calling(pool, {:defer, [self()]})
    assert_receive {:from, from}, 5_000
    await_idle(pool)
    %{caller: caller, let_go: fn -> GenPool.reply(from, :done) end}
  end

  defp done(where) when where in [:handed, :waiting], do: 0
  defp done(_where), do: :done

  @wheres [:in_flight, :handed, :waiting, :deferred]

  for {kind, opts} <- @kinds do
    describe "#{kind}:" do
      @describetag opts: opts

      for where <- @wheres, late? <- [false, true] do
        @where where
        @late? late?
        which = "a call that is #{where}#{if late?, do: ", and has waited for long"}"

        test "#{which}, exits when its pool ends", %{opts: opts} do
          for {victim, reason} <- [
                owner: :killed,
                supervisor: :killed,
                broker: {:broker_down, :killed}
              ] do
            pool = start!(opts)
            %{caller: caller} = arrange(pool, @where)
            if @late?, do: await_told(caller)
            kill(pid(pool, victim))
            assert {:exit, {^reason, {GenPool, :call, [^pool | _args]}}} = got(caller)
            eventually(fn -> call(pool, {:get, []}) == 0 end)
          end
        end

        test "#{which}, outlives its worker, unless that has begun", %{opts: opts} do
          pool = start!(opts)
          %{caller: caller, let_go: let_go} = arrange(pool, @where)
          if @late?, do: await_told(caller)
          kill(pid(pool, :worker))
          if @where == :deferred, do: let_go.()

          assert got(caller) ==
                   if(@where == :in_flight, do: {:error, :killed}, else: done(@where))
        end

        test "#{which}, outlives the keeper", %{opts: opts} do
          pool = start!(opts)
          %{caller: caller, let_go: let_go} = arrange(pool, @where)
          if @late?, do: await_told(caller)
          kill(pid(pool, :keeper))
          let_go.()
          assert got(caller) == done(@where)
          assert_accounted(pool)
        end

        test "#{which}, is told of its worker by the next keeper", %{opts: opts} do
          pool = start!(opts)
          %{caller: caller, let_go: let_go} = arrange(pool, @where)
          if @late?, do: await_told(caller)
          worker = pid(pool, :worker)
          keeper = pid(pool, :keeper)
          # It does not come to see the worker's end.
          :erlang.suspend_process(keeper)
          kill(worker)
          kill(keeper)
          if @where == :deferred, do: let_go.()

          assert got(caller) ==
                   if(@where == :in_flight, do: {:error, :killed}, else: done(@where))
        end

        test "#{which}, when its pool is stopped: in time, or not", %{opts: opts} do
          for shutdown <- [60_000, 0] do
            pool = start!([shutdown: shutdown] ++ opts, :temporary)
            %{caller: caller, let_go: let_go} = arrange(pool, @where)
            if @late?, do: await_told(caller)
            stopping = Task.async(fn -> GenPool.stop(pool, :shutdown) end)

            if shutdown > 0 and @where != :deferred do
              eventually(fn -> GenPool.cast(pool, :nothing) == {:error, :noproc} end)
              let_go.()
              assert got(caller) == done(@where)
            else
              assert {:exit, {:shutdown, {GenPool, :call, _args}}} = got(caller)
            end

            assert Task.await(stopping, 60_000) == :ok
          end
        end

        test "#{which}, whose broker is outside of the pool", %{opts: opts} do
          {pool, broker} = start_outside!([shutdown: 0] ++ opts)

          # What no worker has begun waits for the next pool.
          for victim <- [:owner, :supervisor, :none] do
            %{caller: caller, let_go: let_go} = arrange(pool, @where)
            if @late?, do: await_told(caller)
            if victim == :none, do: GenPool.stop(pool), else: kill(pid(pool, victim))
            if @where == :deferred, do: let_go.()
            result = got(caller)

            if @where == :in_flight,
              do: assert(result in [{:error, :killed}, {:error, :shutdown}]),
              else: assert(result == done(@where))

            eventually(fn -> call(pool, {:get, []}) == 0 end)
            await_idle(pool)
          end

          %{caller: caller} = arrange(pool, @where)
          if @late?, do: await_told(caller)
          killed = Process.whereis(broker)
          kill(killed)
          assert {:exit, {:killed, {GenPool, :call, _args}}} = got(caller)
          # It takes away what the killed one has left.
          eventually(fn -> Process.whereis(broker) not in [nil, killed] end)
        end
      end

      test "a call through the pool's process exits when that is killed", %{opts: opts} do
        pool = start!(opts)
        test = self()
        ref = make_ref()
        pid = Process.whereis(pool)

        for message <- [{:block, [test, ref]}, {:get, []}] do
          spawn(fn ->
            send(test, {:exited, catch_exit(GenServer.call(pid, message, :infinity))})
          end)
        end

        assert_receive {:busy, ^ref, _worker}, 5_000
        kill(pid)

        for _ <- 1..2,
            do: assert_receive({:exited, {:killed, {GenServer, :call, _args}}}, 5_000)
      end

      # One that has found nothing to do any more is given what another one leaves that is killed.
      test "a stop waits for a worker that was through, and has been given more since", %{
        opts: opts
      } do
        pool = start!([shutdown: :infinity] ++ opts, :temporary)
        owner = pid(pool, :owner)
        :ok = GenPool.set_pool_size(pool, 2)
        {:ok, %{broker: broker}} = Handle.fetch(pool)
        eventually(fn -> Broker.idle(broker) == 2 end)
        workers = GenPool.get_children(pool)
        Enum.each(workers, &:erlang.suspend_process/1)
        ref = make_ref()
        caller = calling(pool, {:block, [self(), ref]})
        eventually(fn -> match?(%{in_flight: 1}, Broker.info(broker)) end)
        {[handed], [other]} = Enum.split_with(workers, &(messages(&1) != []))
        stopping = Task.async(fn -> GenPool.stop(pool) end)
        eventually(fn -> messages(other) != [] end)
        :erlang.resume_process(other)
        eventually(fn -> messages(other) == [] end)
        # Somebody else is started in the place of the one that is killed, and is through at once.
        :erlang.suspend_process(owner)
        kill(handed)
        assert_receive {:busy, ^ref, ^other}, 5_000
        :erlang.resume_process(owner)
        refute Task.yield(stopping, 50)
        send(other, {:release, ref})
        assert got(caller) == :done
        assert Task.await(stopping, 60_000) == :ok
      end

      # What the pool's process owned has gone by the time that its workers are told.
      test "a handler that crashes after the pool was killed is not what its caller is told", %{
        opts: opts
      } do
        for _ <- 1..20 do
          pool = start!(opts)
          owner = pid(pool, :owner)
          caller = calling(pool, {:crash_after, [self(), owner]})
          assert_receive {:busy, _worker}, 5_000
          kill(owner)
          assert {:exit, {:killed, {GenPool, :call, _args}}} = got(caller)
          stop_supervised!(pool)
        end
      end

      test "whatever is killed at any time, calls end as told", %{opts: opts} do
        kills(opts, 5_000)
      end

      @tag :soak
      @tag timeout: :infinity
      test "whatever is killed at any time, 200,000 calls end as told", %{opts: opts} do
        kills(opts, 200_000)
      end
    end
  end

  defmodule OfTheDead do
    @moduledoc false
    # Its pool is killed while somebody reads.
    @behaviour Backend
    @impl true
    def new(_config, _state), do: {:ok, self(), 1}

    @impl true
    def get(owner, nil) do
      monitor = Process.monitor(owner)
      Process.exit(owner, :kill)

      receive do
        {:DOWN, ^monitor, :process, ^owner, :killed} -> raise ArgumentError, "it is not there"
      end
    end

    @impl true
    def update(_owner, _version, _state), do: :changed
  end

  test "who asks for the state of a pool that is killed meanwhile finds that it is not there" do
    pool = start!([backend: OfTheDead], :temporary)
    assert catch_exit(GenPool.get_state(pool)) == {:noproc, {GenPool, :get_state, [pool]}}
  end

  defp kills(opts, count) do
    pool = start!(opts)
    :ok = GenPool.set_pool_size(pool, 3)
    killer = spawn_link(fn -> kill_any(pool, :rand.seed_s(:exsss, count), %{}) end)

    ends =
      1..count
      |> Task.async_stream(&one_call(pool, &1),
        max_concurrency: 16,
        ordered: false,
        timeout: 60_000
      )
      |> Enum.flat_map(fn {:ok, {result, left}} ->
        assert left[:monitors] == []
        # The keeper's successor may have told once more.
        for message <- left[:messages],
            do: assert({:"$partitioned_buffer_dropped", _ref, {:worker_down, :killed}} = message)

        if is_integer(result), do: [], else: [result]
      end)

    send(killer, {:stop, self()})
    assert_receive {:killed, kills}, 30_000
    {errors, exits} = Enum.split_with(ends, &match?({:error, _reason}, &1))
    assert Enum.uniq(errors) in [[], [{:error, :killed}]]
    # One that was killed had one call at the most.
    assert length(errors) <= Map.get(kills, :worker, 0)

    for {:exit, {reason, {GenPool, :call, _args}}} <- exits,
        do: assert(reason in [:killed, {:broker_down, :killed}, :noproc])

    eventually(fn -> is_integer(call(pool, {:get, []})) end)
  end

  # Some take long enough to be told.
  defp one_call(pool, i) do
    message = if rem(i, 50) == 0, do: {:slow, [15]}, else: {:add, []}
    {call(pool, message, 20_000), Process.info(self(), [:messages, :monitors])}
  end

  defp kill_any(pool, seed, kills) do
    receive do
      {:stop, test} -> send(test, {:killed, kills})
    after
      2 ->
        {n, seed} = :rand.uniform_s(12, seed)
        which = Enum.at([:owner, :broker, :keeper, :supervisor], n - 1, :worker)
        victim = victim(pool, which)
        if victim, do: Process.exit(victim, :kill)
        kills = if victim, do: Map.update(kills, which, 1, &(&1 + 1)), else: kills
        kill_any(pool, seed, kills)
    end
  end

  # Nobody is there while it is started again.
  defp victim(pool, :worker) do
    Enum.random(GenPool.get_children(pool))
  catch
    _kind, _reason -> nil
  end

  defp victim(pool, which), do: pid(pool, which)
end
