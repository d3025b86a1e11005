defmodule PartitionedBuffer.GenBuffer.TakeAlongTest do
  # Messages that nobody waits for are given to a worker several at a time. Those that it has not come to are any worker's.
  use ExUnit.Case, async: false
  use PartitionedBuffer.GenBufferCase

  import PartitionedBuffer.Alive

  @moduletag :capture_log
  @moduletag timeout: 120_000

  setup_all :assert_alive_baseline

  defmodule Telling do
    @moduledoc false
    use PartitionedBuffer.GenBuffer

    @impl true
    def handle_message(_buffer, {:count, counters, number}, state) do
      :ok = :counters.add(counters, number, 1)
      # A moment in which a kill finds it at work.
      if rem(number, 1_000) == 0, do: receive(do: (:never -> :ok), after: (1 -> :ok))
      {:ok, number, state}
    end

    def handle_message(_buffer, {:gate, test, name}, state) do
      send(test, {:at_gate, name, self()})
      receive(do: ({:open, ^name} -> {:ok, name, state}))
    end

    def handle_message(_buffer, {test, message}, state) do
      send(test, {:handled, message, self()})
      {:ok, message, state}
    end

    @impl true
    def handle_info(_buffer, {test, message}, state) do
      send(test, {:handled, {:info, message}, self()})
      {:noreply, state}
    end
  end

  setup do
    buffer = start_buffer(message_handler: Telling, send_replies: false)
    %{buffer: buffer}
  end

  # A worker at the second of two gates, with 50 messages before it and 100 behind it, which it has taken along for the
  # most part.
  defp at_second_gate(buffer) do
    first = close_gate(buffer)
    send_all(buffer, 1..50)
    name = make_ref()
    GenBuffer.send(buffer, {:gate, self(), name})
    send_all(buffer, 51..150)
    assert %{size: 151, in_flight: 1} = figures(buffer)
    open(first)
    assert_receive {:at_gate, ^name, worker}, 5_000
    assert handled(50) == Enum.to_list(1..50)
    # Whoever has them, they wait.
    assert %{size: 100, in_flight: 1, processed: 51, oldest_age_ms: age, bytes: bytes} =
             figures(buffer)

    assert is_integer(age) and bytes > 0
    {worker, name}
  end

  defp send_all(buffer, numbers), do: for(n <- numbers, do: GenBuffer.send(buffer, {self(), n}))

  defp handled(count) do
    for _ <- 1..count do
      assert_receive {:handled, message, _worker}, 5_000
      message
    end
  end

  test "what messages refer to is there, however often the memory of those before is used again",
       %{
         buffer: buffer
       } do
    for _round <- 1..200 do
      {counters, text} = {:counters.new(40, []), :binary.copy("text", 100)}
      for n <- 1..40, do: GenBuffer.send(buffer, {:count, counters, n})
      for n <- 1..10, do: GenBuffer.send(buffer, {self(), {n, make_ref(), text, counters}})
      :erlang.garbage_collect()

      for _ <- 1..10 do
        assert_receive {:handled, {_n, reference, ^text, ^counters}, _worker}, 5_000
        assert is_reference(reference)
      end

      await(fn -> Enum.all?(1..40, &(:counters.get(counters, &1) == 1)) end)
    end

    await(fn -> match?(%{size: 0, in_flight: 0, bytes: 0}, figures(buffer)) end)
  end

  test "what they refer to is freed when the last of them has been handled", %{buffer: buffer} do
    gate = close_gate(buffer)
    :erlang.garbage_collect()
    before = :erlang.memory(:system)
    send_counters(buffer, 1_000_000, 1..500)
    :erlang.garbage_collect()
    # 8 bytes for each counter.
    assert :erlang.memory(:system) - before > 8_000_000
    open(gate)
    await(fn -> match?(%{processed: 501, size: 0, in_flight: 0}, figures(buffer)) end)
    # A chunk is let go or used again when others come.
    for _ <- 1..8, do: send_all(buffer, 1..256)

    assert Enum.sort(handled(2_048)) ==
             Enum.sort(List.flatten(List.duplicate(Enum.to_list(1..256), 8)))

    await(fn ->
      Enum.each(Process.list(), &:erlang.garbage_collect/1)
      :erlang.memory(:system) - before < 8_000_000
    end)
  end

  defp send_counters(buffer, size, numbers) do
    counters = :counters.new(size, [])
    for number <- numbers, do: GenBuffer.send(buffer, {:count, counters, number})
  end

  test "they are handled in order", %{buffer: buffer} do
    gate = close_gate(buffer)
    send_all(buffer, 1..2_000)
    open(gate)
    assert handled(2_000) == Enum.to_list(1..2_000)
    send_all(buffer, 1..2_000)
    assert handled(2_000) == Enum.to_list(1..2_000)
    await(fn -> match?(%{processed: 4_001, size: 0, in_flight: 0}, figures(buffer)) end)
  end

  test "another worker handles those that a slow one has taken along", %{buffer: buffer} do
    {worker, _name} = gate = at_second_gate(buffer)
    {:ok, other} = GenBuffer.incr_worker(buffer)

    for n <- 51..150 do
      assert_receive {:handled, ^n, ^other}, 5_000
    end

    assert %{size: 0, in_flight: 1} = figures(buffer)
    open(gate)
    await(fn -> figures(buffer).processed == 152 end)
    assert {:ok, workers} = GenBuffer.get_workers(buffer)
    assert Enum.sort(workers) == Enum.sort([worker, other])
  end

  test "a worker that is killed takes the one along that it has started", %{buffer: buffer} do
    {worker, _name} = at_second_gate(buffer)
    true = Process.exit(worker, :kill)
    assert handled(100) == Enum.to_list(51..150)
    await(fn -> match?(%{failed: 1, processed: 151, size: 0, in_flight: 0}, figures(buffer)) end)
  end

  test "a handler that fails takes its message along, and no other", %{buffer: buffer} do
    {worker, _name} = gate = at_second_gate(buffer)
    GenBuffer.send(buffer, {:count, :none, 1})
    send_all(buffer, 151..200)
    open(gate)
    assert handled(150) == Enum.to_list(51..200)
    await(fn -> match?(%{failed: 1, processed: 202, size: 0, in_flight: 0}, figures(buffer)) end)
    refute Process.alive?(worker)
  end

  test "a worker that is dismissed leaves those that it has not started", %{buffer: buffer} do
    {worker, _name} = gate = at_second_gate(buffer)
    monitor = Process.monitor(worker)
    assert {:ok, []} = GenBuffer.set_workers(buffer, 0)
    open(gate)
    assert_receive {:DOWN, ^monitor, :process, ^worker, :normal}, 5_000
    assert %{size: 100, in_flight: 0, processed: 52} = figures(buffer)
    refute_received {:handled, _message, _worker}
    {:ok, _worker} = GenBuffer.incr_worker(buffer)
    assert handled(100) == Enum.to_list(51..150)
  end

  test "what comes to a worker's mailbox has its turn after the message that it is at", %{
    buffer: buffer
  } do
    {worker, _name} = gate = at_second_gate(buffer)
    send(worker, {self(), :hello})
    open(gate)
    assert handled(101) == [{:info, :hello} | Enum.to_list(51..150)]
  end

  test "a buffer that is stopped hands them back", %{buffer: buffer} do
    {_worker, name} = gate = at_second_gate(buffer)
    stopping = Task.async(fn -> GenBuffer.stop(buffer, 0) end)
    await(fn -> :sys.get_state(PartitionedBuffer.GenBuffer.Handle.manager(buffer)) && true end)
    await(fn -> GenBuffer.size(buffer) in [0, :undefined] end)
    open(gate)
    assert {:left, left} = Task.await(stopping, 20_000)
    assert left == for(n <- 51..150, do: {self(), n})
    refute_received {:at_gate, ^name, _worker}
  end

  test "none is lost or started twice while workers are killed and the pool is resized" do
    messages = 200_000
    senders = 8
    counters = :counters.new(messages, [])
    opts = [message_handler: Telling, send_replies: false, workers: 4, drain_timeout_ms: 60_000]
    buffer = start_buffer(opts)
    each = div(messages, senders)

    tasks =
      for sender <- 0..(senders - 1) do
        Task.async(fn ->
          for n <- (sender * each + 1)..((sender + 1) * each),
              do: GenBuffer.send(buffer, {:count, counters, n})

          :ok
        end)
      end

    with_chaos(buffer, 8, fn -> Task.await_many(tasks, :infinity) end)
    await(fn -> match?(%{size: 0, in_flight: 0}, figures(buffer)) end, 60_000)
    %{processed: processed, failed: failed, accepted: ^messages} = figures(buffer)
    assert processed + failed == messages
    starts = for n <- 1..messages, do: :counters.get(counters, n)
    assert Enum.max(starts) == 1
    # A worker may have died between the start and the handler.
    assert Enum.sum(starts) in processed..messages
  end
end
