defmodule Demo.Figures do
  # What the table shows, made from times that were measured record by record. Nothing is estimated.

  @doc """
  The figures of one way of writing; all times are in native units.

  `waits` and `commits` have a `{from, to}` for each record: from the moment when a process had it,
  until that process could go on, and until the record was committed.
  """
  def new(%{waits: waits, commits: commits, transactions: transactions}) do
    begin = waits |> Enum.map(&elem(&1, 0)) |> Enum.min()

    %{
      records: length(commits),
      transactions: transactions,
      busy: last(waits) - begin,
      time: last(commits) - begin,
      per_second: length(commits) / seconds(last(commits) - begin),
      wait: percentiles(waits),
      commit: percentiles(commits)
    }
  end

  defp last(spans), do: spans |> Enum.map(&elem(&1, 1)) |> Enum.max()

  defp seconds(time), do: time / System.convert_time_unit(1, :second, :native)

  defp percentiles(spans) do
    sorted = spans |> Enum.map(fn {from, to} -> to - from end) |> Enum.sort() |> List.to_tuple()
    %{p50: rank(sorted, 0.50), p99: rank(sorted, 0.99), max: rank(sorted, 1.0)}
  end

  # Nearest rank: the smallest time that this share of all times does not exceed.
  defp rank(sorted, share), do: elem(sorted, ceil(share * tuple_size(sorted)) - 1)
end
