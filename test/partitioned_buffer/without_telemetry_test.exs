defmodule PartitionedBuffer.WithoutTelemetryTest do
  # Telemetry that is not running, or whose table of handlers is gone for a moment, stops nothing but events.
  use PartitionedBuffer.BufferCase, async: false

  alias PartitionedBuffer.{DataBuffer, GenBuffer, GenPool}
  alias PartitionedBuffer.GenBufferCase.Handler
  alias PartitionedBuffer.GenPoolCase.Scripted

  @moduletag :capture_log

  setup do
    on_exit(fn -> {:ok, _started} = Application.ensure_all_started(:telemetry) end)
    :ok
  end

  defp start_all! do
    [queue, data, buffer, pool] = for _ <- 1..4, do: unique_name()
    start_queue!(name: queue, processor: &length/1)
    start_supervised!({DocBuffer, name: data})
    start_supervised!({GenBuffer, buffer: buffer, message_handler: Handler, workers: 1})
    start_supervised!({GenPool, {Scripted, fn -> {:ok, 0} end, name: pool}})
    {queue, data, buffer, pool}
  end

  defp assert_working({queue, data, buffer, pool}) do
    assert Queue.push_await(queue, :item) == {:ok, 1}
    assert DataBuffer.insert(data, :item) == :ok
    assert [{[:item], _opts}] = DataBuffer.sync_flush(data)
    assert GenBuffer.send_recv(buffer, :message, 5_000) == {:ok, {:handled, :message}}
    assert GenPool.call(pool, &{:reply, &1, &1}) == 0
  end

  test "buffers and pools are started and work" do
    :ok = Application.stop(:telemetry)
    assert_working(start_all!())
  end

  test "those that are there go on" do
    names = start_all!()
    assert_working(names)
    :ok = Application.stop(:telemetry)
    # Handlers are looked for again when the process that did so before is gone.
    {queue, _data, buffer, pool} = names
    {:ok, worker} = GenBuffer.get_worker(buffer)

    for pid <- [
          worker,
          Process.whereis(Module.concat(queue, "0")),
          Process.whereis(Module.concat(queue, TaskSupervisor)),
          Process.whereis(Module.concat(buffer, Manager)) | GenPool.get_children(pool)
        ] do
      monitor = Process.monitor(pid)
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^monitor, :process, ^pid, :killed}
    end

    assert_working(names)
  end
end
