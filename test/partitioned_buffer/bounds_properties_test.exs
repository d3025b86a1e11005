defmodule PartitionedBuffer.BoundsPropertiesTest do
  # Random options, random operations: whatever they are, all entries are accounted for, no bound is
  # exceeded, order is kept, and where batches are tried again nothing is lost.
  use PartitionedBuffer.BoundsCase, async: true

  import PartitionedBuffer.Property

  alias :proper_types, as: Types

  @moduletag :capture_log
  @moduletag timeout: 300_000

  # What an entry tells a processor to do, the first time that it comes.
  @fates [:ok, :ok, :ok, :ok, :ok, :ok, :raise, :exit, :kill, :error, :failed]

  defp option do
    Types.oneof([
      {:processing_batch_size, Types.oneof([1, 2, 7, 100, :table])},
      {:max_batch_bytes, Types.oneof([1, 100, 1_000, :infinity])},
      {:max_size, Types.oneof([1, 3, 20, :infinity])},
      {:max_size_jitter, Types.integer(0, 5)},
      {:max_bytes, Types.oneof([1, 500, :infinity])},
      {:processing_interval_ms, Types.integer(1, 5)},
      {:processing_interval_jitter_ms, Types.integer(0, 3)},
      {:overflow, Types.oneof([:block, :reject, :drop_newest, :drop_oldest])},
      {:split_on_failure, Types.boolean()},
      {:on_discard, Types.oneof([nil, {__MODULE__, :ignore, []}])},
      {:processor_info, Types.boolean()}
    ])
  end

  # Bounds are set at the start alone: what is held when one is made smaller stays.
  defp start_options do
    let = fn type, fun -> Types.bind(type, fun, false) end

    let.(
      {Types.integer(1, 3), Types.oneof([1, 5, 30, :infinity]),
       Types.oneof([400, 5_000, :infinity]), Types.oneof([0, 0, 3]), Types.list(option())},
      fn {partitions, capacity, bytes, retries, options} ->
        [partitions: partitions, capacity: capacity, capacity_bytes: bytes, max_retries: retries] ++
          Enum.uniq_by(options, &elem(&1, 0))
      end
    )
  end

  defp operation do
    Types.frequency([
      {10, {:write, Types.integer(1, 1), fate()}},
      {6, {:write, Types.integer(0, 8), fate()}},
      {2, {:await, fate()}},
      {3, {:update, Types.list(option())}},
      {2, :flush},
      {1, :sync_flush},
      {2, :dump},
      {1, :pause},
      {2, :resume},
      {1, {:kill, Types.oneof([:partition, :owner, :task_supervisor, :partition_supervisor])}}
    ])
  end

  defp fate, do: Types.oneof(@fates)

  for kind <- [:queue, :map] do
    @kind kind

    test "a #{kind} accounts for everything, and never exceeds a bound" do
      check({start_options(), Types.list(operation())}, [tests: 60], fn {options, operations} ->
        run(@kind, options, operations)
      end)
    end

    test "a #{kind} that tries again loses nothing" do
      check({start_options(), Types.list(operation())}, [tests: 40], fn {options, operations} ->
        options =
          options
          |> Keyword.merge(max_retries: 1_000_000, capacity: :infinity, capacity_bytes: :infinity)
          |> Keyword.put(:split_on_failure, false)

        {written, seen, info} = run(@kind, options, operations)
        assert info.processed == length(written)
        assert Enum.sort(Enum.uniq(seen)) == Enum.sort(written)
      end)
    end
  end

  defp run(kind, options, operations) do
    table = :ets.new(:seen, [:public, :ordered_set])
    name = unique_name()
    module = if kind == :queue, do: Queue, else: Buffer

    opts =
      Keyword.merge(
        [
          name: name,
          processor: {__MODULE__, :process, [kind, table]},
          backoff: {1, 1},
          processing_interval_ms: 3
        ],
        options
      )

    start_supervised!({module, opts}, id: name, restart: :temporary)
    limits = Keyword.take(opts, [:capacity, :capacity_bytes])

    written =
      operations
      |> Enum.with_index()
      |> Enum.flat_map(fn {operation, place} ->
        written = operate(kind, name, operation, place * 10)
        check_reading(name, limits)
        written
      end)

    PartitionedBuffer.resume(name)
    PartitionedBuffer.flush(name)
    :ok = PartitionedBuffer.await_empty(name, 20_000)
    info = assert_nothing_held(name)
    seen = seen(table)
    assert info.accepted == length(written)
    if kind == :queue, do: assert_order(name, table)
    stop_supervised!(name)
    {written, seen, info}
  end

  defp check_reading(name, limits) do
    info = assert_accounted(PartitionedBuffer.info(name))
    assert info.queued + info.in_flight <= limits[:capacity]
    assert info.bytes <= limits[:capacity_bytes]

    if info.room,
      do:
        assert(
          info.room.entries <= limits[:capacity] and info.room.bytes <= limits[:capacity_bytes]
        )
  end

  # Answers the entries that were accepted.
  defp operate(kind, name, {:write, count, fate}, first) do
    entries = for i <- first..(first + count - 1)//1, do: {i, fate}
    argument = if count == 1, do: hd(entries), else: entries
    written(put(kind, name, argument), entries)
  end

  defp operate(kind, name, {:await, fate}, first) do
    entry = {first, fate}
    before = PartitionedBuffer.info(name).accepted

    result =
      if kind == :queue,
        do: Queue.push_await(name, entry, timeout: 20),
        else: Buffer.put_await(name, first, fate, timeout: 20)

    # Whether it had found room is told by the figures alone: nobody else writes.
    accepted? = PartitionedBuffer.info(name).accepted > before

    case result do
      {:error, :timeout} -> if accepted?, do: [entry], else: []
      {:error, reason} when reason in [:full, :too_large] -> []
      _accepted -> [entry]
    end
  end

  defp operate(_kind, name, {:update, options}, _),
    do: nothing(PartitionedBuffer.update_options(name, options))

  defp operate(_kind, name, :flush, _), do: nothing(PartitionedBuffer.flush(name))

  defp operate(_kind, name, :sync_flush, _),
    do: nothing(PartitionedBuffer.sync_flush(name, timeout: 20))

  defp operate(_kind, name, :dump, _), do: nothing(PartitionedBuffer.dump(name))
  defp operate(_kind, name, :pause, _), do: nothing(PartitionedBuffer.pause(name))
  defp operate(_kind, name, :resume, _), do: nothing(PartitionedBuffer.resume(name))

  defp operate(_kind, name, {:kill, :partition}, _),
    do: nothing(kill_named(Names.partition(name, 0)))

  defp operate(_kind, name, {:kill, victim}, _),
    do: nothing(kill_named(apply(Names, victim, [name])))

  defp kill_named(process) do
    pid = Process.whereis(process)
    if pid, do: kill(pid)
    await_successor(process, pid)
  end

  defp nothing(_result), do: []

  defp put(:queue, name, entries), do: Queue.push(name, entries, timeout: 10)
  defp put(:map, name, {key, value}), do: Buffer.put(name, key, value, timeout: 10)
  defp put(:map, name, entries), do: Buffer.put_all(name, entries, timeout: 10)

  defp written(:ok, entries), do: entries
  defp written({:error, reason}, _entries) when reason in [:full, :timeout, :too_large], do: []

  ## The processor

  @doc false
  def ignore(_batch, _reason), do: :ok

  @doc false
  def process(batch, %{attempt: _} = _info, kind, table), do: process(batch, kind, table)

  @doc false
  def process(batch, kind, table) do
    entries = entries(kind, batch)
    first? = fn number -> :ets.lookup(table, {:met, number}) == [] end
    bad = Enum.filter(entries, fn {_, number, fate} -> fate != :ok and first?.(number) end)
    for {_, number, _} <- bad, do: :ets.insert(table, {{:met, number}, true})
    at = :erlang.unique_integer([:monotonic, :positive])

    for {{_entry, number, fate}, place} <- Enum.with_index(entries),
        do: :ets.insert(table, {{:seen, at, place}, number, fate})

    case bad do
      [] -> :ok
      [{entry, _, fate} | _] -> fail(fate, entry, batch)
    end
  end

  defp fail(:raise, _, _), do: raise("told to")
  defp fail(:exit, _, _), do: exit(:told_to)
  defp fail(:kill, _, _), do: Process.exit(self(), :kill)
  defp fail(:error, _, _), do: {:error, :told_to}
  defp fail(:failed, entry, batch) when is_list(batch), do: {:failed, [entry]}
  defp fail(:failed, _entry, _table), do: {:error, :told_to}

  defp entries(kind, table) when is_atom(table) do
    for {:entry, key, value, _, _} <- :ets.tab2list(table) do
      if kind == :queue,
        do: {value, elem(value, 0), elem(value, 1)},
        else: {{key, value}, key, value}
    end
  end

  defp entries(:queue, batch), do: for({number, fate} = entry <- batch, do: {entry, number, fate})
  defp entries(:map, batch), do: for({key, value, _, _} = entry <- batch, do: {entry, key, value})

  defp seen(table) do
    for {{:seen, _at, _place}, number, fate} <- :ets.tab2list(table), do: {number, fate}
  end

  # Of each partition, the first time that each number was seen comes in the order of the numbers.
  defp assert_order(name, table) do
    numbers = for {{:seen, _at, _place}, number, fate} <- :ets.tab2list(table), do: {number, fate}

    for {_partition, numbers} <-
          Enum.group_by(numbers, &PartitionedBuffer.get_partition(name, nil, &1)) do
      firsts = Enum.uniq(numbers)
      assert firsts == Enum.sort(firsts)
    end
  end
end
