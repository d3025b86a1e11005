defmodule Bench.EtsMap do
  @moduledoc false
  # The other side of every comparison of maps: the double buffer of ets_buffer.ex with tables of the type
  # `:set`, as fast as that design allows.
  #
  #   * A row is `{:entry, key, value, version, updates}`.
  #   * A newer value is written in a way that no other writer can come in between: the row is replaced
  #     by `:ets.select_replace/2` if its version is lower, or inserted by `:ets.insert_new/2` if there is
  #     none. An older value is told by one read: whatever version is there now, there will only be
  #     higher ones. (`put_newer_replace` is the same without the read, which is faster for versions
  #     that are newer and slower for the others; each row of the tables has the faster one.)
  #   * A list is grouped by partition and written with one `:ets.insert` for each.
  #
  # Left out, as in ets_buffer.ex: validation, telemetry, counters, timeouts, and what it would take not
  # to lose a write that meets a swap.

  alias Bench.EtsBuffer

  @rows [{{:_, :"$1", :"$2", :"$3", :"$4"}, [], [{{:"$1", :"$2", :"$3", :"$4"}}]}]

  def start_link(opts) do
    EtsBuffer.start_link([new_table: &__MODULE__.new_table/0, rows: @rows] ++ opts)
  end

  defdelegate stop(name), to: EtsBuffer
  defdelegate size(name), to: EtsBuffer
  defdelegate update_options(name, opts), to: EtsBuffer

  def new_table do
    :ets.new(:entries, [:set, :public, keypos: 2, write_concurrency: true, read_concurrency: true])
  end

  def put(buffer, key, value) do
    :ets.insert(table(buffer, key), {:entry, key, value, 0, 0})
    :ok
  end

  def put_newer(buffer, key, value, version) do
    table = table(buffer, key)

    case :ets.lookup(table, key) do
      [{_, _, _, there, _}] when there >= version -> :ok
      _none_or_lower -> replace(table, key, value, version)
    end
  end

  def put_newer_replace(buffer, key, value, version) do
    replace(table(buffer, key), key, value, version)
  end

  defp replace(table, key, value, version) do
    spec = [
      {{:entry, key, :_, :"$1", :"$2"}, [{:<, :"$1", version}],
       [{{:entry, {:const, key}, {:const, value}, version, {:+, :"$2", 1}}}]}
    ]

    if :ets.select_replace(table, spec) == 0,
      do: insert_new(table, key, value, version),
      else: :ok
  end

  # One that is not newer, or one that was deleted meanwhile.
  defp insert_new(table, key, value, version) do
    with false <- :ets.insert_new(table, {:entry, key, value, version, 0}),
         [{_, _, _, there, _}] when there < version <- :ets.lookup(table, key) do
      replace(table, key, value, version)
    else
      [] -> insert_new(table, key, value, version)
      _inserted_or_older -> :ok
    end
  end

  def get(buffer, key) do
    case :ets.lookup(table(buffer, key), key) do
      [{_, _, value, _, _}] -> value
      [] -> nil
    end
  end

  def delete(buffer, key) do
    :ets.delete(table(buffer, key), key)
    :ok
  end

  def add(buffer, key, n) do
    :ets.update_counter(table(buffer, key), key, [{3, n}, {5, 1}], {:entry, key, 0, 0, 0})
    :ok
  end

  def put_all(buffer, pairs) do
    tables = :persistent_term.get({EtsBuffer, buffer})
    count = tuple_size(tables)
    insert(group(pairs, count, :erlang.make_tuple(count, [])), tables, count)
  end

  defp group([{key, value} | pairs], count, groups) do
    index = :erlang.phash2(:erlang.phash2(key), count) + 1
    rows = [{:entry, key, value, 0, 0} | :erlang.element(index, groups)]
    group(pairs, count, :erlang.setelement(index, groups, rows))
  end

  defp group([], _count, groups), do: groups

  defp insert(_groups, _tables, 0), do: :ok

  defp insert(groups, tables, index) do
    case :erlang.element(index, groups) do
      [] -> :ok
      # The last one of a key is to stay.
      rows -> :ets.insert(:erlang.element(index, tables), :lists.reverse(rows))
    end

    insert(groups, tables, index - 1)
  end

  defp table(buffer, key) do
    case :persistent_term.get({EtsBuffer, buffer}) do
      {table} -> table
      tables -> elem(tables, :erlang.phash2(:erlang.phash2(key), tuple_size(tables)))
    end
  end
end
