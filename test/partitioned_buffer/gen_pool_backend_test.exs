defmodule PartitionedBuffer.GenPoolBackendTest do
  # Where the state lives: one contract for all backends, and what the native one promises besides.
  use PartitionedBuffer.GenPoolCase

  import PartitionedBuffer.Alive
  import PartitionedBuffer.Generators, only: [any_term: 0, identical?: 2]
  import PartitionedBuffer.Property

  alias PartitionedBuffer.GenPool.Backend

  setup_all :assert_alive_baseline

  defmodule InAgent do
    @moduledoc false
    # That of the documentation.
    @behaviour Backend
    defstruct first: 1

    @impl true
    def new(%InAgent{first: first}, state) do
      {:ok, agent} = Agent.start_link(fn -> {first, state} end)
      {:ok, agent, first}
    end

    def new([], state), do: new(%InAgent{}, state)
    def new({:refuse, reason}, _state), do: {:error, reason}

    @impl true
    def get(agent, known) do
      case Agent.get(agent, & &1) do
        {^known, _state} -> :unchanged
        versioned -> versioned
      end
    end

    @impl true
    def update(agent, version, state) do
      Agent.get_and_update(agent, fn
        {^version, _old} -> {{:ok, version + 1}, {version + 1, state}}
        newer -> {:changed, newer}
      end)
    end

    @impl true
    def delete(agent), do: Agent.stop(agent)
  end

  defmodule FromGenPool do
    @moduledoc false
    # As its documentation writes it, but for the alias.
    alias PartitionedBuffer.GenPool

    use GenPool,
      pool_size: 5,
      shared_state?: true,
      external_broker?: false,
      broker: GenPool.DefaultBroker,
      backend: %GenPool.Backend.Ane{}

    @impl true
    def init(count), do: {:ok, count}

    @impl true
    def handle_call({:add, value}, _from, count), do: {:reply, count + value, count + value}
  end

  test "the backend of gen_pool is understood as the native one" do
    pool = unique_name()
    start_supervised!({GenPool, {FromGenPool, 5, name: pool}})
    assert GenPool.call(pool, {:add, 5}) == 10

    for backend <- [Backend.Ane, %Backend.Ane{}],
        do: assert(Backend.parse(backend) == {:ok, {Backend.Native, []}})
  end

  for backend <- [Backend.Native, Backend.ETS, InAgent] do
    describe "#{inspect(backend)}:" do
      @backend backend

      test "a state is replaced by who names its version, and by nobody else" do
        {:ok, ref, first} = @backend.new([], :first)
        assert @backend.get(ref, nil) == {first, :first}
        assert @backend.get(ref, first) == :unchanged
        assert {:ok, second} = @backend.update(ref, first, :second)
        assert second != first
        assert @backend.update(ref, first, :other) == :changed
        assert @backend.get(ref, first) == {second, :second}
        assert @backend.get(ref, second) == :unchanged
      end

      test "keeps every kind of term as it is" do
        {:ok, ref, first} = @backend.new([], nil)
        version = :counters.new(1, [])
        :counters.put(version, 1, first)

        check(any_term(), [tests: 50], fn term ->
          {:ok, next} = @backend.update(ref, :counters.get(version, 1), term)
          :counters.put(version, 1, next)
          {^next, kept} = @backend.get(ref, nil)
          assert identical?(kept, term)
        end)
      end

      test "keeps terms that look like patterns" do
        {:ok, ref, first} = @backend.new([], nil)

        for term <- [:_, :"$1", {:"$1", :_}, {:const, :"$_"}, [{{:"$1"}, [], [:"$_"]}]],
            reduce: first do
          version ->
            {:ok, version} = @backend.update(ref, version, term)
            assert @backend.get(ref, nil) == {version, term}
            version
        end
      end

      test "no addition of many processes is lost" do
        {:ok, ref, _first} = @backend.new([], 0)

        1..8
        |> Enum.map(fn _ -> Task.async(fn -> for _ <- 1..200, do: add(@backend, ref) end) end)
        |> Task.await_many(30_000)

        assert {_version, 1_600} = @backend.get(ref, nil)
      end

      test "under a pool" do
        pool = start_pool!(0, backend: @backend, isolation: :optimistic)

        1..300
        |> Task.async_stream(fn _ -> GenPool.call(pool, &{:reply, &1, &1 + 1}) end)
        |> Stream.run()

        assert GenPool.get_state(pool) == 300
        GenPool.stop(pool)
      end
    end
  end

  defp add(backend, ref) do
    {version, sum} = backend.get(ref, nil)
    if backend.update(ref, version, sum + 1) == :changed, do: add(backend, ref)
  end

  test "a backend is named as a module, with its configuration, or as its struct" do
    for backend <- [InAgent, {InAgent, %InAgent{first: 7}}, %InAgent{first: 7}, %Backend.ETS{}] do
      pool = start_pool!(1, backend: backend)
      assert GenPool.call(pool, &{:reply, &1, &1 + 1}) == 1
      assert GenPool.get_state(pool) == 2
      GenPool.stop(pool)
    end
  end

  test "a backend that refuses keeps the pool from starting" do
    Process.flag(:trap_exit, true)
    opts = [name: unique_name(), backend: {InAgent, {:refuse, :no_room}}]
    assert GenPool.start_link(Scripted, fn -> {:ok, 1} end, opts) == {:error, :no_room}
  end

  describe "the native backend" do
    test "counts what it holds" do
      before = alive()
      {:ok, cell, version} = Backend.Native.new([], List.duplicate(:x, 1_000))
      held = alive()
      assert held.arenas == before.arenas + 1
      assert held.entries == before.entries + 1
      assert held.bytes >= before.bytes + 16_000
      # What is all in its word takes nothing but that.
      {:ok, _version} = Backend.Native.update(cell, version, 1)
      assert alive() == %{before | entries: before.entries + 1, bytes: before.bytes + 8}
      assert {2, 1} = Backend.Native.get(cell, nil)
    end

    test "a reader has its copy whatever happens to the state" do
      {:ok, cell, version} = Backend.Native.new([], [:first])
      {^version, read} = Backend.Native.get(cell, nil)
      {:ok, _version} = Backend.Native.update(cell, version, [:second])
      :erlang.garbage_collect()
      assert read == [:first]
    end

    test "answers what is no cell, or no version, with an error" do
      {:ok, cell, _version} = Backend.Native.new([], 1)

      for wrong <- [make_ref(), nil, 1, self()] do
        assert_raise ArgumentError, fn -> Backend.Native.get(wrong, nil) end
        assert_raise ArgumentError, fn -> Backend.Native.update(wrong, 1, 1) end
      end

      for wrong <- [-1, 1.0, :a, Integer.pow(2, 70)] do
        assert_raise ArgumentError, fn -> Backend.Native.get(cell, wrong) end
        assert_raise ArgumentError, fn -> Backend.Native.update(cell, wrong, 1) end
      end
    end

    test "large states hold up no scheduler" do
      large = for i <- 1..60_000, do: {i, "#{i}"}
      {:ok, cell, version} = Backend.Native.new([], large)
      test = self()

      watcher =
        spawn_link(fn ->
          :erlang.system_monitor(self(), [{:long_schedule, 20}])
          send(test, :watching)
          watch([])
        end)

      assert_receive :watching

      readers =
        for _ <- 1..4 do
          Task.async(fn ->
            for _ <- 1..10 do
              {_version, state} = Backend.Native.get(cell, nil)
              assert length(state) in 60_000..60_001
            end
          end)
        end

      Enum.reduce(1..10, version, fn i, version ->
        {:ok, version} = Backend.Native.update(cell, version, [i | large])
        {:ok, version} = Backend.Native.update(cell, version, large)
        version
      end)

      Task.await_many(readers, 30_000)
      send(watcher, {:stop, self()})
      assert_receive {:long, long}, 5_000

      # A collection of such a heap, or another test of this machine's, is none of the library's doing.
      for info <- long, {where, {module, _function, _arity}} <- info, where in [:in, :out] do
        refute module == PartitionedBuffer.Native
      end
    end
  end

  defp watch(long) do
    receive do
      {:monitor, _pid, :long_schedule, info} -> watch([info | long])
      {:stop, test} -> send(test, {:long, long})
    end
  end
end
