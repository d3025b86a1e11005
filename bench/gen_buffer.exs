# What do messages to a pool cost? `send` until all are handled, with handlers that only count; `send` while all
# workers are busy; a round trip; and whether any of it depends on how many messages wait already.

Code.require_file("support/bench.ex", __DIR__)
Code.require_file("support/ets_dispatch.ex", __DIR__)

defmodule Bench.Handler do
  @moduledoc false
  use PartitionedBuffer.GenBuffer

  @impl true
  def handle_message(_buffer, {:count, counter}, state) do
    {:ok, :counters.add(counter, 1, 1), state}
  end

  def handle_message(_buffer, {:gate, test}, state) do
    Kernel.send(test, {:at_gate, self()})
    receive(do: (:open -> {:ok, :ok, state}))
  end

  def handle_message(_buffer, message, state), do: {:ok, message, state}
end

defmodule Bench.Plain do
  @moduledoc false
  use GenServer

  @impl true
  def init(arg), do: {:ok, arg}

  @impl true
  def handle_call(message, _from, state), do: {:reply, message, state}

  @impl true
  def handle_cast({:count, counter}, state) do
    :counters.add(counter, 1, 1)
    {:noreply, state}
  end

  def handle_cast({:gate, test}, state) do
    Kernel.send(test, {:at_gate, self()})
    receive(do: (:open -> {:noreply, state}))
  end

  def start_link(_args), do: GenServer.start_link(__MODULE__, nil)
end

