defmodule PartitionedBuffer.Broker.Keeper do
  @moduledoc false
  # Looks after a broker: one process for each.
  #
  #   * It monitors the workers. What a dead one had started is told to who waits for it.
  #   * It times the deadlines of messages that wait.
  #   * It tells who waits for an answer that the message was dropped.
  #   * It looks for messages whose callers have died, once a second while any wait.
  #   * It lets callers in that wait for room.
  #
  # No message passes through it, and nothing is kept in it that its successor would miss: workers,
  # deadlines and what is to be told are native. Callers that wait for room ask its successor.
  #
  # Invariants:
  #
  #   * What is to be told stays native until it has been told. So if this process is killed, something may be
  #     told twice, never not at all.
  #   * Who waits for room is alive and has not given up: nobody has to wait for one who will not come, and
  #     nothing of those is kept.

  use GenServer

  alias PartitionedBuffer.{Broker, Native}

  @typedoc "What is told: see the callbacks."
  @type listener :: {module(), term()}
  @type server :: GenServer.server()
  @type reason :: Native.drop_reason() | {:worker_down, term()}

  @doc """
  Tells who waits for an answer that its message was dropped, or that its worker has died. Who has been told that it has waited for long
  (`Broker.request/3`) is told the reason as `Broker.late/1`.
  """
  @callback dropped(reply :: term(), reason() | {:"$broker_late", reason()}, arg :: term()) ::
              any()

  @doc """
  So many messages were dropped, or had been started by workers that have died, since the last time; also
  those that nobody waits for.
  """
  @callback counted(
              %{(Native.drop_reason() | :worker_down) => pos_integer()},
              arg :: term()
            ) :: any()

  @reasons [:queue_full, :queue_timeout, :queue_delay, :caller_down, :shutdown]
  @reported 256
  @sweep_ms 900
  # Who was let in may have died: nobody else would be told of the room.
  @room_ms 10

  @doc "A child specification; the keeper has this name, or none."
  def child_spec({broker, name, listener}) do
    %{id: __MODULE__, start: {__MODULE__, :start_link, [broker, name, listener]}}
  end

  @spec start_link(Broker.t(), atom(), listener()) :: GenServer.on_start()
  def start_link(broker, name, listener) do
    opts = if name, do: [name: name], else: []
    GenServer.start_link(__MODULE__, {broker, listener}, opts)
  end

  @doc "Returns when all that has been dropped so far is told, or the keeper is not there."
  @spec flush(server()) :: :ok
  def flush(keeper) do
    GenServer.call(keeper, :flush, :infinity)
  catch
    :exit, _not_there -> :ok
  end

  @doc """
  Waits until there may be room for a message, or the broker is closed: then it is worth asking again.
  `:timeout` if that takes longer.
  """
  @spec await_room(server(), timeout()) :: :ok | :timeout
  def await_room(keeper, timeout) do
    GenServer.call(keeper, :await_room, timeout)
  catch
    :exit, {:timeout, _call} ->
      GenServer.cast(keeper, {:gave_up, self()})
      :timeout

    # It is being started again.
    :exit, _not_there ->
      receive do
      after
        1 -> :ok
      end
  end

  @impl true
  def init({broker, listener}) do
    Process.flag(:trap_exit, true)

    state = %{
      broker: broker,
      listener: listener,
      workers: %{},
      timer: nil,
      swept: System.monotonic_time(:millisecond),
      # Those who wait for room in the order in which they came, and the place of each.
      waiting: :gb_trees.empty(),
      callers: %{},
      next_place: 0,
      room_timer: false
    }

    workers = Native.broker_keep(broker)
    :ok = Native.broker_expire(broker)
    {:ok, workers |> Enum.reduce(state, &monitor/2) |> look()}
  end

  @impl true
  def handle_call(:flush, _from, state), do: {:reply, :ok, report(state)}

  def handle_call(:await_room, from, state), do: {:noreply, state |> stand(from) |> let_in()}

  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast({:gave_up, caller}, state), do: {:noreply, step_out(state, caller)}
  def handle_cast(_stray, state), do: {:noreply, state}

  @impl true
  def handle_info(:"$broker_look", state), do: {:noreply, look(state)}
  def handle_info({:"$broker_joined", pid}, state), do: {:noreply, monitor(pid, state)}

  # A worker may wait for room as well.
  def handle_info({:DOWN, monitor, :process, pid, reason}, state) do
    case state do
      %{workers: %{^pid => ^monitor} = workers} ->
        :ok = down(pid, why(reason), state)
        {:noreply, %{state | workers: Map.delete(workers, pid)}}

      %{callers: %{^pid => {_place, ^monitor}}} ->
        {:noreply, step_out(state, pid)}

      _stray ->
        {:noreply, state}
    end
  end

  def handle_info({:timeout, timer, :expire}, %{timer: {timer, _at}} = state) do
    :ok = Native.broker_expire(state.broker)
    {:noreply, look(sweep(%{state | timer: nil}))}
  end

  def handle_info(:room, state), do: {:noreply, let_in(%{state | room_timer: false})}
  def handle_info(_stray, state), do: {:noreply, state}

  # Told to end, which it is after the workers: what they have left behind is still told.
  @impl true
  def terminate(_reason, state) do
    for pid <- Native.broker_workers(state.broker), not Process.alive?(pid) do
      # One that ends is not alive a moment before it is told.
      monitor = Map.get_lazy(state.workers, pid, fn -> Process.monitor(pid) end)

      receive do
        {:DOWN, ^monitor, :process, ^pid, reason} -> down(pid, why(reason), state)
      end
    end

    report(state)
  end

  # It died before it was monitored by this one, whose predecessor was killed. Nobody knows better.
  defp why(:noproc), do: :killed
  defp why(reason), do: reason

  defp down(pid, reason, state) do
    for reply <- Native.broker_in_flight(state.broker, pid),
        do: tell(state, reply, {:worker_down, reason})

    case Native.broker_down(state.broker, pid) do
      0 -> :ok
      lost -> count(%{worker_down: lost}, state)
    end
  end

  defp monitor(pid, state) do
    workers = Map.put_new_lazy(state.workers, pid, fn -> Process.monitor(pid) end)
    %{state | workers: workers}
  end

  defp look(state) do
    state = state |> report() |> let_in()
    expire_in(state, Native.broker_armed(state.broker))
  end

  # One timer, for the earliest deadline.
  defp expire_in(%{timer: nil} = state, nil), do: state

  defp expire_in(state, nil), do: %{cancel_timer(state) | timer: nil}

  defp expire_in(state, ms) do
    at = System.monotonic_time(:millisecond) + ms

    case state.timer do
      {_timer, ^at} ->
        state

      _other ->
        state = cancel_timer(state)
        %{state | timer: {:erlang.start_timer(min(ms, 4_000_000_000), self(), :expire), at}}
    end
  end

  defp cancel_timer(%{timer: nil} = state), do: state

  defp cancel_timer(%{timer: {timer, _at}} = state) do
    _ = :erlang.cancel_timer(timer, async: true, info: false)
    %{state | timer: nil}
  end

  # A caller that dies is seen when its message is about to be started. This is for those that wait for
  # long; looking at one costs less than a monitor, by far.
  defp sweep(state) do
    now = System.monotonic_time(:millisecond)

    if now - state.swept >= @sweep_ms do
      for partition <- 0..(Native.broker_partitions(state.broker) - 1),
          do: sweep(state.broker, partition, 0)

      %{state | swept: now}
    else
      state
    end
  end

  defp sweep(broker, partition, id) do
    case Native.broker_sweep(broker, partition, id) do
      nil -> :ok
      next -> sweep(broker, partition, next)
    end
  end

  # What has been dropped so far. What is dropped meanwhile has this process look again: while there is always more, who
  # only waits for the former, or is to be monitored or let in, would wait for ever.
  defp report(%{broker: broker} = state) do
    :ok = report(state, Native.broker_untold(broker))
    state
  end

  defp report(%{broker: broker} = state, untold) do
    {replies, counts} = Native.broker_dropped(broker, @reported)
    told = length(replies)
    for {reply, reason} <- replies, do: tell(state, reply, reason)
    counts |> counts() |> count(state)
    :ok = Native.broker_reported(broker, told, counts)

    cond do
      told < @reported -> :ok
      told < untold -> report(state, untold - told)
      # There may be more, of which nobody tells this process.
      true -> look_again()
    end
  end

  defp look_again do
    send(self(), :"$broker_look")
    :ok
  end

  # What a listener does wrong must not keep others from being told.
  defp tell(%{listener: {module, arg}}, reply, reason) do
    _ = module.dropped(reply, reason, arg)
    :ok
  catch
    _kind, _error -> :ok
  end

  defp counts(counts),
    do: for({reason, n} <- Enum.zip(@reasons, counts), n > 0, into: %{}, do: {reason, n})

  defp count(counts, _state) when counts == %{}, do: :ok

  defp count(counts, %{listener: {module, arg}}) do
    _ = module.counted(counts, arg)
    :ok
  catch
    _kind, _error -> :ok
  end

  defp stand(%{callers: callers, next_place: place} = state, {pid, _tag} = from) do
    %{
      state
      | waiting: :gb_trees.insert(place, from, state.waiting),
        callers: Map.put(callers, pid, {place, Process.monitor(pid)}),
        next_place: place + 1
    }
  end

  defp step_out(state, pid) do
    case Map.pop(state.callers, pid) do
      {{place, monitor}, callers} ->
        Process.demonitor(monitor, [:flush])
        %{state | waiting: :gb_trees.delete(place, state.waiting), callers: callers}

      # It has been let in.
      {nil, _callers} ->
        state
    end
  end

  # As many as there is room for, in the order in which they came; the rest when there is more.
  defp let_in(%{callers: callers} = state) when callers == %{}, do: state

  defp let_in(state) do
    room = Native.broker_want_room(state.broker)
    state = let_in(state, room)
    if room > 0, do: let_in_later(state), else: state
  end

  defp let_in(%{callers: callers} = state, room) when room == 0 or callers == %{}, do: state

  defp let_in(state, room) do
    {_place, {pid, _tag} = from} = :gb_trees.smallest(state.waiting)
    GenServer.reply(from, :ok)
    state |> step_out(pid) |> let_in(room - 1)
  end

  defp let_in_later(%{room_timer: false, callers: callers} = state) when callers != %{} do
    _timer = Process.send_after(self(), :room, @room_ms)
    %{state | room_timer: true}
  end

  defp let_in_later(state), do: state
end
