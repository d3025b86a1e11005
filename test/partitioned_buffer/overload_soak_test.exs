defmodule PartitionedBuffer.OverloadSoakTest do
  # Ten times more is written than can be processed, for a minute under each policy: the bound and the
  # accounts hold at every reading, and memory stays flat.
  use PartitionedBuffer.BoundsCase, async: false

  import PartitionedBuffer.Alive

  @moduletag :soak
  @moduletag :capture_log
  @moduletag timeout: :infinity

  @seconds String.to_integer(System.get_env("OVERLOAD_SECONDS", "60"))
  @capacity 5_000
  @bytes 4_000_000
  @batch 100
  # A batch each 3 ms or so: about 30,000 entries a second.
  @pause_ms 2
  @writers 8

  setup :assert_alive_baseline

  for kind <- [:queue, :map], overflow <- [:block, :reject, :drop_newest, :drop_oldest] do
    @kind kind
    @overflow overflow

    test "a #{kind}, #{overflow}" do
      name = unique_name()
      told = :counters.new(1, [])
      module = if @kind == :queue, do: Queue, else: Buffer

      start_supervised!({
        module,
        # All figures are of one moment then.
        name: name,
        partitions: 1,
        capacity: @capacity,
        capacity_bytes: @bytes,
        overflow: @overflow,
        max_size: @batch,
        processing_batch_size: @batch,
        processing_interval_ms: 10,
        on_discard: fn batch, _reason -> :counters.add(told, 1, length(batch)) end,
        processor: fn _batch -> pause(@pause_ms) end
      })

      stop = :atomics.new(1, [])

      writers =
        for writer <- 1..@writers,
            do: Task.async(fn -> write(stop, @kind, name, writer * 1_000_000_000, {0, 0}) end)

      samples = sample(name, System.monotonic_time(:millisecond) + @seconds * 1_000, [])
      :atomics.put(stop, 1, 1)
      results = Task.await_many(writers, :infinity)
      :ok = PartitionedBuffer.flush(name)
      :ok = PartitionedBuffer.await_empty(name, 60_000)
      info = assert_nothing_held(name)
      accepted = results |> Enum.map(&elem(&1, 0)) |> Enum.sum()
      assert info.accepted == accepted
      assert info.rejected == results |> Enum.map(&elem(&1, 1)) |> Enum.sum()
      assert_dropped(@overflow, info)
      overflow = info.discarded.overflow
      # What is kept to be told of is bounded, too.
      wait_until(fn -> PartitionedBuffer.Native.partition_kept(handle(name), 0) == 0 end)
      assert :counters.get(told, 1) <= overflow

      later = Enum.drop(samples, div(length(samples), 3))
      {first, second} = Enum.split(later, div(length(later), 2))
      grown = mean(second) / mean(first)
      assert grown < 1.1, "memory has grown: #{grown}"

      IO.puts(
        "#{@kind} #{@overflow}: #{length(samples)} readings, accepted #{accepted}, processed #{info.processed}, " <>
          "rejected #{info.rejected}, dropped #{overflow} (told #{:counters.get(told, 1)}), memory of the second half to that of the first " <>
          Float.to_string(Float.round(grown, 3))
      )
    end
  end

  defp assert_dropped(overflow, info) do
    if overflow in [:block, :reject], do: assert(info.discarded.overflow == 0)
  end

  defp handle(name), do: PartitionedBuffer.Handle.fetch!(name).ref

  # Memory of the whole process, each 10 ms.
  defp sample(name, deadline, samples) do
    info = assert_accounted(PartitionedBuffer.info(name))
    assert info.queued + info.in_flight <= @capacity
    assert info.bytes <= @bytes
    assert info.room.entries <= @capacity and info.room.bytes <= @bytes
    pause(10)
    samples = [resident() | samples]

    if System.monotonic_time(:millisecond) < deadline,
      do: sample(name, deadline, samples),
      else: Enum.reverse(samples)
  end

  defp mean(values), do: Enum.sum(values) / max(length(values), 1)

  defp write(stop, kind, name, number, {accepted, rejected} = counts) do
    if :atomics.get(stop, 1) == 1 do
      counts
    else
      {entries, count} =
        if rem(number, 4) == 0,
          do: {for(i <- 0..9, do: number * 16 + i), 10},
          else: {number * 16, 1}

      case put(kind, name, entries, number) do
        :ok -> write(stop, kind, name, number + 1, {accepted + count, rejected})
        {:error, _reason} -> write(stop, kind, name, number + 1, {accepted, rejected + 1})
      end
    end
  end

  # Small ones, and now and then a large one.
  defp put(:queue, name, number, _seq) when is_integer(number) and rem(number, 1_600) == 16,
    do: Queue.push(name, :binary.copy("x", 20_000), timeout: 1_000)

  defp put(:queue, name, entries, _seq), do: Queue.push(name, entries, timeout: 1_000)

  defp put(:map, name, entries, seq) when is_list(entries),
    do: Buffer.put_all(name, Enum.map(entries, &{&1, seq}), timeout: 1_000)

  defp put(:map, name, number, seq), do: Buffer.put(name, number, {seq, "value"}, timeout: 1_000)
end
