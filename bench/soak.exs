# Does memory stay flat? Several callers push steadily, a processor takes everything, and every second
# memory is looked at. In the end everything has to be gone.
#
#   mix run bench/soak.exs            30 seconds
#   mix run bench/soak.exs 600        as many as one likes

Code.require_file("support/bench.ex", __DIR__)

defmodule Bench.Soak do
  alias Bench.Machine

  @callers 4
  @burst 40
  @interval_ms 100
  @mb 1_048_576

  # The first third is for warming up. Flat is what would have grown by no more than this part of its
  # mean if it had gone on growing, at the slope of the rest, for the whole run.
  @part 0.05
  @rows 30

  def run(seconds) do
    Bench.title("soak: #{seconds} seconds, #{@callers} callers, a cycle every #{@interval_ms} ms")
    Bench.settle()
    before = Bench.alive()
    seen = :counters.new(1, [:write_concurrency])

    Bench.Queue.start(
      processing_interval_ms: @interval_ms,
      processing_batch_size: 100,
      processor: fn batch -> :counters.add(seen, 1, length(batch)) end
    )

    deadline = System.monotonic_time(:millisecond) + seconds * 1_000
    pushers = for caller <- 1..@callers, do: start_pusher(caller, deadline)
    started = System.monotonic_time(:millisecond)
    samples = for second <- 1..seconds, do: sample(started + second * 1_000, second, seen)
    pushed = pushers |> Enum.map(&await/1) |> Enum.sum()
    Bench.Queue.stop()
    Bench.settle()

    Bench.table(
      ["second", "RSS MB", ":erlang.memory MB", "arenas", "entries", "their MB", "seen"],
      samples |> Enum.take_every(ceil(seconds / @rows)) |> Enum.map(&cells/1)
    )

    tell_flat(Enum.drop(samples, div(seconds, 3)), seconds)
    tell_end(before, Bench.alive(), pushed, :counters.get(seen, 1))
  end

  # --- pushing -------------------------------------------------------------------------------------

  defp start_pusher(caller, deadline) do
    Task.async(fn -> push(caller * 1_000_000_000, deadline, 0) end)
  end

  defp await(task), do: Task.await(task, :infinity)

  # A burst every millisecond or so: small items, a list, and now and then something large.
  defp push(i, deadline, pushed) do
    Bench.Queue.push_each(i, i + @burst)
    list = for j <- 1..@burst, do: {:listed, i + j, %{text: "payload", more: [j, i]}}
    Bench.Queue.push_lists([list], [], 1)
    large = {:large, i, :binary.copy(<<i::64>>, rem(i, 1_000))}
    Bench.Queue.push_lists([[large]], [], 1)
    pushed = pushed + 2 * @burst + 1

    receive do
    after
      1 -> :ok
    end

    if System.monotonic_time(:millisecond) < deadline,
      do: push(i + @burst, deadline, pushed),
      else: pushed
  end

  # --- looking -------------------------------------------------------------------------------------

  defp sample(at, second, seen) do
    Process.sleep(max(at - System.monotonic_time(:millisecond), 0))
    alive = Bench.alive()

    %{
      second: second,
      rss: (Machine.rss() || 0) / @mb,
      memory: :erlang.memory(:total) / @mb,
      arenas: alive.arenas,
      entries: alive.entries,
      bytes: alive.bytes / @mb,
      seen: :counters.get(seen, 1)
    }
  end

  defp cells(sample) do
    for key <- [:second, :rss, :memory, :arenas, :entries, :bytes, :seen], do: cell(sample[key])
  end

  defp cell(value) when is_float(value), do: :erlang.float_to_binary(value, decimals: 1)
  defp cell(value), do: "#{value}"

  defp tell_flat(samples, seconds) do
    Bench.table(
      ["after warming up", "mean", "slope", "growth in the run", "target", "reached"],
      for {what, key} <- [{"RSS, MB", :rss}, {":erlang.memory, MB", :memory}] do
        values = Enum.map(samples, & &1[key])
        mean = mean(values)
        slope = slope(values)
        part = slope * seconds / max(mean, 1)
        {wanted, reached} = Bench.judge({:at_most, @part}, part)

        [
          what,
          cell(mean),
          "#{Bench.number(slope * 3_600)} an hour",
          Bench.number(part),
          wanted,
          reached
        ]
      end
    )
  end

  defp tell_end(before, later, pushed, seen) do
    rows =
      for key <- [:arenas, :entries, :bytes] do
        {"#{key} alive", before[key], later[key], before[key]}
      end ++ [{"items seen", 0, seen, pushed}]

    Bench.table(
      ["in the end", "before", "after", "target", "reached"],
      for {what, before, later, wanted} <- rows do
        [what, "#{before}", "#{later}", "#{wanted}", if(later == wanted, do: "yes", else: "NO")]
      end
    )

    # Flat or not is for people to judge; this is not.
    unless Enum.all?(rows, fn {_what, _before, later, wanted} -> later == wanted end),
      do: exit({:shutdown, 1})
  end

  defp mean(values), do: Enum.sum(values) / length(values)

  # Least squares, for a second.
  defp slope(values) do
    seconds = Enum.to_list(1..length(values))
    {x, y} = {mean(seconds), mean(values)}
    xy = Enum.zip_with(seconds, values, &((&1 - x) * (&2 - y))) |> Enum.sum()
    xx = seconds |> Enum.map(&((&1 - x) * (&1 - x))) |> Enum.sum()
    if xx == 0, do: 0.0, else: xy / xx
  end
end

seconds = List.first(System.argv()) || System.get_env("SOAK_SECONDS") || "30"
seconds |> String.to_integer() |> Bench.Soak.run()
