defmodule PartitionedBuffer.GenPool.BrokerServer do
  @moduledoc false
  # The process that a broker belongs to: of a pool, and linked to it; or outside of any pool.
  #
  # It opens the native broker, keeps its keeper running, and when it ends, discards and reports what nobody
  # has started. No request passes through it.
  #
  # Invariant: what a former process of the name has left, because it was killed, is taken over once: calls
  # are discarded, since their callers were told; everything else goes on waiting, in order.

  use GenServer

  alias PartitionedBuffer.Broker, as: Native
  alias PartitionedBuffer.Broker.Keeper
  alias PartitionedBuffer.GenPool.{Answer, Broker, Dropped, Signals, Telemetry}
  alias PartitionedBuffer.Names

  @rest 1_000
  # Its keeper may not be started again for ever.
  @restarts 1_000
  @restarts_ms 1_000

  @typedoc "What a pool and its callers need of a broker."
  @type handle :: %{
          broker: Native.t(),
          keeper: atom(),
          pid: pid(),
          idle_ms: timeout(),
          answers: reference()
        }

  @doc """
  Starts a broker. `pool` is what its events are told of, `signals` those of the pool that it belongs to, or
  `nil`.
  """
  @spec start_link(atom(), module(), atom(), Signals.t() | nil) :: GenServer.on_start()
  def start_link(name, module, pool, signals) do
    described = Broker.describe!(module)

    with :ok <- Names.available(name, [Names.keeper(name)]),
         do:
           GenServer.start_link(__MODULE__, {name, described, pool, of(pool, signals)}, name: name)
  end

  # Who starts one with signals is its pool.
  defp of(_pool, nil), do: nil

  defp of(pool, signals),
    do: %{signals: signals, owner: self(), supervisor: Names.worker_supervisor(pool)}

  @doc "The calling process is the pool whose workers take from it: one at a time."
  @spec join(atom()) :: {:ok, handle()} | {:error, term()}
  def join(name) do
    GenServer.call(name, :join, :infinity)
  catch
    :exit, _reason -> {:error, {:broker_not_running, name}}
  end

  @doc "Ends it. What waits is discarded; answers how many those were."
  @spec stop(pid()) :: non_neg_integer()
  def stop(server) do
    discarded = GenServer.call(server, :discard, :infinity)
    :ok = GenServer.stop(server, :normal, :infinity)
    discarded
  catch
    :exit, _reason -> 0
  end

  @impl true
  def init({name, {config, idle_ms}, pool, of}) do
    Process.flag(:trap_exit, true)
    broker = open("gen_pool:" <> Atom.to_string(name), config, pool)

    state = %{
      broker: broker,
      keeper: Names.keeper(name),
      keeper_pid: nil,
      listener: {Dropped, %{pool: pool, of: of}},
      outside?: of == nil,
      pool: pool,
      idle_ms: idle_ms,
      joined: nil,
      # Answers of `GenServer.reply/2`, for which it sees to it that they reach callers that wait.
      answers: :erlang.alias(),
      restarts: {System.monotonic_time(:millisecond), 0}
    }

    {:ok, start_keeper(state)}
  end

  @impl true
  def handle_call(:join, {pool, _tag}, %{joined: nil} = state) do
    handle = state |> Map.take([:broker, :keeper, :idle_ms, :answers]) |> Map.put(:pid, self())
    {:reply, {:ok, handle}, %{state | joined: pool}}
  end

  def handle_call(:join, from, %{joined: other} = state) do
    if Process.alive?(other),
      do: {:reply, {:error, {:already_joined, other}}, state},
      else: handle_call(:join, from, %{state | joined: nil})
  end

  def handle_call(:discard, _from, state) do
    :ok = Native.close(state.broker)
    {:reply, discard(state.broker, state.pool), state}
  end

  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast(_stray, state), do: {:noreply, state}

  @impl true
  def handle_info({:EXIT, keeper, reason}, %{keeper_pid: keeper} = state) do
    case restarted(state) do
      {:ok, state} -> {:noreply, start_keeper(state)}
      :error -> {:stop, {:keeper_down, reason}, state}
    end
  end

  def handle_info({[[:alias | _answers] | _caller] = tag, reply}, state) do
    :ok = Answer.deliver(tag, reply)
    {:noreply, state}
  end

  def handle_info(_stray, state), do: {:noreply, state}

  @impl true
  def terminate(reason, state) do
    # Otherwise it is the pool's end that matters.
    _ = if state.outside?, do: Native.put_end(state.broker, reason)
    :ok = Native.close(state.broker)
    # What was dropped before is told before the keeper ends.
    :ok = Keeper.flush(state.keeper)
    discard(state.broker, state.pool)
    end_keeper(state.keeper_pid)
    :ok = Native.release(state.broker)
  end

  # A normal end of this process would not reach it.
  defp end_keeper(keeper) do
    monitor = Process.monitor(keeper)
    Process.exit(keeper, :shutdown)

    receive do
      {:DOWN, ^monitor, :process, ^keeper, _reason} -> :ok
    end
  end

  defp start_keeper(state) do
    :ok = Names.await_free(state.keeper)
    {:ok, keeper} = Keeper.start_link(state.broker, state.keeper, state.listener)
    %{state | keeper_pid: keeper}
  end

  defp restarted(%{restarts: {since, count}} = state) do
    now = System.monotonic_time(:millisecond)

    cond do
      now - since > @restarts_ms -> {:ok, %{state | restarts: {now, 1}}}
      count < @restarts -> {:ok, %{state | restarts: {since, count + 1}}}
      true -> :error
    end
  end

  defp open(name, config, pool) do
    case Native.open(name, places(config), config) do
      {:created, broker} -> broker
      {:adopted, old} -> take_over(old, name, config, pool)
    end
  end

  # What is in one order need not be in one place, if nothing is bounded.
  defp places(%{order: :fifo, max: :infinity, timeout: :infinity, codel: nil}), do: :lanes
  defp places(_config), do: 1

  # Its former workers may still hold the old one, so it is given up.
  defp take_over(old, name, config, pool) do
    :ok = Native.close(old)
    :ok = Native.release(old)
    unbounded = %{config | max: :infinity, timeout: :infinity}
    {:created, new} = Native.open(name, places(config), unbounded)
    calls = move(old, new, 0)
    :ok = Native.configure(new, config)
    if calls > 0, do: Telemetry.dropped(pool, calls, :caller_down)
    new
  end

  defp move(old, new, calls) do
    case Native.take_rest(old, @rest) do
      [] ->
        calls

      rest ->
        {called, others} = Enum.split_with(rest, &match?({{:call, _message}, _from}, &1))
        # Nobody drops anything yet, so no keeper is asked to report.
        Enum.each(others, fn {message, reply} -> Native.ask(new, self(), message, reply, nil) end)
        move(old, new, calls + length(called))
    end
  end

  defp discard(broker, pool) do
    count = discard_all(broker, 0)
    if count > 0, do: Telemetry.dropped(pool, count, :shutdown)
    count
  end

  defp discard_all(broker, count) do
    case Native.take_rest(broker, @rest) do
      [] -> count
      rest -> discard_all(broker, count + length(rest))
    end
  end
end
