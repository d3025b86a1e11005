defmodule PartitionedBuffer.GenPool.Owner do
  @moduledoc false
  # The process of a pool, which has its name.
  #
  #     owner                       init/1, the first handle_continue/2, terminate/2
  #     ├── broker server           unless the broker is outside
  #     │   └── keeper
  #     └── worker supervisor
  #         └── workers             all other callbacks
  #
  # To its clients it is a `GenServer`: what is sent to it goes to a free worker. Messages wait here until a
  # worker fetches them, since no queue of requests may refuse them; calls and casts go to the broker.
  #
  # Invariants:
  #
  #   * No worker is missing when anybody asks: the death of one is seen to before anything is answered.
  #   * Whatever ends this process in an orderly way ends its workers first, after they have done what was
  #     accepted before; then `terminate/2` is called, once, with the last state.

  use GenServer

  alias PartitionedBuffer.{Broker, Names, Native}

  alias PartitionedBuffer.GenPool.{
    Backend,
    BrokerServer,
    Callback,
    Crew,
    Dropped,
    Ending,
    Handle,
    Shared,
    Signals,
    Telemetry,
    Worker
  }

  # Messages of the library's own, beside which a user's may be anything else.
  @own :"$partitioned_buffer_pool"
  @type opts :: map()

  @doc "A request or a message of the library's own."
  defmacro request(request), do: {:"$partitioned_buffer_pool", request}

  @spec start_link(module(), term(), opts()) :: GenServer.on_start()
  def start_link(module, arg, opts) do
    with :ok <- Names.available(opts.name, names(opts)),
         do: GenServer.start_link(__MODULE__, {module, arg, opts}, name: opts.name)
  end

  defp names(%{name: pool, external_broker?: true}), do: [Names.worker_supervisor(pool)]

  defp names(%{name: pool}) do
    broker = Names.broker(pool)
    [Names.worker_supervisor(pool), broker, Names.keeper(broker)]
  end

  # --- for workers -----------------------------------------------------------------------------------

  @doc "The message that has waited for longest."
  @spec fetch(pid()) :: {:ok, term()} | :none
  def fetch(owner), do: GenServer.call(owner, {@own, :fetch}, :infinity)

  @doc "A handler has asked to be told if nothing comes for so long."
  @spec timeout(pid(), pos_integer(), non_neg_integer()) :: :ok
  def timeout(owner, token, ms) do
    send(owner, {@own, {:timeout, token, ms}})
    :ok
  end

  @doc "A handler has ended the pool."
  @spec stop(pid(), term()) :: :ok
  def stop(owner, reason) do
    send(owner, {@own, {:stop, reason}})
    :ok
  end

  # --- for everybody -----------------------------------------------------------------------------------

  @doc "The process of the pool of this name. A process of something else may have the name."
  @spec whereis(atom()) :: pid() | nil
  def whereis(pool) do
    case Process.whereis(pool) do
      pid when is_pid(pid) ->
        if :proc_lib.translate_initial_call(pid) == {__MODULE__, :init, 1}, do: pid

      _nobody ->
        nil
    end
  end

  @doc "The workers, those that are about to leave aside."
  @spec workers(GenServer.server()) :: [pid()]
  def workers(pool), do: GenServer.call(pool, {@own, :workers})

  @doc "How many workers there are to be."
  @spec resize(GenServer.server(), non_neg_integer()) :: :ok | {:error, term()}
  def resize(pool, size), do: GenServer.call(pool, {@own, {:resize, size}}, :infinity)

  @doc "The state, or those of the workers."
  @spec state(GenServer.server()) :: {:shared, module(), term()} | {:workers, [pid()]}
  def state(pool), do: GenServer.call(pool, {@own, :state})

  @doc "What only this process knows."
  @spec info(GenServer.server()) :: {Broker.t(), map()}
  def info(pool), do: GenServer.call(pool, {@own, :info})

  # --- start -----------------------------------------------------------------------------------------

  @impl true
  def init({module, arg, opts}) do
    Worker.enter(opts.name)

    case first_state(module, arg, opts) do
      {:ok, user_state, action} ->
        traps? = Process.flag(:trap_exit, true)
        start(module, arg, opts, user_state, action, traps?)

      :ignore ->
        :ignore

      {:stop, reason} ->
        {:stop, reason}

      {:crash, reason, _stack} ->
        {:stop, reason}
    end
  end

  defp first_state(module, arg, %{shared_state?: true}), do: Callback.init(module, arg)
  defp first_state(_module, _arg, _opts), do: {:ok, nil, :none}

  defp start(module, arg, opts, user_state, action, traps?) do
    signals = Signals.new()

    with {:ok, shared} <- share(opts, user_state),
         {:ok, broker} <- start_broker(opts, signals) do
      supervisor = start_supervisor(opts.name)
      watch = if opts.external_broker?, do: broker.pid, else: self()
      in_turns? = Worker.in_turns?(%{shared: shared, module: module})
      :ok = Broker.work_alone(broker.broker, in_turns?)
      :ok = Signals.begin(broker.broker)
      :ok = Handle.put(opts.name, broker, watch)

      state = %{
        pool: opts.name,
        module: module,
        arg: arg,
        opts: opts,
        broker: broker,
        signals: signals,
        shared: shared,
        traps?: traps?,
        supervisor: supervisor,
        broker_monitor: Process.monitor(broker.pid),
        workers: %{},
        leaving: %{},
        size: opts.pool_size,
        messages: :queue.new(),
        restarts: {System.monotonic_time(:millisecond), 0, 0},
        stopped?: false,
        started_at: System.monotonic_time()
      }

      Telemetry.execute(
        [:start],
        %{system_time: System.system_time(), pool_size: state.size},
        %{pool: state.pool, module: module}
      )

      begin(state, action)
    else
      {:error, reason} -> {:stop, reason}
    end
  end

  # Nothing is handled before the initial continue; requests wait meanwhile.
  defp begin(state, {:continue, arg}), do: {:ok, state, {:continue, {@own, arg}}}

  defp begin(state, action) do
    case Crew.grow(state) do
      {:ok, state} -> {:ok, after_start(state, action)}
      {:error, reason, state} -> give_up(state, why(reason, state))
    end
  end

  # As if the end of the supervisor had been seen before it was missed.
  defp why(:no_supervisor, %{supervisor: pid}) do
    receive do
      {:EXIT, ^pid, reason} -> reason
    end
  end

  defp why(reason, _state), do: reason

  # As `GenServer.start_link/3` of one of them.
  defp give_up(state, reason) do
    :ok = put_ended(state, reason)
    _discarded = end_processes(state)
    Handle.erase(state.pool, state.broker.broker)
    if reason == :ignore, do: :ignore, else: {:stop, reason}
  end

  defp start_supervisor(pool) do
    name = Names.worker_supervisor(pool)
    :ok = Names.await_free(name)
    {:ok, supervisor} = DynamicSupervisor.start_link(name: name, strategy: :one_for_one)
    supervisor
  end

  defp start_broker(%{external_broker?: true, broker: name}, _signals),
    do: BrokerServer.join(name)

  defp start_broker(%{name: pool, broker: module}, signals) do
    name = Names.broker(pool)
    :ok = Names.await_free(name)

    with {:ok, _server} <- BrokerServer.start_link(name, module, pool, signals),
         do: BrokerServer.join(name)
  end

  defp share(%{shared_state?: false}, _state), do: {:ok, nil}

  defp share(%{backend: {backend, config}} = opts, user_state) do
    with {:ok, ref, _version} <- backend.new(config, user_state) do
      turns = Native.turns_new()
      exclusive? = opts.isolation == :exclusive
      _ = if backend == Backend.Native, do: Native.cell_share(ref, turns, exclusive?)

      {:ok,
       %Shared{
         backend: backend,
         ref: ref,
         turns: turns,
         isolation: opts.isolation,
         max_attempts: opts.max_attempts
       }}
    end
  end

  # --- requests of the library -------------------------------------------------------------------------

  @impl true
  def handle_call({@own, :fetch}, _from, state) do
    {message, state} = next_message(state)
    {:reply, message, state}
  end

  def handle_call({@own, request}, _from, state) do
    case Crew.complete(state) do
      {:ok, state} -> answer(request, state)
      {:error, reason, state} -> {:stop, reason, at_once(state)}
    end
  end

  # Somebody takes the pool for a GenServer, which it is.
  def handle_call(message, from, state) do
    case ask(state, {:call, message}, {:forwarded, from}) do
      id when is_integer(id) -> {:noreply, state}
      _refused -> {:reply, refused(state), state}
    end
  end

  defp answer(:workers, state), do: {:reply, Map.keys(state.workers), state}

  defp answer({:resize, size}, state) do
    case Crew.grow(Crew.shrink(%{state | size: size})) do
      {:ok, state} ->
        {:reply, :ok, state}

      {:error, reason, state} ->
        {:reply, {:error, reason}, %{state | size: map_size(state.workers)}}
    end
  end

  defp answer(:state, %{shared: nil} = state),
    do: {:reply, {:workers, Map.keys(state.workers)}, state}

  defp answer(:state, %{shared: shared} = state),
    do: {:reply, {:shared, shared.backend, shared.ref}, state}

  defp answer(:info, state) do
    info = %{
      pool: state.pool,
      module: state.module,
      pool_size: state.size,
      workers: Map.keys(state.workers),
      isolation: state.shared && state.shared.isolation,
      messages: :queue.len(state.messages),
      retries: Signals.retries(state.signals)
    }

    {:reply, {state.broker.broker, info}, state}
  end

  @impl true
  def handle_cast(message, state) do
    _ =
      with refused when is_atom(refused) <- ask(state, {:cast, message}, nil),
           do: refused(state)

    {:noreply, state}
  end

  defp ask(state, message, reply),
    do: Broker.ask(state.broker.broker, state.broker.keeper, message, reply, nil)

  defp refused(state) do
    Telemetry.dropped(state.pool, 1, :queue_full)
    Dropped.refused()
  end

  # --- messages ----------------------------------------------------------------------------------------

  @impl true
  def handle_info({@own, {:timeout, token, ms}}, state) do
    _timer = Process.send_after(self(), {@own, {:timeout, token}}, ms)
    {:noreply, state}
  end

  def handle_info({@own, {:timeout, token}}, state) do
    if Signals.due?(state.signals, token),
      do: {:noreply, deliver(state, :timeout)},
      else: {:noreply, state}
  end

  def handle_info({@own, {:stop, reason}}, state) do
    _ = if state.shared, do: Shared.close(state.shared)
    {:stop, reason, at_once(state)}
  end

  def handle_info({:DOWN, monitor, :process, pid, reason}, %{workers: workers} = state)
      when is_map_key(workers, pid) do
    %{^pid => ^monitor} = workers
    down(state, pid, reason)
  end

  def handle_info({:DOWN, _monitor, :process, pid, reason}, %{leaving: leaving} = state)
      when is_map_key(leaving, pid),
      do: down(state, pid, reason)

  # It was dead before it was monitored. If it is linked, that tells how it has ended.
  def handle_info(
        {:DOWN, monitor, :process, _pid, :noproc},
        %{broker_monitor: monitor, opts: %{external_broker?: false}} = state
      ),
      do: {:noreply, state}

  def handle_info({:DOWN, monitor, :process, _pid, reason}, %{broker_monitor: monitor} = state),
    do: {:stop, {:broker_down, reason}, at_once(state)}

  def handle_info({:EXIT, pid, reason}, %{broker: %{pid: pid}} = state),
    do: {:stop, {:broker_down, reason}, at_once(state)}

  def handle_info({:EXIT, pid, reason}, %{supervisor: pid} = state),
    do: {:stop, reason, at_once(state)}

  # What the callback module has linked to the pool.
  def handle_info({:EXIT, _pid, _reason} = message, %{traps?: true} = state),
    do: {:noreply, deliver(state, message)}

  def handle_info({:EXIT, _pid, :normal}, state), do: {:noreply, state}
  def handle_info({:EXIT, _pid, reason}, state), do: {:stop, reason, at_once(state)}
  def handle_info(message, state), do: {:noreply, deliver(state, message)}

  defp down(state, worker, reason) do
    case Crew.replace(state, worker, reason) do
      {:ok, state} -> {:noreply, state}
      {:error, reason, state} -> {:stop, reason, at_once(state)}
    end
  end

  # It waits here, and every worker looks before it takes. An idle one is woken by a request of our own; if there
  # is none, all are about to look.
  defp deliver(%{messages: messages} = state, message) do
    state = %{state | messages: :queue.in(message, messages)}
    :ok = Signals.put_fetch(state.broker.broker, true)
    %{broker: broker, keeper: keeper} = state.broker
    _id = Broker.ask_idle(broker, keeper, :fetch, nil, nil)
    state
  end

  @doc "Takes the message that has waited for longest."
  @spec next_message(map()) :: {{:ok, term()} | :none, map()}
  def next_message(%{messages: messages} = state) do
    case :queue.out(messages) do
      {{:value, message}, messages} ->
        if :queue.is_empty(messages),
          do: Signals.put_fetch(state.broker.broker, false)

        {{:ok, message}, %{state | messages: messages}}

      {:empty, _messages} ->
        {:none, state}
    end
  end

  # --- the initial continue ----------------------------------------------------------------------------

  @impl true
  def handle_continue({@own, arg}, state) do
    shared = Shared.refresh(state.shared)
    outcome = Callback.run(state.module, :continue, arg, nil, shared.state)

    case outcome do
      {:next, :noreply, user_state, {:continue, arg}} ->
        write(shared, user_state)
        handle_continue({@own, arg}, state)

      {:next, :noreply, user_state, action} ->
        write(shared, user_state)
        ready(state, action)

      {:stop, reason, :noreply, user_state} ->
        write(shared, user_state)
        {:stop, reason, at_once(state)}

      {:crash, reason, _stack} ->
        {:stop, reason, at_once(state)}
    end
  end

  # There is nobody else yet.
  defp write(%{backend: backend, ref: ref, version: version}, user_state) do
    {:ok, _version} = backend.update(ref, version, user_state)
    :ok
  end

  defp ready(state, action) do
    case Crew.grow(state) do
      {:ok, state} -> {:noreply, after_start(state, action)}
      {:error, reason, state} -> {:stop, why(reason, state), at_once(state)}
    end
  end

  defp after_start(state, {:timeout, ms}) do
    :ok = timeout(self(), Signals.arm(state.signals, state.broker.broker), ms)
    state
  end

  defp after_start(state, _none_or_hibernate), do: state

  # --- the end -----------------------------------------------------------------------------------------

  # A `GenServer` whose callback ends it leaves its mailbox behind; so does the pool.
  defp at_once(state), do: %{state | stopped?: true}

  @impl true
  def terminate(reason, state) do
    :ok = Signals.put_ending(state.signals)
    :ok = put_ended(state, reason)
    state = if state.stopped?, do: state, else: Ending.drain(state)
    Handle.erase(state.pool, state.broker.broker)
    discarded = end_processes(state) + :queue.len(state.messages)

    Telemetry.execute(
      [:stop],
      %{duration: System.monotonic_time() - state.started_at, discarded: discarded},
      %{pool: state.pool, module: state.module, reason: reason}
    )

    clean_up(state.shared, state.module, reason)
  end

  defp clean_up(nil, _module, _reason), do: :ok

  defp clean_up(shared, module, reason) do
    shared = Shared.refresh(shared)
    Callback.terminate(module, reason, shared.state)
  after
    if function_exported?(shared.backend, :delete, 1), do: shared.backend.delete(shared.ref)
  end

  # A broker outside of the pool goes on, and is what callers watch.
  defp put_ended(%{opts: %{external_broker?: true}}, _reason), do: :ok
  defp put_ended(state, reason), do: Broker.put_end(state.broker.broker, reason)

  # Workers first, so that none of them takes from a broker that is not there.
  defp end_processes(state) do
    :ok = end_workers(state.supervisor)
    if state.opts.external_broker?, do: 0, else: BrokerServer.stop(state.broker.pid)
  end

  defp end_workers(supervisor) do
    DynamicSupervisor.stop(supervisor, :shutdown)
  catch
    # It was killed.
    :exit, _reason -> :ok
  end
end
