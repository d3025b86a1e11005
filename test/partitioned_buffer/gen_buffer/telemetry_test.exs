defmodule PartitionedBuffer.GenBuffer.TelemetryTest do
  use ExUnit.Case, async: true
  use PartitionedBuffer.GenBufferCase

  alias PartitionedBuffer.GenBuffer.Telemetry

  @moduletag :capture_log

  # Handlers are seen by buffers that start after them.
  setup do
    test = self()
    id = {__MODULE__, make_ref()}
    buffer = PartitionedBuffer.BufferCase.unique_name()

    :telemetry.attach_many(
      id,
      Telemetry.events(),
      &__MODULE__.forward/4,
      %{test: test, buffer: buffer}
    )

    on_exit(fn -> :telemetry.detach(id) end)
    %{buffer: buffer}
  end

  def forward(event, measurements, %{buffer: buffer} = metadata, %{test: test, buffer: buffer}),
    do: send(test, {:event, List.last(event), measurements, metadata})

  def forward(_event, _measurements, _of_another_buffer, _config), do: :ok

  test "a message that is handled", %{buffer: buffer} do
    start_buffer(buffer: buffer)
    assert GenBuffer.send_recv(buffer, :hello) == {:ok, {:handled, :hello}}
    {:ok, [worker]} = GenBuffer.get_workers(buffer)
    assert_receive {:event, :queued, %{system_time: _}, metadata}
    assert metadata == %{buffer: buffer}
    assert_receive {:event, :start, %{system_time: _, queue_time: waited}, metadata}
    assert metadata == %{buffer: buffer, worker: worker}
    assert_receive {:event, :stop, %{duration: duration, queue_time: ^waited}, ^metadata}
    assert is_integer(waited) and is_integer(duration) and waited >= 0 and duration >= 0
    GenBuffer.send(buffer, :hello)
    for event <- [:queued, :start, :stop], do: assert_receive({:event, ^event, _, _})
    refute_received {:event, _, _, _}
  end

  test "how long it has waited", %{buffer: buffer} do
    start_buffer(buffer: buffer)
    gate = close_gate(buffer)
    GenBuffer.send(buffer, :waits)
    ms = System.monotonic_time(:millisecond)
    await(fn -> System.monotonic_time(:millisecond) >= ms + 10 end)
    open(gate)
    assert_receive {:event, :start, %{queue_time: waited}, _} when waited > 0
    assert_receive {:event, :start, %{queue_time: waited}, _}
    assert System.convert_time_unit(waited, :native, :millisecond) in 5..5_000
  end

  test "a handler that fails", %{buffer: buffer} do
    start_buffer(buffer: buffer)
    GenBuffer.send(buffer, {:call, fn -> raise "oh" end})
    assert_receive {:event, :exception, %{duration: _, queue_time: _}, metadata}
    assert %{kind: :error, reason: %RuntimeError{}, stacktrace: [_ | _]} = metadata
    GenBuffer.send(buffer, {:return, :garbage})

    assert_receive {:event, :exception, _,
                    %{kind: :exit, reason: {:bad_return_value, :garbage}, worker: _}}
  end

  test "messages that are dropped, by reason", %{buffer: buffer} do
    opts = [buffer: buffer, workers: 0, max: 2, overflow: :drop_oldest, send_replies: false]
    start_buffer(opts)
    for n <- 1..5, do: GenBuffer.send(buffer, n)
    assert dropped(:full, 3) == 3
    caller = spawn(fn -> GenBuffer.send_recv(buffer, :of_the_dead) end)
    await(fn -> GenBuffer.info(buffer).discarded.full == 4 end)
    Process.exit(caller, :kill)
    assert dropped(:caller_down, 1) == 1
    GenBuffer.send(buffer, {:gate, self(), :gate})
    {:ok, _} = GenBuffer.set_workers(buffer, 1)
    assert_receive {:at_gate, :gate, worker}
    Process.exit(worker, :kill)
    assert dropped(:worker_down, 1) == 1
    {:ok, _} = GenBuffer.set_workers(buffer, 0)
    GenBuffer.send(buffer, :left)
    GenBuffer.stop(buffer)
    assert dropped(:shutdown, 1) == 1
  end

  test "messages that have waited for too long, and the newest", %{buffer: buffer} do
    opts = [buffer: buffer, workers: 0, max: 1, overflow: :drop_newest, queue_timeout_ms: 20]
    start_buffer(opts)
    for n <- 1..2, do: GenBuffer.send(buffer, n)
    assert dropped(:full, 1) == 1
    assert dropped(:queue_timeout, 1) == 1
  end

  # The counts of this reason, until they are that many.
  defp dropped(_reason, left) when left <= 0, do: left

  defp dropped(reason, left) do
    assert_receive {:event, :dropped, %{count: count}, %{reason: ^reason}}, 5_000
    count + dropped(reason, left - count)
  end
end
