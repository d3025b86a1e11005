defmodule PartitionedBuffer.QueuePropertiesTest do
  # Items come out in the order in which they went in, each of them once, in batches of the right size.
  use PartitionedBuffer.BufferCase, async: true

  import PartitionedBuffer.Generators, only: [let: 2]
  import PartitionedBuffer.Property

  alias :proper_types, as: Types

  # Payloads on both sides of the limits at which a push takes another way.
  defp payload do
    Types.frequency([
      {10, nil},
      {4, let(Types.integer(0, 200), &:binary.copy("b", &1))},
      {1, let(Types.integer(900, 1_200), &Enum.to_list(1..&1))},
      {1, let(Types.integer(16_000, 17_000), &List.to_tuple(Enum.to_list(1..&1)))},
      {1, let(Types.integer(500_000, 600_000), &:binary.copy("c", &1))}
    ])
  end

  # `{way, number of items, payload of each}`
  defp push do
    count =
      Types.frequency([
        {6, Types.integer(0, 5)},
        {3, Types.integer(60, 70)},
        {2, Types.integer(250, 260)},
        {1, Types.integer(1_020, 1_030)}
      ])

    {Types.oneof([:one_by_one, :list]), Types.oneof([:alone, :keyed, :keyed_alike]), count,
     payload()}
  end

  defp pushes, do: Types.list(push())

  # Numbers the items of all pushes, in order.
  defp numbered(pushes) do
    {numbered, _next} =
      Enum.map_reduce(pushes, 0, fn {how, key, count, payload}, first ->
        # Many large ones would only take time.
        count = if is_nil(payload) or is_binary(payload), do: count, else: rem(count, 5)

        {{how, key, Enum.map(Enum.take(first..(first + count), count), &{&1, payload})},
         first + count}
      end)

    numbered
  end

  defp opts(:alone), do: []
  defp opts(:keyed), do: [partition_key: fn {number, _payload} -> rem(number, 100) end]
  defp opts(:keyed_alike), do: [partition_key: :key]

  defp run(name, {:list, key, items}), do: :ok = Queue.push(name, items, opts(key))

  defp run(name, {:one_by_one, key, items}) do
    for item <- items, do: :ok = Queue.push(name, item, opts(key))
  end

  defp items(pushes), do: Enum.flat_map(pushes, fn {_how, _key, items} -> items end)

  test "of one partition: in the order of the pushes" do
    check({pushes(), Types.integer(1, 600)}, [tests: 60, size: 15], fn {pushes, size} ->
      pushes = numbered(pushes)
      name = start_queue!(processing_interval_ms: 1, processing_batch_size: size)
      for push <- pushes, do: run(name, push)
      batches = drain(name)
      assert Enum.concat(batches) == items(pushes)
      assert Enum.all?(batches, &(length(&1) in 1..size))
    end)
  end

  test "without a cycle in between: in batches as large as there may be" do
    check({pushes(), Types.integer(1, 600)}, [tests: 30, size: 15], fn {pushes, size} ->
      pushes = numbered(pushes)
      name = start_queue!(processing_batch_size: size)
      for push <- pushes, do: run(name, push)
      assert drain(name) == Enum.chunk_every(items(pushes), size)
    end)
  end

  test "of several partitions: in the order of the pushes within each" do
    check({pushes(), Types.integer(2, 7)}, [tests: 40, size: 15], fn {pushes, partitions} ->
      pushes = numbered(pushes)
      name = start_queue!(processing_interval_ms: 1, partitions: partitions)
      for push <- pushes, do: run(name, push)

      partition_of =
        for {_how, key, items} <- pushes, item <- items, into: %{} do
          {elem(item, 0), PartitionedBuffer.get_partition(name, opts(key)[:partition_key], item)}
        end

      # Batches of one partition come in order, those of several at the same time.
      by_partition = fn items -> Enum.group_by(items, &partition_of[elem(&1, 0)]) end
      batches = drain(name)
      assert Enum.all?(batches, &(&1 |> by_partition.() |> map_size() == 1))
      assert by_partition.(Enum.concat(batches)) == by_partition.(items(pushes))
    end)
  end
end
