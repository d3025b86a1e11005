defmodule PartitionedBuffer.DataBuffer.FailuresTest do
  # Flushes that fail, processes that are killed, and the end.
  use PartitionedBuffer.DataBufferCase, async: true

  @moduletag :capture_log

  defp discarded(name),
    do: for({reason, n} <- PartitionedBuffer.info(name).discarded, n > 0, do: {reason, n})

  defp report(name) do
    PartitionedBuffer.TelemetryCase.listen(name, [[:partitioned_buffer, :partition, :discarded]])
  end

  describe "a flush that fails" do
    for {how, reason} <- [
          {{:raise, "boom"}, :exception},
          {{:throw, :boom}, :exception},
          {{:exit, :boom}, :exception},
          {:kill, :killed}
        ] do
      test "by #{inspect(how)} costs its own batch, which is counted and reported" do
        name = start_buffer!(max_size: 2)
        report(name)
        for item <- 1..3, do: DataBuffer.insert(name, item)
        {flush, [1, 2], _opts} = next_flush()
        close(flush, name, unquote(Macro.escape(how)))
        assert_receive {:event, [:discarded], %{size: 2}, %{reason: unquote(reason)}}, 5_000
        assert discarded(name) == [{unquote(reason), 2}]
        for item <- 4..5, do: DataBuffer.insert(name, item)
        {flush, [3, 4], _opts} = next_flush()
        close(flush, name)
        assert %{processed: 2, queued: 1} = PartitionedBuffer.info(name)
      end
    end

    test "because it takes too long is killed" do
      name = start_buffer!(max_size: 1, flush_timeout: :infinity)
      for item <- 1..2, do: DataBuffer.insert(name, item)
      {flush, [1], _opts} = next_flush()
      waiting = wait_in_line(name, fn -> DataBuffer.insert(name, 3, :infinity) end)
      monitor = Process.monitor(flush)
      # Of the call that is running, too: however fast this machine is, it was running before.
      :ok = PartitionedBuffer.update_options(name, processing_timeout_ms: 1)
      assert_receive {:DOWN, ^monitor, :process, ^flush, :killed}, 5_000
      assert Task.await(waiting) == :ok
      assert {:timeout, 1} in discarded(name) or {:timeout, 2} in discarded(name)
      await(fn -> discarded(name) == [{:timeout, 2}] end)
      assert DataBuffer.dump(name) == [{1, 3}]
    end

    test "may take its time where there is none" do
      name = start_buffer!(flush_timeout: :infinity)
      DataBuffer.insert(name, 1)
      DataBuffer.flush(name)
      {flush, [1], _opts} = next_flush()
      close(flush, name)
      assert %{processed: 1} = PartitionedBuffer.info(name)
    end

    test "because it takes too long is in the log, as one that raises is" do
      for {how, text} <- [
            {{:raise, "boom"}, ~r/boom/},
            {nil, ~r/DataBuffer: flush timeout error for :data_buffer_\d+/}
          ] do
        name = start_buffer!()

        log =
          ExUnit.CaptureLog.capture_log(fn ->
            DataBuffer.insert(name, 1)
            call = Task.async(fn -> catch_exit(DataBuffer.sync_flush(name)) end)
            {flush, [1], _opts} = next_flush()

            if how,
              do: open(flush, how),
              else: :ok = PartitionedBuffer.update_options(name, processing_timeout_ms: 1)

            assert {{:flush_failed, _reason}, _call} = Task.await(call)
            # Its process has written what there is by now.
            DataBuffer.stop(name)
          end)

        assert log =~ text
      end
    end

    test "does not keep writers waiting" do
      name = start_buffer!(max_size: 1, flush_timeout: 60_000)
      for item <- 1..2, do: DataBuffer.insert(name, item)
      {flush, [1], _opts} = next_flush()
      waiting = wait_in_line(name, fn -> DataBuffer.insert(name, 3) end)
      open(flush, :kill)
      assert Task.await(waiting) == :ok
      {flush, [2], _opts} = next_flush()
      close(flush, name)
    end

    test "is told to who waits for it" do
      name = start_buffer!(partitions: 2)
      for item <- 1..2, do: DataBuffer.insert(name, item)
      call = Task.async(fn -> catch_exit(DataBuffer.sync_flush(name)) end)
      {one, items, _opts} = next_flush()
      open(one, {:raise, "boom"})
      {other, others, _opts} = next_flush()
      open(other)
      assert Enum.sort(items ++ others) == [1, 2]

      assert Task.await(call) ==
               {{:flush_failed, :exception}, {DataBuffer, :sync_flush, [name, 5_000]}}

      DataBuffer.insert(name, 3)
      call = Task.async(fn -> DataBuffer.sync_flush(name) end)
      {flush, [3], _opts} = next_flush()
      open(flush)
      assert [nil, {:flushed, [3], _}] = Enum.sort_by(Task.await(call), & &1)
    end

    test "is not told to who flushes what came after it" do
      for how <- [{:raise, "boom"}, :kill] do
        name = start_buffer!()
        DataBuffer.insert(name, 1)
        DataBuffer.flush(name)
        {flush, [1], _opts} = next_flush()
        DataBuffer.insert(name, 2)
        call = Task.async(fn -> DataBuffer.sync_flush(name) end)
        await(fn -> Process.info(call.pid, :status) == {:status, :waiting} end)
        open(flush, how)
        {flush, [2], _opts} = next_flush()
        open(flush)
        assert [{:flushed, [2], _opts}] = Task.await(call)
      end
    end

    test "of nothing is told, too" do
      for {how, reason} <- [
            {{:raise, "boom"}, :exception},
            {:kill, :killed},
            {nil, :timeout}
          ] do
        name = start_buffer!(flush_empty: true)
        call = Task.async(fn -> catch_exit(DataBuffer.sync_flush(name)) end)
        {flush, [], _opts} = next_flush()

        if how,
          do: open(flush, how),
          else: :ok = PartitionedBuffer.update_options(name, processing_timeout_ms: 1)

        assert {{:flush_failed, ^reason}, _call} = Task.await(call)
        assert discarded(name) == []
      end
    end

    test "is flushed again where that is asked for" do
      name = start_buffer!(max_size: 2, max_retries: 1, backoff: {1, 1})
      for item <- 1..3, do: DataBuffer.insert(name, item)
      {flush, [1, 2], size: 2, meta: _} = next_flush()
      open(flush, {:raise, "boom"})
      {flush, [1, 2], size: 2, meta: _} = next_flush()
      close(flush, name)
      assert %{processed: 2, retries: 1} = PartitionedBuffer.info(name)
      assert discarded(name) == []
    end

    test "has its items handed to on_discard where that is asked for" do
      test = self()

      name =
        start_buffer!(on_discard: fn items, reason -> send(test, {:discarded, items, reason}) end)

      DataBuffer.insert_batch(name, 1..3)
      DataBuffer.flush(name)
      {flush, [1, 2, 3], _opts} = next_flush()
      open(flush, {:exit, :boom})
      assert_receive {:discarded, [1, 2, 3], :exception}, 5_000
    end
  end

  describe "killing" do
    test "a partition's process costs nothing" do
      name = start_buffer!(max_size: 2)
      for item <- 1..3, do: DataBuffer.insert(name, item)
      {flush, [1, 2], _opts} = next_flush()
      [%{pid: pid, name: partition}] = DataBuffer.info(name)
      Process.exit(pid, :kill)
      await(fn -> Process.whereis(partition) not in [nil, pid] end)
      DataBuffer.insert(name, 4)
      close(flush, name)
      DataBuffer.insert(name, 5)
      {flush, [3, 4], _opts} = next_flush()
      close(flush, name)
      assert %{processed: 4, queued: 1} = PartitionedBuffer.info(name)
      assert discarded(name) == []
    end

    test "a partition's process between a write that found it full and the flush costs nothing" do
      name = start_buffer!(max_size: 1, flush_meta: tell())
      [%{pid: pid, name: partition}] = DataBuffer.info(name)
      :ok = :sys.suspend(pid)
      for item <- 1..2, do: DataBuffer.insert(name, item)
      assert DataBuffer.size(name) == 1
      Process.exit(pid, :kill)
      await(fn -> Process.whereis(partition) not in [nil, pid] end)
      assert {_flush, [1], _opts} = next_flush()
    end
  end

  describe "stop/3" do
    test "flushes what is left, all partitions at the same time" do
      name = start_buffer!(partitions: 2)
      for item <- 1..4, do: DataBuffer.insert(name, item)
      stop = Task.async(fn -> DataBuffer.stop(name) end)
      {one, _items, _opts} = next_flush()
      {other, _items, _opts} = next_flush()
      for flush <- [one, other], do: open(flush)
      assert Task.await(stop) == :ok
      assert_raise ArgumentError, fn -> DataBuffer.insert(name, 5) end
    end

    test "waits for flushes that are running, which lose nothing, and tells of them" do
      name = start_buffer!()
      listen(name)
      DataBuffer.insert(name, 1)
      DataBuffer.flush(name)
      {flush, [1], _opts} = next_flush()
      DataBuffer.insert(name, 2)
      stop = Task.async(fn -> DataBuffer.stop(name) end)
      await(fn -> closed?(name) end)
      open(flush)
      {flush, [2], _opts} = next_flush()
      open(flush)
      assert Task.await(stop) == :ok

      for _flush <- 1..2,
          do: assert_received({:event, [:data_buffer, :flush, :stop], _, %{size: 1}})
    end

    test "gives up what takes longer than flush_timeout altogether, and reports it" do
      name = start_buffer!(flush_timeout: :infinity)
      report(name)
      DataBuffer.insert(name, 1)
      DataBuffer.flush(name)
      {_flush, [1], _opts} = next_flush()
      DataBuffer.insert(name, 2)
      :ok = PartitionedBuffer.update_options(name, processing_timeout_ms: 50)
      assert DataBuffer.stop(name) == :ok

      sizes =
        for {[:discarded], %{size: size}, _} <- PartitionedBuffer.TelemetryCase.events(), do: size

      assert Enum.sum(sizes) == 2
    end

    test "by a supervisor is the same, and is given the time" do
      {:ok, supervisor} =
        Supervisor.start_link(
          [{Watched, name: name = unique_name(), flush_meta: tell(), flush_interval: 3_600_000}],
          strategy: :one_for_one
        )

      DataBuffer.insert_batch(name, 1..10)
      assert Supervisor.stop(supervisor) == :ok
      assert flushed() == [Enum.to_list(1..10)]
      assert [{_id, _pid, :supervisor, _modules}] = [{1, 2, Watched.child_spec([]).type, 3}]
    end

    test "flushes nothing where nothing is left, unless that is asked for" do
      name = start_buffer!(flush_meta: tell())
      assert DataBuffer.stop(name) == :ok
      assert flushed() == []

      for items <- [[], [1, 2]] do
        name = start_buffer!(flush_meta: tell(), flush_empty: true)
        DataBuffer.insert_batch(name, items)
        assert DataBuffer.stop(name) == :ok
        assert flushed() == [items]
      end
    end
  end
end
