defmodule PartitionedBuffer.TestingTest do
  # What users test with: nothing by itself, everything in the calling process.
  use PartitionedBuffer.BoundsCase, async: true

  alias PartitionedBuffer.Testing

  @moduletag :capture_log

  for kind <- [:queue, :map] do
    @kind kind

    describe "a manual #{kind}" do
      test "is drained in the calling process, in batches, all partitions or one" do
        test = self()

        name =
          start!(@kind,
            manual: true,
            partitions: 3,
            processing_batch_size: 4,
            max_size: 1,
            processing_interval_ms: 1,
            processor: fn batch -> send(test, {:got, self(), batch}) end
          )

        :ok = write(@kind, name, Enum.to_list(1..30))
        %{partitions: [%{queued: first} | _]} = PartitionedBuffer.info(name)
        assert length(Testing.buffered(name)) == 30
        assert Testing.drain(name, partition: 0) == first
        assert Testing.drain(name, partition: Names.partition(name, 0)) == 0
        assert Testing.drain(name) == 30 - first
        assert Testing.drain(name) == 0
        batches = got(test)
        assert batches |> Enum.concat() |> numbers() |> Enum.sort() == Enum.to_list(1..30)
        assert Enum.all?(batches, &(length(&1) <= 4))
        assert %{processed: 30} = assert_nothing_held(name)
      end

      test "raises, throws and exits as the processor does, and goes on with the rest" do
        name =
          start!(@kind,
            manual: true,
            processing_batch_size: 2,
            on_discard: {BoundsCase, :tell, [self()]},
            processor: fn batch -> fail(numbers(batch)) end
          )

        :ok = write(@kind, name, 1)
        assert_raise RuntimeError, "one", fn -> Testing.drain(name) end
        assert [{:exception, _}] = told()
        :ok = write(@kind, name, 2)
        assert catch_throw(Testing.drain(name)) == :two
        :ok = write(@kind, name, 3)
        assert catch_exit(Testing.drain(name)) == :three
        :ok = write(@kind, name, 4)
        assert catch_exit(Testing.drain(name)) == {:shutdown, {:failed, :four}}
        assert [exception: _, exception: _, failed: _] = told()
        :ok = write(@kind, name, [5])
        assert Testing.drain(name) == 1
        assert %{processed: 1, discarded: %{exception: 3, failed: 1}} = assert_nothing_held(name)
        assert {%{size: 1}, %{reason: :exception}} = next_event([:discarded])
      end

      test "tries again by the next call" do
        test = self()

        processor = fn _batch, info ->
          send(test, {:attempt, info.attempt})
          if info.attempt < 3, do: {:error, :no}
        end

        name =
          start!(@kind,
            manual: true,
            max_retries: 5,
            backoff: {3_600_000, 3_600_000},
            processor: processor
          )

        :ok = write(@kind, name, 1)
        for _ <- 1..2, do: catch_exit(Testing.drain(name))
        assert Testing.drain(name) == 1
        assert_received {:attempt, 1}
        assert_received {:attempt, 2}
        assert_received {:attempt, 3}
        assert %{processed: 1, retries: 2} = assert_nothing_held(name)
      end

      test "takes what a processor pushes meanwhile" do
        name = unique_name()
        processor = fn batch -> for n <- numbers(batch), n < 10, do: write(@kind, name, n + 1) end
        start!(@kind, name: name, manual: true, processor: processor)
        :ok = write(@kind, name, 1)
        assert Testing.drain(name) == 10
      end

      test "with tables, and as a whole when it drops the oldest" do
        for opts <- [
              [processing_batch_size: :table],
              [overflow: :drop_oldest, capacity: 100, processing_batch_size: 3]
            ] do
          name = start!(@kind, [manual: true] ++ opts)
          :ok = write(@kind, name, Enum.to_list(1..10))
          assert Testing.drain(name) == 10
          assert_nothing_held(name)
        end
      end

      test "makes room for those who wait" do
        name = start!(@kind, manual: true, capacity: 2)
        :ok = write(@kind, name, [1, 2])
        task = blocked(@kind, name, 3)
        assert Testing.drain(name) >= 2
        assert Task.await(task) == :ok
      end

      test "is processed at the end" do
        name = start!(@kind, manual: true)
        :ok = write(@kind, name, [1, 2])
        assert name |> drain() |> Enum.concat() |> length() == 2
      end
    end

    test "assertions on a #{kind} hold and fail" do
      name = start!(@kind, manual: true)
      assert Testing.assert_empty(name)
      :ok = write(@kind, name, 1)
      [entry] = Testing.buffered(name)
      assert Testing.assert_buffered(name, entry)
      assert Testing.refute_buffered(name, :other)

      assert_raise ExUnit.AssertionError, ~r/to be buffered, but there is/, fn ->
        Testing.assert_buffered(name, :other)
      end

      assert_raise ExUnit.AssertionError, ~r/not to be buffered/, fn ->
        Testing.refute_buffered(name, entry)
      end

      assert_raise ExUnit.AssertionError, ~r/nothing to be buffered/, fn ->
        Testing.assert_empty(name)
      end

      Testing.drain(name)
      assert Testing.assert_empty(name)
    end
  end

  test "a buffer that is not manual, paused or not there can't be drained" do
    name = start!(:queue)
    assert_raise ArgumentError, ~r/manual: true/, fn -> Testing.drain(name) end
    name = start!(:queue, manual: true)
    assert_raise ArgumentError, ~r/no partition/, fn -> Testing.drain(name, partition: 7) end
    PartitionedBuffer.pause(name)
    assert_raise ArgumentError, ~r/paused/, fn -> Testing.drain(name) end

    assert_raise ArgumentError, ~r/unknown registry/, fn ->
      Testing.drain(:nothing_of_this_name)
    end
  end

  defp fail([1 | _]), do: raise("one")
  defp fail([2 | _]), do: throw(:two)
  defp fail([3 | _]), do: exit(:three)
  defp fail([4 | _]), do: {:error, :four}
  defp fail(_), do: :ok

  defp got(test) do
    receive do
      {:got, ^test, batch} -> [batch | got(test)]
    after
      0 -> []
    end
  end
end
