defmodule Demo.Report do
  # What is printed, apart from the progress. All figures come as they were measured.

  import Demo.Text

  alias Demo.{Figures, Producers}

  def step(text), do: IO.puts("\n#{text}")

  def read(records) do
    {_id, value} = Enum.at(records, div(length(records), 2))
    example = inspect(value, limit: 16, printable_limit: 48)
    IO.puts("#{count(length(records))} records, one of them: #{example}")
  end

  def intact(records) do
    IO.puts("  read back from disk: #{count(length(records))} records, each once and unchanged")
  end

  def states_intact(states) do
    IO.puts("  read back from disk: #{count(map_size(states))} keys, each in its newest version")
  end

  @doc "The figures of the map."
  def states(%{waits: waits} = times) do
    figures = Figures.new(times)
    # Most of them are never written.
    per_second = length(waits) * figures.per_second / figures.records

    IO.puts([
      "\n",
      table([
        ["", "map"],
        ["changes reported", count(length(waits))],
        ["rows written", count(figures.records)],
        ["transactions, synced", count(figures.transactions)],
        ["time", time(figures.time)],
        ["changes per second", count(per_second)],
        ["caller waits, p50", time(figures.wait.p50)],
        ["              p99", time(figures.wait.p99)],
        ["              max", time(figures.wait.max)]
      ])
    ])
  end

  @doc "The figures of the queue, and of both ways without it."
  def comparison(total, queue, synced, unsynced) do
    [queue | others] = ways = Enum.map([queue, synced, unsynced], &Figures.new/1)
    row = fn name, cell -> [name | Enum.map(ways, cell)] end

    IO.puts([
      "\n",
      table([
        ["", "queue", "one by one", "one by one"],
        ["", "synced", "synced", "not synced"],
        row.("records", &(count(&1.records) <> mark(&1, total))),
        row.("transactions", &count(&1.transactions)),
        row.("time", &time(&1.time)),
        row.("records per second", &count(&1.per_second)),
        row.("caller waits, p50", &time(&1.wait.p50)),
        row.("              p99", &time(&1.wait.p99)),
        row.("              max", &time(&1.wait.max)),
        row.("push to commit, p50", &time(&1.commit.p50)),
        row.("                p99", &time(&1.commit.p99)),
        row.("                max", &time(&1.commit.max)),
        ["queue is faster by", "" | Enum.map(others, &ratio(queue, &1))]
      ]),
      notes(total, queue, others)
    ])
  end

  @doc "What a buffer itself counted, and what its events reported."
  def accounts(name, %{info: info, tally: tally}) do
    discarded = info.discarded |> Map.values() |> Enum.sum()

    counts = [
      info.accepted,
      info.processed,
      info.superseded,
      discarded,
      info.queued,
      info.in_flight
    ]

    IO.write(
      table([
        [name, "accepted", "processed", "superseded", "discarded", "queued", "in flight"],
        ["info/1 before the end" | Enum.map(counts, &count/1)],
        [
          "events until its end",
          "-",
          count(tally.processed),
          "-",
          count(tally.discarded),
          "-",
          "-"
        ]
      ])
    )
  end

  defp ratio(queue, other), do: "#{Float.round(queue.per_second / other.per_second, 1)} x"

  defp mark(figures, total), do: if(figures.records < total, do: " *", else: "")

  defp notes(total, queue, others) do
    samples =
      for %{records: written, time: time} <- others, written < total do
        "* a sample, cut off after #{time(time)}: all would take about #{time(round(time * total / written))}"
      end

    pushing = [
      "The #{Producers.count()} processes had pushed all records after #{time(queue.busy)}. After that, push to",
      "commit is the wait for the records before."
    ]

    for line <- samples ++ pushing, do: ["  ", line, "\n"]
  end
end
