defmodule PartitionedBuffer.TelemetryTest do
  # Each documented event: when it comes, and with what.
  use PartitionedBuffer.BufferCase, async: true

  import PartitionedBuffer.TelemetryCase

  @moduletag :capture_log

  @failures [
    raise: {{:raise, "boom"}, :error},
    throw: {{:throw, :ball}, :throw},
    exit: {{:exit, :reason}, :exit}
  ]

  defp start_listened!(opts) do
    name = unique_name()
    listen(name)
    start_queue!([name: name] ++ opts)
  end

  defp start_gated!(opts \\ []) do
    start_listened!(opts ++ [processing_interval_ms: 1, processor: GatedProcessor.new()])
  end

  defp partition(name), do: Module.concat(name, "0")

  describe "start" do
    test "comes once for each partition" do
      name = start_listened!(partitions: 3)
      started = for _ <- 1..3, do: next_event([:start])

      for {measurements, _metadata} <- started do
        assert [system_time: time] = Map.to_list(measurements)
        assert_in_delta time, System.system_time(), System.convert_time_unit(60, :second, :native)
      end

      expected =
        for index <- ["0", "1", "2"], do: %{buffer: name, partition: Module.concat(name, index)}

      assert started |> Enum.map(&elem(&1, 1)) |> Enum.sort() == Enum.sort(expected)
      assert events() == []
    end
  end

  describe "processing" do
    test "start comes before the processor is called" do
      name = start_gated!()
      Queue.push(name, :item)
      {runner, [:item]} = GatedProcessor.next_batch()
      assert [{[:start], _, _}, {[:processing, :start], measurements, metadata}] = events()
      assert [system_time: time] = Map.to_list(measurements)
      assert is_integer(time)
      assert %{batch: {^name, _partition, _since, 1, 1}, attempt: 1} = metadata
      assert Map.drop(metadata, [:batch, :attempt]) == %{buffer: name, partition: partition(name)}
      GatedProcessor.open(runner)
    end

    test "stop comes after it returned, with size and duration" do
      name = start_gated!()
      Queue.push(name, [1, 2, 3])
      {runner, [1, 2, 3]} = GatedProcessor.next_batch()
      GatedProcessor.open(runner)
      {measurements, metadata} = next_event([:processing, :stop])
      assert %{duration: duration, size: 3} = measurements
      assert map_size(measurements) == 2 and is_integer(duration) and duration >= 0
      assert %{batch: {^name, _partition, _since, 1, 3}, attempt: 1} = metadata
      assert Map.drop(metadata, [:batch, :attempt]) == %{buffer: name, partition: partition(name)}
    end

    test "comes in pairs, one for each batch" do
      name = start_listened!(processing_batch_size: 1)
      Queue.push(name, Enum.to_list(1..100))
      Queue.stop(name)

      pairs = event_names() |> Enum.filter(&match?([:processing, _], &1)) |> Enum.chunk_every(2)
      assert pairs == List.duplicate([[:processing, :start], [:processing, :stop]], 100)
    end

    for {kind, {how, expected}} <- @failures do
      test "exception comes when it fails: #{kind}" do
        name = start_gated!()
        Queue.push(name, :item)
        {runner, _batch} = GatedProcessor.next_batch()
        GatedProcessor.open(runner, unquote(Macro.escape(how)))
        {measurements, metadata} = next_event([:processing, :exception])
        assert [duration: duration] = Map.to_list(measurements)
        assert is_integer(duration) and duration >= 0

        assert %{kind: unquote(expected), reason: reason, stacktrace: stacktrace} = metadata
        assert metadata.buffer == name and metadata.partition == partition(name)
        assert map_size(metadata) == 7
        assert_reason(reason)
        assert Enum.any?(stacktrace, &match?({GatedProcessor, _function, _arity, _}, &1))

        # And nothing of what comes when it returns.
        next_event([:discarded])
        refute [:processing, :stop] in event_names()
      end
    end

    defp assert_reason(reason) do
      assert match?(%RuntimeError{message: "boom"}, reason) or reason in [:ball, :reason]
    end
  end

  describe "processing_failed and discarded" do
    for {kind, {how, _kind}} <- @failures do
      test "come when the processor fails: #{kind}" do
        name = start_gated!(processing_batch_size: 2)
        Queue.push(name, [1, 2, 3])
        {runner, [1, 2]} = GatedProcessor.next_batch()
        GatedProcessor.open(runner, unquote(Macro.escape(how)))

        {measurements, metadata} = next_event([:processing_failed])
        assert Map.keys(measurements) == [:system_time]
        assert metadata.buffer == name and metadata.partition == partition(name)
        assert map_size(metadata) == 3

        case unquote(kind) do
          :raise -> assert {%RuntimeError{message: "boom"}, [_ | _]} = metadata.reason
          :throw -> assert {{:nocatch, :ball}, [_ | _]} = metadata.reason
          :exit -> assert metadata.reason == :reason
        end

        {measurements, metadata} = next_event([:discarded])
        assert %{system_time: time, size: 2, bytes: bytes} = measurements
        assert map_size(measurements) == 3 and is_integer(time) and is_integer(bytes)
        assert metadata == %{buffer: name, partition: partition(name), reason: :exception}

        # The rest goes on.
        {runner, [3]} = GatedProcessor.next_batch()
        GatedProcessor.open(runner)
      end
    end

    for reason <- [:normal, :shutdown, :killed, :noproc, :done, :not_owner] do
      test "come for an exit of the processor with #{inspect(reason)} as for any other" do
        name = start_gated!()
        Queue.push(name, :item)
        {runner, [:item]} = GatedProcessor.next_batch()
        GatedProcessor.open(runner, {:exit, unquote(reason)})

        assert {_, %{kind: :exit, reason: unquote(reason)}} =
                 next_event([:processing, :exception])

        assert {_, %{reason: unquote(reason)}} = next_event([:processing_failed])
        assert {%{size: 1}, %{reason: :exception}} = next_event([:discarded])
      end
    end

    test "come when the processor is killed from outside" do
      name = start_gated!(processing_batch_size: 2)
      Queue.push(name, [1, 2, 3])
      {runner, [1, 2]} = GatedProcessor.next_batch()
      GatedProcessor.open(runner, :kill)
      assert {_, %{reason: :killed}} = next_event([:processing_failed])
      assert {%{size: 2}, %{reason: :killed}} = next_event([:discarded])
      {runner, [3]} = GatedProcessor.next_batch()
      refute [:processing, :exception] in event_names()
      GatedProcessor.open(runner)
    end

    test "come when the processor takes too long" do
      name = start_gated!(processing_batch_size: 2, processing_timeout_ms: 30)
      Queue.push(name, [1, 2, 3])
      {_runner, [1, 2]} = GatedProcessor.next_batch()
      assert {_, %{reason: :timeout}} = next_event([:processing_failed])
      assert {%{size: 2}, %{reason: :timeout}} = next_event([:discarded])
      {runner, [3]} = GatedProcessor.next_batch()
      GatedProcessor.open(runner)
      assert {%{size: 1}, _} = next_event([:processing, :stop])
    end

    test "tell the bytes that were given up" do
      name = start_gated!()
      Queue.push(name, [String.duplicate("x", 1_000), {:small, 1}])
      bytes = PartitionedBuffer.info(name).bytes
      assert bytes > 1_000
      {runner, _batch} = GatedProcessor.next_batch()
      GatedProcessor.open(runner, {:raise, "boom"})
      assert {%{bytes: ^bytes}, _} = next_event([:discarded])
    end
  end

  test "a handler that is attached while nothing is processed hears of the next batch" do
    name = start_queue!(processing_interval_ms: 1, processor: GatedProcessor.new())
    Queue.push(name, :item)
    {runner, [:item]} = GatedProcessor.next_batch()
    GatedProcessor.open(runner)
    _ = info_after(name, runner)

    listen(name)
    Queue.push(name, :other)
    {runner, [:other]} = GatedProcessor.next_batch()
    GatedProcessor.open(runner)
    next_event([:processing, :start])
    assert {%{size: 1}, _} = next_event([:processing, :stop])
  end

  test "a handler that is attached while a batch is being processed hears of its end" do
    name = start_queue!(processing_interval_ms: 1, processor: GatedProcessor.new())
    Queue.push(name, [1, 2])
    {runner, [1, 2]} = GatedProcessor.next_batch()
    listen(name)
    # Only batches of less than ten milliseconds may go unnoticed.
    spin_until(System.monotonic_time(:millisecond) + 15)
    GatedProcessor.open(runner)
    assert {%{size: 2}, _} = next_event([:processing, :stop])
  end

  defp spin_until(time) do
    if System.monotonic_time(:millisecond) < time, do: spin_until(time)
  end
end
