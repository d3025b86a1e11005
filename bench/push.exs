# What a push costs: one item by 1, 2, 8 and 64 callers, and lists of 10, 100 and 1000 items.
#
# Time is that of all callers together, for each item. Single items are made in the loop, which counts;
# lists before the clock starts.
#
# The buffer is new in each round, nothing is drained, and the memory is new to the VM: a good part of
# the time goes to the operating system, which gives it out page by page. The rows "again" do without
# that part: 10,000 items at a time are pushed and drained, and only the pushing counts.

Code.require_file("support/bench.ex", __DIR__)

defmodule Bench.Push do
  alias PartitionedBuffer.{Handle, Native}

  @rounds 7
  @items 240_000
  @listed 400_000
  @nif_calls 2_000_000
  @at_a_time 10_000
  @never 3_600_000
  # So many items in the lists that are pushed again and again.
  @prebuilt 10_000

  def run do
    Bench.title("push: nanoseconds for each item")
    tell("one item", Enum.flat_map([nil, 1], &(singles(&1) ++ [again(&1)])))
    tell("a list of", Enum.flat_map([nil, 1], &lists/1))
  end

  defp tell(head, rows) do
    for {figure, of} <- [{:wall, "wall time"}, {:cpu, "CPU time"}] do
      Bench.comparison(
        "#{head} (#{of})",
        for {what, queue, {other, theirs}, target} <- rows, is_map_key(hd(queue), figure) do
          {what, Bench.pick(queue, figure), {other, Bench.pick(theirs, figure)}, target}
        end
      )
    end
  end

  defp singles(partitions), do: Enum.flat_map([1, 2, 8, 64], &single(&1, partitions))

  defp single(callers, partitions) do
    samples = [
      queue: fn -> push(Bench.Queue, callers, partitions) end,
      ets: fn -> push(Bench.Ets, callers, partitions) end
    ]

    what = "#{callers} #{if callers == 1, do: "caller", else: "callers"}#{of(partitions)}"

    if callers == 1 do
      %{queue: queue, ets: ets, nif: nif} = Bench.rounds(samples ++ [nif: &nif/0], @rounds)

      [
        {what, queue, {"ETS", ets}, {:at_least, 5}},
        {what, queue, {"empty NIF call", nif}, {:at_most, 3.5}}
      ]
    else
      %{queue: queue, ets: ets} = Bench.rounds(samples, @rounds)
      [{what, queue, {"ETS", ets}, {:at_least, 5}}]
    end
  end

  defp push(side, callers, partitions) do
    side.start(options(partitions))
    figures = Bench.push(side, callers, @items)
    side.stop()
    figures
  end

  defp again(partitions) do
    samples = [
      queue: fn -> push_again(Bench.Queue, partitions) end,
      ets: fn -> push_again(Bench.Ets, partitions) end
    ]

    %{queue: queue, ets: ets} = Bench.rounds(samples, @rounds)
    {"1 caller, again#{of(partitions)}", queue, {"ETS", ets}, {:at_least, 5}}
  end

  defp push_again(side, partitions) do
    seen = :counters.new(1, [])
    processor = fn batch -> :counters.add(seen, 1, length(batch)) end
    side.start([processor: processor] ++ options(partitions))
    times = div(@items, @at_a_time)

    walls =
      for time <- 1..times do
        %{wall: wall} = Bench.push(side, 1, @at_a_time)
        side.interval(1)
        await(fn -> :counters.get(seen, 1) == time * @at_a_time end)
        side.interval(@never)
        await(fn -> Bench.alive().entries == 0 end)
        wall
      end

    side.stop()
    # Too short for the CPU's clock.
    %{wall: Enum.sum(walls) / times}
  end

  defp await(done?) do
    if not done?.() do
      Process.sleep(1)
      await(done?)
    end
  end

  defp nif do
    Bench.Queue.start()
    ref = Handle.fetch!(Bench.Queue).ref
    figures = Bench.run(1, @nif_calls, fn _caller -> call_nif(ref, @nif_calls) end)
    Bench.Queue.stop()
    figures
  end

  defp call_nif(_ref, 0), do: :ok

  defp call_nif(ref, n) do
    Native.buffer_partitions(ref)
    call_nif(ref, n - 1)
  end

  defp lists(partitions) do
    for length <- [10, 100, 1000] do
      samples = [
        queue: fn -> push_lists(Bench.Queue, length, partitions) end,
        ets: fn -> push_lists(Bench.Ets, length, partitions) end
      ]

      %{queue: queue, ets: ets} = Bench.rounds(samples, @rounds)
      {"#{length} items#{of(partitions)}", queue, {"ETS", ets}, {:at_least, 10}}
    end
  end

  defp push_lists(side, length, partitions) do
    side.start(options(partitions))
    count = div(@listed, length)
    figures = Bench.run(1, @listed, fn _ -> prebuild(length) end, &side.push_lists(&1, &1, count))
    side.stop()
    figures
  end

  defp prebuild(length) do
    items = for i <- 1..@prebuilt, do: {:event, i, "payload"}
    Enum.chunk_every(items, length)
  end

  defp options(nil), do: []
  defp options(partitions), do: [partitions: partitions]

  defp of(nil), do: ""
  defp of(1), do: ", 1 partition"
end

Bench.Push.run()
