# What does a request to a pool cost, beside one to a single GenServer and to a pool of poolboy's?
#
#   * call: a round trip; poolboy's is a `transaction` with a `GenServer.call` inside, as one uses it.
#   * cast: until everything has been handled.
#   * work: handlers that take 50 µs of CPU, by 8 callers: does a second core help?
#   * read, write: a shared state of 1 KB and of 1 MB, by one worker and by several.
#
# poolboy is taken from the Erlang distribution (Debian: erlang-poolboy). Without it, its rows are left out.

Code.require_file("support/bench.ex", __DIR__)
Code.require_file("support/pool_sides.ex", __DIR__)

defmodule Bench.GenPool do
  alias Bench.PoolSides, as: Sides

  @rounds 9
  @callers [1, 2, 8, 64]
  @calls 100_000
  @casts 200_000
  @works 2_000
  @work_us 50
  @reads 2_000
  @writes 300

  # Handlers of a pool of the default isolation take turns; in "named" its module names those that only read.
  @pools [
    exclusive: [isolation: :exclusive],
    named: [isolation: :exclusive, module: Sides.Named],
    optimistic: [isolation: :optimistic],
    own: [shared_state?: false]
  ]

  def run do
    Bench.title(
      "gen_pool: pools of 5 workers beside a GenServer and poolboy; nanoseconds a request"
    )

    poolboy? = Sides.poolboy?()

    unless poolboy?,
      do: IO.puts("poolboy is not installed (Debian: erlang-poolboy): its rows are left out.\n")

    calls("call, a handler that adds", {:add, 1}, poolboy?)
    calls("call, a handler that reads", :read, false)
    casts()
    work()
    states()
  end

  # --- calls ---------------------------------------------------------------------------------------

  defp calls(title, message, poolboy?) do
    sides = [:gen_server | Keyword.keys(@pools)] ++ if(poolboy?, do: [:poolboy], else: [])
    samples = by_callers(sides, &call_ns(&1, &2, message))

    for {time, target} <- [wall: {:at_most, 0.9}, cpu: nil] do
      rows =
        for {callers, samples} <- samples,
            {pool, _opts} <- @pools,
            {other, target} <- others(target, message, time, poolboy?) do
          row(pool, callers, samples, time, other, target)
        end

      compare("#{title} (#{time} time)", rows)
    end
  end

  # The least that one asks of a pool, whatever its kind.
  defp others(target, message, time, poolboy?) do
    gen_server = {:gen_server, if(message == :read, do: nil, else: target)}
    poolboy = {:poolboy, if(time == :wall, do: {:at_least, 5})}
    [gen_server | if(poolboy?, do: [poolboy], else: [])]
  end

  defp call_ns(side, callers, message) do
    with_side(side, fn call, _cast ->
      each = div(@calls, callers)
      Bench.run(callers, each * callers, fn _ -> repeat(each, fn -> call.(message) end) end)
    end)
  end

  # --- casts ---------------------------------------------------------------------------------------

  defp casts do
    samples = by_callers([:gen_server | Keyword.keys(@pools)], &cast_ns/2)

    for {time, target} <- [wall: {:at_least, 1}, cpu: nil] do
      rows =
        for {callers, samples} <- samples, {pool, _opts} <- @pools do
          row(pool, callers, samples, time, :gen_server, target)
        end

      compare("cast, until all are handled (#{time} time)", rows)
    end
  end

  defp cast_ns(side, callers) do
    each = div(@casts, callers)
    done = :counters.new(1, [:write_concurrency])

    with_side(side, fn _call, cast ->
      started = Bench.start()

      Bench.run(callers, each * callers, fn _caller ->
        repeat(each, fn -> cast.({:count, done}) end)
      end)

      await(done, each * callers)
      Bench.since(started, each * callers)
    end)
  end

  defp await(done, count) do
    if :counters.get(done, 1) < count do
      Process.sleep(1)
      await(done, count)
    end
  end

  # [{callers, %{side => [%{wall: _, cpu: _}]}}]
  defp by_callers(sides, sample) do
    for callers <- @callers do
      samples = for side <- sides, do: {side, fn -> sample.(side, callers) end}
      {callers, Bench.rounds(samples, @rounds)}
    end
  end

  defp row(pool, callers, samples, time, other, target) do
    of = &Bench.pick(Map.fetch!(samples, &1), time)
    {"#{pool}, #{callers} callers", of.(pool), {other, of.(other)}, target}
  end

  # --- work ----------------------------------------------------------------------------------------

  defp work do
    # What a handler does takes so much CPU, however often the operating system interrupts it.
    loops = Sides.loops(@work_us)
    sides = [:gen_server | Keyword.keys(@pools)]

    samples =
      Bench.rounds(for(side <- sides, do: {side, fn -> work_ns(side, loops) end}), @rounds)

    compare(
      "#{@work_us} µs of CPU for each request, 8 callers",
      for {pool, _opts} <- @pools do
        # Handlers of an exclusive pool that may write take turns.
        target = if pool in [:exclusive, :named], do: nil, else: {:at_least, 1.8}
        {"#{pool}", samples[pool], {:gen_server, samples.gen_server}, target}
      end
    )
  end

  defp work_ns(side, loops) do
    with_side(side, fn call, _cast ->
      each = div(@works, 8)

      Bench.run(8, @works, fn _caller -> repeat(each, fn -> call.({:work, loops}) end) end).wall
    end)
  end

  # --- states --------------------------------------------------------------------------------------

  defp states do
    rows =
      for {name, state} <- [{"1 KB", text(10)}, {"1 MB", text(10_000)}],
          {what, message, count} <- [{"read", :read_size, @reads}, {"write", :touch, @writes}] do
        sample = fn size -> fn -> state_ns(state, size, message, count) end end
        samples = Bench.rounds([one: sample.(1), several: sample.(4)], @rounds)
        {"#{what} #{name}, 4 workers", samples.several, {"1 worker", samples.one}, nil}
      end

    compare("a shared state, optimistic, 4 callers", rows)
  end

  # About 100 bytes each.
  defp text(count), do: for(i <- 1..count, do: {i, String.duplicate("x", 56)})

  defp state_ns(state, workers, message, count) do
    opts = [isolation: :optimistic, pool_size: workers]

    Sides.with_pool(state, opts, fn call, _cast ->
      each = div(count, 4)
      Bench.run(4, each * 4, fn _caller -> repeat(each, fn -> call.(message) end) end).wall
    end)
  end

  # --- tables --------------------------------------------------------------------------------------

  defp with_side(:gen_server, fun), do: Sides.with_gen_server(0, fun)
  defp with_side(:poolboy, fun), do: Sides.with_poolboy(0, fun)
  defp with_side(pool, fun), do: Sides.with_pool(0, Keyword.fetch!(@pools, pool), fun)

  defp repeat(0, _fun), do: :ok

  defp repeat(count, fun) do
    fun.()
    repeat(count - 1, fun)
  end

  defp compare(title, rows) do
    Bench.table(
      [title, "pool", "the other", "ratio", "target", "reached"],
      for {what, ours, {other, theirs}, target} <- rows do
        {ratios, quotient} =
          case target do
            {:at_most, _} -> {Bench.ratios(ours, theirs), "pool / #{other}"}
            _at_least -> {Bench.ratios(theirs, ours), "#{other} / pool"}
          end

        {wanted, reached} = Bench.judge(target, Bench.median(ratios))
        other = "#{other} #{Bench.spread(theirs)}"
        [what, Bench.spread(ours), other, "#{Bench.spread(ratios)} #{quotient}", wanted, reached]
      end
    )
  end
end

Bench.GenPool.run()
