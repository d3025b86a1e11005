defmodule Bench.PoolSides do
  @moduledoc false
  # The same callbacks behind a GenServer, a pool, and poolboy. Each side hands over two functions: one that
  # calls and one that casts.

  alias PartitionedBuffer.GenPool

  defmodule Server do
    @moduledoc false
    # Its state is a number or a list.

    def init(state), do: {:ok, state}
    # As poolboy starts its workers.
    def start_link(state), do: GenServer.start_link(__MODULE__, state)

    def handle_call({:add, n}, _from, sum), do: {:reply, sum + n, sum + n}
    def handle_call(:read, _from, state), do: {:reply, state, state}
    def handle_call(:read_size, _from, state), do: {:reply, length(state), state}
    # Another state each time: one that is as it was is not written.
    def handle_call(:touch, _from, [{n, text} | rest]), do: {:reply, :ok, [{n + 1, text} | rest]}

    def handle_call({:work, loops}, _from, state) do
      spin(loops)
      {:reply, :ok, state}
    end

    def handle_cast({:count, done}, state) do
      :counters.add(done, 1, 1)
      {:noreply, state}
    end

    def spin(0), do: :ok
    def spin(loops), do: spin(loops - 1)
  end

  defmodule Named do
    @moduledoc false
    # The same, and it names what leaves the state as it is: that does not take turns. Work may write.

    defdelegate init(state), to: Server
    defdelegate handle_call(message, from, state), to: Server
    defdelegate handle_cast(message, state), to: Server
    def read_only?(_callback, message), do: message in [:read, :read_size]
  end

  @doc "How many loops of work take so many microseconds, when nothing else runs."
  def loops(us) do
    loops = 10_000
    times = for _ <- 1..200, do: loop_ns(loops)
    div(loops * us * 1_000, max(Enum.min(times), 1))
  end

  defp loop_ns(loops) do
    started = System.monotonic_time(:nanosecond)
    Server.spin(loops)
    System.monotonic_time(:nanosecond) - started
  end

  @doc "Runs `fun.(call, cast)` with a GenServer."
  def with_gen_server(state, fun) do
    {:ok, pid} = GenServer.start_link(Server, state, name: __MODULE__.GenServer)

    result =
      fun.(&GenServer.call(__MODULE__.GenServer, &1), &GenServer.cast(__MODULE__.GenServer, &1))

    GenServer.stop(pid)
    result
  end

  @doc "With a pool; of `Server`, unless `:module` is another one."
  def with_pool(state, opts, fun) do
    {module, opts} = Keyword.pop(opts, :module, Server)
    {:ok, pid} = GenPool.start_link(module, state, [name: __MODULE__.Pool] ++ opts)
    result = fun.(&GenPool.call(__MODULE__.Pool, &1), &GenPool.cast(__MODULE__.Pool, &1))
    GenPool.stop(pid)
    result
  end

  @doc "With poolboy, and as many workers as a pool has by default."
  def with_poolboy(state, fun) do
    {:ok, pid} =
      poolboy(:start_link, [
        [name: {:local, __MODULE__.Poolboy}, worker_module: Server, size: 5, max_overflow: 0],
        state
      ])

    call = fn message ->
      poolboy(:transaction, [__MODULE__.Poolboy, &GenServer.call(&1, message), :infinity])
    end

    result = fun.(call, nil)
    poolboy(:stop, [pid])
    result
  end

  @doc "Whether there is one, in the folder of the Erlang distribution."
  def poolboy? do
    [:code.lib_dir(), "/usr/lib/erlang/lib"]
    |> Enum.flat_map(&Path.wildcard("#{&1}/poolboy-*/ebin"))
    |> Enum.each(&Code.append_path/1)

    Code.ensure_loaded?(:poolboy)
  end

  # It is no dependency, so the compiler is not to look for it.
  defp poolboy(function, args), do: apply(:poolboy, function, args)
end
