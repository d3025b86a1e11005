defmodule PartitionedBuffer.PauseTest do
  # A buffer that processes nothing until it is told to go on.
  use PartitionedBuffer.BoundsCase, async: true

  @moduletag :capture_log

  for kind <- [:queue, :map] do
    describe "a paused #{kind}" do
      @kind kind

      test "takes writes and processes nothing, whatever would start it" do
        name = start!(@kind, max_size: 2, processing_interval_ms: 1)
        :ok = PartitionedBuffer.pause(name)
        :ok = write(@kind, name, [1, 2, 3])
        :ok = PartitionedBuffer.flush(name)
        _state = :sys.get_state(Names.partition(name, 0))

        assert PartitionedBuffer.sync_flush(name, timeout: 20) == [
                 {Names.partition(name, 0), {:error, :timeout}}
               ]

        refute_received {:processed, _runner, _batch}
        assert %{queued: 3, in_flight: 0, processed: 0} = PartitionedBuffer.info(name)
        :ok = PartitionedBuffer.resume(name)
        :ok = PartitionedBuffer.await_empty(name)
        assert forwarded() |> Enum.concat() |> numbers() |> Enum.sort() == [1, 2, 3]
      end

      test "finishes the batch that a processor has, and no other of its cycle" do
        name = start!(@kind, processing_batch_size: 2, processor: GatedProcessor.new())
        :ok = write(@kind, name, [1, 2, 3, 4, 5])
        :ok = PartitionedBuffer.flush(name)
        {runner, one} = GatedProcessor.next_batch()
        :ok = PartitionedBuffer.pause(name)
        GatedProcessor.open(runner)
        await_down(runner)
        assert %{queued: 3, in_flight: 0, processed: 2} = PartitionedBuffer.info(name)
        # Written meanwhile: they come when it goes on, too, although others are left from before.
        :ok = write(@kind, name, [6, 7])
        GatedProcessor.refute_batch()
        :ok = PartitionedBuffer.resume(name)
        all = numbers(one) ++ next_numbers(5)
        assert Enum.sort(all) == [1, 2, 3, 4, 5, 6, 7]
        if @kind == :queue, do: assert(all == Enum.sort(all))
      end

      test "stays paused when its processes are killed" do
        name = start!(@kind, processing_interval_ms: 1)
        :ok = PartitionedBuffer.pause(name)
        :ok = write(@kind, name, [1, 2])

        for process <- [
              Names.partition(name, 0),
              Names.owner(name),
              Names.partition_supervisor(name),
              Names.task_supervisor(name)
            ] do
          pid = Process.whereis(process)
          kill(pid)
          await_successor(process, pid)
        end

        await_successor(Names.partition(name, 0), nil)
        _state = :sys.get_state(Names.partition(name, 0))
        assert %{queued: 2, in_flight: 0, processed: 0} = PartitionedBuffer.info(name)
        :ok = PartitionedBuffer.resume(name)
        :ok = PartitionedBuffer.await_empty(name)
        assert forwarded() |> Enum.concat() |> length() == 2
      end

      test "stays paused when its supervisor is killed and it is started again" do
        name = start!(@kind, [processing_interval_ms: 1], restart: :permanent)
        :ok = PartitionedBuffer.pause(name)
        :ok = write(@kind, name, [1, 2])
        supervisor = Process.whereis(Names.supervisor(name))
        kill(supervisor)
        await_successor(Names.supervisor(name), supervisor)
        await_successor(Names.partition(name, 0), nil)
        :ok = PartitionedBuffer.resume(name)
        :ok = PartitionedBuffer.await_empty(name)
        assert forwarded() |> Enum.concat() |> length() == 2
      end

      test "is processed when it is stopped" do
        name = start!(@kind)
        :ok = PartitionedBuffer.pause(name)
        :ok = write(@kind, name, [1, 2])
        assert name |> drain() |> Enum.concat() |> length() == 2
      end

      test "waits with what is to be tried again" do
        name = start!(@kind, max_retries: 1, backoff: {1, 1}, processor: GatedProcessor.new())
        :ok = write(@kind, name, 1)
        :ok = PartitionedBuffer.flush(name)
        {runner, _batch} = GatedProcessor.next_batch()
        :ok = PartitionedBuffer.pause(name)
        GatedProcessor.open(runner, {:raise, "once"})
        assert {%{delay_ms: 1}, %{attempt: 1}} = next_event([:retry])
        wait_until(fn -> :sys.get_state(Names.partition(name, 0)).backoff == nil end)
        GatedProcessor.refute_batch()
        assert %{queued: 1, in_flight: 0, retries: 1} = PartitionedBuffer.info(name)
        :ok = PartitionedBuffer.resume(name)
        assert next_numbers(1) == [1]
      end
    end
  end

  test "pausing and resuming twice is as once, and a buffer that is not there raises" do
    name = start_queue!(processing_interval_ms: 1)
    for _ <- 1..2, do: :ok = PartitionedBuffer.pause(name)
    Queue.push(name, 1)
    for _ <- 1..2, do: :ok = Queue.resume(name)
    :ok = Queue.await_empty(name)
    assert forwarded() == [[1]]
    Queue.stop(name)

    for fun <- [:pause, :resume, :flush, :sync_flush, :dump, :await_empty] do
      assert_raise ArgumentError, ~r/unknown registry/, fn ->
        apply(PartitionedBuffer, fun, [name])
      end
    end
  end

  defp next_numbers(0), do: []

  defp next_numbers(count) do
    {runner, batch} = GatedProcessor.next_batch()
    GatedProcessor.open(runner)
    numbers(batch) ++ next_numbers(count - length(batch))
  end
end
