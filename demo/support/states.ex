defmodule Demo.States do
  # The records as changes of states: each one is what a key has from then on, until the next one of that key.
  # The version of a change is the place of its record among all, so the last record of a key says how it
  # ends. Several processes report all changes at the same time, each in an order of its own: as sources do
  # that repeat themselves and overtake each other.

  alias Demo.Producers

  # So many changes of each key, and no more keys than that.
  @changes 50
  @keys 5_000

  @doc "The changes, `{key, value, version}`."
  def changes(records) do
    keys = records |> length() |> div(@changes) |> max(1) |> min(@keys)

    for {{_id, value}, version} <- Enum.with_index(records, 1) do
      {{:state, rem(version, keys)}, value, version}
    end
  end

  @doc "The reports of all processes, one after the other; each has all changes."
  def reports(changes), do: Enum.flat_map(1..Producers.count(), fn _ -> Enum.shuffle(changes) end)

  @doc "What each key has in the end: `%{key => {value, version}}`."
  def final(changes) do
    # Later ones take the place of earlier ones.
    Map.new(changes, fn {key, value, version} -> {key, {value, version}} end)
  end
end
