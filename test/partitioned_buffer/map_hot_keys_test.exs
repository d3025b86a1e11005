defmodule PartitionedBuffer.MapHotKeysTest do
  # Sixteen processes on a thousand hot keys, with cycles all the time: of each key it is known what
  # any order of all operations must have led to.
  #
  #   * Keys that are counted: all that was added is in what was processed or taken.
  #   * Keys with versions: they rise from one processed entry to the next, the highest one is the last, and
  #     each has its own value. Older ones are remembered across cycles.
  #   * Keys that are put: of each writer, later ones come after earlier ones, and the last one that was
  #     processed is the last one of its writer.
  use PartitionedBuffer.MapCase, async: false

  import PartitionedBuffer.Alive

  alias PartitionedBuffer.FaultHelpers

  @moduletag timeout: 900_000

  setup_all :assert_alive_baseline

  @writers 16
  @counted 1..400
  @versioned 401..800
  @put 801..1_000

  test "100,000 operations of each process", do: run(100_000)

  @tag :soak
  test "1,000,000 operations of each process", do: run(1_000_000)

  defp run(operations) do
    state = %{
      added: :counters.new(1_000, [:write_concurrency]),
      taken: :counters.new(1_000, [:write_concurrency]),
      processed: :counters.new(1_000, [:write_concurrency]),
      # By key: the version that was processed last. By key and writer: the number that was.
      last: :atomics.new(1_000, signed: false),
      seen: :atomics.new(1_000 * @writers, signed: false),
      # By key: the writer that was processed last.
      writer: :atomics.new(1_000, signed: false),
      # By key and writer: the number that was put last.
      written: :atomics.new(1_000 * @writers, signed: false),
      highest: :atomics.new(1_000, signed: false),
      wrong: :counters.new(1, [])
    }

    buffer =
      start_map!(
        processor: fn batch -> Enum.each(batch, &processed(state, &1)) end,
        partitions: 4,
        processing_batch_size: 100,
        processing_interval_ms: 1,
        version_memory: 1_000
      )

    tasks =
      for writer <- 0..(@writers - 1) do
        Task.async(fn ->
          :rand.seed(:exsss, {writer, 1, 2})
          Enum.each(1..operations, &operate(buffer, state, writer, &1))
        end)
      end

    killer = Task.async(fn -> kill_now_and_then(buffer) end)
    Task.await_many(tasks, :infinity)
    send(killer.pid, :enough)
    Task.await(killer)
    info = await_idle(buffer)
    Buffer.stop(buffer)

    assert :counters.get(state.wrong, 1) == 0
    assert info.accepted == info.processed + info.superseded + info.deleted

    assert info.processed > 0 and Enum.all?(Map.values(info.discarded), &(&1 == 0))

    Enum.each(@counted, &assert_counted(state, &1))
    Enum.each(@versioned, &assert_versioned(state, &1))
    Enum.each(@put, &assert_put(state, &1))
  end

  # The processes of partitions, not those that process: what they have in flight would be discarded.
  defp kill_now_and_then(buffer) do
    for %{partition: name} <- PartitionedBuffer.info(buffer).partitions do
      former = FaultHelpers.await_successor(name, nil)
      FaultHelpers.kill(former)
      FaultHelpers.await_successor(name, former)
    end

    receive(do: (:enough -> :ok), after: (100 -> kill_now_and_then(buffer)))
  end

  ## What a process does

  defp operate(buffer, state, writer, number) do
    key = :rand.uniform(1_000)

    cond do
      key in @counted -> count(buffer, state, key, rem(number, 50))
      key in @versioned -> put_version(buffer, state, key, writer, number)
      true -> put(buffer, state, key, writer, number)
    end
  end

  defp count(buffer, state, key, 0) do
    with {:ok, count} <- Buffer.take(buffer, key), do: :counters.add(state.taken, key, count)
  end

  defp count(buffer, state, key, _number) do
    :ok = Buffer.update(buffer, key, 1, {:add, 1})
    :counters.add(state.added, key, 1)
  end

  # No two writers have the same version, and of what one writes a fifth is old.
  defp put_version(buffer, state, key, writer, number) do
    number = if rem(number, 5) == 0, do: div(number, 2), else: number
    version = number * @writers + writer + 1
    :ok = Buffer.put_newer(buffer, key, {:version, version}, version)
    raise_to(state.highest, key, version)

    # A version that can be read is never lower than one that was there before, unless it has left.
    if rem(number, 20) == 0 do
      with {:version, one} <- Buffer.get(buffer, key),
           {:version, other} <- Buffer.get(buffer, key) do
        wrong_if(state, other < one)
      end
    end
  end

  defp put(buffer, state, key, writer, number) do
    :ok = Buffer.put(buffer, key, {writer, number})
    :atomics.put(state.written, key * @writers - writer, number)
  end

  defp raise_to(atomics, key, version) do
    there = :atomics.get(atomics, key)

    if there < version and :atomics.compare_exchange(atomics, key, there, version) != :ok,
      do: raise_to(atomics, key, version)
  end

  ## What is processed: of each key, by one process after the other

  defp processed(state, {key, count, 0, updates}) when key in @counted do
    # Each update but the first one was made to a value that was there.
    wrong_if(state, updates != count - 1)
    :counters.add(state.processed, key, count)
  end

  defp processed(state, {key, {:version, version}, version, _updates}) when key in @versioned do
    wrong_if(state, version <= :atomics.exchange(state.last, key, version))
  end

  defp processed(state, {key, {writer, number}, 0, 0}) when key in @put do
    :atomics.put(state.writer, key, writer)
    wrong_if(state, number <= :atomics.exchange(state.seen, key * @writers - writer, number))
  end

  defp processed(state, _other), do: wrong_if(state, true)

  defp wrong_if(state, true), do: :counters.add(state.wrong, 1, 1)
  defp wrong_if(_state, false), do: :ok

  ## What must be so in the end

  defp assert_counted(state, key) do
    added = :counters.get(state.added, key)
    assert added > 0
    assert added == :counters.get(state.processed, key) + :counters.get(state.taken, key)
  end

  defp assert_versioned(state, key) do
    assert :atomics.get(state.last, key) == :atomics.get(state.highest, key)
  end

  defp assert_put(state, key) do
    place = key * @writers - :atomics.get(state.writer, key)
    assert :atomics.get(state.seen, place) == :atomics.get(state.written, place)
  end
end
