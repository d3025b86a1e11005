# What do bounds cost, how fast are writers that wait for room, and what does an acknowledged write take?
#
# * The same writes, with a capacity that is never reached and without one.
# * Writers that are blocked all the time: how many entries a second go through, compared with a processor
#   that finds all entries there.
# * `push_await/3` and `put_await/4` when a cycle starts at once, compared with a `GenServer.call/2`.

Code.require_file("support/bench.ex", __DIR__)

defmodule Bench.Bounds do
  alias PartitionedBuffer.{Map, Queue}

  defmodule Server do
    use GenServer
    @impl true
    def init(_arg), do: {:ok, nil}
    @impl true
    def handle_call(item, _from, state), do: {:reply, length([item]), state}
  end

  @rounds 7
  @items 200_000
  @keys 20_000
  @blocked_items 20_000
  @calls 60_000
  @never 3_600_000
  @name __MODULE__
  @bounds [capacity: 1_000_000_000, capacity_bytes: 1_000_000_000_000]

  def run do
    Bench.title("bounds: nanoseconds for each entry")
    Bench.comparison("bounds on and off", Enum.concat([pushes(), puts()]), "on")
    Bench.comparison("writers that wait, a slow processor", blocked(), "blocked")
    Bench.comparison("acknowledged write", [awaited(Queue), awaited(Map)], "awaited")
  end

  ## On and off

  defp pushes do
    for {what, callers, size} <- [
          {"push, 1 caller", 1, 1},
          {"push, 8 callers", 8, 1},
          {"push, lists of 100", 1, 100}
        ] do
      paired(what, fn opts -> writes(Queue, opts, callers, &push(&1, &2, size)) end)
    end
  end

  defp puts do
    for {what, callers} <- [{"put, 1 caller", 1}, {"put, 8 callers", 8}] do
      paired(what, fn opts -> writes(Map, opts, callers, &put/2) end)
    end
  end

  defp paired(what, sample) do
    %{on: on, off: off} =
      Bench.rounds([on: fn -> sample.(@bounds) end, off: fn -> sample.([]) end], @rounds)

    {what, on, {"off", off}, {:at_most, 1.15}}
  end

  defp writes(module, opts, callers, write) do
    start(module, opts)
    each = div(@items, callers)

    %{wall: wall} =
      Bench.run(callers, each * callers, fn caller ->
        write.(caller * each, caller * each + each)
      end)

    module.stop(@name)
    wall
  end

  defp push(n, n, _size), do: :ok

  defp push(i, n, 1) do
    :ok = Queue.push(@name, {:event, i, "payload"})
    push(i + 1, n, 1)
  end

  defp push(i, n, size) do
    :ok = Queue.push(@name, for(j <- i..(i + size - 1), do: {:event, j, "payload"}))
    push(i + size, n, size)
  end

  defp put(n, n), do: :ok

  defp put(i, n) do
    :ok = Map.put(@name, rem(i, @keys), {:state, i})
    put(i + 1, n)
  end

  ## Blocked

  defp blocked do
    for {what, capacity, callers} <- [
          {"capacity 1,000, 8 callers", 1_000, 8},
          {"capacity 10,000, 64 callers", 10_000, 64}
        ] do
      samples = [blocked: fn -> blocked(capacity, callers) end, own: &own_speed/0]
      %{blocked: blocked, own: own} = Bench.rounds(samples, 5)
      {what, blocked, {"its own speed", own}, {:at_most, 1.05}}
    end
  end

  defp blocked(capacity, callers) do
    seen = :counters.new(1, [])

    start(Queue,
      partitions: 1,
      capacity: capacity,
      max_size: 100,
      processing_batch_size: 100,
      # For the last ones, which are no hundred.
      processing_interval_ms: 5,
      processor: &work(&1, seen)
    )

    each = div(@blocked_items, callers)
    count = each * callers
    started = System.monotonic_time()
    for _ <- 1..callers, do: spawn_link(fn -> push_blocked(each) end)
    await(seen, count)
    wall = since(started) / count
    Queue.stop(@name)
    wall
  end

  defp own_speed do
    seen = :counters.new(1, [])
    start(Queue, partitions: 1, processing_batch_size: 100, processor: &work(&1, seen))
    push(0, @blocked_items, 100)
    started = System.monotonic_time()
    :ok = PartitionedBuffer.flush(@name)
    await(seen, @blocked_items)
    wall = since(started) / @blocked_items
    Queue.stop(@name)
    wall
  end

  defp push_blocked(0), do: :ok

  defp push_blocked(n) do
    :ok = Queue.push(@name, {:event, n, "payload"}, timeout: :infinity)
    push_blocked(n - 1)
  end

  # It waits as for a database: about 5 ms for a batch of 100.
  defp work(batch, seen) do
    receive do
    after
      4 -> :counters.add(seen, 1, length(batch))
    end
  end

  defp await(seen, count) do
    if :counters.get(seen, 1) < count do
      Process.sleep(1)
      await(seen, count)
    end
  end

  ## Awaited

  defp awaited(module) do
    samples = [awaited: fn -> await_calls(module) end, call: &genserver_calls/0]
    %{awaited: awaited, call: call} = Bench.rounds(samples, @rounds)
    {"#{inspect(module)}, 1 caller", awaited, {"GenServer.call", call}, {:at_most, 1.5}}
  end

  defp await_calls(module) do
    start(module, partitions: 1, processor: &length/1)
    %{wall: wall} = Bench.run(1, @calls, fn _caller -> await_calls(module, @calls) end)
    module.stop(@name)
    wall
  end

  defp await_calls(_module, 0), do: :ok

  defp await_calls(Queue, n) do
    {:ok, 1} = Queue.push_await(@name, n)
    await_calls(Queue, n - 1)
  end

  defp await_calls(Map, n) do
    {:ok, 1} = Map.put_await(@name, n, n)
    await_calls(Map, n - 1)
  end

  defp genserver_calls do
    {:ok, server} = GenServer.start_link(Server, nil)
    %{wall: wall} = Bench.run(1, @calls, fn _caller -> call(server, @calls) end)
    GenServer.stop(server)
    wall
  end

  defp call(_server, 0), do: :ok

  defp call(server, n) do
    1 = GenServer.call(server, n)
    call(server, n - 1)
  end

  ## Both

  defp start(module, opts) do
    defaults = [name: @name, processor: fn _ -> :ok end, processing_interval_ms: @never]
    {:ok, pid} = module.start_link(Keyword.merge(defaults, opts))
    # Whoever started it may be gone before it.
    Process.unlink(pid)
    pid
  end

  defp since(started),
    do: System.convert_time_unit(System.monotonic_time() - started, :native, :nanosecond)
end

Bench.Bounds.run()
