defmodule Demo.Audit do
  # Whether everything is as it should be, as a list of what is not.

  @shown 10

  @doc "Compares what the database holds with the records: nothing missing, nothing twice, nothing changed."
  def records(records, rows) do
    expected = Map.new(records)
    {missing, problems} = Enum.reduce(rows, {expected, []}, &check(&1, &2, expected))
    missing = for id <- missing |> Map.keys() |> Enum.sort(), do: "missing: #{place(id)}"
    shown(missing ++ problems)
  end

  @doc "Compares the states that the database holds with those that the records lead to, one by one."
  def states(expected, rows) do
    found = Map.new(rows)
    twice = if length(rows) > map_size(found), do: ["there are several rows of a key"], else: []

    different =
      for {key, state} <- Enum.sort(expected),
          problem = compare(state, found[key]),
          problem != nil do
        "#{inspect(key)}: #{problem}"
      end

    unknown =
      for {key, _state} <- rows, not is_map_key(expected, key), do: "never put: #{inspect(key)}"

    shown(twice ++ different ++ unknown)
  end

  defp compare(state, state), do: nil
  defp compare(_state, nil), do: "missing"
  defp compare({_, version}, {_, version}), do: "version #{version} was changed"
  defp compare({_, version}, {_, other}), do: "is in version #{other} and not #{version}"

  defp shown(problems) do
    case Enum.split(problems, @shown) do
      {[], []} ->
        []

      {shown, []} ->
        ["the database differs from the records:" | shown]

      {shown, more} ->
        ["the database differs from the records:" | shown] ++ ["and #{length(more)} more"]
    end
  end

  @doc "Checks that a buffer's figures add up, and that its events have told the same."
  def accounts(%{info: info, tally: tally}) do
    discarded = info.discarded |> Map.values() |> Enum.sum()
    held = info.queued + info.in_flight
    # Nothing is put after that: the rest is processed.
    kept = info.accepted - info.superseded - info.deleted

    for {false, problem} <- [
          {tally.discarded == 0, "records were discarded"},
          {kept == info.processed + discarded + held, "info/1 does not add up"},
          {kept == tally.processed + tally.discarded, "info/1 and the events differ"}
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
