defmodule PartitionedBuffer.GenPoolAlongPropertiesTest do
  # A pool against a model that knows what was accepted: bursts of casts that workers take along several at a time, calls
  # that wait for long, and what comes in the midst of them: kills, crashes, resizes, ends. With a state for each worker
  # and with a shared one of every kind.
  #
  # In every moment in which nothing is on its way: what was accepted is done, each once, but for as many as are counted as
  # failed; and no more have failed than were crashed or killed. A caller that was answered finds what it did in the
  # state, and one that was told of a failure does not.
  use PartitionedBuffer.GenPoolCase, async: true

  import PartitionedBuffer.Property

  alias :proper_types, as: Types

  @moduletag capture_log: true

  defmodule Gate do
    @moduledoc false
    # Handlers wait here until they are let through, or are told to crash. One that is open lets all through at once.
    def start_link, do: spawn_link(fn -> is_shut([]) end)

    def pass(gate) do
      send(gate, {:pass, self()})

      receive do
        {:passed, how} -> how
      end
    end

    @doc "Lets those through who wait, and all who come until it is shut again."
    def open(gate, how \\ :go), do: ask(gate, {:open, how})
    def shut(gate), do: ask(gate, :shut)

    @doc "Who waits."
    def waiting(gate), do: ask(gate, :waiting)

    defp ask(gate, question) do
      ref = make_ref()
      send(gate, {:ask, self(), ref, question})

      receive do
        {^ref, answer} -> answer
      end
    end

    defp is_shut(waiting) do
      receive do
        {:pass, pid} ->
          is_shut([pid | waiting])

        {:ask, from, ref, {:open, how}} ->
          for pid <- waiting, do: send(pid, {:passed, how})
          send(from, {ref, :ok})
          is_open()

        {:ask, from, ref, :waiting} ->
          waiting = Enum.filter(waiting, &Process.alive?/1)
          send(from, {ref, waiting})
          is_shut(waiting)

        {:ask, from, ref, :shut} ->
          send(from, {ref, :ok})
          is_shut(waiting)
      end
    end

    defp is_open do
      receive do
        {:pass, pid} ->
          send(pid, {:passed, :go})
          is_open()

        {:ask, from, ref, :shut} ->
          send(from, {ref, :ok})
          is_shut([])

        {:ask, from, ref, {:open, _how}} ->
          send(from, {ref, :ok})
          is_open()
      end
    end
  end

  defmodule Handlers do
    @moduledoc false
    # A message has a number, which goes into the state when its handler is through. How often it was begun is noted.
    def init({test, gate, runs}),
      do: {:ok, %{test: test, gate: gate, runs: runs, numbers: []}}

    def handle_call(message, _from, state), do: {:reply, elem(message, 1), handle(message, state)}
    def handle_cast(message, state), do: {:noreply, handle(message, state)}

    def terminate(_reason, state) do
      send(state.test, {:terminated, state.numbers})
    end

    defp handle({kind, number}, state) do
      :ets.update_counter(state.runs, number, 1, {number, 0})
      if kind == :gate and Gate.pass(state.gate) == :crash, do: exit(:crash)
      %{state | numbers: [number | state.numbers]}
    end
  end

  defmodule NamedHandlers do
    @moduledoc false
    defdelegate init(arg), to: Handlers
    defdelegate handle_call(message, from, state), to: Handlers
    defdelegate handle_cast(message, state), to: Handlers
    defdelegate terminate(reason, state), to: Handlers
    def read_only?(_callback, _message), do: false
  end

  defp count, do: Types.integer(0, 60)
  defp size, do: Types.integer(1, 4)

  defp operation do
    Types.frequency([
      {4, {:casts, count()}},
      {2, {:calls, Types.integer(1, 10)}},
      {3, {:burst, count(), Types.integer(0, 4), Types.integer(1, 4)}},
      {2, {:kill, Types.integer(0, 3)}},
      {2, {:resize, size()}},
      {8,
       {:midst, count(), count(),
        Types.oneof([
          :nothing,
          :kill,
          :crash,
          :calls,
          {:resize, Types.integer(0, 4)},
          :stop,
          :kill_and_stop
        ])}}
    ])
  end

  for {kind, opts} <- [
        "own state": [shared_state?: false],
        exclusive: [],
        named: [module: NamedHandlers],
        optimistic: [isolation: :optimistic]
      ] do
    @opts opts

    test "#{kind}: a pool is its model" do
      check({size(), Types.list(operation())}, [tests: 100, size: 30], fn {size, operations} ->
        model = Enum.reduce(operations, start(@opts, size), &run/2)
        stop(model)
      end)
    end
  end

  # Casts and calls are numbers; `doomed` is how many of them may have failed.
  defp start(opts, size) do
    gate = Gate.start_link()
    runs = :ets.new(:runs, [:public])
    {module, pool_opts} = Keyword.pop(opts, :module, Handlers)
    pool = unique_name("along")
    pool_opts = [name: pool, pool_size: size, shutdown: :infinity] ++ pool_opts
    {:ok, _pid} = GenPool.start_link(module, {self(), gate, runs}, pool_opts)

    %{
      opts: opts,
      shared?: Keyword.get(opts, :shared_state?, true),
      once?: opts[:isolation] != :optimistic,
      pool: pool,
      size: size,
      gate: gate,
      runs: runs,
      next: 1,
      calls: [],
      answered: MapSet.new(),
      refused: MapSet.new(),
      doomed: 0
    }
  end

  defp run({:casts, count}, model), do: model |> casts(count) |> through()
  defp run({:calls, count}, model), do: model |> calls(:add, count) |> through()

  # Workers are killed at any moment, whatever they have in hand.
  defp run({:burst, casts, calls, kills}, model) do
    model = model |> casts(casts) |> calls(:add, calls)

    for i <- 1..kills do
      workers = GenPool.get_children(model.pool)
      Process.exit(Enum.at(workers, rem(i, length(workers))), :kill)
    end

    through(%{model | doomed: model.doomed + kills})
  end

  # It has nothing in hand.
  defp run({:kill, index}, model) do
    workers = GenPool.get_children(model.pool)
    kill(Enum.at(workers, rem(index, length(workers))))
    through(model)
  end

  defp run({:resize, size}, model) do
    :ok = GenPool.set_pool_size(model.pool, size)
    through(%{model | size: size})
  end

  # A worker is at one that waits at the gate, behind some that it has done, and before others.
  defp run({:midst, before, behind, what}, model) do
    model = model |> casts(before) |> cast(:gate) |> casts(behind)
    eventually(fn -> match?([_worker], Gate.waiting(model.gate)) end)
    [worker] = Gate.waiting(model.gate)
    in_the_midst(what, worker, model)
  end

  defp in_the_midst(:nothing, _worker, model), do: open(model)

  defp in_the_midst(:kill, worker, model) do
    kill(worker)
    open(%{model | doomed: model.doomed + 1})
  end

  defp in_the_midst(:crash, worker, model) do
    :ok = Gate.open(model.gate, :crash)
    assert down(worker) in [:crash, :noproc]
    open(%{model | doomed: model.doomed + 1})
  end

  # The callers are told that they have waited for long, before any of them can be answered.
  defp in_the_midst(:calls, _worker, model) do
    model = calls(model, :gate, 3)

    for {_number, task} <- model.calls,
        do: eventually(fn -> Process.info(task.pid, :monitors) != {:monitors, []} end)

    open(model)
  end

  defp in_the_midst({:resize, size}, _worker, model) do
    :ok = GenPool.set_pool_size(model.pool, size)
    :ok = Gate.open(model.gate)
    # Without workers it waits; there are some again.
    if size == 0, do: eventually(fn -> GenPool.info(model.pool).in_flight == 0 end)
    if size == 0, do: :ok = GenPool.set_pool_size(model.pool, 1)
    open(%{model | size: max(size, 1)})
  end

  defp in_the_midst(:stop, _worker, model) do
    {model, stopping} = stopping(model)
    :ok = Gate.open(model.gate)
    ended(model, stopping)
    start(model.opts, model.size)
  end

  # The others are still done, by another worker if it was the only one.
  defp in_the_midst(:kill_and_stop, worker, model) do
    {model, stopping} = stopping(model)
    kill(worker)
    :ok = Gate.open(model.gate)
    ended(%{model | doomed: model.doomed + 1}, stopping)
    start(model.opts, model.size)
  end

  # It refuses requests by now; those that were accepted meanwhile are to be done.
  defp stopping(model) do
    stopping = Task.async(fn -> GenPool.stop(model.pool) end)
    {closed(model), stopping}
  end

  defp closed(model) do
    case GenPool.cast(model.pool, {:add, model.next}) do
      :ok ->
        receive do
        after
          1 -> closed(%{model | next: model.next + 1})
        end

      {:error, :noproc} ->
        model
    end
  end

  defp open(model) do
    :ok = Gate.open(model.gate)
    model = through(model)
    :ok = Gate.shut(model.gate)
    model
  end

  defp cast(model, kind) do
    assert GenPool.cast(model.pool, {kind, model.next}) == :ok
    %{model | next: model.next + 1}
  end

  defp casts(model, 0), do: model
  defp casts(model, count), do: model |> cast(:add) |> casts(count - 1)

  defp calls(model, _kind, 0), do: model

  defp calls(%{pool: pool, next: number} = model, kind, count) do
    task = Task.async(fn -> call(pool, {kind, number}, :infinity) end)
    model = %{model | next: number + 1, calls: [{number, task} | model.calls]}
    calls(model, kind, count - 1)
  end

  # Nothing is on its way any more.
  defp through(%{pool: pool} = model) do
    model = answers(model)
    eventually(fn -> match?(%{waiting: 0, in_flight: 0}, GenPool.info(pool)) end)
    info = assert_accounted(pool)
    assert info.accepted == model.next - 1
    assert info.done == info.accepted - info.failed
    assert info.failed <= model.doomed
    assert length(GenPool.get_children(pool)) == model.size
    agree(model, info.failed, model.shared? && GenPool.get_state(pool).numbers)
    %{model | doomed: info.failed}
  end

  defp answers(model) do
    Enum.reduce(model.calls, %{model | calls: []}, fn {number, task}, model ->
      case Task.await(task, 60_000) do
        ^number -> %{model | answered: MapSet.put(model.answered, number)}
        {:error, :killed} -> %{model | refused: MapSet.put(model.refused, number)}
      end
    end)
  end

  # A worker that is killed takes a state of its own along, but not what its handlers have done.
  defp agree(%{shared?: false} = model, failed, _none) do
    runs = Map.new(:ets.tab2list(model.runs))
    assert Enum.all?(runs, fn {_number, times} -> times == 1 end)
    # One may have been killed between the beginning of its message and that of the handler.
    assert Enum.count(1..(model.next - 1)//1, &(not is_map_key(runs, &1))) <= failed
    assert Enum.all?(model.answered, &is_map_key(runs, &1))
  end

  defp agree(model, failed, numbers) do
    if model.once?, do: assert(Enum.all?(:ets.tab2list(model.runs), &(elem(&1, 1) == 1)))
    done = MapSet.new(numbers)
    assert MapSet.size(done) == length(numbers)
    assert MapSet.size(done) == model.next - 1 - failed
    assert MapSet.subset?(model.answered, done)
    assert MapSet.disjoint?(model.refused, done)
  end

  defp stop(model) do
    stopping = Task.async(fn -> GenPool.stop(model.pool) end)
    ended(model, stopping)
  end

  # All that was accepted is done before, but for those that were killed.
  defp ended(model, stopping) do
    model = answers(model)
    assert Task.await(stopping, 60_000) == :ok
    unlink(model)

    if model.shared? do
      assert_receive {:terminated, numbers}, 5_000
      agree(model, model.doomed, numbers)
    else
      agree(model, model.doomed, nil)
    end
  end

  defp unlink(%{gate: gate}) do
    Process.unlink(gate)
    Process.exit(gate, :kill)
  end

  defp kill(worker) do
    Process.exit(worker, :kill)
    down(worker)
  end
end
