defmodule PartitionedBuffer.GenPoolFaultsTest do
  # Processes that die, and what is left behind.
  use PartitionedBuffer.GenPoolCase

  import PartitionedBuffer.Alive

  alias PartitionedBuffer.Native

  @moduletag capture_log: true

  setup_all :assert_alive_baseline

  defp processes_of(pool) do
    pid = Process.whereis(pool)
    %{broker: %{pid: broker}, supervisor: supervisor} = :sys.get_state(pid)
    %{keeper_pid: keeper} = :sys.get_state(broker)
    %{owner: pid, broker: broker, keeper: keeper, supervisor: supervisor}
  end

  describe "a pool goes on" do
    test "when its keeper is killed" do
      pool = start_pool!(0, pool_size: 2)
      %{keeper: keeper, owner: owner} = processes_of(pool)
      busy = occupy(pool)
      Process.exit(keeper, :kill)
      down(keeper)
      eventually(fn -> processes_of(pool).keeper != keeper end)
      # The new one sees to the workers that there are.
      Process.exit(busy.worker, :kill)
      assert returned(busy) == {:error, :killed}
      assert GenPool.call(pool, &{:reply, &1, &1}) == 0
      assert Process.whereis(pool) == owner
    end

    test "when all workers are killed again and again" do
      pool = start_pool!(0, pool_size: 3)

      for i <- 1..50 do
        for worker <- GenPool.get_children(pool), do: Process.exit(worker, :kill)
        assert call(pool, &{:reply, &1, &1 + 1}) in [i - 1, {:error, :killed}]
        GenPool.call(pool, fn _state -> {:reply, :ok, i} end)
      end
    end
  end

  for {kind, opts} <- [
        exclusive: [],
        optimistic: [isolation: :optimistic],
        "own state": [shared_state?: false]
      ] do
    @opts opts

    test "a pool goes on however fast its handlers crash: #{kind}" do
      pool = start_pool!(5, [pool_size: 4] ++ @opts)
      crash = fn _state -> exit(:crash) end

      tasks =
        for _ <- 1..4 do
          Task.async(fn -> for _ <- 1..1_500, do: call(pool, crash) end)
        end

      assert tasks |> Task.await_many(60_000) |> Enum.concat() |> Enum.uniq() == [
               {:error, :crash}
             ]

      assert GenPool.call(pool, &{:reply, &1, &1}) == 5
      assert length(GenPool.get_children(pool)) == 4
      assert %{failed: 6_000} = assert_accounted(pool)
    end
  end

  test "a pool and its broker count restarts by the second" do
    before = System.monotonic_time(:millisecond)
    pool = start_pool!(0)
    %{owner: owner, broker: broker} = processes_of(pool)

    for pid <- [owner, broker] do
      %{restarts: restarts} = :sys.get_state(pid)
      assert elem(restarts, 0) in before..System.monotonic_time(:millisecond)
      assert elem(restarts, 1) == 0
    end
  end

  describe "a pool ends and begins anew" do
    for which <- [:owner, :broker, :supervisor] do
      @which which

      test "when its #{which} is killed, and its callers exit" do
        name = unique_name()
        opts = [name: name, pool_size: 1]
        start_supervised!({GenPool, {Scripted, fn -> {:ok, 0} end, opts}})
        before = processes_of(name)
        assert GenPool.call(name, &{:reply, &1, 5}) == 0
        busy = occupy(name)
        waiting = Task.async(fn -> call(name, &{:reply, &1, &1}, :infinity) end)
        eventually(fn -> GenPool.info(name).waiting == 1 end)
        Process.exit(before[@which], :kill)
        assert {:exit, {_reason, {GenPool, :call, _args}}} = Task.await(waiting)
        assert {:exit, {_reason, {GenPool, :call, _args}}} = returned(busy)
        for {_which, pid} <- before, do: down(pid)
        down(busy.worker)
        eventually(fn -> call(name, &{:reply, &1, &1}) == 0 end)
        assert length(GenPool.get_children(name)) == 1
      end
    end

    # It is told of the worker first, and has nobody to start another one with.
    test "when a worker and then their supervisor are killed: at once, with the last state" do
      Process.flag(:trap_exit, true)
      test = self()

      for workers <- [1, 3], _ <- 1..10 do
        name = unique_name()
        arg = fn -> {:ok, %{test: test, sum: 1}} end
        {:ok, owner} = GenPool.start_link(Scripted, arg, name: name, pool_size: 3)
        %{supervisor: supervisor} = processes_of(name)
        pids = Enum.take(GenPool.get_children(name), workers)
        :ok = :sys.suspend(owner)

        for pid <- pids ++ [supervisor] do
          Process.exit(pid, :kill)
          down(pid)
        end

        :ok = :sys.resume(owner)
        assert_receive {:EXIT, ^owner, :killed}
        assert_receive {:terminated, :killed, %{sum: 1}}
        assert GenPool.cast(name, &{:noreply, &1}) == {:error, :noproc}
      end
    end

    test "casts that waited when its broker was killed are still handled" do
      name = unique_name()
      opts = [name: name, pool_size: 0]
      start_supervised!({GenPool, {Scripted, fn -> {:ok, []} end, opts}})
      for i <- 1..2_500, do: :ok = GenPool.cast(name, &{:noreply, [i | &1]})
      %{broker: broker, owner: owner} = processes_of(name)
      Process.exit(broker, :kill)
      down(broker)
      down(owner)
      eventually(fn -> Process.whereis(name) not in [nil, owner] end)
      eventually(fn -> match?({:ok, _}, PartitionedBuffer.GenPool.Handle.fetch(name)) end)
      GenPool.set_pool_size(name, 1)
      eventually(fn -> length(GenPool.get_state(name)) == 2_500 end)
      assert GenPool.get_state(name) == Enum.to_list(2_500..1//-1)
    end
  end

  test "every call ends, whichever processes of the pool are killed meanwhile" do
    name = unique_name()
    # It is to be started again as often as it is killed.
    start_supervised!(%{
      id: :restarts,
      type: :supervisor,
      start:
        {Supervisor, :start_link,
         [
           [{GenPool, {Scripted, fn -> {:ok, 0} end, [name: name, pool_size: 3]}}],
           [strategy: :one_for_one, max_restarts: 1_000_000]
         ]}
    })

    killer = spawn_link(fn -> kill_any(name, :rand.seed_s(:exsss, 7), 0) end)

    answers =
      1..3_000
      |> Task.async_stream(fn _ -> call(name, &{:reply, &1, &1 + 1}, 20_000) end,
        max_concurrency: 20,
        ordered: false,
        timeout: 60_000
      )
      |> Enum.map(fn {:ok, answer} -> answer end)

    send(killer, {:stop, self()})
    assert_receive {:killed, kills}, 30_000
    assert kills > 0

    for answer <- answers do
      case answer do
        sum when is_integer(sum) -> :ok
        {:error, reason} -> assert reason == :killed
        {:exit, {reason, {GenPool, :call, _args}}} -> refute reason == :timeout
      end
    end

    # The last kill may still have its consequences.
    eventually(fn ->
      is_integer(call(name, &{:reply, &1, &1})) and
        match?({:ok, [_one, _two, _three]}, children(name))
    end)
  end

  defp children(name) do
    {:ok, GenPool.get_children(name)}
  catch
    :exit, reason -> {:exit, reason}
  end

  defp kill_any(name, seed, kills) do
    receive do
      {:stop, test} -> send(test, {:killed, kills})
    after
      3 ->
        {which, seed} = :rand.uniform_s(10, seed)

        try do
          %{owner: owner, broker: broker, keeper: keeper, supervisor: supervisor} =
            processes_of(name)

          workers = GenPool.get_children(name)

          case which do
            1 -> owner
            2 -> broker
            3 -> keeper
            4 -> supervisor
            _worker -> Enum.at(workers, rem(which, length(workers)))
          end
          |> Process.exit(:kill)

          kill_any(name, seed, kills + 1)
        catch
          # Something is about to be started again.
          _kind, _reason -> kill_any(name, seed, kills)
        end
    end
  end

  describe "nothing is left behind" do
    test "by calls that time out, in the queue or in the handler" do
      pool = start_pool!(0, pool_size: 2)
      test = self()

      caller =
        spawn_link(fn ->
          for i <- 1..200 do
            fun =
              if rem(i, 2) == 0 do
                &{:reply, &1, &1 + 1}
              else
                fn state ->
                  receive do
                  after
                    rem(i, 4) -> {:reply, state, state + 1}
                  end
                end
              end

            call(pool, fun, rem(i, 3))
          end

          # The last of them are through.
          GenPool.call(pool, &{:reply, &1, &1})
          GenPool.call(pool, &{:reply, &1, &1})
          send(test, {:left, Process.info(self(), [:message_queue_len, :monitors])})
        end)

      assert_receive {:left, left}, 30_000
      assert left == [message_queue_len: 0, monitors: []]
      down(caller)
      assert_accounted(pool)
    end

    test "by calls that fail or are refused" do
      pool = start_pool!(0, pool_size: 1, broker: broker!(max: 1))
      busy = occupy(pool)
      :ok = GenPool.cast(pool, &{:noreply, &1})
      for _ <- 1..100, do: {:error, :too_many_requests} = GenPool.call(pool, & &1)
      release(busy)
      for _ <- 1..20, do: call(pool, fn _ -> exit(:because) end)

      assert Process.info(self(), [:message_queue_len, :monitors]) == [
               message_queue_len: 0,
               monitors: []
             ]
    end

    test "by 50,000 calls of which some time out and some callers die" do
      calls(50_000)
    end

    @tag :soak
    @tag timeout: :infinity
    test "by 1,000,000 calls of which some time out and some callers die" do
      calls(1_000_000)
    end
  end

  # Callers of 500 calls each; some calls have next to no time, and one caller in ten is killed on its way.
  defp calls(count) do
    pool = start_pool!(0, pool_size: 4, isolation: :optimistic)
    each = 500
    baseline = alive()

    1..div(count, each)
    |> Task.async_stream(&caller(pool, &1, each), max_concurrency: 16, timeout: :infinity)
    |> Enum.each(fn {:ok, left} ->
      assert left in [:killed, [message_queue_len: 0, monitors: []]]
    end)

    # Whatever was begun is over.
    eventually(fn -> match?(%{waiting: 0, in_flight: 0}, GenPool.info(pool)) end)
    info = assert_accounted(pool)
    assert info.accepted > div(count, 2)
    assert info.failed == 0

    for pid <- GenPool.get_children(pool) ++ Map.values(processes_of(pool)) do
      assert Process.info(pid, :message_queue_len) == {:message_queue_len, 0}
      {:monitors, monitors} = Process.info(pid, :monitors)
      assert length(monitors) < 20
    end

    for %{pid: pid} <- [%{pid: Process.whereis(pool)}] do
      {:monitored_by, by} = Process.info(pid, :monitored_by)
      assert length(by) < 20
    end

    # A few arenas for each worker, whatever was sent.
    assert_alive(%{baseline | arenas: baseline.arenas + 20, bytes: baseline.bytes + 100})
  end

  defp caller(pool, number, each) do
    test = self()

    caller =
      spawn(fn ->
        for i <- 1..each do
          # No time at all, for some of those that have to wait.
          timeout = if rem(i, 50) == 0, do: 0, else: :infinity
          call(pool, &{:reply, &1, &1 + 1}, timeout)
        end

        # An answer that is on its way is here before that of a later call of the same process is.
        GenPool.call(pool, &{:reply, &1, &1}, :infinity)
        send(test, {self(), Process.info(self(), [:message_queue_len, :monitors])})
      end)

    if rem(number, 10) == 0 do
      for _ <- 1..100, do: :erlang.yield()
      Process.exit(caller, :kill)
      down(caller)
      :killed
    else
      receive do
        {^caller, left} -> left
      end
    end
  end

  test "a reason to end that refers to the pool's own broker leaves nothing behind" do
    baseline = baseline()
    pool = start_pool!(0, pool_size: 1)
    stop = fn from, state -> {:stop, {:shutdown, {:asked_by, from}}, state} end
    assert {:exit, {{:shutdown, {:asked_by, {_pid, _tag}}}, _call}} = call(pool, stop)
    eventually(fn -> Process.whereis(pool) == nil end)
    assert_alive(baseline)
  end

  test "a state of any size leaves nothing behind" do
    baseline = alive()
    pool = start_pool!(nil, pool_size: 2)
    large = Enum.to_list(1..100_000)
    for i <- 1..20, do: GenPool.call(pool, fn _state -> {:reply, :ok, [i | large]} end)
    assert hd(GenPool.get_state(pool)) == 20
    assert Native.info_alive().bytes > 800_000
    for _ <- 1..20, do: GenPool.call(pool, fn _state -> {:reply, :ok, 1} end)
    eventually(fn -> Native.info_alive().bytes < baseline.bytes + 1_000 end)
    GenPool.stop(pool)
    assert_alive(baseline)
  end
end
