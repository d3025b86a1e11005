defmodule PartitionedBuffer.TelemetryEventsTest do
  # What is emitted is what is documented, no more and no less: every call of `:telemetry.execute/3` in
  # the VM is traced while buffers live through all that is reported. So no other test runs meanwhile.
  use PartitionedBuffer.BufferCase, async: false

  import PartitionedBuffer.TelemetryCase

  alias PartitionedBuffer.Telemetry

  @moduletag :capture_log

  @prefix [:partitioned_buffer, :partition]
  @who [:buffer, :partition]

  # Event => measurements, metadata.
  @documented %{
    [:start] => {[:system_time], @who},
    [:stop] => {[:duration, :left], @who ++ [:reason]},
    [:flush] => {[:size, :system_time], @who ++ [:trigger]},
    [:processing, :start] => {[:system_time], @who ++ [:attempt, :batch]},
    [:processing, :stop] => {[:duration, :size], @who ++ [:attempt, :batch]},
    [:processing, :exception] =>
      {[:duration], @who ++ [:kind, :reason, :stacktrace, :attempt, :batch]},
    [:processing_failed] => {[:system_time], @who ++ [:reason]},
    [:retry] => {[:delay_ms, :size, :system_time], @who ++ [:attempt, :split]},
    [:discarded] => {[:bytes, :size, :system_time], @who ++ [:reason]},
    [:on_discard_failed] => {[:system_time], @who ++ [:reason]}
  }
  @write_prefix [:partitioned_buffer, :write]
  @documented_writes %{
    [:blocked] => {[:duration], [:buffer, :result]},
    [:rejected] => {[:count], [:buffer, :reason]}
  }

  test "events/0 lists them" do
    assert Enum.sort(Telemetry.events()) ==
             Enum.sort(
               Enum.map(Map.keys(@documented), &(@prefix ++ &1)) ++
                 Enum.map(Map.keys(@documented_writes), &(@write_prefix ++ &1))
             )
  end

  test "the documentation of both modules names each event, its measurements and its metadata" do
    for module <- [PartitionedBuffer, Telemetry] do
      {:docs_v1, _, _, _, %{"en" => text}, _, _} = Code.fetch_docs(module)

      for {event, {measurements, metadata}} <- @documented do
        [_before, description] = String.split(text, "`#{inspect(@prefix ++ event)}` - ", parts: 2)
        [description | _next] = String.split(description, "  * `[")
        for key <- measurements ++ metadata, do: assert(description =~ "`#{key}`")
      end
    end
  end

  test "nothing else is emitted, and all of it is" do
    trace()

    name = unique_name()
    # Some are not emitted where nobody listens.
    listen(name, Telemetry.events())
    opts = [name: name, partitions: 2, processing_interval_ms: 1, processing_timeout_ms: 2_000]
    start_queue!([processing_batch_size: 1, processor: GatedProcessor.new()] ++ opts)

    for how <- [:ok, {:raise, "boom"}, {:throw, :ball}, {:exit, :reason}, :kill] do
      Queue.push(name, :item)
      {runner, [:item]} = GatedProcessor.next_batch()
      GatedProcessor.open(runner, how)
      await_settled(1)
    end

    # Too slow, then as a table.
    Queue.update_options(name, processing_timeout_ms: 1)
    Queue.push(name, :item)
    _ = GatedProcessor.next_batch()
    await_settled(1)

    Queue.update_options(name, processing_timeout_ms: 2_000, processing_batch_size: :table)
    Queue.push(name, :item)
    {runner, table} = GatedProcessor.next_batch()
    assert is_atom(table)
    GatedProcessor.open(runner)
    await_settled(1)

    # Tried again, and then given to somebody who fails.
    retries = [
      max_retries: 1,
      backoff: {1, 1},
      on_discard: fn _batch, _reason -> exit(:on_purpose) end
    ]

    Queue.update_options(name, [processing_batch_size: 1] ++ retries)
    Queue.push(name, :item)

    for _time <- 1..2 do
      {runner, [:item]} = GatedProcessor.next_batch()
      GatedProcessor.open(runner, {:exit, :reason})
    end

    await_settled(1)
    next_event([:on_discard_failed])
    Queue.update_options(name, max_retries: 0, on_discard: nil)

    # Without room.
    Queue.update_options(name, capacity: 1)
    # The process that traces is not traced.
    push = fn items, opts -> Task.await(Task.async(Queue, :push, [name, items, opts])) end
    assert {:error, :too_large} = push.([1, 2], [])
    assert :ok = push.(:item, [])
    assert {:error, :timeout} = push.(:other, timeout: 0)
    Queue.update_options(name, capacity: :infinity)
    {runner, [:item]} = GatedProcessor.next_batch()
    GatedProcessor.open(runner)
    await_settled(1)

    # Stopped with something that can't be finished.
    Queue.update_options(name, processing_timeout_ms: 1, processing_batch_size: 1)
    Queue.push(name, [1, 2, 3])
    Queue.stop(name)

    {writes, traced} = Enum.split_with(traced(name), &match?({@write_prefix ++ _, _, _}, &1))
    assert Enum.uniq(for {event, _, _} <- traced, do: Enum.take(event, 2)) == [@prefix]

    assert Map.new(writes, fn {@write_prefix ++ event, measurements, metadata} ->
             {event, {measurements, metadata}}
           end) == @documented_writes

    for {@prefix ++ event, measurements, metadata} <- traced do
      assert {measurements, metadata} == @documented[event],
             "#{inspect(event)} came with #{inspect({measurements, metadata})}"
    end

    emitted = traced |> Enum.map(fn {@prefix ++ event, _, _} -> event end) |> Enum.uniq()
    assert Enum.sort(emitted) == Enum.sort(Map.keys(@documented))
  end

  # Every process there is and will be, and the calls of each to what emits an event.
  defp trace do
    test = self()
    on_exit(fn -> :erlang.trace_pattern({:telemetry, :_, :_}, false, []) end)
    :erlang.trace(:all, true, [:call, {:tracer, test}])
    {:module, :telemetry} = Code.ensure_loaded(:telemetry)
    for arity <- [2, 3], do: 1 = :erlang.trace_pattern({:telemetry, :execute, arity}, true, [])
    1 = :erlang.trace_pattern({:telemetry, :span, 3}, true, [])
  end

  # `{event, keys of its measurements, keys of its metadata}` of each call that tells of no other buffer.
  defp traced(name) do
    :erlang.trace(:all, false, [:call])
    delivered = :erlang.trace_delivered(:all)
    assert_receive {:trace_delivered, :all, ^delivered}

    for [event, measurements, metadata] <- calls(), Map.get(metadata, :buffer, name) == name do
      {event, measurements |> Map.keys() |> Enum.sort(), keys(metadata)}
    end
  end

  # In the order of the table.
  defp keys(metadata) do
    Enum.filter(@who ++ [:kind, :reason, :stacktrace], &is_map_key(metadata, &1)) ++
      Enum.sort(Map.keys(metadata) -- (@who ++ [:kind, :reason, :stacktrace]))
  end

  defp calls do
    receive do
      {:trace, _pid, :call, {:telemetry, :execute, [event, measurements]}} ->
        [[event, measurements, %{}] | calls()]

      {:trace, _pid, :call, {:telemetry, :execute, [event, measurements, metadata]}} ->
        [[event, measurements, metadata] | calls()]

      {:trace, _pid, :call, other} ->
        flunk("an event is emitted by #{inspect(other)}")
    after
      0 -> []
    end
  end
end
