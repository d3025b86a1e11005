defmodule PartitionedBuffer.GenBuffer.Manager do
  @moduledoc false
  # How many workers a GenBuffer has, and its orderly end.
  #
  # It starts the workers and starts another one for each that dies, as often as that happens: a handler
  # that crashes costs its message, never the buffer. It is the last child of the tree, so it is ended
  # first: then the broker is closed, and workers go on until nothing waits or the time is up.
  #
  # Invariant: the number of workers that are wanted is kept outside of this process, and its successor finds
  # the workers with their supervisor. A buffer is closed only when its supervisor ends it or it is stopped.

  use GenServer

  alias PartitionedBuffer.{Broker, Names, Owner}
  alias PartitionedBuffer.GenBuffer.{Handle, Listener, Options, Supervisor, Telemetry, Worker}

  # One that can't be started is tried again after that time.
  @again_ms 100
  @tick_ms 500
  @drained_ms 2
  @rest 256

  @type arg :: {atom(), Handle.t()}

  @spec child_spec(arg()) :: Elixir.Supervisor.child_spec()
  def child_spec(arg) do
    %{id: __MODULE__, start: {__MODULE__, :start_link, [arg]}, shutdown: :infinity}
  end

  @spec start_link(arg()) :: GenServer.on_start()
  def start_link(arg), do: GenServer.start_link(__MODULE__, arg)

  @impl true
  def init({buffer, handle}) do
    Process.flag(:trap_exit, true)
    :ok = Names.register(handle.manager)

    # The one before it was told to end and has closed the buffer, but nobody told the supervisor: nothing could be sent to
    # that tree any more.
    _ =
      if Handle.fetch(buffer) == :error,
        do: spawn(Elixir.Supervisor, :stop, [Names.supervisor(buffer), :shutdown])

    state = %{
      buffer: buffer,
      handle: handle,
      workers: %{},
      retry: false,
      busy: busy_ns(handle.broker)
    }

    state = Enum.reduce(children(buffer), state, &watch(&2, &1, handle.opts))

    case fill(state) do
      {:ok, state} -> {:ok, tick(state)}
      {:error, reason, _state} -> {:stop, reason}
    end
  end

  @impl true
  def handle_call(:workers, _from, state), do: {:reply, pids(state), state}

  def handle_call({:incr, opts}, _from, %{handle: handle} = state) do
    case start_worker(state, opts) do
      {:ok, pid, state} ->
        :ok = Handle.put_target(handle, Handle.target(handle) + 1)
        {:reply, {:ok, pid}, state}

      :ignore ->
        {:reply, :ignore, state}

      {:error, reason} ->
        {:reply, {:error, reason}, state}
    end
  end

  def handle_call(:decr, _from, %{handle: handle} = state) do
    case pids(state) do
      [] ->
        {:reply, {:error, :no_available_workers}, state}

      pids ->
        :ok = Handle.put_target(handle, max(Handle.target(handle) - 1, 0))
        {:reply, :ok, dismiss(state, [Enum.random(pids)])}
    end
  end

  def handle_call({:set, count, opts}, _from, %{handle: handle} = state) do
    :ok = Handle.put_target(handle, count)
    pids = pids(state)
    state = dismiss(state, Enum.take(pids, max(length(pids) - count, 0)))

    case fill(state, opts) do
      {:ok, state} -> {:reply, {:ok, pids(state)}, state}
      {:error, _reason, state} -> {:reply, {:ok, pids(state)}, retry(state)}
    end
  end

  def handle_call({:drain, timeout}, _from, state) do
    {:reply, :ok, drain(state, timeout)}
  end

  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast(_stray, state), do: {:noreply, state}

  @impl true
  def handle_info({:DOWN, _monitor, :process, pid, _reason}, state) do
    {:noreply, replace(state, pid)}
  end

  def handle_info(:retry, state), do: {:noreply, refill(%{state | retry: false})}

  def handle_info(:tick, state) do
    {:noreply, state |> observe(Telemetry.listening?()) |> measure() |> tick()}
  end

  def handle_info(_stray, state), do: {:noreply, state}

  @impl true
  def terminate(reason, %{buffer: buffer, handle: handle} = state) do
    if Owner.ordered?(reason) do
      _state = drain(state, handle.opts.drain_timeout_ms)
      _left = hand_back(buffer, handle, fn _messages, :none -> :none end, :none)
      :ok = Broker.release(handle.broker)
      :ok = Handle.erase(buffer, handle.broker)
    end
  end

  # --- workers ---

  defp children(buffer) do
    for {_id, pid, _type, _modules} <-
          DynamicSupervisor.which_children(Supervisor.workers(buffer)),
        is_pid(pid),
        do: pid
  catch
    :exit, _not_there -> []
  end

  defp pids(state), do: for({pid, {:at_work, _opts}} <- state.workers, do: pid)

  defp watch(state, pid, opts) do
    _monitor = Process.monitor(pid)
    %{state | workers: Map.put(state.workers, pid, {:at_work, opts})}
  end

  defp start_worker(%{buffer: buffer, handle: handle} = state, opts) do
    child = Worker.child_spec({buffer, handle, opts})

    case DynamicSupervisor.start_child(Supervisor.workers(buffer), child) do
      {:ok, pid} -> {:ok, pid, watch(state, pid, opts)}
      :ignore -> :ignore
      {:error, reason} -> {:error, reason}
    end
  catch
    # The supervisor is being started again.
    :exit, _not_there -> {:error, :no_supervisor}
  end

  # Up to as many as are wanted.
  defp fill(state), do: fill(state, state.handle.opts)

  defp fill(state, opts),
    do: start_missing(state, opts, Handle.target(state.handle) - length(pids(state)))

  defp start_missing(state, _opts, missing) when missing <= 0, do: {:ok, state}

  defp start_missing(%{handle: handle} = state, opts, missing) do
    case start_worker(state, opts) do
      {:ok, _pid, state} ->
        start_missing(state, opts, missing - 1)

      # One that does not want to be is not waited for.
      :ignore ->
        :ok = Handle.put_target(handle, Handle.target(handle) - 1)
        start_missing(state, opts, missing - 1)

      {:error, reason} ->
        {:error, reason, state}
    end
  end

  defp refill(state, opts \\ nil) do
    case fill(state, opts || state.handle.opts) do
      {:ok, state} -> state
      {:error, _reason, state} -> retry(state)
    end
  end

  defp retry(%{retry: true} = state), do: state

  defp retry(state) do
    _timer = Process.send_after(self(), :retry, @again_ms)
    %{state | retry: true}
  end

  # They end by themselves, when they are through with their message.
  defp dismiss(state, pids) do
    Enum.reduce(pids, state, fn pid, state ->
      :ok = Worker.leave(state.handle.broker, pid)
      %{state | workers: Map.update!(state.workers, pid, fn {_, opts} -> {:leaving, opts} end)}
    end)
  end

  defp replace(state, pid) do
    case Map.pop(state.workers, pid) do
      {{:at_work, opts}, workers} -> refill(%{state | workers: workers}, opts)
      {_leaving_or_unknown, workers} -> %{state | workers: workers}
    end
  end

  # --- figures ---

  defp observe(%{handle: %{observed?: same}} = state, same), do: state

  defp observe(%{buffer: buffer, handle: handle} = state, observed?) do
    handle = Handle.put_observed(buffer, handle, observed?)
    for {pid, _work} <- state.workers, do: Worker.observe(pid, observed?)
    %{state | handle: handle}
  end

  defp tick(state) do
    _timer = Process.send_after(self(), :tick, @tick_ms)
    state
  end

  defp busy_ns(broker) do
    now = for(%{age_ns: age} when is_integer(age) <- Broker.crew(broker), do: age) |> Enum.sum()
    {System.monotonic_time(:nanosecond), Broker.info(broker).busy_ns + now}
  end

  defp measure(%{handle: handle, busy: {at, busy}} = state) do
    {now, sum} = busy_ns(handle.broker)
    time = max(now - at, 1) * max(map_size(state.workers), 1)
    :ok = Handle.put_busy(handle, min(max((sum - busy) / time, 0.0), 1.0))
    %{state | busy: {now, sum}}
  end

  # --- the end ---

  defp drain(%{handle: %{broker: broker}} = state, timeout) do
    :ok = Broker.close(broker)
    await_drained(state, Owner.deadline(%{processing_timeout_ms: timeout}))
  end

  defp await_drained(%{handle: %{broker: broker}} = state, deadline) do
    if drained?(broker, state) or Owner.left(deadline) == 0 do
      state
    else
      receive do
        {:DOWN, _monitor, :process, pid, _reason} -> await_drained(replace(state, pid), deadline)
        :retry -> await_drained(refill(%{state | retry: false}), deadline)
      after
        @drained_ms -> await_drained(state, deadline)
      end
    end
  end

  # Nobody will take what waits if nobody is there.
  defp drained?(broker, state) do
    # One reading: what was in flight may wait again.
    %{waiting: waiting, in_flight: in_flight} = Broker.info(broker)
    in_flight == 0 and (waiting == 0 or Handle.target(state.handle) == 0)
  end

  @doc """
  Gives up what waits, and tells who waits for an answer. `keep.(messages, acc)` is called with a few messages at
  a time, the oldest of each partition first. Only for a buffer that was closed.
  """
  @spec hand_back(atom(), Handle.t(), ([term()], acc -> acc), acc) :: acc when acc: term()
  def hand_back(buffer, handle, keep, acc) do
    case Broker.take_rest(handle.broker, @rest) do
      [] ->
        acc

      rest ->
        Enum.each(rest, fn {_message, reply} ->
          if reply, do: Listener.dropped(reply, :shutdown, buffer)
        end)

        Listener.counted(%{shutdown: length(rest)}, buffer)
        hand_back(buffer, handle, keep, keep.(for({message, _} <- rest, do: message), acc))
    end
  end

  @doc "The options of a worker that is added."
  @spec worker_opts(Handle.t(), keyword() | map()) :: map()
  def worker_opts(handle, opts), do: Options.worker!(opts, handle.opts)
end
