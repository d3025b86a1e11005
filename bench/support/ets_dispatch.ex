defmodule Bench.EtsDispatch do
  @moduledoc false
  # A message buffer in front of workers the way it is done with ETS and GenServers: idle workers are listed in
  # a bag; a sender casts to the first one whose mailbox is empty, or else writes into an ordered table that
  # workers empty after each message. It monitors and counts nothing, and may leave messages beside idle workers.

  use GenServer

  def start(workers) do
    :idle = :ets.new(:idle, [:named_table, :public, :duplicate_bag, read_concurrency: true])
    :waiting = :ets.new(:waiting, [:named_table, :public, :ordered_set, write_concurrency: true])
    for _ <- 1..workers, do: elem(GenServer.start(__MODULE__, nil), 1)
  end

  def stop(pids) do
    for pid <- pids, do: GenServer.stop(pid)
    :ets.delete(:idle)
    :ets.delete(:waiting)
  end

  def send(message) do
    ref = make_ref()

    case :ets.lookup(:idle, :worker) |> first_free() do
      nil -> :ets.insert(:waiting, {{:erlang.monotonic_time(), ref}, message})
      pid -> GenServer.cast(pid, {:message, ref, message})
    end

    ref
  end

  defp first_free([]), do: nil

  defp first_free([{:worker, pid} | others]) do
    case Process.info(pid, :message_queue_len) do
      {:message_queue_len, 0} -> pid
      _busy_or_dead -> first_free(others)
    end
  end

  @impl true
  def init(nil) do
    :ets.insert(:idle, {:worker, self()})
    {:ok, nil}
  end

  @impl true
  def handle_cast({:message, _ref, message}, state) do
    :ets.delete_object(:idle, {:worker, self()})
    handle(message)
    drain()
    :ets.insert(:idle, {:worker, self()})
    {:noreply, state}
  end

  defp drain do
    case :ets.first(:waiting) do
      :"$end_of_table" ->
        :ok

      key ->
        case :ets.take(:waiting, key) do
          [{_key, message}] -> handle(message)
          [] -> :taken_by_another
        end

        drain()
    end
  end

  defp handle({:count, counter}), do: :counters.add(counter, 1, 1)

  defp handle({:gate, test}) do
    Kernel.send(test, {:at_gate, self()})
    receive(do: (:open -> :ok))
  end
end
