defmodule PartitionedBuffer.GenPool.Worker do
  @moduledoc false
  # A worker of a pool: takes a request, runs its handler, takes the next.
  #
  # It is an OTP process with a loop of its own, because it waits in two places: in the broker, where it is
  # woken by a message, and in its mailbox. What comes to the mailbox goes first; before anything but
  # taking, a worker that was idle says so to the broker, so that no request waits for it meanwhile.
  #
  # Invariants:
  #
  #   * A request is answered, or deferred by its handler, before the next one is taken.
  #   * A worker that does what the system asks of it does not have the turn, nor one that is idle, unless any handler may
  #     write. Then a worker that has the turn keeps it, idle or not, until another one wants it, and for a few
  #     requests more: to pass it on after each of them would cost a switch of processes a request and help
  #     nobody. Requests come to one worker at a time, and it takes them only when it has the turn, so they are
  #     handled in the order of the queue.
  #   * What ends a `GenServer` with the same callbacks ends the worker, after the caller was told.

  alias PartitionedBuffer.{Broker, Native}
  alias PartitionedBuffer.Broker.Keeper
  require Broker

  alias PartitionedBuffer.GenPool.{
    Answer,
    Backend,
    Callback,
    Direct,
    Own,
    Owner,
    Shared,
    Signals,
    Telemetry
  }

  @look_ms 10
  # Requests in one turn when others are in line: what comes to another worker itself must not wait for ever.
  @in_turn 16
  # With 233, which is what the VM begins with, garbage is collected with every few requests.
  @heap_words 2_000
  # For `terminate/2`, when it has its own state and traps exits. Shorter than what a pool that is started
  # again waits for the former one.
  @shutdown_ms 4_000
  # What a worker's process is known by to itself, for calls of its own pool from its handlers.
  @inside :"$partitioned_buffer_gen_pool"

  @enforce_keys [:pool, :module, :owner, :parent, :broker, :worker, :answers, :signals, :idle_ms]
  defstruct @enforce_keys ++
              [
                # The shared state, or the worker's own, and what `Own` and `Direct` need.
                :shared,
                :state,
                :own,
                :direct,
                # Of its own state only: when it is to be told that nothing came.
                timeout_at: :infinity,
                attention: 0,
                reads?: false,
                # All handlers take turns. How many more may be handled in this one.
                in_turns?: false,
                # A worker keeps its turn until another one wants it.
                keeps_turn?: false,
                in_turn: :infinity,
                external?: false,
                hibernate?: false,
                leaving?: false,
                drained_to: nil,
                listening?: false,
                told: nil,
                looked?: false,
                debug: []
              ]

  @type t :: %__MODULE__{}

  @type setup :: %{
          pool: atom(),
          module: module(),
          owner: pid(),
          broker: Broker.t(),
          keeper: Keeper.server(),
          answers: reference(),
          signals: Signals.t(),
          idle_ms: timeout(),
          shared: Shared.t() | nil,
          init_arg: term(),
          trap_exit: boolean(),
          external?: boolean()
        }

  @spec child_spec(setup()) :: Supervisor.child_spec()
  def child_spec(setup) do
    # The pool's own process replaces it, so that nobody sees it missing.
    %{
      id: __MODULE__,
      start: {__MODULE__, :start_link, [setup]},
      restart: :temporary,
      shutdown: @shutdown_ms
    }
  end

  @spec start_link(setup()) :: {:ok, pid()} | :ignore | {:error, term()}
  def start_link(setup) do
    opts = [min_heap_size: @heap_words]
    :proc_lib.start_link(__MODULE__, :init, [self(), setup], :infinity, opts)
  end

  @doc "The calling process is one of a pool with a shared state."
  @spec enter(atom()) :: :ok
  def enter(pool) do
    Process.put(@inside, pool)
    :ok
  end

  @doc "Whether the calling process runs callbacks of this pool on its shared state."
  defmacro inside?(pool) do
    quote do: unquote(pool) != nil and Process.get(unquote(@inside)) == unquote(pool)
  end

  @doc "Has the worker end as soon as it has nothing in hand."
  @spec leave(pid()) :: :ok
  def leave(worker) do
    send(worker, :"$gen_pool_leave")
    :ok
  end

  @doc "Has the worker tell `to` when it finds nothing to take any more: `{:drained, worker}`."
  @spec drain(pid(), pid()) :: :ok
  def drain(worker, to) do
    send(worker, {:"$gen_pool_drain", to})
    :ok
  end

  @doc false
  @spec init(pid(), setup()) :: no_return() | :ok
  def init(parent, setup) do
    _ = if setup.trap_exit, do: Process.flag(:trap_exit, true)

    case first_state(setup) do
      {:ok, state, action} -> enter(parent, setup, state, action)
      :ignore -> :proc_lib.init_ack(parent, :ignore)
      {:stop, reason} -> give_up(parent, reason)
      {:crash, reason, _stack} -> give_up(parent, reason)
    end
  end

  defp first_state(%{shared: nil} = setup), do: Callback.init(setup.module, setup.init_arg)
  defp first_state(_setup), do: {:ok, nil, :none}

  @spec give_up(pid(), term()) :: no_return()
  defp give_up(parent, reason) do
    :proc_lib.init_ack(parent, {:error, reason})
    exit(reason)
  end

  defp enter(parent, setup, state, action) do
    _ = if setup.shared, do: join(setup)

    worker = Broker.join(setup.broker)

    w = %__MODULE__{
      pool: setup.pool,
      module: setup.module,
      owner: setup.owner,
      parent: parent,
      broker: setup.broker,
      worker: worker,
      answers: setup.answers,
      signals: setup.signals,
      idle_ms: setup.idle_ms,
      shared: setup.shared,
      state: state,
      own: own(setup, worker),
      direct: Direct.new(setup, worker),
      reads?: reads?(setup),
      external?: setup.external?,
      in_turns?: in_turns?(setup),
      keeps_turn?: keeps_turn?(setup)
    }

    # The keeper monitors it when this returns, so that it knows why the worker has died, if it does.
    :ok = Keeper.flush(setup.keeper)
    :proc_lib.init_ack(parent, {:ok, self()})
    w |> follow(action) |> loop()
  end

  defp own(%{shared: nil} = setup, worker), do: Own.new(setup, worker)
  defp own(_setup, _worker), do: nil

  @doc "Whether its workers take a request only when they have the turn."
  @spec in_turns?(map()) :: boolean()
  def in_turns?(%{shared: %{isolation: :exclusive}, module: module}),
    do: not function_exported?(module, :read_only?, 2)

  def in_turns?(_setup), do: false

  defp direct?(%{shared: %{backend: Backend.Native}}), do: true
  defp direct?(_setup), do: false

  defp keeps_turn?(%{shared: %{isolation: :exclusive}} = setup),
    do: direct?(setup) or in_turns?(setup)

  defp keeps_turn?(_setup), do: false

  defp reads?(setup), do: function_exported?(setup.module, :read_only?, 2)

  defp join(setup) do
    :ok = enter(setup.pool)
    :ok = Answer.hold()
    :ok = Native.turns_join(setup.shared.turns)
  end

  @doc false
  def loop(w) do
    # What is in the mailbox first.
    receive do
      message -> mailbox(w, message)
    after
      0 -> take(w)
    end
  end

  defp take(%{leaving?: true} = w), do: w |> leave_turn() |> finish(:normal)

  defp take(w) do
    w = w |> attend() |> await_turn()

    if Signals.fetch?(w.attention) do
      fetch(w)
    else
      taken(w, Broker.take(w.worker))
    end
  end

  @doc false
  @spec taken(t(), term()) :: no_return()
  def taken(w, {message, caller, queue_ns, id}),
    do: request(w, message, caller, queue_ns, id)

  def taken(w, :idle), do: rest(w)
  def taken(w, :attend), do: w |> withdraw() |> loop()

  # One that it was sent while it was idle, unless it was taken back since.
  defp handed(%{shared: shared} = w, id, message, caller) do
    # What is to be fetched is seen when it rests again; with a shared state there may be a timeout.
    w = if shared, do: w |> attend() |> await_turn(), else: w

    # How long it has waited only has to be known if somebody may listen.
    case Broker.start(w.worker, id, w.listening? or not w.looked?) do
      nil -> take(w)
      queue_ns -> request(w, message, caller, queue_ns, id)
    end
  end

  # Looks again: what came in between was not signalled to an idle worker.
  defp rest(w) do
    w = attend(w)

    if Signals.fetch?(w.attention),
      do: w |> withdraw() |> fetch(),
      else: w |> rest_in_turn() |> idle()
  end

  # One that nobody else wants it from keeps the turn.
  defp rest_in_turn(%{keeps_turn?: true, in_turn: :infinity} = w), do: w
  defp rest_in_turn(w), do: leave_turn(w)

  # A number is less than an atom.
  defp await_turn(%{in_turns?: true, shared: %{turn?: true}, in_turn: left} = w) when left > 0,
    do: stay(w)

  defp await_turn(%{in_turns?: true} = w) do
    w |> leave_turn() |> take_turn()
  end

  defp await_turn(w), do: w

  defp take_turn(w), do: %{w | shared: Shared.take_turn(w.shared, w.parent)}

  defp attend(w) do
    case Signals.attention(w.broker) do
      attention when attention == w.attention -> w
      attention -> %{w | attention: attention}
    end
  end

  defp fetch(w) do
    case Owner.fetch(w.owner) do
      {:ok, message} -> w |> handle(:info, message, nil, nil, 0) |> loop()
      :none -> loop(w)
    end
  end

  defp idle(%{drained_to: to} = w) when to != nil do
    send(to, {:drained, self()})
    idle(%{w | drained_to: nil})
  end

  defp idle(%{hibernate?: true} = w) do
    w = %{w | hibernate?: false, shared: w.shared && Shared.forget(w.shared)}
    :proc_lib.hibernate(__MODULE__, :awake, [w])
  end

  defp idle(%{own: own, listening?: false, looked?: true, timeout_at: :infinity} = w)
       when own != nil,
       do: Own.wait(own, w.state, w)

  defp idle(%{direct: direct, listening?: false, looked?: true, in_turn: :infinity} = w)
       when direct != nil do
    %{shared: %{version: version, state: state, turn?: turn?}} = w

    if turn? or not w.in_turns?,
      do: direct |> Direct.with_turn(turn?) |> Direct.wait(version, state, w),
      else: wait(w)
  end

  defp idle(w), do: wait(w)

  defp wait(w) do
    receive do
      message -> woken(w, message)
    after
      wait_ms(w) -> waited(w)
    end
  end

  @doc false
  @spec woken(t(), term()) :: no_return()
  def woken(w, message) do
    case message do
      Broker.handed(id, message, caller) -> handed(w, id, message, caller)
      Broker.wake() -> take(w)
      :"$gen_pool_look" -> idle(%{w | looked?: false})
      :partitioned_buffer_turn_wanted -> w |> leave_turn() |> idle()
      message -> w |> withdraw() |> mailbox(message)
    end
  end

  # One that is to be told of a timeout does not hibernate before.
  defp wait_ms(%{timeout_at: :infinity, idle_ms: idle_ms}), do: idle_ms
  defp wait_ms(%{timeout_at: at}), do: max(at - System.monotonic_time(:millisecond), 0)

  # It is idle, and there is a message.
  @doc false
  def awake(w) do
    receive do
      Broker.handed(id, message, caller) -> handed(w, id, message, caller)
      Broker.wake() -> take(w)
      :"$gen_pool_look" -> idle(%{w | looked?: false, hibernate?: true})
      :partitioned_buffer_turn_wanted -> w |> leave_turn() |> hibernate_again()
      message -> w |> withdraw() |> mailbox(message)
    end
  end

  defp hibernate_again(w), do: idle(%{w | hibernate?: true})

  @doc false
  @spec waited(t()) :: no_return()
  def waited(%{timeout_at: :infinity} = w), do: idle(%{w | hibernate?: true})
  def waited(w), do: w |> withdraw() |> handle(:info, :timeout, nil, nil, 0) |> loop()

  defp withdraw(w) do
    :ok = Broker.withdraw(w.worker)
    w
  end

  # --- messages -----------------------------------------------------------------------------------

  @doc false
  @spec mailbox(t(), term()) :: no_return()
  # It has been taken care of by whoever took it off the broker's list of idle workers.
  def mailbox(w, Broker.wake()), do: take(w)
  def mailbox(w, Broker.handed(id, message, caller)), do: handed(w, id, message, caller)

  # A turn that came when nobody waited for it any more: never, but it would be a message of nobody's.
  def mailbox(w, :partitioned_buffer_turn), do: loop(w)

  # Who wanted it may have got it since.
  def mailbox(
        %{shared: %{turn?: true}, in_turn: :infinity} = w,
        :partitioned_buffer_turn_wanted
      ),
      do: loop(%{w | in_turn: @in_turn})

  def mailbox(w, :partitioned_buffer_turn_wanted), do: loop(w)
  def mailbox(w, :"$gen_pool_look"), do: take(%{w | looked?: false})
  def mailbox(w, :"$gen_pool_leave"), do: take(%{w | leaving?: true})
  def mailbox(w, {:"$gen_pool_drain", to}), do: take(%{w | drained_to: to})

  def mailbox(%{parent: parent} = w, {:EXIT, parent, reason}), do: finish(w, reason)

  def mailbox(%{parent: parent, debug: debug} = w, {:system, from, request}),
    do:
      :sys.handle_system_msg(
        request,
        from,
        parent,
        __MODULE__,
        debug,
        w |> aside() |> leave_turn()
      )

  # Whoever has the worker's pid may use it as that of a `GenServer`.
  def mailbox(w, {:"$gen_call", from, message}),
    do: w |> aside() |> handle(:call, message, from, nil, 0) |> loop()

  def mailbox(w, {:"$gen_cast", message}),
    do: w |> aside() |> handle(:cast, message, nil, nil, 0) |> loop()

  def mailbox(w, message), do: w |> aside() |> handle(:info, message, nil, nil, 0) |> loop()

  # It does something else than requests: they may come to another worker meanwhile.
  defp aside(%{in_turns?: false, direct: nil} = w), do: w
  defp aside(w), do: withdraw(w)

  # The usual case.
  defp request(
         %{own: own, listening?: false, looked?: true, timeout_at: :infinity} = w,
         message,
         caller,
         queue_ns,
         id
       )
       when own != nil and message != :fetch and
              not (is_tuple(caller) and elem(caller, 0) == :forwarded),
       do: Own.taken(own, w.state, w, {message, caller, queue_ns, id})

  # The same on a shared state. One after the other, if somebody waits for the turn.
  defp request(
         %{direct: direct, listening?: false, looked?: true, attention: 0, in_turn: left} = w,
         message,
         caller,
         _queue_ns,
         id
       )
       when direct != nil and left > 0 do
    direct = if left == :infinity, do: direct, else: Direct.only(direct)
    w = if w.in_turns?, do: w, else: stay(w)
    %{shared: shared} = w = with_shared(w, Shared.refresh(w.shared))
    %{version: version, state: state, turn?: turn?} = shared

    direct
    |> Direct.with_turn(turn?)
    |> Direct.run(version, state, w, message, caller, id, 1)
  end

  defp request(w, message, caller, queue_ns, id),
    do: unusual(w, message, caller, queue_ns, id)

  @doc "Handles a request that has been started, whatever there is to it. Only one that is answered needs its id."
  @spec unusual(t(), term(), Answer.caller(), non_neg_integer(), Broker.id() | nil) ::
          no_return()
  def unusual(w, {:call, message}, caller, queue_ns, id) do
    from = Answer.from(caller, w.broker, id, w.answers)
    w |> handle(:call, message, from, {w.worker, caller}, queue_ns) |> loop()
  end

  def unusual(w, {:cast, message}, nil, queue_ns, _id),
    do: w |> handle(:cast, message, nil, {w.worker, nil}, queue_ns) |> loop()

  # It was only to be woken.
  def unusual(w, :fetch, _nobody, _queue_ns, _id), do: loop(w)

  @doc "The same of one that `Direct` has started, if there may be something to attend to."
  @spec started(t(), term(), Answer.caller(), Broker.id() | nil) :: no_return()
  def started(w, message, caller, id),
    do: w |> attend() |> request(message, caller, 0, id)

  defp with_shared(%{shared: shared} = w, shared), do: w
  defp with_shared(w, shared), do: %{w | shared: shared}

  @doc "What it knows of the shared state."
  @spec with_known(t(), Backend.version() | nil, term()) :: t()
  def with_known(%{shared: %{version: version}} = w, version, _state), do: w

  def with_known(%{shared: shared} = w, version, state),
    do: %{w | shared: %{shared | version: version, state: state}}

  @doc false
  @spec with_state(t(), term()) :: t()
  def with_state(%{state: state} = w, state), do: w
  def with_state(w, state), do: %{w | state: state}

  @doc "What came out of a request that `Own` has started, if that is not as usual."
  @spec returned(t(), :call | :cast, Callback.outcome(), GenServer.from() | nil, Answer.caller()) ::
          no_return()
  def returned(w, kind, outcome, from, caller) do
    answer = {w.worker, caller}
    {outcome, attempts, w} = own_outcome(outcome, w, from, answer)
    w |> finish_request(kind, outcome, attempts, from, answer, nil, 0) |> loop()
  end

  @doc "What came out of this attempt becomes part of the state, or it is tried again."
  @spec settle(t(), request, GenServer.from() | nil, Answer.caller(), outcome, pos_integer()) ::
          t()
        when request: {:call | :cast, term()}, outcome: Callback.outcome()
  def settle(w, {kind, message}, from, caller, outcome, attempt) do
    answer = {w.worker, caller}
    run = run_of(w, kind, message, from, answer)
    {outcome, attempts, shared} = Shared.settle(w.shared, run, outcome, attempt)
    finish_request(%{w | shared: shared}, kind, outcome, attempts, from, answer, nil, 0)
  end

  @doc "An attempt was in vain: whether the next one may be made without the turn."
  @spec again?(t(), :call | :cast, pos_integer()) :: boolean()
  def again?(%{shared: shared} = w, kind, attempt) do
    again? = attempt < shared.max_attempts
    _ = if again?, do: retried(w, kind, attempt)
    again?
  end

  defp stay(%{in_turn: :infinity} = w), do: w
  defp stay(w), do: %{w | in_turn: w.in_turn - 1}

  defp handle(w, kind, message, from, answer, queue_ns) do
    w = listen(w)
    _ = if w.shared && Signals.timeouts?(w.attention), do: Signals.disarm(w.signals)
    started = started(w, kind, queue_ns)
    {outcome, attempts, w} = run(w, kind, message, from, answer)
    finish_request(w, kind, outcome, attempts, from, answer, started, queue_ns)
  end

  defp finish_request(w, kind, outcome, attempts, from, answer, started, queue_ns) do
    case outcome do
      {:next, reply, _state, action} ->
        answer_directly(answer, from, reply)
        stopped(w, kind, started, queue_ns, attempts)
        follow(w, action)

      {:stop, reason, reply, _state} ->
        answer_directly(answer, from, reply)
        stopped(w, kind, started, queue_ns, attempts)
        stop(w, reason, from, answer, reply)

      {:crash, reason, stack} ->
        # Nobody else has to wait for it to end.
        w = leave_turn(w)
        if pool_goes_on?(w), do: Answer.fail(answer, reason)
        failed(w, kind, started, queue_ns, reason, stack)
        crash(w, reason, stack)
    end
  end

  # What the pool's process owned has gone with it, and who waits for an answer is told by its end.
  defp pool_goes_on?(%{external?: external?, owner: owner}),
    do: external? or Process.alive?(owner)

  defp run(%{shared: nil} = w, kind, message, from, answer) do
    w = if w.timeout_at == :infinity, do: w, else: %{w | timeout_at: :infinity}

    w.module
    |> Callback.run(kind, message, from, w.state)
    |> own_outcome(w, from, answer)
  end

  defp run(w, kind, message, from, answer) do
    request = run_of(w, kind, message, from, answer)

    # What follows from a handler belongs to its turn.
    w = if kind == :continue, do: w, else: renew_turn(w, request.read_only?)
    {outcome, attempts, shared} = Shared.run(w.shared, request)
    {outcome, attempts, %{w | shared: shared}}
  end

  # One that only reads would keep others waiting, and so would one that goes on for ever.
  defp renew_turn(w, true), do: leave_turn(w)
  defp renew_turn(%{in_turns?: false, in_turn: left} = w, _may_write) when left > 0, do: stay(w)
  defp renew_turn(%{in_turns?: false} = w, _may_write), do: leave_turn(w)
  defp renew_turn(w, _may_write), do: w

  defp run_of(w, kind, message, from, answer) do
    %{
      module: w.module,
      kind: kind,
      message: message,
      from: from,
      answer: answer,
      read_only?: w.reads? and w.module.read_only?(kind, message) == true,
      retried: &retried(w, kind, &1),
      parent: w.parent
    }
  end

  # It becomes the state of the worker, and the answer.
  defp own_outcome(outcome, w, from, answer) do
    case outcome do
      {:crash, _reason, _stack} = crash ->
        {crash, 1, w}

      {:next, reply, state, _action} = outcome ->
        :ok = Answer.answer(answer, reply)
        {outcome, 1, %{w | state: state}}

      {:stop, _reason, reply, state} = outcome ->
        # One that is answered by nobody is told why, below.
        if reply != :noreply or from == nil, do: Answer.answer(answer, reply)
        {outcome, 1, %{w | state: state}}
    end
  end

  # One that came to the worker's own mailbox, past the broker.
  defp answer_directly(nil, from, {:reply, reply}) when from != nil,
    do: GenServer.reply(from, reply)

  defp answer_directly(_answer, _from, _reply), do: :ok

  # --- what follows from an outcome -----------------------------------------------------------------

  # Before anything else; with the turn, if there is one.
  defp follow(w, {:continue, arg}), do: handle(w, :continue, arg, nil, nil, 0)
  defp follow(w, :hibernate), do: end_turn(%{w | hibernate?: true})

  defp follow(%{shared: nil} = w, {:timeout, ms}),
    do: %{w | timeout_at: System.monotonic_time(:millisecond) + ms}

  defp follow(w, :none), do: end_turn(w)

  # Of all workers together: the pool's own process has the timer.
  defp follow(w, {:timeout, ms}) do
    Owner.timeout(w.owner, Signals.arm(w.signals, w.broker), ms)
    end_turn(w)
  end

  # It goes on with the next one.
  defp end_turn(%{keeps_turn?: true} = w), do: w
  defp end_turn(w), do: leave_turn(w)

  defp leave_turn(%{shared: nil} = w), do: w
  defp leave_turn(%{shared: %{turn?: false}} = w), do: w
  defp leave_turn(w), do: %{w | shared: Shared.leave_turn(w.shared), in_turn: :infinity}

  # One state is one server: the pool ends as a whole, and takes this worker along.
  defp stop(%{shared: %{}} = w, reason, from, _answer, reply) do
    # Other callers are told by the end of the pool.
    if w.external? and reply == :noreply and from != nil,
      do: Answer.send_reply(from, {:error, reason})

    # The pool closes the turns too: this one may be killed before it comes to that.
    :ok = Owner.stop(w.owner, reason)
    :ok = Shared.close(w.shared)
    wait_for_end(w)
  end

  defp stop(w, reason, from, answer, reply) do
    if reply == :noreply and from != nil, do: Answer.fail(answer, reason)
    finish(w, reason)
  end

  defp wait_for_end(%{parent: parent} = w) do
    # It does not take any more, and keeps the turn: no handler that writes runs after this one.
    :ok = Broker.leave(w.worker)

    receive do
      {:EXIT, ^parent, reason} -> exit(reason)
      {:"$gen_pool_drain", to} -> send(to, {:drained, self()})
    end

    wait_for_end(w)
  end

  # As a GenServer: clean up, and end with the reason of the crash, which OTP reports.
  @spec crash(%__MODULE__{}, term(), list()) :: no_return()
  defp crash(w, reason, stack) do
    w = clean_up(w, reason)
    :ok = Broker.leave(w.worker)
    :erlang.raise(:exit, reason, stack)
  end

  @spec finish(%__MODULE__{}, term()) :: no_return()
  defp finish(w, reason) do
    w = clean_up(w, reason)
    :ok = Broker.leave(w.worker)
    exit(reason)
  end

  # The shared state is cleaned up after once, by the pool's own process.
  defp clean_up(%{shared: nil} = w, reason) do
    Callback.terminate(w.module, reason, w.state)
    w
  end

  defp clean_up(w, _reason), do: w

  # --- telemetry ----------------------------------------------------------------------------------

  # Once in a while. To read the clock for each message would cost as much as the message.
  defp listen(%{looked?: true} = w), do: w

  defp listen(w) do
    _timer = Process.send_after(self(), :"$gen_pool_look", @look_ms)
    listening? = Telemetry.listening?()
    if w.own, do: told(w, listening?), else: %{w | looked?: true, listening?: listening?}
  end

  # With a shared state, what becomes of requests depends on what each of them takes.
  defp told(%{told: listening?} = w, listening?), do: %{w | looked?: true, listening?: listening?}

  defp told(w, listening?) do
    :ok = Broker.sum_only(w.broker, not listening?)
    %{w | looked?: true, listening?: listening?, told: listening?}
  end

  defp started(%{listening?: false}, _kind, _queue_ns), do: nil

  defp started(w, kind, queue_ns) do
    times = %{system_time: System.system_time(), queue_time: native(queue_ns)}
    Telemetry.execute([:message, :start], times, metadata(w, kind))
    System.monotonic_time()
  end

  defp stopped(_w, _kind, nil, _queue_ns, _attempts), do: :ok

  defp stopped(w, kind, started, queue_ns, attempts) do
    measurements = Map.put(times(started, queue_ns), :attempts, attempts)
    Telemetry.execute([:message, :stop], measurements, metadata(w, kind))
  end

  # Crashes are rare, and always told.
  defp failed(w, kind, started, queue_ns, reason, stack) do
    metadata = Map.merge(metadata(w, kind), %{reason: reason, stacktrace: stack})

    Telemetry.execute(
      [:message, :exception],
      times(started || System.monotonic_time(), queue_ns),
      metadata
    )
  end

  defp retried(w, kind, attempt) do
    Signals.retried(w.signals)
    Telemetry.execute([:message, :retry], %{attempt: attempt}, metadata(w, kind))
  end

  defp times(started, queue_ns),
    do: %{duration: System.monotonic_time() - started, queue_time: native(queue_ns)}

  defp native(ns), do: System.convert_time_unit(ns, :nanosecond, :native)
  defp metadata(w, kind), do: %{pool: w.pool, worker: self(), kind: kind}

  # --- system messages ------------------------------------------------------------------------------

  @doc false
  def system_continue(parent, debug, w), do: loop(%{w | parent: parent, debug: debug})

  @doc false
  @spec system_terminate(term(), pid(), term(), %__MODULE__{}) :: no_return()
  def system_terminate(reason, _parent, _debug, w), do: finish(w, reason)

  @doc false
  def system_get_state(%{shared: nil} = w), do: {:ok, w.state}
  def system_get_state(w), do: {:ok, Shared.refresh(w.shared).state}

  @doc false
  def system_replace_state(fun, %{shared: nil} = w) do
    state = fun.(w.state)
    {:ok, state, %{w | state: state}}
  end

  def system_replace_state(fun, w) do
    shared = Shared.refresh(w.shared)
    state = fun.(shared.state)

    case shared.backend.update(shared.ref, shared.version, state) do
      {:ok, version} -> {:ok, state, %{w | shared: %{shared | version: version, state: state}}}
      :changed -> system_replace_state(fun, w)
    end
  end

  @doc false
  def system_code_change(w, _module, old_version, extra) do
    with false <- w.shared == nil and function_exported?(w.module, :code_change, 3),
         do: {:ok, w},
         else: (true -> change_code(w, old_version, extra))
  end

  defp change_code(w, old_version, extra) do
    with {:ok, state} <- w.module.code_change(old_version, w.state, extra),
         do: {:ok, %{w | state: state}}
  end
end
