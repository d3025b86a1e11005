defmodule Demo.Audit do
  # Whether everything is as it should be, as a list of what is not.

  @shown 10

  @doc "Compares what the database holds with the records: nothing missing, nothing twice, nothing changed."
  def records(records, rows) do
    expected = Map.new(records)
    {missing, problems} = Enum.reduce(rows, {expected, []}, &check(&1, &2, expected))
    missing = for id <- missing |> Map.keys() |> Enum.sort(), do: "missing: #{place(id)}"

    case Enum.split(missing ++ problems, @shown) do
      {[], []} ->
        []

      {shown, []} ->
        ["the database differs from the records:" | shown]

      {shown, more} ->
        ["the database differs from the records:" | shown] ++ ["and #{length(more)} more"]
    end
  end

  @doc "Checks that the queue's figures add up, and that its events have told the same."
  def accounts(%{info: info, tally: tally}) do
    discarded = info.discarded |> Map.values() |> Enum.sum()
    held = info.queued + info.in_flight

    for {false, problem} <- [
          {tally.discarded == 0, "records were discarded"},
          {info.accepted == info.processed + discarded + held, "info/1 does not add up"},
          {info.accepted == tally.processed + tally.discarded, "info/1 and the events differ"}
        ] do
      "#{problem}: #{inspect(info)}, #{inspect(tally)}"
    end
  end

  # `left` has what was not found yet.
  defp check({id, value}, {left, problems}, expected) do
    case {left, expected} do
      {%{^id => ^value}, _} -> {Map.delete(left, id), problems}
      {%{^id => _}, _} -> {Map.delete(left, id), ["changed: #{place(id)}" | problems]}
      {_, %{^id => _}} -> {left, ["twice: #{place(id)}" | problems]}
      {_, _} -> {left, ["never pushed: #{inspect(id)}" | problems]}
    end
  end

  defp place({_number, file, position}), do: "record #{position} of #{file}"
end
