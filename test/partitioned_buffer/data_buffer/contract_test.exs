defmodule PartitionedBuffer.DataBuffer.ContractTest do
  # One contract, two implementations: the same cases on a module buffer and on one that keeps lists; and any
  # sequence of calls on both beside each other.
  use ExUnit.Case, async: true

  import PartitionedBuffer.Property

  alias PartitionedBuffer.DataBufferContract.{Plain, Real}
  alias :proper_types, as: Types

  @moduletag :capture_log

  for implementation <- [Plain, Real] do
    describe "#{inspect(implementation)}" do
      @implementation implementation

      setup do
        %{b: @implementation}
      end

      test "flushes a full partition with the next write", %{b: b} do
        buffer = b.start(partitions: 1, max_size: 3)
        for item <- 1..3, do: assert(b.insert(buffer, item) == :ok)
        assert %{waiting: [[1, 2, 3]], in_flush: [nil]} = b.look(buffer)
        assert b.insert(buffer, 4) == :ok
        assert %{waiting: [[4]], in_flush: [[1, 2, 3]], flushed: []} = b.look(buffer)
        b.finish(buffer, 0, :ok)
        assert %{waiting: [[4]], in_flush: [nil], flushed: [[1, 2, 3]]} = b.look(buffer)
        assert b.stop(buffer) == [[4]]
      end

      test "goes round, the second partition first", %{b: b} do
        buffer = b.start(partitions: 3, max_size: 3)
        for item <- 1..4, do: b.insert(buffer, item)
        b.insert_batch(buffer, [:a, :b])
        assert %{waiting: [[3], [1, 4], [2, :a, :b]]} = b.look(buffer)
        assert Enum.sort(b.stop(buffer)) == [[1, 4], [2, :a, :b], [3]]
      end

      test "lets a batch overshoot, and whatever comes next flush it", %{b: b} do
        buffer = b.start(partitions: 1, max_size: 2)
        assert b.insert_batch(buffer, 1..5) == :ok
        assert %{waiting: [[1, 2, 3, 4, 5]]} = b.look(buffer)
        assert b.insert_batch(buffer, []) == :ok
        assert %{waiting: [[]], in_flush: [[1, 2, 3, 4, 5]]} = b.look(buffer)
        assert b.stop(buffer) == [[1, 2, 3, 4, 5]]
      end

      test "takes no more while a full partition is being flushed", %{b: b} do
        buffer = b.start(partitions: 1, max_size: 1)
        assert [:ok, :ok] = for(item <- 1..2, do: b.insert(buffer, item))
        assert b.insert(buffer, 3) == {:error, :full}
        assert b.insert_batch(buffer, [3]) == {:error, :full}
        b.finish(buffer, 0, :ok)
        assert b.insert(buffer, 4) == :ok
        assert %{waiting: [[4]], in_flush: [[2]]} = b.look(buffer)
        assert b.stop(buffer) == [[2], [4]]
      end

      test "flushes on demand, once after a flush that is running", %{b: b} do
        buffer = b.start(partitions: 2, max_size: 10)
        for item <- 1..3, do: b.insert(buffer, item)
        b.flush(buffer)
        assert %{waiting: [[], []], in_flush: [[2], [1, 3]]} = b.look(buffer)
        b.insert(buffer, 4)
        for _time <- 1..3, do: b.flush(buffer)
        b.insert(buffer, 5)
        assert %{waiting: [[4], [5]]} = b.look(buffer)
        b.finish(buffer, 0, :ok)
        assert %{waiting: [[], [5]], in_flush: [[4], [1, 3]]} = b.look(buffer)
        b.finish(buffer, 0, :ok)
        assert %{in_flush: [nil, [1, 3]]} = b.look(buffer)
        assert Enum.sort(b.stop(buffer)) == [[1, 3], [5]]
      end

      test "loses what a flush had that failed, and nothing else", %{b: b} do
        buffer = b.start(partitions: 1, max_size: 2)
        for item <- 1..3, do: b.insert(buffer, item)
        b.finish(buffer, 0, {:raise, "boom"})
        assert %{waiting: [[3]], in_flush: [nil], flushed: [], lost: 2} = b.look(buffer)
        b.insert(buffer, 4)
        b.insert(buffer, 5)
        b.finish(buffer, 0, :ok)
        assert %{waiting: [[5]], flushed: [[3, 4]], lost: 2} = b.look(buffer)
        assert b.stop(buffer) == [[5]]
      end
    end
  end

  test "any calls do the same to both" do
    check(
      {Types.integer(1, 3), Types.integer(0, 4), Types.list(call())},
      [tests: 60],
      fn {partitions, size, calls} ->
        opts = [partitions: partitions, max_size: size]
        {plain, real} = {Plain.start(opts), Real.start(opts)}
        both = fn do_it -> assert do_it.(Real, real) == do_it.(Plain, plain) end

        for {call, number} <- Enum.with_index(calls) do
          run(call, number, partitions, both)
          both.(fn b, buffer -> b.look(buffer) end)
        end

        both.(fn b, buffer -> Enum.sort(b.stop(buffer)) end)
      end
    )
  end

  defp call do
    Types.frequency([
      {10, :insert},
      {3, {:insert_batch, Types.integer(0, 5)}},
      {2, :flush},
      {5, {:finish, Types.integer(0, 2), :ok}},
      {1, {:finish, Types.integer(0, 2), {:exit, :boom}}}
    ])
  end

  defp run(:insert, number, _partitions, both),
    do: both.(fn b, buffer -> b.insert(buffer, number) end)

  defp run({:insert_batch, count}, number, _partitions, both) do
    items = Enum.map(Enum.take(1..5, count), &{number, &1})
    both.(fn b, buffer -> b.insert_batch(buffer, items) end)
  end

  defp run(:flush, _number, _partitions, both), do: both.(fn b, buffer -> b.flush(buffer) end)

  defp run({:finish, index, how}, _number, partitions, both) do
    index = rem(index, partitions)

    both.(fn b, buffer ->
      if Enum.at(b.look(buffer).in_flush, index), do: b.finish(buffer, index, how), else: :ok
    end)
  end
end
