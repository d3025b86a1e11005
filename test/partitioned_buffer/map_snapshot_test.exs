defmodule PartitionedBuffer.MapSnapshotTest do
  # `to_list/1` and `keys/1`: of each partition the entries of one moment, whatever is written meanwhile.
  use PartitionedBuffer.MapCase, async: true

  import PartitionedBuffer.Generators
  import PartitionedBuffer.Property

  alias :proper_types, as: Types
  alias PartitionedBuffer.{FaultHelpers, Queue}

  defp sorted(buffer), do: buffer |> Buffer.to_list() |> Enum.sort()

  describe "what is in it" do
    test "nothing of an empty map, and nothing without partitions" do
      for partitions <- [0, 1, 3] do
        buffer = start_map!(partitions: partitions)
        assert Buffer.to_list(buffer) == []
        assert Buffer.keys(buffer) == []
      end
    end

    test "what can be read: not what was deleted, nor what is being processed" do
      buffer = start_map!(partitions: 2, processor: GatedProcessor.new())
      Buffer.put_all(buffer, for(key <- 1..500, do: {key, {:old, key}}))
      cycle(buffer)
      {_runner, _batch} = GatedProcessor.next_batch()
      assert Buffer.to_list(buffer) == []
      Buffer.put_all(buffer, for(key <- 1..300, do: {key, {:new, key}}))
      for key <- 101..200, do: Buffer.delete(buffer, key)
      keys = Enum.to_list(1..100) ++ Enum.to_list(201..300)
      assert sorted(buffer) == for(key <- keys, do: {key, {:new, key}})
      assert Enum.sort(Buffer.keys(buffer)) == keys
    end

    test "keys and values of every kind" do
      check(Types.list({any_term(), any_term()}), [tests: 60, size: 15], fn pairs ->
        buffer = start_map!(partitions: 2)
        Buffer.put_all(buffer, pairs)
        expected = Map.new(pairs)
        list = Buffer.to_list(buffer)
        assert length(list) == map_size(expected)
        for {key, value} <- list, do: assert(identical?(value, Map.fetch!(expected, key)))
        assert Enum.sort(Buffer.keys(buffer)) == Enum.sort(Map.keys(expected))
        Buffer.stop(buffer)
      end)
    end

    test "terms of any size" do
      buffer = start_map!()
      sizes = [1, 100, 8_000, 9_000, 130_000, 1_000_000]

      pairs =
        for size <- sizes, do: {{size, :binary.copy("k", size)}, Enum.to_list(1..div(size, 9)//1)}

      pairs = Enum.sort([{:integer, Integer.pow(7, 100_000)} | pairs])
      Buffer.put_all(buffer, pairs)
      assert sorted(buffer) == pairs
      assert Enum.sort(Buffer.keys(buffer)) == Enum.map(pairs, &elem(&1, 0))
    end

    test "no such buffer, another kind, one that was stopped" do
      assert_raise ArgumentError, ~r/unknown registry/, fn -> Buffer.to_list(:no_such_map) end
      queue = PartitionedBuffer.BufferCase.start_queue!()
      Queue.push(queue, :item)
      assert_raise ArgumentError, ~r/another kind/, fn -> Buffer.keys(queue) end
      buffer = start_map!()
      Buffer.stop(buffer)
      assert_raise ArgumentError, ~r/unknown registry/, fn -> Buffer.keys(buffer) end
    end
  end

  describe "one moment" do
    # One process writes round after round to all keys in the same order. At any moment the first keys
    # are of this round and all others of the one before.
    for {title, write} <- [
          put: quote(do: &Buffer.put(&1, &2, {&3, "a value"})),
          put_of_words: quote(do: &Buffer.put(&1, &2, &3)),
          put_newer: quote(do: &Buffer.put_newer(&1, &2, {&3, "a value"}, &3)),
          delete_and_put: quote(do: &delete_and_put/3),
          large: quote(do: &put_large/3)
        ] do
      test "#{title}: nothing later, nothing missing" do
        buffer = start_map!()
        write = unquote(write)
        keys = unquote(if title == :large, do: 1_000, else: 20_000)
        round = fn round -> for key <- 1..keys, do: write.(buffer, key, round) end
        round.(0)
        writer = Task.async(fn -> write_until_told(round, 1) end)
        for _ <- 1..10, do: assert_one_moment(buffer, keys)
        others = for _ <- 1..3, do: Task.async(fn -> assert_one_moment(buffer, keys) end)
        Task.await_many(others, 60_000)
        send(writer.pid, :enough)
        rounds = Task.await(writer, 60_000)
        assert rounds(buffer) == List.duplicate(rounds, keys)
      end
    end

    defp delete_and_put(buffer, key, round) do
      {_there, _value} = {Buffer.take(buffer, key), Buffer.take(buffer, {:other, key})}
      Buffer.put(buffer, {:other, key}, {round, :other})
      Buffer.put(buffer, key, {round, "a value"})
    end

    defp put_large(buffer, key, round) do
      Buffer.put(buffer, key, [round | Enum.to_list(1..600)])
    end

    defp write_until_told(round, number) do
      round.(number)
      receive(do: (:enough -> number), after: (0 -> write_until_told(round, number + 1)))
    end

    defp assert_one_moment(buffer, keys) do
      rounds = rounds(buffer)
      assert length(rounds) in [keys, keys - 1]
      assert rounds == Enum.sort(rounds, :desc)
      assert (List.first(rounds) - List.last(rounds)) in [0, 1]
    end

    # Of each key, in their order.
    defp rounds(buffer) do
      for {key, value} <- sorted(buffer), is_integer(key), do: round_of(value)
    end

    defp round_of([round | _rest]), do: round
    defp round_of({round, _payload}), do: round
    defp round_of(round), do: round
  end

  test "cycles start meanwhile: what is read was there, and nothing is lost" do
    {processor, table} = recorder()
    buffer = start_map!(processor: processor, processing_batch_size: 1_000, partitions: 2)
    Buffer.update_options(buffer, processing_interval_ms: 1)
    reader = Task.async(fn -> read_until_told(buffer, 0) end)
    for number <- 1..200_000, do: Buffer.put(buffer, {:key, number}, number)
    send(reader.pid, :enough)
    assert Task.await(reader, 60_000) > 0
    await_idle(buffer)
    Buffer.stop(buffer)

    assert table |> recorded() |> Enum.map(&elem(&1, 1)) |> Enum.sort() ==
             Enum.to_list(1..200_000)
  end

  defp read_until_told(buffer, times) do
    for {key, number} <- Buffer.to_list(buffer), do: assert({:key, number} == key)
    receive(do: (:enough -> times + 1), after: (0 -> read_until_told(buffer, times + 1)))
  end

  test "readers that are killed leave nothing behind" do
    buffer = start_map!()
    Buffer.put_all(buffer, for(key <- 1..50_000, do: {key, {:value, key}}))

    for _ <- 1..20 do
      {reader, monitor} = spawn_monitor(fn -> Buffer.to_list(buffer) end)
      for key <- 1..100, do: Buffer.put(buffer, key, {:value, key})
      FaultHelpers.pause(:rand.uniform(5))
      Process.exit(reader, :kill)
      assert_receive {:DOWN, ^monitor, :process, ^reader, _reason}, 10_000
    end

    assert sorted(buffer) == for(key <- 1..50_000, do: {key, {:value, key}})
    # Free slots are taken again, so no snapshot is left that would keep them.
    for key <- 1..50_000, do: Buffer.delete(buffer, key)
    assert Buffer.to_list(buffer) == []
  end
end