defmodule Bench.GenBuffer do
  alias PartitionedBuffer.GenBuffer

  @workers 4
  @callers [1, 2, 8, 64]
  @rounds 9
  @messages 200_000
  @calls 300_000
  @busy 100_000
  @buffer :bench_gen_buffer

  def run do
    Bench.title("gen_buffer: nanoseconds for a message, #{@workers} workers")
    sends()
    busy()
    calls()
    flat()
  end

  defp start(workers \\ @workers) do
    {:ok, pid} =
      GenBuffer.start_link(@buffer,
        message_handler: Bench.Handler,
        workers: workers,
        drain_timeout_ms: 0
      )

    Process.unlink(pid)
  end

  # --- send, until all are handled ---

  defp sends do
    rows =
      for callers <- @callers do
        samples =
          Bench.rounds(
            [
              ours: fn -> send_ours(callers) end,
              cast: fn -> cast(callers) end,
              ets: fn -> ets(callers) end
            ],
            @rounds
          )

        {callers, samples}
      end

    compare("send, until all are handled", rows, [
      {:cast, "GenServer.cast", {:at_least, 1}},
      {:ets, "ETS", {:at_least, 3}}
    ])
  end

  defp send_ours(callers) do
    start()
    until_counted(callers, fn -> GenBuffer.stop(@buffer) end, &send_each/2)
  end

  defp send_each(_counter, 0), do: :ok

  defp send_each(counter, n) do
    _ref = GenBuffer.send(@buffer, {:count, counter})
    send_each(counter, n - 1)
  end

  defp cast(callers) do
    {:ok, pid} = GenServer.start(Bench.Plain, nil)
    until_counted(callers, fn -> GenServer.stop(pid) end, &cast_each(pid, &1, &2))
  end

  defp cast_each(_pid, _counter, 0), do: :ok

  defp cast_each(pid, counter, n) do
    GenServer.cast(pid, {:count, counter})
    cast_each(pid, counter, n - 1)
  end

  defp ets(callers) do
    pids = Bench.EtsDispatch.start(@workers)
    until_counted(callers, fn -> Bench.EtsDispatch.stop(pids) end, &ets_each/2)
  end

  defp ets_each(_counter, 0), do: :ok

  defp ets_each(counter, n) do
    _ref = Bench.EtsDispatch.send({:count, counter})
    ets_each(counter, n - 1)
  end

  # The clock runs until the last message has been handled. What is forgotten beside idle workers, which the ETS
  # way does, is taken along by a message now and then.
  defp until_counted(callers, stop, send) do
    counter = :counters.new(1, [])
    each = div(@messages, callers)
    started = Bench.start()
    _sent = Bench.run(callers, each * callers, fn _caller -> send.(counter, each) end)
    await(counter, each * callers, send, 0)
    result = Bench.since(started, each * callers)
    stop.()
    result.wall
  end

  defp await(counter, count, send, looks) do
    if :counters.get(counter, 1) < count do
      if rem(looks, 20) == 19, do: send.(counter, 1)
      receive(do: (:never -> :ok), after: (1 -> await(counter, count, send, looks + 1)))
    end
  end

  # --- send while all are busy ---

  defp busy do
    rows =
      for callers <- @callers do
        samples =
          Bench.rounds(
            [
              ours: fn -> busy_ours(callers) end,
              cast: fn -> busy_cast(callers) end,
              ets: fn -> busy_ets(callers) end
            ],
            @rounds
          )

        {callers, samples}
      end

    compare("send, all workers busy", rows, [
      {:cast, "GenServer.cast", {:at_least, 1}},
      {:ets, "ETS", {:at_least, 3}}
    ])
  end

  defp busy_ours(callers) do
    start()
    pids = for _ <- 1..@workers, do: gate(fn -> GenBuffer.send(@buffer, {:gate, self()}) end)
    counter = :counters.new(1, [])
    each = div(@busy, callers)
    result = Bench.run(callers, each * callers, fn _caller -> send_each(counter, each) end)
    for pid <- pids, do: Kernel.send(pid, :open)
    GenBuffer.stop(@buffer)
    result.wall
  end

  defp busy_cast(callers) do
    {:ok, pid} = GenServer.start(Bench.Plain, nil)
    gate(fn -> GenServer.cast(pid, {:gate, self()}) end)
    counter = :counters.new(1, [])
    each = div(@busy, callers)
    result = Bench.run(callers, each * callers, fn _caller -> cast_each(pid, counter, each) end)
    Process.exit(pid, :kill)
    result.wall
  end

  defp busy_ets(callers) do
    pids = Bench.EtsDispatch.start(@workers)
    for _ <- pids, do: gate(fn -> Bench.EtsDispatch.send({:gate, self()}) end)
    counter = :counters.new(1, [])
    each = div(@busy, callers)
    result = Bench.run(callers, each * callers, fn _caller -> ets_each(counter, each) end)
    for pid <- pids, do: Process.exit(pid, :kill)
    :ets.delete(:idle)
    :ets.delete(:waiting)
    result.wall
  end

  defp gate(send) do
    send.()
    receive(do: ({:at_gate, pid} -> pid))
  end

  # --- a round trip ---

  defp calls do
    samples =
      [ours: &call_ours/1, call: &call_plain/1] ++
        if(poolboy?(), do: [poolboy: &call_poolboy/1], else: [])

    rows =
      for callers <- @callers do
        {callers,
         Bench.rounds(
           for({name, sample} <- samples, do: {name, fn -> sample.(callers) end}),
           @rounds
         )}
      end

    others = [{:call, "GenServer.call", {:at_most, 0.8}}]
    poolboy = if poolboy?(), do: [{:poolboy, "poolboy", {:at_least, 5}}], else: []
    compare("send_recv", rows, others ++ poolboy)

    if not poolboy?(),
      do: IO.puts("poolboy is not installed (Debian: erlang-poolboy): no comparison with it\n")
  end

  defp poolboy?, do: Code.ensure_loaded?(:poolboy)

  defp call_ours(callers) do
    start()
    result = run_calls(callers, &ours_each/1)
    GenBuffer.stop(@buffer)
    result
  end

  defp ours_each(0), do: :ok

  defp ours_each(n) do
    {:ok, :hello} = GenBuffer.send_recv(@buffer, :hello)
    ours_each(n - 1)
  end

  defp call_plain(callers) do
    {:ok, pid} = GenServer.start(Bench.Plain, nil)
    result = run_calls(callers, &plain_each(pid, &1))
    GenServer.stop(pid)
    result
  end

  defp plain_each(_pid, 0), do: :ok

  defp plain_each(pid, n) do
    :hello = GenServer.call(pid, :hello)
    plain_each(pid, n - 1)
  end

  defp call_poolboy(callers) do
    opts = [worker_module: Bench.Plain, size: @workers, max_overflow: 0]
    {:ok, pool} = apply(:poolboy, :start, [opts, []])
    result = run_calls(callers, &poolboy_each(pool, &1))
    apply(:poolboy, :stop, [pool])
    result
  end

  defp poolboy_each(_pool, 0), do: :ok

  defp poolboy_each(pool, n) do
    :hello = apply(:poolboy, :transaction, [pool, &GenServer.call(&1, :hello), :infinity])
    poolboy_each(pool, n - 1)
  end

  defp run_calls(callers, call) do
    each = div(@calls, callers)
    Bench.run(callers, each * callers, fn _caller -> call.(each) end).wall
  end

  # --- does it depend on what waits? ---

  defp flat do
    levels = [1_000, 10_000, 100_000, 1_000_000]
    samples = for level <- levels, do: {level, fn -> level(level) end}
    by_level = Bench.rounds(samples, @rounds)
    base = by_level[hd(levels)]

    Bench.table(
      ["waiting", "send", "to 1,000", "target", "reached"],
      for level <- levels do
        ratios = Bench.ratios(by_level[level], base)

        {target, reached} =
          if level == List.last(levels),
            do: Bench.judge({:at_most, 1.3}, Bench.median(ratios)),
            else: {"", ""}

        ["#{level}", Bench.spread(by_level[level]), Bench.spread(ratios), target, reached]
      end
    )
  end

  # The median of 1,000s: a segment more or less is not what is asked.
  defp level(level) do
    start(0)
    counter = :counters.new(1, [])
    send_each(counter, level)

    times =
      for _ <- 1..50 do
        started = System.monotonic_time()
        send_each(counter, 1_000)
        System.convert_time_unit(System.monotonic_time() - started, :native, :nanosecond) / 1_000
      end

    GenBuffer.stop(@buffer)
    Bench.median(times)
  end

  # --- tables ---

  defp compare(what, rows, others) do
    table =
      for {callers, samples} <- rows, {name, title, target} <- others do
        ratios =
          case target do
            {:at_most, _} -> Bench.ratios(samples.ours, samples[name])
            {:at_least, _} -> Bench.ratios(samples[name], samples.ours)
          end

        {wanted, reached} = Bench.judge(target, Bench.median(ratios))

        [
          "#{callers} callers",
          Bench.spread(samples.ours),
          "#{title} #{Bench.spread(samples[name])}",
          Bench.spread(ratios),
          wanted,
          reached
        ]
      end

    Bench.table([what, "GenBuffer", "the other", "ratio", "target", "reached"], table)
  end
end

Bench.GenBuffer.run()
