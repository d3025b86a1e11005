defmodule PartitionedBuffer.Partition do
  @moduledoc false
  # The process of one partition: it times, swaps, has the processor run, and reports.
  #
  # It holds no entry and no count. All of that is native, and so is who drains and with which batch:
  # when this process is killed, the one that takes its place finds the drain as it was, waits for the
  # process that is at work on it, and goes on. What it must do again after a crash is in `resume/1`.
  #
  # Invariants:
  #
  #   * One process at a time drains a partition. A new one is started only after the end of the
  #     former one has been seen.
  #   * Each batch that was given up has been reported: `processing_failed`, `discarded`.
  #   * While the buffer is open, what is not processed stays where it is, however this process ends.

  use GenServer, restart: :permanent

  alias PartitionedBuffer.{Handle, Names, Native, Owner, ProcessorRunner, Telemetry}

  @enforce_keys [:buffer, :name, :index, :ref, :module, :metadata, :settings, :started_at]
  defstruct @enforce_keys ++
              [
                # the process that drains: %{pid, monitor, killed_for}
                runner: nil,
                tick: nil,
                watchdog: nil,
                # a tick came while a cycle was running
                late?: false,
                left: 0
              ]

  @spec start_link({atom(), Native.index()}) :: GenServer.on_start()
  def start_link({buffer, index}), do: GenServer.start_link(__MODULE__, {buffer, index})

  @doc "Makes the process read the settings again."
  @spec settings_changed(atom()) :: :ok
  def settings_changed(name) do
    GenServer.call(name, :settings_changed)
  catch
    # Not there: the process that is about to take its place reads them when it starts.
    :exit, _reason -> :ok
  end

  @doc "The buffer is closed: process what is left and tell the owner."
  @spec finish(atom()) :: :ok
  def finish(name), do: GenServer.cast(name, :finish)

  @doc "The time for that is up: give up what is left and tell the owner."
  @spec expire(atom()) :: :ok
  def expire(name), do: GenServer.cast(name, :expire)

  @doc "Gives up what is left of a closed partition whose process does not answer."
  @spec abandon(atom(), Native.index(), Native.handle()) :: :ok
  def abandon(buffer, index, ref) do
    with {runner, _ms} when is_pid(runner) <- Native.partition_status(ref, index),
         do: Process.exit(runner, :kill)

    metadata = %{buffer: buffer, partition: Names.partition(buffer, index)}

    case Native.partition_discard_rest(ref, index, :shutdown) do
      {0, _bytes} -> :ok
      {size, bytes} -> report_discard(metadata, size, bytes, :shutdown)
    end
  end

  @impl true
  def init({buffer, index}) do
    Process.flag(:trap_exit, true)
    name = Names.partition(buffer, index)
    %{ref: ref, module: module} = Handle.fetch!(buffer)

    # A predecessor that was orphaned by the death of its supervisor may be about to end.
    :ok = Names.register(name)

    state = %__MODULE__{
      buffer: buffer,
      name: name,
      index: index,
      ref: ref,
      module: module,
      metadata: %{buffer: buffer, partition: name},
      settings: Handle.settings(ref),
      started_at: System.monotonic_time()
    }

    Telemetry.execute([:start], %{system_time: System.system_time()}, state.metadata)
    {:ok, state |> register() |> schedule_tick(), {:continue, :resume}}
  end

  @impl true
  def handle_continue(:resume, state), do: {:noreply, resume(state)}

  @impl true
  def handle_call(:settings_changed, _from, state) do
    settings = Handle.settings(state.ref)
    state = %{state | settings: settings}
    {:reply, :ok, state |> schedule_tick() |> schedule_watchdog()}
  end

  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast(:finish, state), do: {:noreply, cycle(state)}

  def handle_cast(:expire, %{runner: nil} = state), do: {:noreply, state |> give_up() |> cycle()}
  def handle_cast(:expire, state), do: {:noreply, kill_runner(state, :shutdown)}
  def handle_cast(_unknown, state), do: {:noreply, state}

  @impl true
  def handle_info({:tick, tick}, %{tick: {_timer, tick}} = state) do
    {:noreply, state |> schedule_tick() |> cycle()}
  end

  def handle_info({:watchdog, watchdog}, %{watchdog: {_timer, watchdog}} = state) do
    {:noreply, watch(%{state | watchdog: nil})}
  end

  # The reply of the task; its end follows as a `:DOWN`.
  def handle_info({monitor, result}, %{runner: %{monitor: monitor}} = state)
      when result in [:done, :not_owner] do
    Process.demonitor(monitor, [:flush])
    {:noreply, runner_ended(state, result)}
  end

  def handle_info(
        {:DOWN, monitor, :process, _pid, reason},
        %{runner: %{monitor: monitor}} = state
      ) do
    {:noreply, runner_ended(state, reason)}
  end

  # The Registry was started again: be found in it again.
  def handle_info({:EXIT, _registry, _reason}, state) do
    {:noreply, register(state)}
  end

  def handle_info(:register, state), do: {:noreply, register(state)}

  # Anybody may send anything to a registered name.
  def handle_info(_stray, state), do: {:noreply, state}

  # Nothing is given up unless the buffer is closed: the process that takes the place of this one goes
  # on, and the tree that is started again after the death of this one does too.
  @impl true
  def terminate(reason, state) do
    last? = Owner.ordered?(reason) and Native.partition_closed(state.ref, state.index)
    state = if last?, do: end_runner(state), else: state
    left = if state.left > 0, do: state.left, else: held(state)

    Telemetry.execute(
      [:stop],
      %{duration: System.monotonic_time() - state.started_at, left: left},
      Map.put(state.metadata, :reason, reason)
    )
  end

  ## The cycle

  # Finds out what a predecessor left: a process that drains, a batch whose process is gone, a drain
  # that nobody works on.
  defp resume(state) do
    case Native.partition_status(state.ref, state.index) do
      {nil, nil} ->
        cycle(state, :rest)

      {runner, _ms} when is_pid(runner) ->
        watch(%{state | runner: %{pid: runner, monitor: Process.monitor(runner), killed_for: nil}})
    end
  end

  # Starts a cycle if there is anything to process and none is running.
  defp cycle(state, what \\ :all)
  defp cycle(%{runner: runner} = state, _what) when runner != nil, do: %{state | late?: true}

  defp cycle(state, what) do
    state = %{state | late?: false}
    closed? = Native.partition_closed(state.ref, state.index)
    what = if closed?, do: :all, else: what

    case to_drain(state, what) do
      0 when closed? ->
        Owner.drained(state.buffer, state.index)
        state

      0 ->
        state

      _entries ->
        start_runner(state)
    end
  end

  defp to_drain(state, :all), do: Native.partition_swap(state.ref, state.index)
  defp to_drain(state, :rest), do: Native.partition_draining(state.ref, state.index)

  defp start_runner(state) do
    job = %ProcessorRunner{
      ref: state.ref,
      index: state.index,
      metadata: state.metadata,
      module: state.module,
      processor: state.settings.processor,
      batch_size: state.settings.processing_batch_size
    }

    {pid, monitor} = spawn_runner(state, job)
    schedule_watchdog(%{state | runner: %{pid: pid, monitor: monitor, killed_for: nil}})
  end

  defp spawn_runner(state, job) do
    task =
      Task.Supervisor.async_nolink(
        Names.task_supervisor(state.buffer),
        ProcessorRunner,
        :run,
        [job],
        shutdown: :brutal_kill
      )

    {task.pid, task.ref}
  catch
    # The task supervisor is just being started again, or the buffer's supervisor is gone or about to
    # be. Waiting for it would only make the entries wait too.
    :exit, _reason -> spawn_monitor(ProcessorRunner, :run, [job])
  end

  defp runner_ended(state, reason) do
    runner = state.runner
    state = cancel_watchdog(%{state | runner: nil})

    case failure(reason, runner) do
      nil ->
        after_runner(state, reason)

      {discard_reason, reason} ->
        lost = Native.partition_settle(state.ref, state.index, discard_reason)
        report_failure(state, lost, discard_reason, reason)
        after_failure(state, lost, discard_reason)
    end
  end

  defp after_runner(state, :not_owner), do: resume(state)

  defp after_runner(%{late?: true} = state, _done), do: cycle(state)

  defp after_runner(state, _done), do: cycle(state, :rest)

  defp after_failure(state, lost, :shutdown) do
    size = with {_first, size, _bytes} <- lost, do: size, else: (:none -> 0)
    %{state | left: state.left + size} |> give_up() |> cycle()
  end

  # It ended without a batch: not through the processor. Trying again at once might go on for ever.
  defp after_failure(state, :none, _reason) do
    if Native.partition_closed(state.ref, state.index), do: cycle(state), else: state
  end

  defp after_failure(%{late?: true} = state, _lost, _reason), do: cycle(state)
  defp after_failure(state, _lost, _reason), do: cycle(state, :rest)

  # Why a drain's process ended, for the report, and as what its batch is discarded.
  defp failure(reason, _runner) when reason in [:done, :not_owner, :normal], do: nil
  defp failure(_reason, %{killed_for: :timeout}), do: {:timeout, :timeout}
  defp failure(_reason, %{killed_for: :shutdown}), do: {:shutdown, :shutdown}

  defp failure(reason, _runner) when reason in [:killed, :noproc, :shutdown],
    do: {:killed, reason}

  defp failure(reason, _runner), do: {:exception, reason}

  defp report_failure(state, lost, discard_reason, reason) do
    Telemetry.execute(
      [:processing_failed],
      %{system_time: System.system_time()},
      Map.put(state.metadata, :reason, reason)
    )

    with {_first, size, bytes} <- lost,
         do: report_discard(state.metadata, size, bytes, discard_reason)

    :ok
  end

  defp report_discard(metadata, size, bytes, reason) do
    Telemetry.execute(
      [:discarded],
      %{system_time: System.system_time(), size: size, bytes: bytes},
      Map.put(metadata, :reason, reason)
    )
  end

  ## The end

  # Only after the buffer has been closed.
  defp give_up(state) do
    case Native.partition_discard_rest(state.ref, state.index, :shutdown) do
      {0, _bytes} ->
        state

      {size, bytes} ->
        report_discard(state.metadata, size, bytes, :shutdown)
        %{state | left: state.left + size}
    end
  end

  defp end_runner(%{runner: nil} = state), do: give_up(state)

  defp end_runner(state) do
    %{runner: %{monitor: monitor}} = state = kill_runner(state, :shutdown)

    receive do
      {:DOWN, ^monitor, :process, _pid, reason} ->
        {discard_reason, reason} = failure(reason, state.runner) || {:shutdown, :shutdown}
        lost = Native.partition_settle(state.ref, state.index, discard_reason)
        if lost != :none, do: report_failure(state, lost, discard_reason, reason)
        size = with {_first, size, _bytes} <- lost, do: size, else: (:none -> 0)
        give_up(%{state | runner: nil, left: state.left + size})
    end
  end

  defp held(state) do
    %{queued: queued, in_flight: in_flight} = Native.info_partition(state.ref, state.index)
    queued + in_flight
  end

  ## Time

  defp schedule_tick(state) do
    _ = with {timer, _tick} <- state.tick, do: Process.cancel_timer(timer)
    tick = make_ref()
    interval = state.settings.processing_interval_ms
    %{state | tick: {Process.send_after(self(), {:tick, tick}, interval), tick}}
  end

  # One timer watches all calls of a drain: when it fires, the native side tells for how long the
  # processor has had the batch that it has now.
  defp watch(%{runner: nil} = state), do: state

  defp watch(state) do
    timeout = state.settings.processing_timeout_ms

    case Native.partition_status(state.ref, state.index) do
      {_owner, ms} when is_integer(ms) and is_integer(timeout) and ms >= timeout ->
        kill_runner(state, :timeout)

      {_owner, ms} ->
        schedule_watchdog(state, ms || 0)
    end
  end

  defp schedule_watchdog(state, elapsed \\ 0)
  defp schedule_watchdog(%{runner: nil} = state, _elapsed), do: state

  defp schedule_watchdog(state, elapsed) do
    state = cancel_watchdog(state)

    case state.settings.processing_timeout_ms do
      :infinity ->
        state

      timeout ->
        watchdog = make_ref()
        timer = Process.send_after(self(), {:watchdog, watchdog}, max(timeout - elapsed, 1))
        %{state | watchdog: {timer, watchdog}}
    end
  end

  defp cancel_watchdog(%{watchdog: nil} = state), do: state

  defp cancel_watchdog(%{watchdog: {timer, _ref}} = state) do
    _ = Process.cancel_timer(timer)
    %{state | watchdog: nil}
  end

  defp kill_runner(%{runner: runner} = state, why) do
    Process.exit(runner.pid, :kill)
    %{state | runner: %{runner | killed_for: why}}
  end

  ## Names

  defp register(state) do
    keys = Registry.keys(state.buffer, self())
    _ = if keys == [], do: Registry.register(state.buffer, :partitions, state.name)
    state
  rescue
    # The Registry is not back yet.
    ArgumentError ->
      _timer = Process.send_after(self(), :register, 10)
      state
  end
end
