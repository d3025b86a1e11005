defmodule PartitionedBuffer.InfoPropertiesTest do
  # No entry is ever missing from the figures, or in them twice: whatever is pushed, changed and
  # failing, and whenever somebody looks.
  use PartitionedBuffer.BufferCase, async: true

  import PartitionedBuffer.Property
  import PartitionedBuffer.TelemetryCase

  alias :proper_types, as: Types

  @moduletag :capture_log

  # Does what an item of its batch tells it to do.
  def process(table) when is_atom(table) do
    process(for {:entry, _key, item, _, _} <- :ets.tab2list(table), do: item)
  end

  def process(batch) do
    case List.keyfind(batch, :do, 0) do
      nil -> :ok
      {:do, :raise} -> raise "told to"
      {:do, :throw} -> throw(:told_to)
      {:do, :exit} -> exit(:told_to)
      {:do, :kill} -> Process.exit(self(), :kill)
      {:do, :hang} -> receive(do: (:nothing -> :ok))
    end
  end

  defp item do
    Types.frequency([
      {30, Types.integer()},
      {5, Types.binary()},
      {1, {:do, Types.oneof([:raise, :throw, :exit, :kill])}}
    ])
  end

  defp options do
    Types.oneof([
      [processing_batch_size: Types.integer(1, 30)],
      [processing_batch_size: :table],
      [processing_interval_ms: Types.integer(1, 3)],
      [processing_timeout_ms: Types.oneof([1_000, :infinity])]
    ])
  end

  defp operation do
    Types.frequency([
      {8, {:push, item()}},
      {6, {:push, Types.list(item())}},
      {2, {:push_many, Types.integer(200, 1_500)}},
      {4, {:push_to, Types.list(item()), Types.integer(0, 5)}},
      {3, {:update, options()}},
      {1, :hang},
      {2, :read}
    ])
  end

  defp run(_name, :read), do: 0

  defp run(name, :hang) do
    Queue.update_options(name, processing_timeout_ms: 3)
    pushed(name, {:do, :hang}, [])
  end

  defp run(name, {:update, options}) do
    Queue.update_options(name, options)
    0
  end

  defp run(name, {:push, items}), do: pushed(name, items, [])
  defp run(name, {:push_many, count}), do: pushed(name, Enum.to_list(1..count), [])
  defp run(name, {:push_to, items, key}), do: pushed(name, items, partition_key: key)

  defp pushed(name, items, opts) do
    :ok = Queue.push(name, items, opts)
    items |> List.wrap() |> length()
  end

  test "accepted = processed + discarded + queued + in_flight, at every reading" do
    operations = {Types.integer(1, 4), Types.list(operation())}

    check(operations, [tests: 60], fn {partitions, operations} ->
      name = unique_name()
      handler = listen(name)
      start_queue!(queue(name, partitions))
      reader = start_reader(name)

      accepted =
        for operation <- operations, reduce: 0 do
          accepted ->
            accepted = accepted + run(name, operation)
            assert %{accepted: ^accepted} = name |> PartitionedBuffer.info() |> assert_figures()
            accepted
        end

      # A call that hangs is ended by its timeout, whatever that was set to meanwhile.
      Queue.update_options(name, processing_timeout_ms: 200)
      await_settled(accepted, name, events = :ets.new(:events, []))
      info = await_idle(name)
      assert stop_reader(reader) > 0
      assert_final(info, accepted, events)
      Queue.stop(name)
      :telemetry.detach(handler)
    end)
  end

  test "the same while many push" do
    check({Types.integer(1, 4), Types.integer(1, 30)}, [tests: 10], fn {partitions, size} ->
      name = unique_name()
      handler = listen(name)
      start_queue!([processing_batch_size: size] ++ queue(name, partitions))
      reader = start_reader(name)

      pushers =
        for pusher <- 1..4 do
          Task.async(fn ->
            for number <- 1..100 do
              Queue.push(name, {pusher, number})
              Queue.push(name, [number, "binary", {:do, :raise}], partition_key: number)
            end
          end)
        end

      Task.await_many(pushers)
      await_settled(1_600, name, events = :ets.new(:events, []))
      info = await_idle(name)
      assert stop_reader(reader) > 0
      assert_final(info, 1_600, events)
      Queue.stop(name)
      :telemetry.detach(handler)
    end)
  end

  defp queue(name, partitions) do
    [name: name, partitions: partitions, processing_interval_ms: 1, processor: &process/1]
  end

  # What a reading has to fulfil by itself.
  defp assert_figures(info) do
    assert_accounted(info)

    for figures <- info.partitions do
      held = figures.queued + figures.in_flight
      assert figures.high_water >= held
      assert figures.accepted >= figures.high_water
      assert held == 0 == is_nil(figures.oldest_age_ms)
      if held == 0, do: assert(figures.bytes == 0)
    end

    info
  end

  # Reads all the time and compares each reading with the one before: counters never go back.
  defp start_reader(name) do
    Task.async(fn ->
      try do
        read(name, PartitionedBuffer.info(name), 1)
      rescue
        # To be raised where PropEr sees it.
        error -> {error, __STACKTRACE__}
      end
    end)
  end

  defp stop_reader(reader) do
    send(reader.pid, :stop)
    with {error, stacktrace} <- Task.await(reader), do: reraise(error, stacktrace)
  end

  defp read(name, before, readings) do
    info = name |> PartitionedBuffer.info() |> assert_figures()

    for {then, now} <- Enum.zip(before.partitions, info.partitions) do
      for key <- [:accepted, :processed, :high_water], do: assert(now[key] >= then[key])
      for {reason, count} <- now.discarded, do: assert(count >= then.discarded[reason])
    end

    receive do
      :stop -> readings
    after
      0 -> read(name, info, readings + 1)
    end
  end

  # As `await_settled/1`, and counts what was reported.
  defp await_settled(0, _name, _events), do: :ok

  defp await_settled(entries, name, events) do
    receive do
      {:event, [:processing, :stop], %{size: size}, %{buffer: ^name}} ->
        :ets.update_counter(events, :processed, size, {:processed, 0})
        await_settled(entries - size, name, events)

      {:event, [:discarded], %{size: size, bytes: bytes}, %{buffer: ^name} = metadata} ->
        %{reason: reason} = metadata
        :ets.update_counter(events, reason, size, {reason, 0})
        assert is_integer(bytes)
        await_settled(entries - size, name, events)
    after
      5_000 -> flunk("#{entries} entries were neither processed nor discarded")
    end
  end

  # The event of the last batch comes a moment before the batch is settled.
  defp await_idle(name, deadline \\ System.monotonic_time(:second) + 5) do
    case PartitionedBuffer.info(name) do
      %{queued: 0, in_flight: 0} = info ->
        info

      info ->
        assert System.monotonic_time(:second) < deadline, "not idle: #{inspect(info)}"
        await_idle(name, deadline)
    end
  end

  defp assert_final(info, accepted, events) do
    assert_figures(info)
    assert %{accepted: ^accepted, bytes: 0, oldest_age_ms: nil} = info
    reported = Map.new(:ets.tab2list(events))
    assert info.processed == Map.get(reported, :processed, 0)
    for {reason, count} <- info.discarded, do: assert(count == Map.get(reported, reason, 0))
  end
end
