# Does a push cost more when much is held? One caller fills a new buffer, without a cycle; every 1,000
# pushes are timed together. A level is told by the 1,000s of the tenth that follows it.

Code.require_file("support/bench.ex", __DIR__)

defmodule Bench.Flat do
  @rounds 7
  # An ETS buffer takes ten seconds to fill, and is only here to be looked at.
  @ets_rounds 3
  @chunk 1_000
  # At which levels pushes are timed while one buffer is filled, and how many buffers are.
  @fills [{[1_000], 60}, {[10_000], 30}, {[100_000], 5}, {[1_000_000, 10_000_000], 1}]
  @levels [1_000, 10_000, 100_000, 1_000_000, 10_000_000]

  def run do
    Bench.title("flat: nanoseconds for a push while so many items are held")
    %{queue: queue} = Bench.rounds([queue: fn -> sample(Bench.Queue) end], @rounds)
    %{ets: ets} = Bench.rounds([ets: fn -> sample(Bench.Ets) end], @ets_rounds, warm_up: false)

    tell("median of the 1,000s", queue, ets, &Bench.median/1, {:at_most, 1.3})
    tell("mean of the 1,000s", queue, ets, &mean/1, nil)
  end

  defp sample(side) do
    for {levels, buffers} <- @fills, _buffer <- 1..buffers, reduce: %{} do
      all -> Map.merge(all, fill(side, levels), fn _level, chunks, more -> chunks ++ more end)
    end
  end

  # %{level => [nanoseconds for a push, by chunks]}
  defp fill(side, levels) do
    Bench.settle()
    side.start()
    parent = self()
    pid = spawn_link(fn -> send(parent, {self(), fill(side, 0, levels)}) end)

    receive do
      {^pid, times} ->
        side.stop()
        times
    end
  end

  defp fill(_side, _held, []), do: %{}

  defp fill(side, held, [level | levels]) do
    side.push_each(held, level)
    chunks = max(div(level, 10 * @chunk), 1)
    times = for chunk <- 0..(chunks - 1), do: chunk_ns(side, level + chunk * @chunk)
    Map.put(fill(side, level + chunks * @chunk, levels), level, times)
  end

  defp chunk_ns(side, held) do
    started = System.monotonic_time()
    side.push_each(held, held + @chunk)
    ended = System.monotonic_time()
    System.convert_time_unit(ended - started, :native, :nanosecond) / @chunk
  end

  defp tell(what, queue, ets, of, target) do
    [smallest | _] = @levels
    largest = List.last(@levels)
    at = fn samples, level -> Enum.map(samples, &of.(&1[level])) end
    growth = fn samples, level -> Bench.ratios(at.(samples, level), at.(samples, smallest)) end

    Bench.table(
      ["held: #{what}", "Queue", "to #{smallest}", "target", "reached", "ETS", "to #{smallest}"],
      for level <- @levels do
        {wanted, reached} =
          if level == largest,
            do: Bench.judge(target, Bench.median(growth.(queue, level))),
            else: {"", ""}

        [
          "#{level}",
          Bench.spread(at.(queue, level)),
          Bench.spread(growth.(queue, level)),
          wanted,
          reached,
          Bench.spread(at.(ets, level)),
          Bench.spread(growth.(ets, level))
        ]
      end
    )
  end

  defp mean(values), do: Enum.sum(values) / length(values)
end

Bench.Flat.run()
