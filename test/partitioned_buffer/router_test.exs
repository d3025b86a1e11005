defmodule PartitionedBuffer.RouterTest do
  # Which partition an entry goes to: `get_partition/3` tells, and a push agrees with it.
  use PartitionedBuffer.BufferCase, async: true

  import PartitionedBuffer.Generators
  import PartitionedBuffer.Property

  alias :proper_types, as: Types

  # As a routing function of a module.
  def user(event, prefix), do: {prefix, event.user}
  def fail(_event), do: raise("no key")

  defp route(name, key, item), do: PartitionedBuffer.get_partition(name, key, item)

  # A queue of which `drain_sorted/1` tells the partition that each item was in. The event of a batch
  # comes in the process that calls the processor, and names the partition.
  defp start_sorting!(opts) do
    name = unique_name()
    id = {__MODULE__, name}
    event = [:partitioned_buffer, :partition, :processing, :start]
    :ok = :telemetry.attach(id, event, &__MODULE__.note_partition/4, nil)
    on_exit(fn -> :telemetry.detach(id) end)
    processor = {__MODULE__, :sort, [self()]}
    start_queue!([name: name, processor: processor, processing_batch_size: 1_000_000] ++ opts)
  end

  def note_partition(_event, _measurements, %{partition: partition}, _config) do
    Process.put(__MODULE__, partition)
  end

  def sort(batch, test), do: send(test, {:sorted, Process.get(__MODULE__), batch})

  # `{item, partition}` of everything, in the order of each partition.
  defp drain_sorted(name) do
    Queue.stop(name)
    :telemetry.detach({__MODULE__, name})
    sorted()
  end

  defp sorted do
    receive do
      {:sorted, partition, batch} -> Enum.map(batch, &{&1, partition}) ++ sorted()
    after
      0 -> []
    end
  end

  defp partitions(name), do: Enum.map(PartitionedBuffer.info(name).partitions, & &1.partition)

  describe "get_partition/3" do
    test "without a key takes the item itself" do
      name = start_queue!(partitions: 4)

      for item <- [1, 1.0, "text", :atom, {:a, 1}, [1, 2], %{a: 1}, self(), nil] do
        assert route(name, nil, item) == route(name, nil, item)
        assert route(name, nil, item) in partitions(name)
      end
    end

    test "takes what a function makes of the item" do
      name = start_queue!(partitions: 8)
      by_user = & &1.user

      for user <- 1..20 do
        assert route(name, by_user, %{user: user, at: 1}) == route(name, by_user, %{user: user})
        assert route(name, by_user, %{user: user}) == route(name, user, :whatever)
      end
    end

    test "takes what a module's function makes of the item and its arguments" do
      name = start_queue!(partitions: 8)

      for user <- 1..20 do
        by_user = {__MODULE__, :user, [:prefix]}
        assert route(name, by_user, %{user: user, at: 1}) == route(name, {:prefix, user}, 0)
      end
    end

    test "takes any other term as the key of all items" do
      name = start_queue!(partitions: 8)

      for key <- [:logs, "key", 1, {:a, :b}, {:a, :b, :no_list}, {"A", :b, []}, [], %{}, self()] do
        assert 1..20 |> Enum.map(&route(name, key, &1)) |> Enum.uniq() |> length() == 1
      end
    end

    test "a function of another arity is a term like any other" do
      name = start_queue!(partitions: 8)

      for key <- [fn -> 1 end, &{&1, &2}] do
        assert 1..20 |> Enum.map(&route(name, key, &1)) |> Enum.uniq() |> length() == 1
      end
    end

    test "spreads items over all partitions" do
      for partitions <- [2, 3, 7, 16] do
        name = start_queue!(partitions: partitions)
        counts = 1..2_000 |> Enum.frequencies_by(&route(name, nil, &1)) |> Map.values()
        assert length(counts) == partitions
        assert Enum.min(counts) > 2_000 / partitions / 2
        counts = 1..2_000 |> Enum.frequencies_by(&route(name, &1, 0)) |> Map.values()
        assert length(counts) == partitions
      end
    end

    test "answers the same in every buffer with as many partitions, and after a restart" do
      one = start_queue!(partitions: 5)
      other = start_queue!(partitions: 5)
      index = fn name, item -> name |> route(nil, item) |> Module.split() |> List.last() end
      before = for item <- 1..100, do: index.(one, item)
      assert before == for(item <- 1..100, do: index.(other, item))
      Queue.stop(one)
      opts = queue_options(name: one, partitions: 5)
      start_supervised!({Queue, opts}, id: :again)
      assert before == for(item <- 1..100, do: index.(one, item))
    end

    test "lets through what the function of a key raises" do
      name = start_queue!(partitions: 2)
      assert_raise RuntimeError, "no key", fn -> route(name, {__MODULE__, :fail, []}, 1) end
      assert_raise KeyError, fn -> route(name, & &1.user, %{}) end
      assert catch_throw(route(name, &throw/1, :ball)) == :ball
      assert catch_exit(route(name, &exit/1, :reason)) == :reason
      assert_raise UndefinedFunctionError, fn -> route(name, {__MODULE__, :nothing, []}, 1) end
    end
  end

  describe "without partitions" do
    setup do
      %{name: start_queue!(partitions: 0)}
    end

    test "every write raises, and so does routing", %{name: name} do
      message = ~r/no partitions available for buffer #{inspect(name)}/

      for opts <- [[], [partition_key: nil], [partition_key: :key], [partition_key: & &1]] do
        assert_raise RuntimeError, message, fn -> Queue.push(name, :item, opts) end
        assert_raise RuntimeError, message, fn -> Queue.push(name, [:item], opts) end
        assert_raise RuntimeError, message, fn -> route(name, opts[:partition_key], :item) end
      end
    end

    test "nothing can be written all the same", %{name: name} do
      for opts <- [[], [partition_key: nil], [partition_key: :key], [partition_key: & &1]] do
        assert Queue.push(name, [], opts) == :ok
      end
    end

    test "the rest works as ever", %{name: name} do
      assert Queue.size(name) == 0
      assert %{accepted: 0, partitions: [], oldest_age_ms: nil} = PartitionedBuffer.info(name)
      assert Queue.update_options(name, processing_interval_ms: 1) == :ok
      assert Queue.stop(name) == :ok
    end
  end

  defp pushed(terms, partitions) do
    name = start_sorting!(partitions: partitions)
    items = [[] | terms]
    expected = for item <- items, do: {item, route(name, nil, item)}
    for item <- items, do: Queue.push(name, [item])
    Queue.push(name, items)
    for item <- items, not is_list(item), do: Queue.push(name, item)
    Queue.push(name, items, partition_key: nil)

    twice =
      Enum.flat_map(expected, fn {item, partition} ->
        List.duplicate({item, partition}, if(is_list(item), do: 3, else: 4))
      end)

    assert sort_exactly(drain_sorted(name)) === sort_exactly(twice)
  end

  # Items may be any term, and equal ones may come more than once: the place of each is in its number.
  defp numbered(terms), do: Enum.with_index(terms)

  for partitions <- [1, 2, 3, 7, 16] do
    describe "with #{partitions} partitions" do
      test "a push goes where get_partition/3 says" do
        check(Types.list(any_term()), [tests: 12, size: 12], &pushed(&1, unquote(partitions)))
      end

      test "a push of terms that compare as equal goes there" do
        pushed([0.0, -0.0, 0, 1, 1.0, {1}, {1.0}, [-0.0], [0]], unquote(partitions))
      end

      # Those from 0 up to 2^27 - 1 are hashed without the VM.
      test "a push of integers goes there, whatever their size" do
        limits =
          for bits <- [0, 4, 26, 27, 28, 31, 32, 58, 59, 60, 63, 64], do: Bitwise.<<<(1, bits)

        near =
          for limit <- limits,
              more <- -2..2,
              integer <- [limit + more, -limit - more],
              do: integer

        pushed(Enum.uniq(near), unquote(partitions))
      end

      test "a push with a key goes where get_partition/3 says" do
        check(Types.list(any_term()), [tests: 12, size: 12], fn terms ->
          name = start_sorting!(partitions: unquote(partitions))
          items = numbered(terms)

          expected =
            for {term, _number} = item <- items, key <- keys(term) do
              Queue.push(name, item, partition_key: key)
              Queue.push(name, [item, item], partition_key: key)
              List.duplicate({item, route(name, key, item)}, 3)
            end

          assert sort_exactly(drain_sorted(name)) === sort_exactly(Enum.concat(expected))
        end)
      end
    end
  end

  # All four forms of a routing key. A term that looks like another form is one.
  defp keys(term) do
    [nil, &elem(&1, 0), {__MODULE__, :first, []}, {__MODULE__, :first_of, [term]}, {:key, term}]
  end

  def first({term, _number}), do: term
  def first_of({term, number}, other), do: {term, other, number}
end
