defmodule PartitionedBuffer.DataBuffer.TelemetryTest do
  # The spans of inserts and flushes.
  use PartitionedBuffer.DataBufferCase, async: true

  @moduletag :capture_log

  defp next(event) do
    assert_receive {:event, ^event, measurements, metadata}, 5_000
    {Enum.sort(Map.keys(measurements)), Map.delete(metadata, :telemetry_span_context)}
  end

  test "an insert is a span, a batch is one as well" do
    name = unique_name()
    listen(name)
    start_buffer!(name: name, partitions: 2)

    for {index, insert} <- [
          {1, fn -> DataBuffer.insert(name, 1) end},
          {0, fn -> DataBuffer.insert_batch(name, 1..100) end}
        ] do
      assert insert.() == :ok
      partition = Module.concat(name, "#{index}")

      assert next([:data_buffer, :insert, :start]) ==
               {[:monotonic_time, :system_time], %{buffer: name}}

      assert next([:data_buffer, :insert, :stop]) ==
               {[:duration, :monotonic_time], %{buffer: name, partition: partition}}
    end

    refute_received {:event, [:data_buffer, :insert | _], _, _}
    assert Enum.map(DataBuffer.info(name), & &1.size) == [100, 1]
  end

  test "an insert that gives up is a span, too" do
    name = unique_name()
    listen(name)
    start_buffer!(name: name, max_size: 1)
    for item <- 1..2, do: DataBuffer.insert(name, item)
    assert catch_exit(DataBuffer.insert(name, 3, 0))

    assert {[:duration, :monotonic_time],
            %{buffer: ^name, kind: :exit, reason: reason, stacktrace: _}} =
             next([:data_buffer, :insert, :exception])

    assert {:timeout, _call} = reason
    assert DataBuffer.insert(name, 3, timeout: 0, on_timeout: :error) == {:error, :full}
    open(elem(next_flush(), 0))
  end

  test "handlers that come and go while it is used are noticed" do
    name = start_buffer!()
    DataBuffer.insert(name, 0)
    listen(name)

    await(fn ->
      DataBuffer.insert(name, :again)
      Process.info(self(), :message_queue_len) != {:message_queue_len, 0}
    end)

    assert_received {:event, [:data_buffer, :insert, :start], _, _}
    assert_received {:event, [:data_buffer, :insert, :stop], _, _}
  end

  test "a flush is a span with its size, whatever started it" do
    name = unique_name()
    listen(name)
    start_buffer!(name: name, max_size: 2, flush_meta: nil)
    partition = Module.concat(name, "0")

    flushes = [
      {2, fn -> for item <- 1..3, do: DataBuffer.insert(name, item) end},
      {1, fn -> DataBuffer.flush(name) end},
      {2, fn -> DataBuffer.insert_batch(name, 1..2) && DataBuffer.sync_flush(name) end},
      {1, fn -> DataBuffer.insert(name, 1) && DataBuffer.stop(name) end}
    ]

    for {size, flush} <- flushes do
      flush.()
      metadata = %{buffer: name, partition: partition, size: size}
      assert next([:data_buffer, :flush, :start]) == {[:monotonic_time, :system_time], metadata}
      assert next([:data_buffer, :flush, :stop]) == {[:duration, :monotonic_time], metadata}
    end

    refute_received {:event, [:data_buffer, :flush | _], _, _}
  end

  test "a flush that fails says how" do
    name = unique_name()
    listen(name)
    start_buffer!(name: name)
    DataBuffer.insert(name, 1)
    DataBuffer.flush(name)
    open(elem(next_flush(), 0), {:raise, "boom"})

    assert {[:duration, :monotonic_time], %{buffer: ^name, size: 1} = metadata} =
             next([:data_buffer, :flush, :exception])

    assert %{kind: :error, reason: %RuntimeError{message: "boom"}, stacktrace: [_ | _]} = metadata
    assert metadata.partition == Module.concat(name, "0")
  end

  test "the prefix can be another one" do
    name = unique_name()
    listen([:my, :events], name)
    start_buffer!(name: name, event_prefix: [:my, :events], flush_meta: nil)
    DataBuffer.insert(name, 1)
    DataBuffer.sync_flush(name)
    assert {_, %{partition: _}} = next([:my, :events, :insert, :stop])
    assert {_, %{size: 1}} = next([:my, :events, :flush, :stop])
  end
end
