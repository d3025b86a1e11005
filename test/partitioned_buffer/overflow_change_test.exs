defmodule PartitionedBuffer.OverflowChangeTest do
  # `:overflow` is changed while writers wait for room: they go by what it is then.
  use PartitionedBuffer.BoundsCase, async: true

  @moduletag :capture_log

  for kind <- [:queue, :map] do
    @kind kind

    describe "writers of a #{kind} that wait" do
      test "are refused when room is not waited for any more" do
        name = start!(@kind, manual: true, capacity: 2)
        :ok = write(@kind, name, [1, 2])
        tasks = for i <- [3, [4, 5], 6], do: blocked(@kind, name, i)
        awaited = Task.async(fn -> write_await(@kind, name, 7, timeout: :infinity) end)
        wait_until(fn -> PartitionedBuffer.info(name).blocked == 4 end)
        :ok = PartitionedBuffer.update_options(name, overflow: :reject)

        for task <- [awaited | tasks], do: assert(Task.await(task) == {:error, :full})
        for _ <- 1..4, do: assert({_, %{result: :again}} = next_event([:write, :blocked]))
        for _ <- 1..4, do: assert({_, %{reason: :full}} = next_event([:write, :rejected]))
        assert %{accepted: 2, rejected: 4, blocked: 0} = assert_room(name)
        assert name |> drain() |> Enum.concat() |> numbers() |> Enum.sort() == [1, 2]
      end

      test "have what they write dropped, if it is the newest that is" do
        name = start!(@kind, manual: true, capacity: 2)
        :ok = write(@kind, name, [1, 2])
        tasks = for i <- [3, [4, 5]], do: blocked(@kind, name, i)
        :ok = PartitionedBuffer.update_options(name, overflow: :drop_newest)
        assert Enum.map(tasks, &Task.await/1) == [:ok, :ok]
        assert %{accepted: 5, queued: 2, discarded: %{overflow: 3}} = assert_room(name)
        assert name |> drain() |> Enum.concat() |> numbers() |> Enum.sort() == [1, 2]
      end

      test "have the oldest make room for them, if it is those that are dropped" do
        name = start!(@kind, manual: true, capacity: 3)
        :ok = write(@kind, name, [1, 2, 3])
        task = blocked(@kind, name, [4, 5])
        :ok = PartitionedBuffer.update_options(name, overflow: :drop_oldest)
        assert Task.await(task) == :ok
        assert %{accepted: 5, queued: 3, discarded: %{overflow: 2}} = assert_room(name)
        assert name |> drain() |> Enum.concat() |> numbers() |> Enum.sort() == [3, 4, 5]
      end

      test "wait on, in line, when anything else is changed" do
        name = start!(@kind, manual: true, capacity: 1)
        :ok = write(@kind, name, 1)
        tasks = for i <- 2..4, do: blocked(@kind, name, i)
        :ok = PartitionedBuffer.update_options(name, overflow: :block, processing_batch_size: 3)
        assert %{blocked: 3} = assert_room(name)

        for {task, left} <- Enum.zip(tasks, [2, 1, 0]) do
          :ok = PartitionedBuffer.flush(name)
          assert Task.await(task) == :ok
          assert %{blocked: ^left} = assert_room(name)
        end
      end

      test "wait again, when they are to by then" do
        name = start!(@kind, manual: true, capacity: 1)
        :ok = write(@kind, name, 1)
        task = blocked(@kind, name, 2)
        :erlang.suspend_process(task.pid)
        :ok = PartitionedBuffer.update_options(name, overflow: :reject)
        :ok = PartitionedBuffer.update_options(name, overflow: :block)
        assert %{blocked: 0} = assert_room(name)
        :erlang.resume_process(task.pid)
        wait_until(fn -> PartitionedBuffer.info(name).blocked == 1 end)
        :ok = PartitionedBuffer.flush(name)
        assert Task.await(task) == :ok
        assert %{accepted: 2, rejected: 0} = assert_room(name)
      end

      test "all return, and all is accounted for, however often it is changed" do
        name = start!(@kind, capacity: 10, processing_interval_ms: 1, partitions: 3)
        test = self()

        writers =
          for writer <- 1..8 do
            Task.async(fn ->
              for i <- 1..400 do
                number = writer * 1_000 + i
                numbers = if rem(i, 5) == 0, do: [number, number + 500], else: number
                result = write(@kind, name, numbers, timeout: :infinity)
                assert result in [:ok, {:error, :full}]
                result
              end
            end)
          end

        changer =
          spawn_link(fn ->
            change(name, [:reject, :block, :drop_newest, :block, :drop_oldest, :block], 0)
            send(test, :changed)
          end)

        results = writers |> Task.await_many(60_000) |> Enum.concat()
        send(changer, :stop)
        assert_receive :changed, 5_000
        :ok = PartitionedBuffer.await_empty(name)
        info = assert_nothing_held(name)
        assert info.rejected == Enum.count(results, &(&1 == {:error, :full}))
      end
    end
  end

  defp change(name, overflows, at) do
    :ok = PartitionedBuffer.update_options(name, overflow: Enum.at(overflows, at))

    receive do
      :stop -> :ok
    after
      1 -> change(name, overflows, rem(at + 1, length(overflows)))
    end
  end

  # Who updates with a function waits in no line.
  test "an update that waits for room is refused when room is not waited for any more" do
    name = start!(:map, manual: true, capacity: 1)
    :ok = write(:map, name, 1)

    task = Task.async(fn -> Buffer.update(name, 2, 0, &(&1 + 1), timeout: :infinity) end)

    pause(20)
    :ok = PartitionedBuffer.update_options(name, overflow: :reject)
    assert Task.await(task) == {:error, :full}
    assert_room(name)
  end
end
