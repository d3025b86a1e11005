defmodule Demo.Producers do
  # The processes that records come from. The same number of them, with the same shares, whatever they
  # do with the records: otherwise the ways of writing could not be compared.

  @count 4

  def count, do: @count

  @doc "Calls `work` with the share of each, all at the same time, and returns what all have returned."
  def run(records, work) do
    records
    |> Enum.chunk_every(max(ceil(length(records) / @count), 1))
    |> Enum.map(fn share -> Task.async(fn -> work.(share) end) end)
    |> Task.await_many(:infinity)
    |> Enum.concat()
  end
end
