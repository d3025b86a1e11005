defmodule Bench.Histogram do
  @moduledoc false
  # Counts durations (of `:erlang.monotonic_time/0`) without making garbage: exact to 1 ns up to 10 µs
  # and to 1 % above, up to 1 s; and the exact maximum.

  @fine 10_000
  @max_slot @fine + 2 * 9_900 + 900 + 1

  def new, do: {:atomics.new(@max_slot, []), :atomics.new(1, [])}

  def add({counts, max}, native) do
    ns = :erlang.convert_time_unit(native, :native, :nanosecond)
    :atomics.add(counts, slot(ns), 1)
    # One process writes, so nothing comes between.
    if ns > :atomics.get(max, 1), do: :atomics.put(max, 1, ns)
    :ok
  end

  @doc """
  The durations that these fractions of all in some histograms do not exceed, in nanoseconds, then the
  longest of all.
  """
  def percentiles(histograms, fractions) do
    filled = for slot <- 1..@max_slot, (n = count(histograms, slot)) > 0, do: {slot, n}
    total = filled |> Enum.map(&elem(&1, 1)) |> Enum.sum()
    longest = histograms |> Enum.map(fn {_, max} -> :atomics.get(max, 1) end) |> Enum.max()
    Enum.map(fractions, &percentile(filled, ceil(&1 * total))) ++ [longest]
  end

  @doc "How many durations there are."
  def count(histograms) do
    for slot <- 1..@max_slot, reduce: 0 do
      sum -> sum + count(histograms, slot)
    end
  end

  defp count(histograms, slot) do
    histograms |> Enum.map(fn {counts, _max} -> :atomics.get(counts, slot) end) |> Enum.sum()
  end

  defp percentile([{slot, _n}], _rank), do: value(slot)
  defp percentile([{slot, n} | _rest], rank) when n >= rank, do: value(slot)
  defp percentile([{_slot, n} | rest], rank), do: percentile(rest, rank - n)

  defp slot(ns) when ns < @fine, do: ns + 1
  defp slot(ns) when ns < 1_000_000, do: @fine + 1 + div(ns - @fine, 100)
  defp slot(ns) when ns < 100_000_000, do: @fine + 9_901 + div(ns - 1_000_000, 10_000)
  defp slot(ns) when ns < 1_000_000_000, do: @fine + 19_801 + div(ns - 100_000_000, 1_000_000)
  defp slot(_more), do: @max_slot

  defp value(slot) when slot <= @fine, do: slot - 1
  defp value(slot) when slot <= @fine + 9_900, do: @fine + (slot - @fine - 1) * 100
  defp value(slot) when slot <= @fine + 19_800, do: 1_000_000 + (slot - @fine - 9_901) * 10_000

  defp value(slot), do: 100_000_000 + (slot - @fine - 19_801) * 1_000_000
end
