# How long can a single push take? Two callers push while cycles swap, drain and free generations every
# 20 ms, in two ways:
#
#   * steady: bursts of 100 each, with a pause of a millisecond after each. Both buffers have the same
#     to do, and the machine has time left.
#   * flat out: without a pause. The faster buffer has more to drain meanwhile, and everybody waits
#     for a core.
#
# Each push is timed by itself; reading the clock is part of the time.

Code.require_file("support/bench.ex", __DIR__)

defmodule Bench.Latency do
  alias Bench.Histogram

  @rounds 9
  @callers 2
  @interval_ms 20
  @round_ms 1_500
  @burst 100
  @percentiles [{"p50", 0.5}, {"p99", 0.99}, {"p99.9", 0.999}]

  def run do
    Bench.title(
      "latency: nanoseconds of a single push, 2 callers, a cycle every #{@interval_ms} ms"
    )

    for {load, pause} <- [{"steady", 1}, {"flat out", 0}], do: tell(load, pause)
  end

  defp tell(load, pause) do
    samples = [
      queue: fn -> percentiles(Bench.Queue, pause) end,
      ets: fn -> percentiles(Bench.Ets, pause) end
    ]

    %{queue: queue, ets: ets} = Bench.rounds(samples, @rounds)
    names = Enum.map(@percentiles, &elem(&1, 0)) ++ ["max", "pushes/s"]

    rows =
      for {name, index} <- Enum.with_index(names) do
        at = fn samples -> Enum.map(samples, &Enum.at(&1, index)) end
        target = if name != "pushes/s", do: {:at_most, 1}
        {name, at.(queue), {"ETS", at.(ets)}, target}
      end

    Bench.comparison(load, rows)
  end

  defp percentiles(side, pause) do
    side.start(processing_interval_ms: @interval_ms, processor: &length/1)
    histograms = for _ <- 1..@callers, do: Histogram.new()

    %{wall: ns} =
      Bench.run(@callers, 1, fn caller ->
        stop_at = System.monotonic_time(:millisecond) + @round_ms
        push(side, Enum.at(histograms, caller), caller * 1_000_000_000, stop_at, pause)
      end)

    side.stop()
    fractions = Enum.map(@percentiles, &elem(&1, 1))
    figures = Histogram.percentiles(histograms, fractions)
    figures ++ [Histogram.count(histograms) / (ns / 1.0e9)]
  end

  defp push(side, histogram, i, stop_at, pause) do
    side.push_timed(i, i + @burst, histogram)

    if pause > 0 do
      receive do
      after
        pause -> :ok
      end
    end

    if System.monotonic_time(:millisecond) < stop_at,
      do: push(side, histogram, i + @burst, stop_at, pause)
  end
end

Bench.Latency.run()
