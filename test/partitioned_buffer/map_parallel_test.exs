defmodule PartitionedBuffer.MapParallelTest do
  # Several processes at the same time, on the same few keys, with cycles and kills at random moments: there
  # is an order of all calls that explains every answer and all that was processed.
  use PartitionedBuffer.MapCase, async: true

  import PartitionedBuffer.{Generators, Property}

  alias :proper_types, as: Types
  alias PartitionedBuffer.{FaultHelpers, Linearizable, MapModel, Names}

  @moduletag :capture_log
  @moduletag timeout: 900_000

  ## The checker itself

  describe "the checker" do
    test "accepts calls that overlap in any order, and no other" do
      put = {{:put, 1}, :ok, 1, 4}
      assert Linearizable.explained?([[put], [{:fetch, :error, 2, 3}]], [{1, 0, 0}])
      assert Linearizable.explained?([[put], [{:fetch, {:ok, 1}, 2, 3}]], [{1, 0, 0}])
      refute Linearizable.explained?([[put], [{:fetch, {:ok, 2}, 2, 3}]], [{1, 0, 0}])
      assert Linearizable.explained?([[put], [{:fetch, {:ok, 1}, 5, 6}]], [{1, 0, 0}])
      # It was there before, and has been processed.
      assert Linearizable.explained?([[put], [{:fetch, :error, 5, 6}]], [{1, 0, 0}])

      refute Linearizable.explained?([[{{:put, 1}, :ok, 3, 4}], [{:fetch, {:ok, 1}, 1, 2}]], [
               {1, 0, 0}
             ])
    end

    test "refuses what was lost, came twice, or went backwards" do
      add = {:update, 1, {:add, 1}}
      adds = for _process <- 1..2, do: [{add, :ok, 1, 9}]
      assert Linearizable.explained?(adds, [{2, 0, 1}])
      assert Linearizable.explained?(adds, [{1, 0, 0}, {1, 0, 0}])
      refute Linearizable.explained?(adds, [{1, 0, 0}])
      refute Linearizable.explained?(adds, [{2, 0, 1}, {2, 0, 1}])

      newer = for version <- [1, 2], do: [{{:put_newer, version, version}, :ok, 1, 9}]
      assert Linearizable.explained?(newer, [{2, 2, 1}])
      assert Linearizable.explained?(newer, [{2, 2, 0}])
      refute Linearizable.explained?(newer, [{1, 1, 1}])

      takes = for _process <- 1..2, do: [{:take, {:ok, 1}, 3, 9}]
      refute Linearizable.explained?([[{{:put, 1}, :ok, 1, 2}] | takes], [])
    end

    test "keeps the order of a process" do
      calls = [{{:put, 1}, :ok, 1, 9}, {{:put, 2}, :ok, 1, 9}]
      assert Linearizable.explained?([calls], [{2, 0, 0}])
      refute Linearizable.explained?([calls], [{1, 0, 0}])
      refute Linearizable.explained?([calls], [{2, 0, 0}, {1, 0, 0}])
    end
  end

  ## What the processes do

  defp value, do: Types.frequency([{4, Types.integer(0, 3)}, {2, scalar()}, {1, large()}])

  # On dirty schedulers.
  defp large, do: let(Types.integer(7_900, 8_100), &Enum.to_list(1..&1))

  defp version,
    do: Types.oneof([Types.integer(0, 4), let(Types.integer(59, 65), &Integer.pow(2, &1))])

  defp change do
    Types.oneof([
      {:add, Types.integer(1, 3)},
      {:max, Types.integer(0, 5)},
      {:append, Types.integer()},
      {:put_new, value()},
      Types.exactly(&[&1])
    ])
  end

  defp step do
    Types.oneof([
      {:put, value()},
      {:put_newer, value(), version()},
      {:put_newer, value(), version()},
      {:update, value(), change()},
      {:update, 1, {:add, 1}},
      :delete,
      :take,
      :fetch,
      :has_key?
    ])
  end

  # Keys are drawn apart; here is which of them.
  defp call do
    key = Types.integer(0, 5)

    Types.frequency([
      {20, {step(), key}},
      {2, {:put_all, Types.list({key, value()})}},
      {2, {:put_all_newer, Types.list({key, value(), version()})}},
      {2, :pause}
    ])
  end

  # Up to four processes.
  defp program do
    let(Types.integer(2, 4), fn count -> Types.vector(count, Types.list(call())) end)
  end

  defp trouble,
    do: Types.list(Types.frequency([{4, :cycle}, {2, :pause}, {1, {:kill, Types.integer(0, 2)}}]))

  defp keys, do: Types.non_empty(Types.list(any_term()))

  ## Running it

  # A clock that no two readings of are the same, in all processes.
  defp now, do: :erlang.unique_integer([:monotonic])

  defp run(buffer, keys, calls) do
    for call <- calls, call != :pause or pause(), reduce: [] do
      done ->
        from = now()
        steps = MapModel.apply_to(buffer, with_keys(call, keys))
        to = now()

        Enum.reduce(steps, done, fn {key, step, answer}, done ->
          [{key, {step, answer, from, to}} | done]
        end)
    end
  end

  # Nothing is done then.
  defp pause do
    FaultHelpers.pause(:rand.uniform(2) - 1)
    false
  end

  defp with_keys({list, entries}, keys) when list in [:put_all, :put_all_newer] do
    {list, Enum.map(entries, fn entry -> put_elem(entry, 0, pick(keys, elem(entry, 0))) end), []}
  end

  defp with_keys({step, key}, keys), do: {step, pick(keys, key), []}

  defp pick(keys, number), do: Enum.at(keys, rem(number, length(keys)))

  defp make_trouble(_buffer, :pause), do: pause()
  defp make_trouble(buffer, :cycle), do: cycle(buffer)

  defp make_trouble(buffer, {:kill, partition}) do
    count = length(PartitionedBuffer.info(buffer).partitions)
    name = Names.partition(buffer, rem(partition, count))
    former = FaultHelpers.await_successor(name, nil)
    FaultHelpers.kill(former)
    FaultHelpers.await_successor(name, former)
  end

  # All of them start at the same moment.
  defp at_once(funs) do
    tasks = for fun <- funs, do: Task.async(fn -> receive(do: (:go -> fun.())) end)
    for task <- tasks, do: send(task.pid, :go)
    Task.await_many(tasks, 60_000)
  end

  defp by_key(done), do: done |> Enum.reverse() |> Enum.group_by(&elem(&1, 0), &elem(&1, 1))

  defp check_runs(tests, size, opts) do
    sizes = {Types.integer(1, 3), Types.integer(1, 4)}

    check({sizes, keys(), program(), trouble()}, [tests: tests, size: size], fn
      {{partitions, batch_size}, keys, program, trouble} ->
        keys = keys |> Enum.uniq() |> Enum.take(3)
        {processor, table} = recorder()
        sizes = [partitions: partitions, processing_batch_size: batch_size]
        buffer = start_map!([processor: processor] ++ sizes ++ opts)

        [_trouble | done] =
          at_once([
            fn -> Enum.each(trouble, &make_trouble(buffer, &1)) end
            | for(calls <- program, do: fn -> run(buffer, keys, calls) end)
          ])

        assert_accounted(PartitionedBuffer.info(buffer))
        Buffer.stop(buffer)
        processed = Enum.group_by(recorded(table), &elem(&1, 0), fn {_, v, n, u} -> {v, n, u} end)
        :ets.delete(table)
        done = Enum.map(done, &by_key/1)
        assert Enum.all?(Map.keys(processed), &(&1 in keys))

        for key <- keys do
          calls = Enum.map(done, &Map.get(&1, key, []))
          got = Map.get(processed, key, [])

          unless Linearizable.explained?(calls, got) do
            flunk("#{inspect(key)}: no order of #{inspect(calls)} explains #{inspect(got)}")
          end
        end
    end)
  end

  test "calls at the same time, with cycles and kills that are told" do
    check_runs(120, 16, [])
  end

  test "calls at the same time, with cycles all the time" do
    check_runs(80, 20, processing_interval_ms: 1)
  end

  @tag :soak
  test "many more of them" do
    check_runs(1_000, 18, processing_interval_ms: 1)
    check_runs(1_000, 16, [])
  end
end
