# What a drain costs: 1,000,000 items are buffered; time runs from the call that asks for a cycle until
# the processor has seen the last item. All partitions drain at the same time; the processor counts.

Code.require_file("support/bench.ex", __DIR__)

defmodule Bench.Drain do
  @rounds 7
  @items 1_000_000

  def run do
    Bench.title("drain: nanoseconds for each item")

    Bench.comparison(
      "batches of",
      for size <- [10, 100, 1000] do
        %{queue: queue, ets: ets} = compare(size)
        {"#{size}", queue, {"ETS", ets}, {:at_least, 6}}
      end
    )
  end

  defp compare(size) do
    samples = [queue: fn -> drain(Bench.Queue, size) end, ets: fn -> drain(Bench.Ets, size) end]
    Bench.rounds(samples, @rounds)
  end

  defp drain(side, batch_size) do
    side.start(processor: processor(), processing_batch_size: batch_size)
    Bench.push(side, 2, @items)
    Bench.collect_garbage()

    started = System.monotonic_time()
    side.interval(1)

    receive do
      {:seen_all, ended} ->
        side.stop()
        System.convert_time_unit(ended - started, :native, :nanosecond) / @items
    end
  end

  defp processor do
    parent = self()
    seen = :atomics.new(1, [])

    fn batch ->
      if :atomics.add_get(seen, 1, length(batch)) == @items,
        do: send(parent, {:seen_all, System.monotonic_time()})
    end
  end
end

Bench.Drain.run()
