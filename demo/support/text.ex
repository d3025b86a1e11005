defmodule Demo.Text do
  # How figures look in print.

  @units [{"s", 1.0e9}, {"ms", 1.0e6}, {"us", 1.0e3}]

  @doc "A number with commas: 12,345."
  def count(number),
    do: number |> round() |> Integer.to_string() |> String.replace(~r/\B(?=(\d{3})+$)/, ",")

  @doc "A time in native units, in the unit that fits it."
  def time(time) do
    ns = System.convert_time_unit(time, :native, :nanosecond)
    {unit, size} = Enum.find(@units, List.last(@units), fn {_unit, size} -> ns >= size end)
    "#{:erlang.float_to_binary(ns / size, decimals: decimals(ns / size))} #{unit}"
  end

  @doc "Rows of cells, the first column to the left and the others to the right."
  def table(rows) do
    [left | right] = rows |> Enum.zip_with(& &1) |> Enum.map(&width/1)

    for [name | cells] <- rows do
      cells = Enum.zip_with(cells, right, &String.pad_leading/2)
      ["  ", String.pad_trailing(name, left), Enum.map(cells, &["   ", &1]), "\n"]
    end
  end

  defp width(column), do: column |> Enum.map(&String.length/1) |> Enum.max()

  # About three digits.
  defp decimals(value) when value < 10, do: 2
  defp decimals(value) when value < 100, do: 1
  defp decimals(_value), do: 0
end
