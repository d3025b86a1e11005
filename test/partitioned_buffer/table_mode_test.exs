defmodule PartitionedBuffer.TableModeTest do
  # `processing_batch_size: :table`: the processor gets an ETS table, and may keep it.
  use PartitionedBuffer.BufferCase, async: true

  import PartitionedBuffer.TelemetryCase

  @moduletag :capture_log

  defp start_table!(opts \\ []) do
    [processing_batch_size: :table, processing_interval_ms: 1, processor: GatedProcessor.new()]
    |> Keyword.merge(opts)
    |> start_queue!()
  end

  # A queue of which the first table is at the gate.
  defp start_with_table!(items, opts \\ []) do
    name = start_table!(opts)
    Queue.push(name, items)
    {runner, table} = GatedProcessor.next_batch()
    {name, runner, table}
  end

  # What the rows hold, in the order of the table.
  defp values(table), do: for({:entry, _key, value, _, _} <- :ets.tab2list(table), do: value)

  defp renamed(table), do: Module.concat(table, "Kept#{System.unique_integer([:positive])}")

  describe "the table" do
    test "is named, ordered, and keyed by the second element of its rows" do
      {_name, runner, table} = start_with_table!([:a, :b])
      assert is_atom(table)
      info = :ets.info(table)
      assert info[:named_table]
      assert info[:type] == :ordered_set
      assert info[:keypos] == 2
      assert info[:size] == 2
      assert info[:owner] == runner
      GatedProcessor.open(runner)
    end

    test "has rows of five, with integer keys in the order of insertion" do
      items = Enum.shuffle(1..300)
      {name, runner, table} = start_with_table!(items)
      rows = :ets.tab2list(table)
      assert Enum.all?(rows, &match?({:entry, key, _value, 0, 0} when is_integer(key), &1))
      keys = Enum.map(rows, &elem(&1, 1))
      assert keys == Enum.sort(keys) and keys == Enum.uniq(keys)
      assert Enum.map(rows, &elem(&1, 2)) == items
      assert :ets.lookup(table, hd(keys)) == [hd(rows)]

      GatedProcessor.open(runner)
      assert %{processed: 300} = info_after(name, runner)
    end

    test "has everything that the partition held, whatever the number" do
      # Tables are filled a thousand rows at a time.
      for count <- [1, 999, 1_000, 1_001, 5_000] do
        {name, runner, table} = start_with_table!(Enum.to_list(1..count))
        assert values(table) == Enum.to_list(1..count)
        GatedProcessor.open(runner)
        assert %{processed: ^count, accepted: ^count, queued: 0} = info_after(name, runner)
      end
    end

    test "has duplicates as rows of their own" do
      {_name, runner, table} = start_with_table!([:same, :same, 1, 1.0])
      assert values(table) === [:same, :same, 1, 1.0]
      GatedProcessor.open(runner)
    end

    test "is one for each partition" do
      name = start_table!(partitions: 3)
      Queue.push(name, Enum.to_list(1..30))
      tables = for _ <- 1..3, do: GatedProcessor.next_batch()
      assert tables |> Enum.uniq_by(&elem(&1, 1)) |> length() == 3
      all = Enum.flat_map(tables, fn {_runner, table} -> values(table) end)
      assert Enum.sort(all) == Enum.to_list(1..30)
      for {runner, _table} <- tables, do: GatedProcessor.open(runner)
    end

    test "is counted as in flight while the processor has it" do
      {name, runner, _table} = start_with_table!([1, 2, 3])
      assert %{in_flight: 3, queued: 0, processed: 0} = PartitionedBuffer.info(name)
      Queue.push(name, 4)
      assert %{in_flight: 3, queued: 1} = PartitionedBuffer.info(name)
      GatedProcessor.open(runner)
      {runner, table} = GatedProcessor.next_batch()
      assert values(table) == [4]
      GatedProcessor.open(runner)
      assert %{processed: 4} = info_after(name, runner)
    end

    test "is not made for nothing" do
      name = start_table!()
      Queue.push(name, [])
      assert GatedProcessor.drain(name) == []
    end

    test "is deleted when the processor returns" do
      {name, runner, table} = start_with_table!([1])
      GatedProcessor.open(runner)
      _ = info_after(name, runner)
      assert :ets.whereis(table) == :undefined
    end

    test "may be changed and deleted by the processor" do
      {name, runner, _table} = start_with_table!([1, 2, 3])
      GatedProcessor.open(runner, {:call, &:ets.delete_all_objects/1})
      assert %{processed: 3} = info_after(name, runner)

      Queue.push(name, [4])
      {runner, _table} = GatedProcessor.next_batch()
      GatedProcessor.open(runner, {:call, &:ets.delete/1})
      assert %{processed: 4} = info_after(name, runner)
    end
  end

  describe "a table that is renamed" do
    test "stays as long as its owner and frees the name for the next" do
      {name, runner, table} = start_with_table!([1, 2])
      kept = renamed(table)
      test = self()

      GatedProcessor.open(
        runner,
        {:call,
         fn ^table ->
           ^kept = :ets.rename(table, kept)
           true = :ets.give_away(kept, test, :yours)
         end}
      )

      assert_receive {:"ETS-TRANSFER", ^kept, ^runner, :yours}, 5_000
      assert %{processed: 2} = info_after(name, runner)
      assert values(kept) == [1, 2]

      # The name is free: the next cycle has it again, and its own rows in it.
      Queue.push(name, [3, 4, 5])
      {runner, ^table} = GatedProcessor.next_batch()
      assert values(table) == [3, 4, 5]
      GatedProcessor.open(runner)
      assert %{processed: 5} = info_after(name, runner)
      assert values(kept) == [1, 2]
      assert :ets.whereis(table) == :undefined
    end

    test "goes with the processor's process if it is not given away" do
      {name, runner, table} = start_with_table!([1, 2])
      kept = renamed(table)
      GatedProcessor.open(runner, {:call, &:ets.rename(&1, kept)})
      assert %{processed: 2} = info_after(name, runner)
      assert :ets.whereis(kept) == :undefined
      assert :ets.whereis(table) == :undefined
    end

    test "is not touched by cycles, a failure or the end of the buffer" do
      {name, runner, table} = start_with_table!([1])
      kept = renamed(table)
      test = self()

      keep = fn table ->
        :ets.rename(table, kept)
        :ets.give_away(kept, test, :yours)
        raise "after it was given away"
      end

      GatedProcessor.open(runner, {:call, keep})
      assert_receive {:"ETS-TRANSFER", ^kept, ^runner, :yours}, 5_000
      Queue.push(name, 2)
      {runner, ^table} = GatedProcessor.next_batch()
      GatedProcessor.open(runner)
      Queue.stop(name)
      assert values(kept) == [1]
    end
  end

  describe "a processor that fails" do
    for {kind, how, reason} <- [
          {"raises", {:raise, "boom"}, :exception},
          {"throws", {:throw, :ball}, :exception},
          {"exits", {:exit, :reason}, :exception},
          {"is killed", :kill, :killed}
        ] do
      test "loses its table alone, and that is reported: it #{kind}" do
        name = unique_name()
        listen(name)
        {_name, runner, table} = start_with_table!(Enum.to_list(1..20), name: name)
        Queue.push(name, [:after, :it])
        GatedProcessor.open(runner, unquote(Macro.escape(how)))
        assert {_, _} = next_event([:processing_failed])
        assert {%{size: 20, bytes: bytes}, %{reason: unquote(reason)}} = next_event([:discarded])
        assert is_integer(bytes)

        {runner, ^table} = GatedProcessor.next_batch()
        assert values(table) == [:after, :it]
        GatedProcessor.open(runner)

        assert %{processed: 2, accepted: 22, discarded: %{unquote(reason) => 20}} =
                 info_after(name, runner)
      end
    end

    test "can't name entries that have failed: all of its table has" do
      processor = fn table -> {:failed, [hd(:ets.tab2list(table))]} end
      name = start_queue!(processing_batch_size: :table, processor: processor)

      assert Queue.push_await(name, [:a, :b]) == {:error, :failed}
      assert %{processed: 0, discarded: %{failed: 2}} = PartitionedBuffer.info(name)
    end

    test "loses its table when it takes too long" do
      name = unique_name()
      listen(name)
      {_name, runner, table} = start_with_table!([1, 2], name: name, processing_timeout_ms: 30)
      Queue.push(name, 3)
      assert {%{size: 2}, %{reason: :timeout}} = next_event([:discarded])
      {next, ^table} = GatedProcessor.next_batch()
      assert next != runner
      assert values(table) == [3]
      GatedProcessor.open(next)
    end
  end

  describe "events" do
    test "tell of a table as of a batch" do
      name = unique_name()
      listen(name)
      {_name, runner, _table} = start_with_table!(Enum.to_list(1..20), name: name)
      GatedProcessor.open(runner)
      next_event([:processing, :start])
      assert {%{size: 20, duration: _}, _} = next_event([:processing, :stop])
    end

    test "tell of the last table, at the end of the buffer" do
      name = unique_name()
      listen(name)
      start_table!(name: name, processing_interval_ms: never_ms())
      Queue.push(name, [1, 2, 3])
      assert [table] = GatedProcessor.drain(name)
      assert is_atom(table)
      assert {%{size: 3}, _} = next_event([:processing, :stop])
      assert {%{left: 0}, _} = next_event([:stop])
    end
  end

  test "update_options/2 changes from lists to tables and back" do
    name = start_table!(processing_batch_size: 2)
    Queue.push(name, [1, 2, 3, 4])
    {runner, [1, 2]} = GatedProcessor.next_batch()
    Queue.update_options(name, processing_batch_size: :table)
    # The cycle that is running goes on with a table of what is left.
    GatedProcessor.open(runner)
    {runner, table} = GatedProcessor.next_batch()
    assert values(table) == [3, 4]
    GatedProcessor.open(runner)
    Queue.push(name, [5, 6])
    {runner, table} = GatedProcessor.next_batch()
    assert values(table) == [5, 6]
    Queue.update_options(name, processing_batch_size: 2)
    Queue.push(name, [7, 8, 9])
    GatedProcessor.open(runner)
    {runner, [7, 8]} = GatedProcessor.next_batch()
    GatedProcessor.open(runner)
    {runner, [9]} = GatedProcessor.next_batch()
    GatedProcessor.open(runner)
    assert %{processed: 9} = info_after(name, runner)
  end

  test "terms in a table are what was pushed" do
    items = [1.0, -0.0, <<1::5>>, [1 | 2], %{a: self()}, make_ref(), String.duplicate("x", 500)]
    {_name, runner, table} = start_with_table!(items)

    assert Enum.map(values(table), &:erlang.term_to_binary/1) ==
             Enum.map(items, &:erlang.term_to_binary/1)

    GatedProcessor.open(runner)
  end
end
