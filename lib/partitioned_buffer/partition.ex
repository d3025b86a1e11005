defmodule PartitionedBuffer.Partition do
  @moduledoc false
  # The process of one partition: it times, starts and watches the process that drains (the runner), and
  # reports.
  #
  # It holds no entry and no count. All of that is native, and so are who drains, with which batch, what is to
  # start the next cycle, and what is still to be reported: when this process is killed, the one that takes its
  # place finds the drain as it was, waits for the process that is at work on it, and goes on (`resume/1`).
  #
  # A runner goes from cycle to cycle without this process: whoever starts a cycle wakes it natively, and what
  # could not start one is noted natively, where the runner finds it. This process hears of that only if there is
  # no runner (`:noted`).
  #
  # Invariants:
  #
  #   * One process at a time drains a partition. A new one is started only after the end of the
  #     former one has been seen.
  #   * While something drains or is noted there is a runner, or one will be started: when the backoff is over,
  #     when the partition is resumed, or after a moment if a runner came to nothing by itself.
  #   * What was given up is reported: `processing_failed`, `discarded`. It counts as reported only
  #     after the event.
  #   * While the buffer is open, what is not processed stays where it is, however this process ends.

  use GenServer, restart: :permanent, shutdown: :infinity

  alias PartitionedBuffer.DataBuffer
  alias PartitionedBuffer.{Handle, Names, Native, Options, Owner, ProcessorRunner, Telemetry}
  alias PartitionedBuffer.Partition.Discards

  # Until what was not there is looked for again.
  @again_ms 10
  # How often a runner is looked at that may have nothing to do: it ends when it had nothing from one look to the next.
  @idle_ms 500
  # What is too short to begin anything in.
  @moment_ms 10

  @enforce_keys [:buffer, :name, :index, :ref, :module, :metadata, :settings, :started_at]
  defstruct @enforce_keys ++
              [
                # that of the buffer
                supervisor: nil,
                # the owner that ends the buffer
                owner: nil,
                # the process that drains or waits to: %{pid, monitor, killed_for}
                runner: nil,
                # the call of the processor with nothing that is running: since when, and who waits for it
                nothing: nil,
                # who waits for a flush of nothing, and whether one was made at the end
                empties: [],
                emptied?: false,
                tick: nil,
                watchdog: nil,
                # until a batch is tried again
                backoff: nil,
                # the call of `on_discard` that is running
                discard: nil,
                # when the end began, in milliseconds; whether the time for it is up
                finishing_since: nil,
                expired?: false,
                ended?: false,
                left: 0
              ]

  # Who may end the buffer: its supervisor, or an owner, which this one was started for and has no name then.
  @type ender :: {:supervisor, pid()} | {:owner, pid()}
  @type arg :: {atom(), Native.handle(), module(), Native.index(), ender()}

  @spec start_link(arg()) :: GenServer.on_start()
  def start_link(arg), do: GenServer.start_link(__MODULE__, arg)

  @doc "Makes the process read the settings again."
  @spec settings_changed(atom()) :: :ok
  def settings_changed(name) do
    GenServer.call(name, :settings_changed)
  catch
    # Not there: the process that is about to take its place reads them when it starts.
    :exit, _reason -> :ok
  end

  @doc "Flushes a partition that has nothing to process, if it is of a buffer that wants that."
  @spec flush(atom()) :: :ok
  def flush(name), do: GenServer.cast(name, {:begin, :flush})

  @doc "By the runner, of such a buffer: it waits; this was to start a cycle, but there was nothing to process."
  @spec waits(pid(), atom()) :: :ok
  def waits(partition, noted), do: GenServer.cast(partition, {:waits, noted})

  @doc "By the runner: a cycle has begun."
  @spec began(pid(), atom()) :: :ok
  def began(partition, trigger), do: GenServer.cast(partition, {:began, trigger})

  @doc "By the runner: entries have been given up that were too old."
  @spec gave_up(pid()) :: :ok
  def gave_up(partition), do: GenServer.cast(partition, :gave_up)

  @doc """
  Has the processor called although there is nothing, of a buffer that wants that; its result, or why there
  is none. Use it only then.
  """
  @spec flush_nothing(atom()) :: :gen_server.request_id()
  def flush_nothing(name), do: :gen_server.send_request(name, :flush_nothing)

  @doc "The buffer is closed: process what is left and tell the owner."
  @spec finish(pid(), owner :: pid()) :: :ok
  def finish(partition, owner), do: GenServer.cast(partition, {:finish, owner})

  @doc "The time for that is up: give up what is left and tell the owner."
  @spec expire(pid()) :: :ok
  def expire(partition), do: GenServer.cast(partition, :expire)

  @doc "Gives up what is left of a closed partition whose process does not answer."
  @spec abandon(atom(), Native.handle(), Native.index()) :: :ok
  def abandon(buffer, ref, index) do
    with {runner, _ms} when is_pid(runner) <- Native.partition_status(ref, index),
         do: Process.exit(runner, :kill)

    _lost = Native.partition_discard_rest(ref, index, :shutdown)
    Discards.report(ref, index, %{buffer: buffer, partition: Names.partition(buffer, index)})
  end

  @impl true
  def init({buffer, ref, module, index, ender}) do
    Process.flag(:trap_exit, true)
    name = Names.partition(buffer, index)
    # A predecessor that was orphaned by the death of its supervisor may be about to end.
    _ = if match?({:supervisor, _pid}, ender), do: Names.register(name)

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

    state = struct!(state, [ender])
    # Who writes as soon as the start has returned finds the size of a generation.
    _ = if state.settings.in_turn, do: arm(state)
    Telemetry.execute([:start], %{system_time: System.system_time()}, state.metadata)
    {:ok, state |> register() |> schedule_tick(), {:continue, :resume}}
  end

  @impl true
  def handle_continue(:resume, state) do
    %{ref: ref, index: index, settings: settings} = state
    :ok = Native.partition_attend(ref, index, settings.in_turn, settings.manual)
    due? = arm(state)
    _ = Native.partition_pause(ref, index, paused?(state))
    # What its predecessor was asked for is noted.
    state = state |> discards() |> resume()
    {:noreply, if(due?, do: cycle(state, :max_size), else: state)}
  end

  @impl true
  def handle_call(:settings_changed, _from, state) do
    was_paused? = paused?(state)
    state = %{state | settings: Handle.settings(state.ref)}
    _ = Native.partition_pause(state.ref, state.index, paused?(state))
    if state.runner, do: ProcessorRunner.change(state.runner.pid, job(state))
    state = state |> schedule_tick() |> schedule_watchdog() |> discards()
    state = if arm(state), do: cycle(state, :max_size), else: state
    state = if was_paused?, do: state |> cycle(:resume) |> start_pending(), else: state
    {:reply, :ok, state}
  end

  def handle_call(:flush_nothing, from, state) do
    {:noreply, cycle(%{state | empties: [from | state.empties]}, :flush)}
  end

  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast({:finish, owner}, state), do: {:noreply, finish_now(state, owner)}

  def handle_cast({:begin, :flush}, state), do: {:noreply, cycle(state, :flush)}

  def handle_cast({:waits, noted}, state) when noted in [:interval, :flush],
    do: {:noreply, cycle(state, noted)}

  def handle_cast({:waits, _noted}, state), do: {:noreply, more_nothing(state)}

  # In turn, the time of a new generation begins now; and it may have a size of its own.
  def handle_cast({:began, trigger}, %{settings: %{in_turn: in_turn?}} = state) do
    state = if in_turn?, do: schedule_tick(%{state | emptied?: trigger == :stop}), else: state
    due? = state.settings.max_size_jitter > 0 and arm(state)
    {:noreply, if(due?, do: cycle(state, :max_size), else: state)}
  end

  def handle_cast(:gave_up, state), do: {:noreply, discards(state)}

  def handle_cast(:expire, state), do: {:noreply, expire_now(state)}
  def handle_cast(_unknown, state), do: {:noreply, state}

  @impl true
  def handle_info({:tick, tick}, %{tick: {_timer, tick}} = state) do
    # Nobody is told when one of those dies who wait for room, and it may be the next one's turn then.
    _ = if Native.buffer_waiting(state.ref) > 0, do: Native.buffer_forget_dead(state.ref)
    {:noreply, state |> schedule_tick() |> cycle(:interval)}
  end

  # It takes no timer of the runner's, which would set and cancel one in each cycle.
  def handle_info({:idle, pid, cycles}, %{runner: %{pid: pid}} = state) do
    case Native.partition_send_away(state.ref, state.index, cycles) do
      # It waits no more, and its end will be seen.
      :ok -> :ok
      cycles -> look_at_idle(pid, cycles)
    end

    {:noreply, state}
  end

  # The native side: a cycle is to begin, and there is nobody to wake.
  def handle_info(:noted, state), do: {:noreply, start_pending(state)}

  # The native side: entries have been dropped.
  def handle_info(:due, state) do
    due? = arm(state)
    state = discards(state)
    {:noreply, if(due?, do: cycle(state, :max_size), else: state)}
  end

  def handle_info({:backoff, backoff}, %{backoff: {_timer, backoff}} = state) do
    {:noreply, resume(%{state | backoff: nil})}
  end

  def handle_info({:watchdog, watchdog}, %{watchdog: {_timer, watchdog}} = state) do
    {:noreply, watch(%{state | watchdog: nil})}
  end

  # The reply of the task: it has ended by itself, if it was not about to be killed.
  def handle_info({monitor, :done}, %{runner: %{monitor: monitor}} = state) do
    Process.demonitor(monitor, [:flush])
    killed? = state.runner.killed_for != nil
    {:noreply, if(killed?, do: runner_gone(state, :normal), else: runner_left(state))}
  end

  # The processor was called with nothing.
  def handle_info({:nothing, pid, result}, %{runner: %{pid: pid}, nothing: %{}} = state) do
    state = answer(state, {:ok, result})
    {:noreply, if(closing?(state), do: cycle(state, :stop), else: more_nothing(state))}
  end

  def handle_info(
        {:DOWN, monitor, :process, _pid, reason},
        %{runner: %{monitor: monitor}} = state
      ) do
    {:noreply, runner_gone(state, reason)}
  end

  def handle_info(
        {:DOWN, monitor, :process, _pid, reason},
        %{discard: %{monitor: monitor} = call} = state
      ) do
    state = discards(%{state | discard: Discards.over(call, reason, state.metadata)})
    {:noreply, if(closing?(state), do: cycle(state, :stop), else: state)}
  end

  # The task supervisor was not there.
  def handle_info(:resume, %{runner: nil, nothing: nil} = state), do: {:noreply, resume(state)}
  def handle_info(:resume, %{runner: nil} = state), do: {:noreply, call_nothing(state)}

  # The Registry was started again: be found in it again.
  def handle_info({:EXIT, _registry, _reason}, state), do: {:noreply, register(state)}
  def handle_info(:register, state), do: {:noreply, register(state)}

  # Anybody may send anything to a registered name.
  def handle_info(_stray, state), do: {:noreply, state}

  # Nothing is given up while the buffer goes on: the process that takes the place of this one finds it.
  @impl true
  def terminate(reason, state) do
    last? = Owner.ordered?(reason) and ends?(state)
    state = if last?, do: finish_alone(state), else: state
    left = if last?, do: state.left, else: held(state)

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
      {nil, _ms} ->
        state = start_pending(state)

        # The predecessor's runner may have been through before this process was there: nobody tells of that.
        if state.runner == nil and closing?(state), do: cycle(state, :stop), else: state

      {runner, _ms} ->
        :ok = look_at_idle(runner, 0)
        watch(%{state | runner: runner(runner, Process.monitor(runner))})
    end
  end

  # Starts a cycle because of this trigger, if there is anything to process; or has it noted.
  defp cycle(%{expired?: true} = state, _trigger) do
    if at_work?(state), do: state, else: state |> give_up() |> ended()
  end

  defp cycle(state, trigger) do
    if trigger == :max_size, do: serve_line(state)

    case Native.partition_begin(state.ref, state.index, trigger) do
      :nothing -> nothing(state, trigger)
      :noted -> start_pending(state)
      _woken_or_paused -> state
    end
  end

  # Starts a runner if there is something to do for one, and none that will do it.
  defp start_pending(%{runner: nil, backoff: nil} = state) do
    serve_line(state)
    pending? = Native.partition_pending(state.ref, state.index)
    if pending? and not paused?(state), do: start_runner(state, :cycle), else: state
  end

  defp start_pending(state), do: state

  # In turn, those who wait in line have their writes made, and a generation that is full swapped out for them.
  defp serve_line(%{settings: %{in_turn: true}} = state) do
    _draining = Native.data_buffer_turn(state.ref, state.index)
    :ok
  end

  defp serve_line(_state), do: :ok

  # A runner that waits has nothing to lose.
  defp at_work?(%{nothing: %{}}), do: true

  defp at_work?(%{runner: runner} = state) do
    {owner, _ms} = Native.partition_status(state.ref, state.index)
    runner != nil and owner == runner.pid
  end

  defp nothing(state, trigger) do
    cond do
      # It will be looked at again when that is over.
      state.nothing != nil -> state
      wants_nothing?(state, trigger) -> process_nothing(state, trigger)
      trigger == :stop -> ended(state)
      true -> state
    end
  end

  defp wants_nothing?(%{empties: [_ | _]}, _trigger), do: true
  defp wants_nothing?(%{settings: %{flush_empty: false}}, _trigger), do: false
  defp wants_nothing?(%{emptied?: emptied?}, :stop), do: not emptied?
  defp wants_nothing?(state, trigger), do: trigger in [:interval, :flush] and not paused?(state)

  defp process_nothing(state, trigger) do
    emptied? = if trigger == :stop, do: true, else: state.emptied?
    nothing = %{since: now(), empties: state.empties}
    call_nothing(%{state | nothing: nothing, empties: [], emptied?: emptied?})
  end

  defp call_nothing(%{runner: nil} = state), do: start_runner(state, :nothing)

  defp call_nothing(%{runner: runner} = state) do
    :ok = ProcessorRunner.call_with_nothing(runner.pid)
    schedule_watchdog(state)
  end

  defp more_nothing(%{empties: []} = state), do: state
  defp more_nothing(state), do: cycle(state, :flush)

  # Has the native side tell this process when it is time. Whether it is already.
  defp arm(%{settings: %{manual: true}} = state) do
    _ = Native.partition_arm(state.ref, state.index, nil, nil)
    false
  end

  defp arm(%{settings: %{in_turn: true} = settings} = state) do
    Native.data_buffer_arm(state.ref, state.index, size(settings))
  end

  defp arm(%{settings: settings} = state) do
    bytes = Options.finite(settings.max_bytes)
    Native.partition_arm(state.ref, state.index, size(settings), bytes)
  end

  defp size(%{max_size: :infinity}), do: nil
  defp size(%{max_size: size, max_size_jitter: 0}), do: size
  defp size(%{max_size: size, max_size_jitter: jitter}), do: size + :rand.uniform(jitter + 1) - 1

  defp paused?(%{settings: settings} = state), do: settings.paused and not closing?(state)

  # `:nothing`: its first call is one without entries.
  defp start_runner(state, first) do
    case spawn_runner(state, [job(state), first]) do
      {pid, monitor} ->
        :ok = look_at_idle(pid, 0)
        schedule_watchdog(%{state | runner: runner(pid, monitor)})

      nil ->
        later(state)
    end
  end

  defp look_at_idle(runner, cycles) do
    _timer = Process.send_after(self(), {:idle, runner, cycles}, @idle_ms)
    :ok
  end

  defp job(%{settings: settings} = state) do
    %ProcessorRunner{
      ref: state.ref,
      index: state.index,
      metadata: state.metadata,
      module: state.module,
      partition: self(),
      processor: settings.processor,
      info?: settings.processor_info or settings.in_turn or is_function(settings.processor, 2),
      stream?: settings.in_turn,
      tells?: settings.in_turn or settings.max_size_jitter > 0,
      empty?: settings.flush_empty
    }
  end

  defp runner(pid, monitor), do: %{pid: pid, monitor: monitor, killed_for: nil}

  # To those who wait for a call with nothing.
  defp answer(%{nothing: nil} = state, _outcome), do: state

  defp answer(%{nothing: %{empties: empties}} = state, outcome) do
    Enum.each(empties, &GenServer.reply(&1, outcome))
    %{state | nothing: nil}
  end

  defp spawn_runner(state, args) do
    task =
      Task.Supervisor.async_nolink(
        Names.task_supervisor(state.buffer),
        ProcessorRunner,
        :run,
        args,
        shutdown: :brutal_kill
      )

    {task.pid, task.ref}
  catch
    # The task supervisor is just being started again; waiting for it would only make the entries wait
    # too. But an orphan is about to end, and its successor is to find the drain as it is.
    :exit, _reason ->
      if supervised?(state) or closing?(state), do: spawn_monitor(ProcessorRunner, :run, args)
  end

  # It had nothing to do, or nothing that it may do.
  defp runner_left(state) do
    state = discards(cancel_watchdog(%{state | runner: nil}))

    cond do
      state.nothing != nil -> call_nothing(state)
      closing?(state) -> cycle(state, :stop)
      # Another one may have begun meanwhile.
      true -> resume(state)
    end
  end

  # It ended without a reply. If it was adopted, it may have been done all the same: then it had no
  # batch any more.
  defp runner_gone(%{runner: %{killed_for: killed_for}} = state, reason) do
    %{ref: ref, index: index, settings: settings} = state
    nothing? = state.nothing != nil
    why = killed_for || discard_reason(reason)
    state = state |> answer({:error, why}) |> Map.put(:runner, nil) |> cancel_watchdog()
    :ok = Native.partition_attend(ref, index, settings.in_turn, settings.manual)
    settled = Native.partition_settle(ref, index, why, killed_for != :shutdown)
    # One that had nothing to do, or was adopted and ended before it was monitored.
    idle? = settled == :ok and not nothing? and not Native.partition_pending(ref, index)
    finished? = settled == :ok and (reason in [:normal, :noproc] or idle?)
    unless finished?, do: report_failure(state, killed_for || failure(reason))
    state = discards(state)

    case settled do
      {:discarded, _reason, size} ->
        left = if killed_for == :shutdown, do: state.left + size, else: state.left
        go_on(%{state | left: left})

      # It had nothing left to do but to tell of it.
      {:processed, _size} ->
        go_on(state)

      {how, attempts, size} ->
        try_again(state, how, attempts, size)

      # One that ended without a batch, not through the processor, might do so again and again: the next
      # one has to wait for a moment.
      :ok ->
        if finished? or why == :killed or killed_for != nil or closing?(state),
          do: go_on(state),
          else: later(state)
    end
  end

  defp later(state) do
    _timer = Process.send_after(self(), :resume, @again_ms)
    state
  end

  # After a runner that has failed.
  defp go_on(state) do
    cond do
      state.expired? or closing?(state) ->
        cycle(state, :stop)

      state.empties != [] ->
        cycle(state, :flush)

      # Where the oldest entries make room, a cycle takes them batch by batch.
      state.settings.overflow == :drop_oldest and not paused?(state) ->
        start_runner(state, :cycle)

      true ->
        start_pending(state)
    end
  end

  defp failure({:shutdown, {:failed, reason}}), do: reason
  # It found that its call had been ended.
  defp failure({:shutdown, :not_owner}), do: :timeout
  defp failure(reason), do: reason

  # Of a processor that did not raise, throw, exit or fail by itself: that is known natively.
  defp discard_reason(reason) when reason in [:killed, :noproc, :shutdown], do: :killed
  defp discard_reason(_of_a_linked_process), do: :exception

  defp closing?(state), do: Native.partition_closed(state.ref, state.index)

  defp try_again(state, how, attempts, size) do
    delay = if how == :again, do: delay(state.settings.backoff, attempts), else: 0

    Telemetry.execute(
      [:retry],
      %{system_time: System.system_time(), size: size, delay_ms: delay},
      Map.merge(state.metadata, %{attempt: attempts, split: how == :halved})
    )

    if state.expired? or delay == 0, do: go_on(state), else: back_off(state, delay)
  end

  defp back_off(state, delay) do
    backoff = make_ref()
    %{state | backoff: {Process.send_after(self(), {:backoff, backoff}, delay), backoff}}
  end

  # Doubled each time; half of it at random.
  defp delay({first, most}, attempts) do
    delay = min(first * Integer.pow(2, min(attempts - 1, 32)), most)
    half = div(delay, 2)
    delay - half + :rand.uniform(half + 1) - 1
  end

  defp report_failure(state, reason) do
    Telemetry.execute(
      [:processing_failed],
      %{system_time: System.system_time()},
      Map.put(state.metadata, :reason, reason)
    )
  end

  defp discards(state) do
    Discards.report(state.ref, state.index, state.metadata)
    call = Discards.start(state.discard, state.ref, state.index, state.settings, state.buffer)
    %{state | discard: call}
  end

  ## The end

  # What waits to be tried again does so no longer.
  defp finish_now(state, owner) do
    _ = Native.partition_pause(state.ref, state.index, false)
    _ = with {timer, _backoff} <- state.backoff, do: Process.cancel_timer(timer)
    cycle(%{state | owner: owner, finishing_since: now(), backoff: nil}, :stop) |> start_pending()
  end

  # Only of a closed buffer.
  defp expire_now(state) do
    _ = with {timer, _backoff} <- state.backoff, do: Process.cancel_timer(timer)
    state = %{state | expired?: true, backoff: nil}
    if at_work?(state), do: kill_runner(state, :shutdown), else: cycle(state, :stop)
  end

  # A call of `on_discard` may still be running.
  defp ended(%{discard: nil} = state) do
    Owner.drained(state.owner, state.buffer, state.ref, state.index)
    %{state | ended?: true}
  end

  defp ended(state), do: state

  defp give_up(%{settings: %{on_discard: nil}} = state) do
    size = Native.partition_discard_rest(state.ref, state.index, :shutdown)
    discards(%{state | left: state.left + size})
  end

  # Batch by batch, so that each is kept until `on_discard` has been called with it.
  defp give_up(state) do
    _any = Native.partition_swap(state.ref, state.index)

    case Native.partition_next_dirty(state.ref, state.index, nil) do
      none when none in [:empty, :not_owner, :paused] ->
        discards(state)

      more ->
        # All at once, if it was to be a table.
        _all = if more == :table, do: Native.partition_start_all(state.ref, state.index, nil)

        case Native.partition_settle(state.ref, state.index, :shutdown, false) do
          {:discarded, _reason, size} -> give_up(%{state | left: state.left + size})
          # Too old, and so given up already.
          :ok -> give_up(state)
        end
    end
  end

  # The buffer ends when its supervisor, still alive, has this process ended after the owner. Usually
  # nothing is left then; if the owner was killed, this process does what it would have seen to.
  defp ends?(state), do: supervised?(state) and Process.whereis(Names.owner(state.buffer)) == nil

  # Whether the supervisor of the buffer is alive that this process was started under.
  defp supervised?(%{supervisor: supervisor, buffer: buffer}) do
    supervisor != nil and Process.whereis(Names.supervisor(buffer)) == supervisor
  end

  # The owner has closed the buffer, which takes longer the more partitions there are, and mostly has erased the handle.
  defp finish_alone(%{ended?: true} = state), do: erase(state)

  defp finish_alone(state) do
    :ok = Native.buffer_close(state.ref)
    deadline = Owner.deadline(state.settings)
    # The owner has waited already.
    state =
      if state.expired?,
        do: await_end(state, now()),
        else: state |> finish_now(nil) |> await_end(deadline)

    erase(state)
  end

  defp erase(%{buffer: buffer, ref: ref} = state) do
    _ = with {:ok, %{ref: ^ref}} <- Handle.fetch(buffer), do: Handle.erase(buffer, ref)
    state
  end

  defp await_end(%{ended?: true} = state, _deadline), do: state

  defp await_end(state, deadline) do
    receive do
      message ->
        {:noreply, state} = handle_info(message, state)
        await_end(state, deadline)
    after
      Owner.left(deadline) ->
        if state.expired?,
          do: %{
            state
            | discard: Discards.abandon(state.discard, state.ref, state.index, state.metadata)
          },
          else: state |> expire_now() |> await_end(now() + Owner.grace_ms())
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
    schedule_tick(state, state.settings, tick)
  end

  defp schedule_tick(state, %{manual: true}, _tick) do
    :ok = Native.partition_scheduled(state.ref, state.index, nil)
    %{state | tick: nil}
  end

  defp schedule_tick(state, settings, tick) do
    jitter = :rand.uniform(settings.processing_interval_jitter_ms + 1) - 1
    interval = settings.processing_interval_ms + jitter
    :ok = Native.partition_scheduled(state.ref, state.index, interval)
    %{state | tick: {Process.send_after(self(), {:tick, tick}, interval), tick}}
  end

  # One timer watches all calls of a runner, also while that waits: when it fires, the native side tells how much time
  # the processor has left for the batch that it has now, or ends its call. So no cycle has to tell that it begins.
  defp watch(%{settings: %{processing_timeout_ms: :infinity}} = state), do: state
  defp watch(%{runner: nil} = state), do: state

  defp watch(%{settings: %{processing_timeout_ms: timeout}} = state) do
    left = Native.partition_time_out(state.ref, state.index, timeout)

    case left || left_for_nothing(state, timeout) do
      left when left > 0 -> schedule_watchdog(state, left)
      _overdue -> if end_near?(state), do: expire_now(state), else: kill_runner(state, :timeout)
    end
  end

  defp left_for_nothing(%{nothing: nil}, timeout), do: max(timeout, 1)
  defp left_for_nothing(%{nothing: %{since: since}}, timeout), do: since + timeout - now()

  # The time for the end is as long as that for a call, and all but up: what would begin now would be given up in a
  # moment. That is so too when a call that has had all its time began with the end.
  defp end_near?(%{finishing_since: nil}), do: false

  defp end_near?(%{finishing_since: since, settings: %{processing_timeout_ms: timeout}}),
    do: since + timeout - now() <= @moment_ms

  defp schedule_watchdog(%{settings: %{processing_timeout_ms: timeout}} = state),
    do: schedule_watchdog(state, timeout)

  defp schedule_watchdog(%{runner: nil} = state, _left), do: state
  defp schedule_watchdog(state, :infinity), do: cancel_watchdog(state)

  defp schedule_watchdog(state, left) do
    state = cancel_watchdog(state)
    watchdog = make_ref()
    timer = Process.send_after(self(), {:watchdog, watchdog}, max(left, 1))
    %{state | watchdog: {timer, watchdog}}
  end

  defp cancel_watchdog(%{watchdog: nil} = state), do: state

  defp cancel_watchdog(%{watchdog: {timer, _ref}} = state) do
    _ = Process.cancel_timer(timer)
    %{state | watchdog: nil}
  end

  defp kill_runner(%{runner: runner} = state, why) do
    Process.exit(runner.pid, :kill)
    if why == :timeout and state.module == DataBuffer, do: log_timeout(state)
    %{state | runner: %{runner | killed_for: why}}
  end

  defp log_timeout(%{metadata: metadata, settings: settings}),
    do: DataBuffer.Flush.log_timeout(metadata, settings.processing_timeout_ms)

  defp now, do: System.monotonic_time(:millisecond)

  ## Names

  # Each under a key of its own: entries of one key are taken out one by one.
  defp register(state) do
    keys = Registry.keys(state.buffer, self())
    _ = if keys == [], do: Registry.register(state.buffer, state.name, state.index)
    state
  rescue
    # The Registry is not back yet.
    ArgumentError ->
      _timer = Process.send_after(self(), :register, @again_ms)
      state
  end
end
