defmodule PartitionedBuffer.TelemetryStopTest do
  # What is reported of the end of a buffer: its last batches, and what it could not process.
  use PartitionedBuffer.BufferCase, async: true

  import PartitionedBuffer.TelemetryCase

  @moduletag :capture_log

  defp start_listened!(opts) do
    name = unique_name()
    listen(name)
    start_queue!([name: name] ++ opts)
  end

  describe "stop" do
    test "comes once for each partition, with what is left" do
      name = start_listened!(partitions: 2)
      Queue.stop(name)
      stopped = for _ <- 1..2, do: next_event([:stop])

      for {measurements, metadata} <- stopped do
        assert %{duration: duration, left: 0} = measurements
        assert map_size(measurements) == 2 and is_integer(duration) and duration >= 0
        assert %{buffer: ^name, reason: :shutdown, partition: _} = metadata
        assert map_size(metadata) == 3
      end

      partitions = stopped |> Enum.map(&elem(&1, 1).partition) |> Enum.sort()
      assert partitions == [Module.concat(name, "0"), Module.concat(name, "1")]
    end

    test "comes after the last batch, which is reported like any other" do
      name = start_listened!(processing_batch_size: 2)
      Queue.push(name, [1, 2, 3])
      Queue.stop(name)

      assert [
               {[:start], _, _},
               {[:processing, :start], _, _},
               {[:processing, :stop], %{size: 2}, _},
               {[:processing, :start], _, _},
               {[:processing, :stop], %{size: 1}, _},
               {[:stop], %{left: 0}, %{reason: :shutdown}}
             ] = events()
    end

    test "reports a failure of the last batch like any other" do
      name = start_listened!(processor: {__MODULE__, :raise_with, ["at the end"]})
      Queue.push(name, [1, 2, 3])
      Queue.stop(name)

      assert [
               {[:start], _, _},
               {[:processing, :start], _, _},
               {[:processing, :exception], _, _},
               {[:processing_failed], _, %{reason: {%RuntimeError{message: "at the end"}, _}}},
               {[:discarded], %{size: 3}, %{reason: :exception}},
               {[:stop], %{left: 0}, %{reason: :shutdown}}
             ] = events()
    end

    for timeout <- [0, 1] do
      test "tells what could not be processed within #{timeout} ms" do
        name =
          start_listened!(
            processing_timeout_ms: unquote(timeout),
            processing_batch_size: 1,
            processor: GatedProcessor.new()
          )

        Queue.push(name, [1, 2, 3])
        Queue.stop(name)

        # The batch that was running may have been ended for its own time or for that of the whole.
        reported = events()
        sizes = for {[:discarded], %{size: size}, _metadata} <- reported, do: size
        assert Enum.sum(sizes) == 3
        assert {[:stop], %{left: left}, %{reason: :shutdown}} = List.last(reported)
        shut_down = for {[:discarded], %{size: size}, %{reason: :shutdown}} <- reported, do: size
        assert left == Enum.sum(shut_down)
      end
    end

    test "tells of a batch that was running when the time was up" do
      opts = [processing_timeout_ms: 400, processing_batch_size: 1]
      name = start_listened!([processor: GatedProcessor.new()] ++ opts)
      Queue.push(name, [1, 2, 3])
      stop = Task.async(fn -> Queue.stop(name) end)

      # The second call begins well after the time for stopping began: that is up first.
      {runner, [1]} = GatedProcessor.next_batch()
      spin_until(now() + 20)
      GatedProcessor.open(runner)
      {_runner, [2]} = GatedProcessor.next_batch()
      Task.await(stop)

      reported = events()
      assert {[:stop], %{left: 2}, %{reason: :shutdown}} = List.last(reported)
      discarded = for {[:discarded], %{size: size}, %{reason: why}} <- reported, do: {size, why}
      assert discarded == [{1, :shutdown}, {1, :shutdown}]
      assert [:shutdown] == for({[:processing_failed], _, %{reason: why}} <- reported, do: why)
    end

    defp now, do: System.monotonic_time(:millisecond)
    defp spin_until(time), do: if(now() < time, do: spin_until(time))

    test "has the reason :shutdown whatever the buffer is stopped with" do
      Process.flag(:trap_exit, true)

      for reason <- [:shutdown, {:shutdown, :update}, :other] do
        name = unique_name()
        listen(name)
        {:ok, _pid} = Queue.start_link(queue_options(name: name))
        Queue.stop(name, reason)
        assert {_measurements, %{reason: :shutdown}} = next_event([:stop])
      end
    end
  end

  def raise_with(_batch, message), do: raise(message)
end
