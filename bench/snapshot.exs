# How long a write can take while somebody reads all of the map: one partition of 1,000,000 entries, one
# caller that overwrites them, and beside it another one that reads them with to_list/1 or keys/1, or works
# as long without the map. In ETS the reader uses :ets.tab2list/1, which is no snapshot of one moment when
# others write.

Code.require_file("support/bench.ex", __DIR__)
Code.require_file("support/map_side.ex", __DIR__)

defmodule Bench.Snapshot do
  alias Bench.{EtsBuffer, Histogram}

  @rounds 5
  @entries 1_000_000
  @fractions [0.5, 0.99, 0.999, 0.9999]

  def run do
    Bench.title("snapshot: nanoseconds of a single put, beside who reads #{@entries} entries")

    samples = [
      alone: fn -> take(Bench.Map, &busy/0) end,
      to_list: fn -> take(Bench.Map, fn -> PartitionedBuffer.Map.to_list(Bench.Map) end) end,
      keys: fn -> take(Bench.Map, fn -> PartitionedBuffer.Map.keys(Bench.Map) end) end,
      ets_alone: fn -> take(Bench.EtsSet, &busy/0) end,
      tab2list: fn -> take(Bench.EtsSet, &tab2list/0) end
    ]

    rounds = Bench.rounds(samples, @rounds, warm_up: false)

    Bench.table(
      ["beside", "p50", "p99", "p99.9", "p99.99", "longest", "the reader took, ms"],
      for {name, _sample} <- samples do
        figures = Enum.zip_with(rounds[name], & &1)
        [Atom.to_string(name) | Enum.map(figures, &Bench.spread/1)]
      end
    )
  end

  # Half a second.
  defp busy, do: for(number <- 1..30_000_000, reduce: 0, do: (sum -> rem(sum + number, 7)))

  defp tab2list do
    {EtsBuffer, Bench.EtsSet} |> :persistent_term.get() |> elem(0) |> :ets.tab2list()
  end

  defp take(side, read) do
    keys = List.to_tuple(Enum.to_list(1..@entries))
    side.start(partitions: 1)
    side.each(:put, keys, 0, @entries)
    histogram = Histogram.new()
    done = :atomics.new(1, [])
    parent = self()

    work = fn ->
      write(side, keys, histogram, done, 0)
      send(parent, :written)
    end

    _writer = :erlang.spawn_opt(work, [:link, {:scheduler, 1}])

    {time, _result} = :timer.tc(fn -> in_process(read) end)
    :atomics.put(done, 1, 1)

    receive do
      :written -> :ok
    end

    side.stop()
    Histogram.percentiles([histogram], @fractions) ++ [time / 1000]
  end

  # Its garbage goes with it.
  defp in_process(read) do
    {pid, monitor} = :erlang.spawn_opt(fn -> read.() end, [:monitor, {:scheduler, 2}])

    receive do
      {:DOWN, ^monitor, :process, ^pid, :normal} -> :ok
    end
  end

  defp write(side, keys, histogram, done, i) do
    if :atomics.get(done, 1) == 0 do
      write(side, keys, histogram, done, i, i + 64)
    end
  end

  defp write(side, keys, histogram, done, n, n), do: write(side, keys, histogram, done, n)

  defp write(side, keys, histogram, done, i, n) do
    before = :erlang.monotonic_time()
    side.each(:put, keys, i, i + 1)
    Histogram.add(histogram, :erlang.monotonic_time() - before)
    write(side, keys, histogram, done, i + 1, n)
  end
end

Bench.Snapshot.run()
