# What an operation on a map costs: 100,000 keys, small tuples as values, 1, 2 and 8 callers; integers and
# strings as keys. Then what it costs until a processor has seen all entries, and what an entry takes.
#
# Time is that of all callers together, for each operation. Before the clock starts, all keys are there,
# but for "put, new keys". Nothing is drained.
#
# BENCH_ROWS picks rows by their beginning: BENCH_ROWS="put_newer,get" bin/bench map

Code.require_file("support/bench.ex", __DIR__)
Code.require_file("support/map_side.ex", __DIR__)
Code.require_file("support/elsewhere.ex", __DIR__)

defmodule Bench.Maps do
  @rounds 7
  @keys 100_000
  @times 200_000
  @in_memory 500_000
  @ets "ETS"

  # What, what is there before, how often, and what is wanted.
  @operations [
    {"put", :put, :put, @times, 1.5},
    {"put, new keys", :put, nil, @keys, nil},
    {"put_newer, newer", :put_newer_replace, :put, @times, 4},
    {"put_newer, stale", :put_stale, :put, @times, 3},
    {"get", :get, :put, @times, 1.2},
    {"delete", :delete, :put, @keys, 1.2},
    {"update {:add, 1}", :add, :put_zero, @times, 1},
    {"put_all of 100", :lists, :put, @times, 3}
  ]

  def run do
    Bench.title("map: nanoseconds for each operation")

    for {kind, name} <- [integers: "integer keys", strings: "string keys"] do
      keys = keys(kind, @keys)
      timed("#{name} (wall time)", for(row <- @operations, do: row(row, keys)))
    end

    drains =
      for {kind, size} <- [integers: 10, integers: 1000, strings: 1000],
          row = drain(kind, size),
          do: row

    timed("drain", [drains])
    bytes = for kind <- [:integers, :strings], row = bytes(kind), do: row
    timed("bytes", [bytes])
  end

  defp timed(head, rows) do
    case Enum.concat(rows) do
      [] -> :ok
      rows -> Bench.comparison(head, rows, "Map")
    end
  end

  defp keys(:integers, count), do: List.to_tuple(Enum.to_list(1..count))
  defp keys(:strings, count), do: List.to_tuple(for(i <- 1..count, do: "user:#{i}:session"))

  defp row({what, operation, before, times, target}, keys) do
    for callers <- [1, 2, 8], wanted?(what) do
      sample = fn side -> fn -> take(side, operation, before, keys, callers, times) end end
      samples = [map: sample.(Bench.Map), ets: sample.(Bench.EtsSet)]
      %{map: map, ets: ets} = Bench.rounds(samples, @rounds)
      callers = if callers == 1, do: "1 caller", else: "#{callers} callers"

      {"#{what}, #{callers}", Bench.pick(map, :wall), {@ets, Bench.pick(ets, :wall)},
       at_least(target)}
    end
  end

  defp at_least(nil), do: nil
  defp at_least(n), do: {:at_least, n}

  defp wanted?(what) do
    rows = "BENCH_ROWS" |> System.get_env("") |> String.split(",", trim: true)
    rows == [] or Enum.any?(rows, &String.starts_with?(what, &1))
  end

  defp take(side, operation, before, keys, callers, times) do
    side.start()
    if before, do: Bench.run(1, @keys, fn _ -> keys end, &side.each(before, &1, 0, @keys))
    each = div(times, callers)

    figures =
      Bench.run(
        callers,
        times,
        fn caller -> prepare(operation, keys, 1 + caller * each, 1 + (caller + 1) * each) end,
        fn
          {:lists, lists} -> side.lists(lists)
          {from, to, keys} -> side.each(operation, keys, from, to)
        end
      )

    side.stop()
    figures
  end

  defp prepare(:lists, keys, from, to) do
    pairs =
      for i <- from..(to - 1), do: {elem(keys, rem(i * 7_919, @keys)), {:event, i, "payload"}}

    {:lists, Enum.chunk_every(pairs, 100)}
  end

  defp prepare(_operation, keys, from, to), do: {from, to, keys}

  defp drain(kind, size) do
    what = "drain, batches of #{size}, #{kind}"

    if wanted?(what) do
      keys = keys(kind, @in_memory)
      samples = for {name, side} <- sides(), do: {name, fn -> drained(side, keys, size) end}
      %{map: map, ets: ets} = Bench.rounds(samples, @rounds)
      {what, map, {@ets, ets}, {:at_least, 4}}
    end
  end

  defp drained(side, keys, size) do
    parent = self()
    seen = :atomics.new(1, [])

    processor = fn batch ->
      if :atomics.add_get(seen, 1, length(batch)) == @in_memory,
        do: send(parent, {:seen_all, System.monotonic_time()})
    end

    side.start(processor: processor, processing_batch_size: size)
    Bench.run(1, @in_memory, fn _ -> keys end, &side.each(:put, &1, 0, @in_memory))
    Bench.collect_garbage()
    started = System.monotonic_time()
    side.interval(1)

    receive do
      {:seen_all, ended} ->
        side.stop()
        System.convert_time_unit(ended - started, :native, :nanosecond) / @in_memory
    end
  end

  defp bytes(kind) do
    what = "bytes of an entry, #{kind}"

    if wanted?(what) do
      samples =
        for {name, side} <- sides() do
          take = fn ->
            Bench.Elsewhere.run("map_memory_sample.ex", Bench.MapMemorySample, :take, [
              side,
              keys(kind, @in_memory)
            ])
          end

          {name, take}
        end

      %{map: map, ets: ets} = Bench.rounds(samples, 3, quiet: false, warm_up: false)
      {what, map, {@ets, ets}, {:at_most, 0.6}}
    end
  end

  defp sides, do: [map: Bench.Map, ets: Bench.EtsSet]
end

Bench.Maps.run()
