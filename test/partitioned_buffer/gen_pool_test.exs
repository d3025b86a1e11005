defmodule PartitionedBuffer.GenPoolTest do
  use PartitionedBuffer.GenPoolCase, async: true

  @moduletag capture_log: true

  defmodule ExampleGenPool do
    use PartitionedBuffer.GenPool,
      pool_size: 5,
      shared_state?: true,
      external_broker?: false,
      broker: PartitionedBuffer.GenPool.DefaultBroker,
      backend: %PartitionedBuffer.GenPool.Backend.Native{}

    defmodule State do
      defstruct count: 0
    end

    @impl true
    def init(_) do
      {:ok, %State{count: 0}}
    end

    @impl true
    def handle_call({:add, value}, _from, state) do
      {:reply, state.count + value, %{state | count: state.count + value}}
    end

    @impl true
    def handle_cast({:add, value}, state) do
      {:noreply, %{state | count: state.count + value}}
    end

    def start_link(opts \\ []) do
      PartitionedBuffer.GenPool.start_link(__MODULE__, opts, [])
    end

    def add(value) do
      PartitionedBuffer.GenPool.call(__MODULE__, {:add, value})
    end

    def add_casting(value) do
      PartitionedBuffer.GenPool.cast(__MODULE__, {:add, value})
    end
  end

  defmodule Supervised do
    use PartitionedBuffer.GenPool, pool_size: 2

    def start_link(arg), do: PartitionedBuffer.GenPool.start_link(__MODULE__, arg, name: arg)

    @impl true
    def init(name), do: {:ok, name}

    @impl true
    def handle_call(:crash, _from, _state), do: raise("crash")
    def handle_call(:state, _from, state), do: {:reply, state, state}
  end

  describe "the example" do
    test "runs as it is written" do
      Process.flag(:trap_exit, true)
      {:ok, pid} = ExampleGenPool.start_link()
      assert ExampleGenPool.add(5) == 5
      assert ExampleGenPool.add_casting(5) == :ok
      assert ExampleGenPool.add(5) == 15
      assert GenPool.get_state(ExampleGenPool) == %ExampleGenPool.State{count: 15}
      assert length(GenPool.get_children(ExampleGenPool)) == 5
      assert GenPool.stop(ExampleGenPool, :shutdown) == :ok
      assert_received {:EXIT, ^pid, :shutdown}
    end

    test "what one process casts and then calls is handled in that order" do
      # The queue is first come, first served, and turns are taken in the order of the queue by one worker.
      pool = start_pool!([], pool_size: 1)
      for i <- 1..100, do: :ok = GenPool.cast(pool, &{:noreply, [i | &1]})
      assert GenPool.call(pool, &{:reply, &1, &1}) == Enum.to_list(100..1//-1)
    end
  end

  describe "start_link/3" do
    test "takes the options of `use`, and those that it is given before them" do
      {:ok, _pid} = GenPool.start_link(Supervised, :given, name: :given, pool_size: 3)
      assert length(GenPool.get_children(:given)) == 3
      GenPool.stop(:given)
    end

    test "takes a module that uses nothing" do
      pool = start_pool!(1)
      assert length(GenPool.get_children(pool)) == 5
    end

    test "a name is taken once" do
      pool = start_pool!(1)
      pid = Process.whereis(pool)
      arg = fn -> {:ok, 2} end
      assert GenPool.start_link(Scripted, arg, name: pool) == {:error, {:already_started, pid}}
      assert GenPool.call(pool, &{:reply, &1, &1}) == 1
    end

    test "several pools of one module" do
      pools = for i <- 1..3, do: start_pool!(i)
      assert Enum.map(pools, &GenPool.call(&1, fn s -> {:reply, s, s} end)) == [1, 2, 3]
    end

    test "refuses what is wrong, on the side of who calls" do
      for opts <- [
            [pool_size: -1],
            [pool_size: :many],
            [isolation: :none],
            [shared_state?: :yes],
            [backend: :no_such_module],
            [backend: %URI{}],
            [backend: "text"],
            [broker: nil],
            [max_attempts: 0],
            [shutdown: -1],
            [unknown: 1],
            [name: nil],
            [name: "text"]
          ] do
        assert_raise NimbleOptions.ValidationError, fn ->
          GenPool.start_link(Scripted, fn -> {:ok, 1} end, opts)
        end
      end

      assert_raise ArgumentError, ~r/init/, fn -> GenPool.start_link(String, 1) end

      assert_raise ArgumentError, ~r/Broker/, fn ->
        GenPool.start_link(Scripted, 1, broker: String)
      end

      assert_raise ArgumentError, ~r/keyword/, fn -> GenPool.start_link(Scripted, 1, [:name]) end
      refute Process.whereis(Scripted)
    end
  end

  defmodule Temporary do
    use PartitionedBuffer.GenPool, id: :once, restart: :temporary, pool_size: 2

    def start_link(name), do: PartitionedBuffer.GenPool.start_link(__MODULE__, name, name: name)

    @impl true
    def init(state), do: {:ok, state}
    @impl true
    def handle_call(:end, _from, state), do: {:stop, :shutdown, :bye, state}
  end

  describe "child_spec/1" do
    test "takes :id and :restart of use, as that of a GenServer" do
      name = unique_name()

      assert %{id: :once, restart: :temporary, shutdown: :infinity} = Temporary.child_spec(name)

      {:ok, supervisor} = Supervisor.start_link([], strategy: :one_for_one)
      {:ok, pool} = Supervisor.start_child(supervisor, {Temporary, name})
      assert length(GenPool.get_children(name)) == 2
      monitor = Process.monitor(pool)
      assert GenPool.call(name, :end) == :bye
      assert_receive {:DOWN, ^monitor, :process, ^pool, :shutdown}, 5_000
      assert Supervisor.which_children(supervisor) == []

      # They are not options of a start.
      assert_raise NimbleOptions.ValidationError, fn ->
        GenPool.start_link(Temporary, name, restart: :temporary)
      end
    end

    test "of a module that uses it" do
      start_supervised!({Supervised, :supervised_pool})
      assert GenPool.call(:supervised_pool, :state) == :supervised_pool
      assert {:error, {%RuntimeError{message: "crash"}, _}} = call(:supervised_pool, :crash)
      assert GenPool.call(:supervised_pool, :state) == :supervised_pool
    end

    test "of any module" do
      name = unique_name()
      start_supervised!({GenPool, {Scripted, fn -> {:ok, 1} end, name: name}})
      assert GenPool.call(name, &{:reply, &1, &1}) == 1
      assert GenPool.child_spec(Scripted).id == Scripted
      assert GenPool.child_spec({Scripted, 1}).start == {GenPool, :start_link, [Scripted, 1, []]}
    end

    test "a pool that was killed is started again, with its first state" do
      name = unique_name()
      start_supervised!({GenPool, {Scripted, fn -> {:ok, 1} end, name: name}})
      assert GenPool.call(name, &{:reply, &1, 2}) == 1
      pid = Process.whereis(name)
      workers = GenPool.get_children(name)
      Process.exit(pid, :kill)
      for worker <- workers, do: down(worker)
      eventually(fn -> Process.whereis(name) not in [nil, pid] end)
      eventually(fn -> call(name, &{:reply, &1, &1}) == 1 end)
      assert length(GenPool.get_children(name)) == 5
    end
  end

  describe "call/3" do
    test "of callbacks that are not there" do
      defmodule Bare do
        use PartitionedBuffer.GenPool
        def init(arg), do: {:ok, arg}
      end

      pool = unique_name()
      {:ok, _pid} = GenPool.start_link(Bare, 1, name: pool)
      assert {:error, {%RuntimeError{message: message}, _}} = GenPool.call(pool, :hello)
      assert message =~ "handle_call/3"
      :ok = GenPool.cast(pool, :hello)
      send(pool, :hello)
      eventually(fn -> GenPool.info(pool).failed == 2 end)
      assert GenPool.get_state(pool) == 1
      GenPool.stop(pool)
    end

    test "takes any term, of any size" do
      pool = start_pool!(nil)
      large = :binary.copy(<<1>>, 200_000)
      list = Enum.to_list(1..50_000)

      for term <- [large, list, {self(), make_ref()}, %{1 => [1.5 | :tail]}, fn -> :ok end] do
        assert GenPool.call(pool, fn state -> {:reply, {:got, term}, state} end) == {:got, term}
        assert GenPool.call(pool, fn _state -> {:reply, :ok, term} end) == :ok
        assert GenPool.get_state(pool) === term
      end
    end

    test "by pid, and from callbacks of the pool" do
      pool = start_pool!(1)
      assert GenPool.call(Process.whereis(pool), &{:reply, &1, &1}) == 1
      assert GenPool.call({pool, node()}, &{:reply, &1, &1}) == 1
      inner = &{:reply, &1, &1}

      assert {:error, {:calling_self, {GenPool, :call, [^pool, ^inner, 5_000]}}} =
               GenPool.call(pool, fn state -> {:reply, GenPool.call(pool, inner), state} end)

      # Other pools may be called, and casts are no calls.
      other = start_pool!(2)

      assert GenPool.call(pool, fn state ->
               :ok = GenPool.cast(pool, &{:noreply, &1 + 1})
               {:reply, GenPool.call(other, inner), state + 10}
             end) == 2

      eventually(fn -> GenPool.get_state(pool) == 12 end)
    end

    test "refuses a wrong timeout before anything is sent" do
      pool = start_pool!(1)

      for timeout <- [-1, 1.5, "1", nil, 4_294_967_296] do
        assert_raise ArgumentError, fn -> GenPool.call(pool, &{:reply, &1, 2}, timeout) end
      end

      for opts <- [[timeout: -1], [unknown: 1], [errors: :none]] do
        assert_raise NimbleOptions.ValidationError, fn ->
          GenPool.call(pool, &{:reply, &1, 2}, opts)
        end
      end

      assert_raise NimbleOptions.ValidationError, fn -> GenPool.cast(pool, 1, errors: :none) end
      assert GenPool.get_state(pool) == 1
    end

    test "a request that was taken back is never handled" do
      pool = start_pool!([], pool_size: 1)
      busy = occupy(pool)
      late = fn state -> {:reply, :ok, [:late | state]} end
      assert {:exit, {:timeout, {GenPool, :call, [^pool, ^late, 10]}}} = call(pool, late, 10)
      assert release(busy) == :released
      assert GenPool.call(pool, &{:reply, &1, &1}) == []
      assert %{cancelled: 1} = assert_accounted(pool)
    end

    test "a call of a pool that ends meanwhile exits with the pool's reason" do
      pool = start_pool!(1, pool_size: 1, shutdown: 0)
      busy = occupy(pool)
      test = self()
      waiting = spawn(fn -> send(test, {:waiting, call(pool, &{:reply, &1, &1})}) end)
      eventually(fn -> GenPool.info(pool).waiting == 1 end)
      :ok = GenPool.stop(pool, :shutdown)
      assert {:exit, {:shutdown, _call}} = returned(busy)
      assert_receive {:waiting, {:exit, {:shutdown, _call}}}, 5_000
      refute Process.alive?(waiting)
    end
  end

  describe "cast/3" do
    test "of a pool that is not running" do
      assert GenPool.cast(unique_name(), :hello) == {:error, :noproc}
    end

    test "leaves nothing behind in the caller" do
      pool = start_pool!(0)
      for i <- 1..1_000, do: :ok = GenPool.cast(pool, &{:noreply, &1 + i})
      eventually(fn -> GenPool.get_state(pool) == 500_500 end)
      assert Process.info(self(), :message_queue_len) == {:message_queue_len, 0}
      assert Process.info(self(), :monitors) == {:monitors, []}
    end

    test "by pid" do
      pool = start_pool!(0)
      assert GenPool.cast(Process.whereis(pool), &{:noreply, &1 + 1}) == :ok
      eventually(fn -> GenPool.get_state(pool) == 1 end)
    end
  end

  describe "workers" do
    test "are linked below the pool, and gone with it" do
      pool = start_pool!(1)
      workers = GenPool.get_children(pool)
      assert Enum.all?(workers, &Process.alive?/1)
      GenPool.stop(pool)
      refute Enum.any?(workers, &Process.alive?/1)
    end

    test "are gone when the pool is killed" do
      Process.flag(:trap_exit, true)
      {:ok, pid} = GenPool.start_link(Scripted, fn -> {:ok, 1} end, name: unique_name())
      workers = GenPool.get_children(pid)
      Process.exit(pid, :kill)
      assert_receive {:EXIT, ^pid, :killed}, 5_000
      for worker <- workers, do: assert(down(worker) in [:killed, :shutdown, :noproc])
    end

    test "are replaced at once" do
      pool = start_pool!(1)

      for _round <- 1..20 do
        workers = GenPool.get_children(pool)
        Enum.each(workers, &Process.exit(&1, :kill))
        Enum.each(workers, &down/1)
        others = GenPool.get_children(pool)
        assert length(others) == 5
        assert Enum.all?(others, &Process.alive?/1)
        assert others -- workers == others
        assert GenPool.call(pool, &{:reply, &1, &1}) == 1
      end
    end

    test "one that is killed is answered for, and the state is as it was" do
      pool = start_pool!(1, pool_size: 2)
      busy = occupy(pool)
      Process.exit(busy.worker, :kill)
      assert returned(busy) == {:error, :killed}
      assert GenPool.call(pool, &{:reply, &1, &1 + 1}) == 1
      assert %{failed: 1} = assert_accounted(pool)
    end

    test "may be used like servers by their pids" do
      pool = start_pool!(%{test: self()}, pool_size: 2)
      [worker, _other] = GenPool.get_children(pool)
      assert GenServer.call(worker, fn _state -> {:reply, self(), %{test: nil}} end) == worker
      GenServer.cast(worker, fn state -> {:noreply, Map.put(state, :cast, self())} end)
      eventually(fn -> match?(%{cast: ^worker}, GenPool.get_state(pool)) end)
      assert :sys.get_state(worker) == GenPool.get_state(pool)
      assert :sys.replace_state(worker, fn _state -> :replaced end) == :replaced
      assert GenPool.get_state(pool) == :replaced
      :ok = :sys.suspend(worker)
      # The other one works meanwhile.
      assert GenPool.call(pool, fn state -> {:reply, self(), state} end) != worker
      :ok = :sys.resume(worker)
      assert GenServer.call(worker, &{:reply, &1, &1}) == :replaced
    end

    test "a message that a handler sends to itself comes to that worker" do
      pool = start_pool!(%{test: self()}, pool_size: 3)

      worker =
        GenPool.call(pool, fn state ->
          send(self(), :to_myself)
          {:reply, self(), state}
        end)

      assert_receive {:info, :to_myself, ^worker}, 5_000
    end

    test "a task that a handler starts ends with its worker" do
      pool = start_pool!(1, pool_size: 1)

      task =
        GenPool.call(pool, fn state ->
          {:reply, spawn_link(fn -> receive(do: (:never -> :ok)) end), state}
        end)

      [worker] = GenPool.get_children(pool)
      Process.exit(worker, :kill)
      assert down(task) in [:killed, :noproc]
    end

    test "trap exits if init/1 does" do
      test = self()
      pool = unique_name()

      init = fn ->
        Process.flag(:trap_exit, true)
        {:ok, %{test: test}}
      end

      {:ok, _pid} = GenPool.start_link(Scripted, init, name: pool, pool_size: 1)

      {worker, linked} =
        GenPool.call(pool, fn state ->
          {:reply, {self(), spawn_link(fn -> exit(:linked) end)}, state}
        end)

      assert_receive {:info, {:EXIT, ^linked, :linked}, ^worker}, 5_000
      assert GenPool.get_children(pool) == [worker]
      # The pool too.
      pid = Process.whereis(pool)
      other = spawn(fn -> Process.link(pid) && exit(:other) end)
      assert_receive {:info, {:EXIT, ^other, :other}, ^worker}, 5_000
      GenPool.stop(pool)
      assert_receive {:terminated, :normal, _state}
    end

    test "what is linked to a pool that does not trap exits takes it along" do
      Process.flag(:trap_exit, true)
      {:ok, pid} = GenPool.start_link(Scripted, fn -> {:ok, 1} end, name: unique_name())
      spawn(fn -> Process.link(pid) && exit(:normal) end)
      spawn(fn -> Process.link(pid) && exit(:because) end)
      assert_receive {:EXIT, ^pid, :because}, 5_000
    end
  end

  describe "set_pool_size/2" do
    test "adds workers that start on what waits" do
      pool = start_pool!(0, pool_size: 0)
      tasks = for _ <- 1..10, do: Task.async(fn -> GenPool.call(pool, &{:reply, &1, &1 + 1}) end)
      eventually(fn -> GenPool.info(pool).waiting == 10 end)
      assert GenPool.set_pool_size(pool, 3) == :ok
      assert tasks |> Task.await_many() |> Enum.sort() == Enum.to_list(0..9)
      assert length(GenPool.get_children(pool)) == 3
    end

    test "takes idle workers first, and waits for busy ones" do
      pool = start_pool!(0, pool_size: 3)
      busy = occupy(pool)
      assert GenPool.set_pool_size(pool, 1) == :ok
      assert GenPool.get_children(pool) == [busy.worker]
      assert GenPool.set_pool_size(pool, 0) == :ok
      assert GenPool.get_children(pool) == []
      assert Process.alive?(busy.worker)
      assert release(busy) == :released
      assert down(busy.worker) in [:normal, :noproc]
    end

    test "nothing is handled with 0, and nothing is lost" do
      pool = start_pool!(0)
      GenPool.set_pool_size(pool, 0)
      eventually(fn -> GenPool.info(pool).idle == 0 end)
      for i <- 1..10, do: :ok = GenPool.cast(pool, &{:noreply, &1 + i})
      send(pool, fn state -> {:noreply, state + 100} end)
      assert %{waiting: 10} = GenPool.info(pool)
      GenPool.set_pool_size(pool, 2)
      eventually(fn -> GenPool.get_state(pool) == 155 end)
    end

    test "refuses what is no number of workers" do
      pool = start_pool!(0)
      assert_raise ArgumentError, fn -> GenPool.set_pool_size(pool, -1) end
      assert_raise ArgumentError, fn -> GenPool.set_pool_size(pool, :all) end
      assert length(GenPool.get_children(pool)) == 5
    end

    test "says which worker of its own state could not be started" do
      counter = :counters.new(1, [])

      init = fn ->
        :counters.add(counter, 1, 1)
        if :counters.get(counter, 1) > 3, do: {:stop, :enough}, else: {:ok, 1}
      end

      pool = unique_name()
      opts = [name: pool, shared_state?: false, pool_size: 2]
      {:ok, _pid} = GenPool.start_link(Scripted, init, opts)
      assert GenPool.set_pool_size(pool, 5) == {:error, :enough}
      assert length(GenPool.get_children(pool)) == 3
      GenPool.stop(pool)
    end
  end

  describe "a state for each worker" do
    test "is its own" do
      pool = start_pool!(0, shared_state?: false, pool_size: 3)
      add = fn state -> {:reply, {self(), state + 1}, state + 1} end
      sums = for _ <- 1..30, do: GenPool.call(pool, add)
      by_worker = Enum.group_by(sums, &elem(&1, 0), &elem(&1, 1))
      for {_worker, counts} <- by_worker, do: assert(counts == Enum.to_list(1..length(counts)))
      assert Enum.sum(GenPool.get_state(pool)) == 30
      assert length(GenPool.get_state(pool)) == 3
    end

    test "is gone with its worker, which tells why, and begins anew" do
      test = self()
      pool = start_pool!(%{test: test, n: 0}, shared_state?: false, pool_size: 1)
      GenPool.call(pool, &{:reply, :ok, %{&1 | n: 1}})
      assert {:error, {%RuntimeError{}, _}} = call(pool, fn _ -> raise "oops" end)
      assert_receive {:terminated, {%RuntimeError{}, _stack}, %{n: 1}}, 5_000
      assert GenPool.call(pool, &{:reply, &1.n, &1}) == 0
    end

    test "a worker may call its own pool" do
      pool = start_pool!(0, shared_state?: false, pool_size: 2)
      inner = fn state -> {:reply, self(), state} end

      assert {outer, other} =
               GenPool.call(pool, fn state ->
                 {:reply, {self(), GenPool.call(pool, inner)}, state}
               end)

      assert outer != other
    end

    test "traps exits, and then cleans up at the end" do
      test = self()
      pool = unique_name()

      init = fn ->
        Process.flag(:trap_exit, true)
        {:ok, %{test: test}}
      end

      opts = [name: pool, shared_state?: false, pool_size: 3]
      {:ok, _pid} = GenPool.start_link(Scripted, init, opts)
      GenPool.stop(pool)
      for _ <- 1..3, do: assert_receive({:terminated, :shutdown, %{test: ^test}})
    end
  end

  describe "two pools side by side" do
    test "never mix, whatever broker's module they name" do
      broker = broker!(queue_type: :fifo)
      one = start_pool!(:one, broker: broker)
      other = start_pool!(:other, broker: broker)

      answers =
        1..400
        |> Task.async_stream(
          fn i ->
            pool = if rem(i, 2) == 0, do: one, else: other
            {pool, GenPool.call(pool, &{:reply, &1, &1})}
          end,
          max_concurrency: 50
        )
        |> Enum.map(fn {:ok, answer} -> answer end)
        |> Enum.frequencies()

      assert answers == %{{one, :one} => 200, {other, :other} => 200}
    end
  end

  describe "the end" do
    test "terminate/2 is called once, with the last state, after the last handler" do
      pool = start_pool!(%{test: self(), n: 0}, pool_size: 3)
      for _ <- 1..100, do: GenPool.cast(pool, &{:noreply, %{&1 | n: &1.n + 1}})
      assert GenPool.stop(pool) == :ok
      assert_received {:terminated, :normal, %{n: 100}}
      refute_received {:terminated, _reason, _state}
    end

    test "gives what was begun its time, and no more" do
      pool = start_pool!(%{test: self()}, pool_size: 1, shutdown: 20)
      busy = occupy(pool)
      :ok = GenPool.cast(pool, fn state -> {:noreply, Map.put(state, :cast, true)} end)
      assert GenPool.stop(pool) == :ok
      assert_received {:terminated, :normal, state}
      refute Map.has_key?(state, :cast)
      assert {:exit, {:normal, _call}} = returned(busy)
    end

    test "requests that come after it began are refused" do
      test = self()
      pool = start_pool!(%{}, pool_size: 1)
      busy = occupy(pool)
      stopping = spawn(fn -> send(test, {:stopped, GenPool.stop(pool)}) end)
      eventually(fn -> GenPool.cast(pool, &{:noreply, &1}) == {:error, :noproc} end)
      assert {:exit, {:noproc, _call}} = call(pool, &{:reply, &1, &1})
      assert release(busy) == :released
      assert_receive {:stopped, :ok}, 5_000
      refute Process.alive?(stopping)
    end

    test "a handler that crashes during it takes nothing along" do
      pool = start_pool!(%{test: self(), n: 0}, pool_size: 1)
      busy = occupy(pool)
      for _ <- 1..5, do: GenPool.cast(pool, fn _state -> raise "oops" end)
      GenPool.cast(pool, &{:noreply, %{&1 | n: 1}})
      stop = Task.async(fn -> GenPool.stop(pool) end)
      eventually(fn -> GenPool.cast(pool, &{:noreply, &1}) == {:error, :noproc} end)
      release(busy)
      assert Task.await(stop) == :ok
      assert_received {:terminated, :normal, %{n: 1}}
    end

    test "twice exits" do
      pool = start_pool!(1)
      assert GenPool.stop(pool) == :ok
      assert {:noproc, _} = catch_exit(GenPool.stop(pool))
      assert {:noproc, _} = catch_exit(GenPool.get_state(pool))
      assert {:noproc, _} = catch_exit(GenPool.info(pool))
      assert {:noproc, _} = catch_exit(GenPool.get_children(pool))
    end
  end

  test "info/1 accounts for every request" do
    pool = start_pool!(0, pool_size: 2)
    for _ <- 1..10, do: GenPool.call(pool, &{:reply, &1, &1 + 1})
    call(pool, fn _ -> raise "oops" end)
    busy = occupy(pool)
    info = assert_accounted(pool)
    assert %{in_flight: 1, done: 10, failed: 1, accepted: 12, waiting: 0} = info
    assert %{pool: ^pool, module: Scripted, pool_size: 2, isolation: :exclusive} = info
    assert %{messages: 0, retries: 0, refused: 0} = info
    assert length(info.workers) == 2
    release(busy)
  end

  describe "many pools" do
    test "that start and stop at the same time are found as long as they run" do
      1..24
      |> Task.async_stream(
        fn n ->
          name = unique_name()
          {:ok, _pid} = GenPool.start_link(Scripted, fn -> {:ok, n} end, name: name)
          assert GenPool.call(name, &{:reply, &1, &1}) == n
          if rem(n, 2) == 0, do: :ok = GenPool.stop(name)
          assert call(name, &{:reply, &1, &1}) |> is_integer() == (rem(n, 2) == 1)
          if rem(n, 2) == 1, do: :ok = GenPool.stop(name)
          assert {:exit, {:noproc, _call}} = call(name, &{:reply, &1, &1})
          assert GenPool.cast(name, & &1) == {:error, :noproc}
        end,
        max_concurrency: 8
      )
      |> Enum.each(&assert {:ok, true} = &1)
    end
  end
end
