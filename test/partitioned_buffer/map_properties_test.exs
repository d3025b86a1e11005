defmodule PartitionedBuffer.MapPropertiesTest do
  # Operations at random, cycles and kills at random moments: what the processor got and what could
  # be read is what a model in plain Elixir says, and no entry is unaccounted for.
  use PartitionedBuffer.MapCase, async: true

  import PartitionedBuffer.Generators, only: [let: 2]
  import PartitionedBuffer.Property

  alias :proper_types, as: Types
  alias PartitionedBuffer.{FaultHelpers, MapModel, Names}

  @moduletag :capture_log

  # Few of them, so that they meet; of every way that the native side has for a key.
  @keys [0, 1, 1.0, :a, "b", {:c, 1}, [~c"d"], String.duplicate("e", 100), nil, -5] ++
          [{:large, String.duplicate("f", 9_000)}, {:heavy, String.duplicate("g", 140_000)}]

  defp key, do: Types.frequency([{8, Types.oneof(Enum.take(@keys, 4))}, {5, Types.oneof(@keys)}])

  defp value do
    Types.frequency([
      {6, Types.integer()},
      {2, Types.list(Types.integer())},
      {2, Types.binary()},
      {1, let(Types.integer(30, 70), &Integer.pow(2, &1))},
      {1, let(Types.integer(1, 200), &:binary.copy("v", &1))},
      {1, let(Types.integer(7_000, 9_000), &:binary.copy("v", &1))},
      {1, let(Types.integer(7_900, 8_100), &Enum.to_list(1..&1))}
    ])
  end

  defp version do
    Types.oneof([Types.integer(-3, 3), let(Types.integer(58, 65), &Integer.pow(2, &1))])
  end

  defp change do
    Types.oneof([
      {:add, Types.integer()},
      {:max, value()},
      {:min, value()},
      {:append, Types.integer()},
      {:put_new, value()},
      Types.exactly(&Function.identity/1),
      Types.exactly(&[&1])
    ])
  end

  defp step do
    Types.oneof([
      {:put, value()},
      {:put_newer, value(), version()},
      {:update, value(), change()},
      :delete,
      :take,
      :fetch,
      :has_key?,
      {:get, :default}
    ])
  end

  # Whoever writes a key with a partition key must always do so: so all operations of a run do.
  defp route do
    Types.oneof([[], [], [partition_key: :one], [partition_key: Types.exactly(&{:route, &1})]])
  end

  defp operation do
    Types.frequency([
      {20, {step(), key()}},
      {3, {:put_all, Types.list({key(), value()})}},
      {3, {:put_all_newer, Types.list({key(), value(), version()})}},
      {3, :cycle},
      {1, {:kill, Types.integer(0, 3)}}
    ])
  end

  # The history of each key: `{step, answer}`.
  defp run(buffer, operations, opts) do
    for operation <- operations, reduce: Map.new(@keys, &{&1, []}) do
      histories ->
        steps = run_one(buffer, operation, opts)
        assert_accounted(PartitionedBuffer.info(buffer))

        for {key, step, answer} <- steps, reduce: histories do
          histories -> Map.update!(histories, key, &[{step, answer} | &1])
        end
    end
  end

  defp run_one(buffer, {:kill, partition}, _opts) do
    count = length(PartitionedBuffer.info(buffer).partitions)
    name = Names.partition(buffer, rem(partition, count))
    former = FaultHelpers.await_successor(name, nil)
    FaultHelpers.kill(former)
    FaultHelpers.await_successor(name, former)
    []
  end

  defp run_one(buffer, :cycle, _opts) do
    :ok = cycle(buffer)
    for key <- @keys, do: {key, :cycle, :ok}
  end

  defp run_one(buffer, {how, list}, opts) when how in [:put_all, :put_all_newer] do
    MapModel.apply_to(buffer, {how, list, opts})
  end

  defp run_one(buffer, {step, key}, opts), do: MapModel.apply_to(buffer, {step, key, opts})

  defp assert_explained(histories, recorded, cycles) do
    processed =
      Enum.group_by(recorded, &elem(&1, 0), fn {_key, value, version, updates} ->
        {value, version, updates}
      end)

    assert Enum.all?(Map.keys(processed), &(&1 in @keys))

    for {key, history} <- histories do
      history = Enum.reverse(history)
      got = Map.get(processed, key, [])

      unless MapModel.explained?(history, got, cycles) do
        flunk("#{inspect(key)}: #{inspect(got)} is not what follows from #{inspect(history)}")
      end
    end
  end

  # A process that looks at the figures all the time, and ends with the first ones that are wrong.
  defp start_reader(buffer) do
    Task.async(fn -> read(buffer) end)
  end

  defp read(buffer) do
    assert_accounted(PartitionedBuffer.info(buffer))
    receive(do: (:enough -> :ok), after: (0 -> read(buffer)))
  end

  defp stop_reader(reader) do
    send(reader.pid, :enough)
    Task.await(reader)
  end

  defp steps(histories) do
    for {_key, history} <- histories, {step, answer} <- history, do: {step, answer}
  end

  # Writes that are accepted whatever there is.
  defp written?({{:update, _default, {:put_new, _value}}, _answer}), do: false
  defp written?({{how, _, _}, :ok}) when how in [:put_newer, :update], do: true
  defp written?({{:put, _value}, :ok}), do: true
  defp written?(_other), do: false

  test "what is processed at cycles that are told, and at the end" do
    generator = {Types.integer(1, 3), Types.integer(1, 8), route(), Types.list(operation())}

    check(generator, [tests: 300, size: 40], fn {partitions, size, opts, operations} ->
      {processor, table} = recorder()
      sizes = [partitions: partitions, processing_batch_size: size]
      buffer = start_map!([processor: processor] ++ sizes)
      histories = run(buffer, operations, opts)
      accepted = PartitionedBuffer.info(buffer).accepted
      assert accepted >= histories |> steps() |> Enum.count(&written?/1)
      Buffer.stop(buffer)
      assert_explained(histories, recorded(table), :told)
    end)
  end

  test "what is processed at cycles whenever they come" do
    generator = {Types.integer(1, 3), Types.integer(1, 8), route(), Types.list(operation())}

    check(generator, [tests: 150, size: 60], fn {partitions, size, opts, operations} ->
      {processor, table} = recorder()

      buffer =
        start_map!(
          processor: processor,
          partitions: partitions,
          processing_batch_size: size,
          processing_interval_ms: 1
        )

      operations = Enum.map(operations, &if(&1 == :cycle, do: {:fetch, 0}, else: &1))
      reader = start_reader(buffer)
      histories = run(buffer, operations, opts)
      info = await_idle(buffer)
      stop_reader(reader)
      Buffer.stop(buffer)
      recorded = recorded(table)
      assert info.processed == length(recorded)
      assert_explained(histories, recorded, :any)
    end)
  end

  test "tables at the end: one row for each key that the model has" do
    generator = {Types.integer(1, 3), route(), Types.list(operation())}

    check(generator, [tests: 80, size: 40], fn {partitions, opts, operations} ->
      test = self()
      processor = fn table -> send(test, {:rows, :ets.tab2list(table)}) end
      sizes = [partitions: partitions, processing_batch_size: :table]
      buffer = start_map!([processor: processor] ++ sizes)
      operations = Enum.reject(operations, &(&1 == :cycle))
      histories = run(buffer, operations, opts)
      Buffer.stop(buffer)
      rows = rows()

      entries =
        for {:entry, key, value, version, updates} <- rows, do: {key, value, version, updates}

      assert_explained(histories, entries, :told)
    end)
  end

  defp rows do
    receive do
      {:rows, rows} -> rows ++ rows()
    after
      0 -> []
    end
  end

  test "the figures at the end are those of the model" do
    check(Types.list(operation()), [tests: 100, size: 40], fn operations ->
      operations = Enum.reject(operations, &(&1 == :cycle or match?({:kill, _}, &1)))
      buffer = start_map!(partitions: 2)
      histories = run(buffer, operations, [])

      {live, accepted, deleted} =
        for {_key, history} <- histories, reduce: {0, 0, 0} do
          sums -> history |> Enum.reverse() |> count(sums)
        end

      info = PartitionedBuffer.info(buffer)
      superseded = accepted - deleted - live
      assert %{queued: ^live, accepted: ^accepted, deleted: ^deleted} = info
      assert %{superseded: ^superseded, processed: 0, in_flight: 0} = info
      assert live == 0 or info.bytes >= 40 * live
      assert live > 0 or info.bytes == 0
    end)
  end

  defp count(history, {live, accepted, deleted}) do
    {last, accepted, deleted} =
      for {step, _answer} = done <- history, reduce: {nil, accepted, deleted} do
        {there, accepted, deleted} ->
          {_answer, after_it} = MapModel.step(there, step)
          put_new? = match?({:update, _, {:put_new, _}}, step) and there == nil
          accepted = accepted + if(written?(done) or put_new?, do: 1, else: 0)
          gone? = there != nil and after_it == nil
          {after_it, accepted, deleted + if(gone?, do: 1, else: 0)}
      end

    {live + if(last, do: 1, else: 0), accepted, deleted}
  end
end
