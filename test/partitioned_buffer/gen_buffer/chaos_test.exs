defmodule PartitionedBuffer.GenBuffer.ChaosTest do
  # Very many messages while workers are killed and the pool is resized: each is handled once, or reported to
  # its sender as failed; none is silent, none is started twice, nothing is left behind.
  use ExUnit.Case, async: false
  use PartitionedBuffer.GenBufferCase

  import PartitionedBuffer.Alive

  @moduletag :capture_log
  @moduletag timeout: 600_000

  setup_all :assert_alive_baseline

  defmodule Counting do
    @moduledoc false
    use PartitionedBuffer.GenBuffer

    @impl true
    def init(started), do: {:ok, started}

    @impl true
    def handle_message(_buffer, number, started) do
      :ok = :counters.add(started, number, 1)
      # A moment in which a kill finds it at work.
      if rem(number, 500) == 0, do: receive(do: (:never -> :ok), after: (1 -> :ok))
      {:ok, number, started}
    end
  end

  defp run(messages, senders, opts) do
    started = :counters.new(messages, [])

    opts =
      [message_handler: Counting, init_args: started, workers: 8, drain_timeout_ms: 60_000] ++
        opts

    buffer = start_buffer(opts)
    each = div(messages, senders)

    tasks =
      for sender <- 0..(senders - 1) do
        numbers = (sender * each + 1)..((sender + 1) * each)
        Task.async(fn -> send_all(buffer, numbers) end)
      end

    outcomes = with_chaos(buffer, 16, fn -> Task.await_many(tasks, :infinity) end)

    handled = outcomes |> Enum.map(& &1.handled) |> Enum.sum()
    failed = outcomes |> Enum.map(& &1.failed) |> Enum.sum()
    assert handled + failed == messages
    starts = for number <- 1..messages, do: :counters.get(started, number)
    assert Enum.max(starts) == 1
    # Those that have failed were started, or their worker died on the way.
    assert Enum.sum(starts) in handled..messages
    figures = figures(buffer)
    assert %{size: 0, in_flight: 0, accepted: ^messages, processed: ^handled} = figures
    assert figures.failed == failed
    assert_nothing_left(buffer)
    failed
  end

  # Sends with another process to answer to, which has no alias to keep a second answer away.
  defp send_all(buffer, numbers) do
    me = self()
    collector = spawn_link(fn -> collect(buffer, me) end)
    refs = for number <- numbers, do: GenBuffer.send(buffer, number, collector)
    send(collector, {:refs, refs})

    receive do
      {:collected, outcome} -> outcome
    end
  end

  defp collect(buffer, sender) do
    receive do
      {:refs, refs} ->
        outcome =
          for ref <- refs, reduce: %{handled: 0, failed: 0} do
            sum ->
              receive do
                {:reply, ^ref, ^buffer, _number} -> %{sum | handled: sum.handled + 1}
                {:error, ^ref, ^buffer, {:worker_down, _}} -> %{sum | failed: sum.failed + 1}
              end
          end

        # Exactly one answer for each.
        {:message_queue_len, 0} = Process.info(self(), :message_queue_len)
        send(sender, {:collected, outcome})
    end
  end

  # Each waits for its answer before it sends the next: so they are handed over to idle workers, mostly.
  defp run_calls(calls, callers, opts) do
    started = :counters.new(calls, [])
    buffer = start_buffer([message_handler: Counting, init_args: started, workers: 8] ++ opts)
    each = div(calls, callers)

    tasks =
      for caller <- 0..(callers - 1) do
        numbers = (caller * each + 1)..((caller + 1) * each)
        Task.async(fn -> call_all(buffer, numbers) end)
      end

    outcomes =
      with_chaos(buffer, 16, fn -> Task.await_many(tasks, :infinity) end) |> List.flatten()

    handled = Enum.count(outcomes, &(&1 == :handled))
    starts = for number <- 1..calls, do: :counters.get(started, number)
    assert Enum.max(starts) == 1

    # Whoever was told that its worker has died: that one had started the message, or was about to.
    assert Enum.sum(starts) in handled..calls
    figures = figures(buffer)
    assert %{size: 0, in_flight: 0, accepted: ^calls, processed: ^handled} = figures
    assert figures.failed == calls - handled
    assert_nothing_left(buffer)
  end

  defp call_all(buffer, numbers) do
    outcomes =
      for number <- numbers do
        case GenBuffer.send_recv(buffer, number) do
          {:ok, ^number} -> :handled
          {:error, {:worker_down, _reason}} -> :failed
        end
      end

    {:message_queue_len, 0} = Process.info(self(), :message_queue_len)
    outcomes
  end

  defp assert_nothing_left(buffer) do
    for name <- [Keeper, Manager] do
      pid = Process.whereis(Module.concat(buffer, name))
      await(fn -> Process.info(pid, :message_queue_len) == {:message_queue_len, 0} end)
    end

    keeper = Process.whereis(Module.concat(buffer, Keeper))
    await(fn -> length(elem(Process.info(keeper, :monitors), 1)) == 8 end)
  end

  test "100,000 messages through one partition, and through four" do
    run(100_000, 16, [])
    run(100_000, 16, n_partitions: 4)
  end

  test "calls of few, and of many" do
    run_calls(50_000, 2, [])
    run_calls(100_000, 50, n_partitions: 2)
  end

  test "a million messages" do
    assert run(1_000_000, 16, []) > 0
  end

  @tag :soak
  test "ten million messages" do
    for _ <- 1..10, do: run(1_000_000, 16, n_partitions: 2)
  end

  test "10,000 callers with little patience, a third of which are killed" do
    test = self()
    buffer = start_buffer(workers: 8, send_replies: false, n_partitions: 2)

    handle = fn ->
      if :rand.uniform(100) == 1, do: receive(do: (:never -> :ok), after: (1 -> :ok))
      :answer
    end

    callers =
      for number <- 1..10_000 do
        spawn(fn ->
          timeout = Enum.random([0, 1, 5, 20, :infinity])
          outcome = GenBuffer.send_recv(buffer, {:call, handle}, timeout)
          # Whatever came late is not in the mailbox.
          {:messages, messages} = Process.info(self(), :messages)
          send(test, {:outcome, number, outcome, messages})
          receive(do: (:end -> :ok))
        end)
      end

    killed = callers |> Enum.take_every(3) |> Enum.map(&{&1, Process.monitor(&1)})
    for {pid, _monitor} <- killed, do: Process.exit(pid, :kill)

    for {pid, monitor} <- killed,
        do: assert_receive({:DOWN, ^monitor, :process, ^pid, :killed}, 10_000)

    spared = for {_pid, index} <- Enum.with_index(callers), rem(index, 3) != 0, do: index + 1

    for number <- spared do
      assert_receive {:outcome, ^number, outcome, []}, 60_000
      assert outcome in [{:ok, :answer}, {:error, :timeout}]
    end

    await(fn -> match?(%{size: 0, in_flight: 0}, figures(buffer)) end, 20_000)
    # Answers that were under way have arrived by now, and not in a mailbox.
    for pid <- callers, Process.alive?(pid) do
      assert Process.info(pid, :message_queue_len) == {:message_queue_len, 0}
      send(pid, :end)
    end

    info = figures(buffer)
    assert info.bytes == 0
    assert_nothing_left(buffer)
  end

  test "messages that are large, many and given up leave nothing behind" do
    buffer = start_buffer(workers: 0, buffer_type: :ring, buffer_size: 1_000)
    payload = Enum.to_list(1..2_000)
    for n <- 1..20_000, do: GenBuffer.send(buffer, {n, if(rem(n, 50) == 0, do: payload)})
    await(fn -> figures(buffer).discarded.full == 19_000 end)
    assert %{arenas: arenas} = alive()
    assert arenas < 200
    GenBuffer.stop(buffer)
    flush(buffer)
  end

  defp flush(buffer) do
    receive do
      {:error, _ref, ^buffer, _reason} -> flush(buffer)
    after
      0 -> :ok
    end
  end
end
