defmodule Demo.OneByOne do
  # What the queue is compared with: each record in a transaction of its own, by the process that has it.

  alias Demo.{Producers, Progress, Store}

  # All of a large file could take many minutes; what fits in this time is sample enough.
  @limit_ms 15_000

  @doc "Writes as many of the records as there is time for, each followed by `sync`."
  def run(records, table, sync) do
    written = :counters.new(1, [:write_concurrency])
    deadline = now() + System.convert_time_unit(@limit_ms, :millisecond, :native)

    write = fn {id, value} ->
      started_at = now()
      Store.insert(table, {id, value, started_at})
      sync.()
      :counters.add(written, 1, 1)
      {started_at, now()}
    end

    spans =
      Progress.show(length(records), fn -> :counters.get(written, 1) end, fn ->
        Producers.run(records, &until(deadline, &1, write))
      end)

    # A process that writes without a buffer waits for each commit.
    %{waits: spans, commits: spans, transactions: length(spans)}
  end

  defp until(deadline, share, write) do
    share |> Stream.take_while(fn _record -> now() < deadline end) |> Enum.map(write)
  end

  defp now, do: System.monotonic_time()
end
