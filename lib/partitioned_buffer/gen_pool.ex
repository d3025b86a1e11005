defmodule PartitionedBuffer.GenPool do
  alias PartitionedBuffer.Broker
  alias PartitionedBuffer.Broker.Keeper
  alias PartitionedBuffer.GenPool.{Answer, Dropped, Handle, Options, Owner, Telemetry, Worker}

  require Broker
  require Dropped
  require Worker

  @moduledoc """
  A `GenServer` that is a pool: its callbacks run in several workers, on one state that is never torn.

      defmodule Counter do
        use PartitionedBuffer.GenPool, pool_size: 5, isolation: :optimistic

        def start_link(opts \\\\ []), do: PartitionedBuffer.GenPool.start_link(__MODULE__, opts)
        def add(value), do: PartitionedBuffer.GenPool.call(__MODULE__, {:add, value})

        @impl true
        def init(_opts), do: {:ok, 0}

        @impl true
        def handle_call({:add, value}, _from, count), do: {:reply, count + value, count + value}
      end

  Requests wait in one queue, natively, and the next free worker takes the next request. The queue can be
  bounded: what there is no room for is refused at once. A handler that crashes costs its caller an error and
  its worker the life; state, queue and the other workers are as they were. That is so however many crash. (Workers
  with a state of their own that end again and again without a request, a thousand in a second, end the pool with
  `:reached_max_restart_intensity`.)

  ## Callbacks

  They are those of `GenServer`, with all of its return values. `from` is one of `GenServer` too: answer it with
  `reply/2` or `GenServer.reply/2`, at any time, from any process.

  | callback | runs in | with a shared state |
  |---|---|---|
  | `init/1` | the pool's process | once |
  | `handle_continue/2` of `init/1` | the pool's process | before any request |
  | `handle_call/3`, `handle_cast/2` | the next free worker | |
  | `handle_info/2` | the next free worker for messages to the pool, a worker for messages to that worker | |
  | `handle_continue/2` | the same worker, before its next request | in the turn of the handler that asked for it |
  | `terminate/2` | the pool's process | once, after the last handler |

  With `shared_state?: false` each worker is a server of its own, and all callbacks run in it.

  | return value | with a shared state | with a state for each worker |
  |---|---|---|
  | a timeout | `handle_info(:timeout, state)` in some worker, if the pool handles nothing for so long | in that worker, if that worker handles nothing for so long |
  | `:hibernate` | the worker hibernates when it is free | the same |
  | `{:continue, arg}` | `handle_continue/2` follows in the same worker | the same |
  | `{:stop, reason, …}` | the *pool* ends with that reason, as one server would | that *worker* ends, and is replaced |
  | `{:stop, …}` or `:ignore` of `init/1` | what `start_link/3` returns | the same, if any worker says so when the pool is started |

  ## Shared state

  The state belongs to all workers, and a new one takes the place of exactly the state that its handler was
  given. What happens when two handlers run at the same time is the option `:isolation`:

    * `:exclusive` (default): a handler takes a turn before it reads the state and gives it up when its state
      is written. Turns go in order: nobody is overtaken, and a worker that is killed gives up its turn. So
      handlers run one at a time, as in a `GenServer`, except those that `c:read_only?/2` names. A module without
      that callback has its requests handled in the order of the queue. A worker keeps its turn until another one
      wants it, and then for up to 16 requests more, unless they are named to read only.
    * `:optimistic`: handlers run at the same time. One that changed the state and finds that it was changed
      meanwhile is run again, with the new state; after `:max_attempts` runs it takes a turn, for which the
      others wait. A handler that leaves the state as it was is never run again. Whatever a handler does
      besides returning should bear being done twice. Answers with `reply/2` are sent once: they leave when
      the state is written.

  As long as handlers that write take less than 50 microseconds and would only be in each other's way, one worker
  does all of it. The others join in when a handler takes longer: at once for a request that comes 0.2 ms after that handler
  has begun, and within 5 ms for one that came before.

  Either way the result is that of some order in which handlers run one after the other, and one that ends the pool is the
  last of them to write. (Handlers that run at the same time and leave the state as it is may still be answered until the
  pool has ended.) A handler that
  crashes, or whose worker is killed, has not changed the state, and its caller gets `{:error, reason}`; who gets an
  answer can rely on the state. (With another backend than the native one, a kill in the very moment between the two
  can leave a state that its caller was not told of.)

  A worker keeps its copy of the state, and gets another one only when it was changed: reading a large state
  costs nothing, writing one costs a copy of it in each worker.

  A handler may not `call/3` its own pool: it exits with `{:calling_self, …}`, as a `GenServer` does.

  ## Options

  Of `use PartitionedBuffer.GenPool`, and of `start_link/3`, where they take precedence:

  #{Options.pool_docs()}

  Of `use` only, as of `use GenServer`: `:id` and `:restart` of the child specification. (Its `:shutdown` is `:infinity`, since
  the pool bounds its end by itself.)

  ## Requests that are refused

  By default any number of requests wait for any time. A `PartitionedBuffer.GenPool.Broker` can bound both.
  What there is no room for, and what waited for too long, is answered with `{:error, :too_many_requests}`; a
  cast whose time is over is reported by an event.

  ## The pool's process

  The name is that of a process that owns the others. It is a `GenServer` to whoever has its pid: `send/2`,
  `GenServer.call/3` and `GenServer.cast/2` do what they should, also from other nodes, at the price of one more
  process. `call/3` and `cast/2` go past it.

  When the pool is stopped or its supervisor ends it, requests are refused, those that were accepted before are
  handled for up to `:shutdown` milliseconds, the workers end, `terminate/2` is called (whether the module
  traps exits or not), and what was left is discarded and reported.

  If the pool's process is killed, or that of its own broker, or the supervisor of its workers, the others of them go too, and
  callers exit.

  ## How a call ends

  when something of its pool does, before there is an answer:

  | | the call waits | a handler runs for it | its handler has left the answer to `reply/2` |
  |---|---|---|---|
  | its worker is killed, or the handler crashes | | `{:error, reason}` | waits on |
  | the keeper is killed | waits on | waits on | waits on |
  | the pool, the supervisor of its workers, or its own broker is killed | exits | exits | exits |
  | the pool is stopped, or a handler ends it | is handled if there is time, else exits | the same | exits |
  | the pool is killed or ends, and its broker is outside of it | waits for the next pool | is answered if there is time, else `{:error, reason}` | waits on |
  | the broker outside of the pool is killed or ends | exits | exits | exits |

  It exits with `{reason, _}`, where the reason is that of the end, or `{:broker_down, reason}`; `:killed` if nobody is left who
  could tell. A pool ends at once, and so without time for requests, if a handler ends it. A call that was sent to a worker that
  has not begun it waits, and goes to another one. Nobody is told `{:error, reason}` because the worker has ended with its pool, unless
  the broker is outside of that.

  A caller is told of a request that was dropped, or whose worker was killed, by the pool's *keeper*. If that one is
  killed in that very moment, its successor tells once more, so that nobody is left without: a second message may
  then stay in the caller's mailbox, `{:"$partitioned_buffer_dropped", reference, reason}`.

  ## Compared with `GenServer`

    * A handler that crashes does not take the server along, and its caller gets `{:error, reason}` instead of
      an exit. `reason` is that of the exit.
    * The order of requests is kept in the queue. With several workers, handlers overtake each other. If each has a state of
      its own and the queue no bounds, a worker takes up to 256 casts that wait along, and others begin newer ones
      meanwhile; those that it has not come to are any idle worker's, and go first if it does not come back to them within
      10 ms. A call begins after all casts that were accepted before it.
    * `cast/2` says whether it was accepted.
    * `self()` in a handler is a worker. A timer or a task that a handler starts sends to that worker, which
      handles the message whenever it is free, unless it was killed meanwhile; `Process.whereis(pool)` is the
      pool itself.
    * `init/1`, its `handle_continue/2` and `terminate/2` run in another process than the handlers, if the state
      is shared: what belongs to a process, like ETS tables or ports, belongs to the pool.

  ## Telemetry

  #{Telemetry.docs()}
  """

  @typedoc "The name of a pool, or its process."
  @type pool :: atom() | pid() | {atom(), node()}

  @typedoc "Why a request was refused."
  @type refusal :: :too_many_requests | :queue_full | :queue_timeout | :queue_delay

  @doc "As `c:GenServer.init/1`."
  @callback init(arg :: term()) ::
              {:ok, state}
              | {:ok, state, timeout() | :hibernate | {:continue, term()}}
              | :ignore
              | {:stop, reason :: term()}
              | {:error, reason :: term()}
            when state: term()

  @doc "As `c:GenServer.handle_call/3`."
  @callback handle_call(message :: term(), GenServer.from(), state :: term()) ::
              {:reply, reply, new_state}
              | {:reply, reply, new_state, timeout() | :hibernate | {:continue, term()}}
              | {:noreply, new_state}
              | {:noreply, new_state, timeout() | :hibernate | {:continue, term()}}
              | {:stop, reason, reply, new_state}
              | {:stop, reason, new_state}
            when reply: term(), new_state: term(), reason: term()

  @doc "As `c:GenServer.handle_cast/2`."
  @callback handle_cast(message :: term(), state :: term()) ::
              {:noreply, new_state}
              | {:noreply, new_state, timeout() | :hibernate | {:continue, term()}}
              | {:stop, reason :: term(), new_state}
            when new_state: term()

  @doc "As `c:GenServer.handle_info/2`."
  @callback handle_info(message :: term(), state :: term()) ::
              {:noreply, new_state}
              | {:noreply, new_state, timeout() | :hibernate | {:continue, term()}}
              | {:stop, reason :: term(), new_state}
            when new_state: term()

  @doc "As `c:GenServer.handle_continue/2`."
  @callback handle_continue(arg :: term(), state :: term()) ::
              {:noreply, new_state}
              | {:noreply, new_state, timeout() | :hibernate | {:continue, term()}}
              | {:stop, reason :: term(), new_state}
            when new_state: term()

  @doc "As `c:GenServer.terminate/2`."
  @callback terminate(reason :: term(), state :: term()) :: term()

  @doc "As `c:GenServer.code_change/3`, for workers that have a state each."
  @callback code_change(old_version :: term(), state :: term(), extra :: term()) ::
              {:ok, new_state :: term()} | {:error, reason :: term()}

  @doc """
  Whether the handler of this message leaves the state as it is. With `isolation: :exclusive` it then runs at the
  same time as any other handler. If it returns another state all the same, it has crashed.

  Without this callback no handler does.
  """
  @callback read_only?(kind :: :call | :cast | :info | :continue, message :: term()) :: boolean()

  @optional_callbacks handle_call: 3,
                      handle_cast: 2,
                      handle_info: 2,
                      handle_continue: 2,
                      terminate: 2,
                      code_change: 3,
                      read_only?: 2

  @doc false
  defmacro __using__(opts) do
    quote location: :keep, bind_quoted: [opts: opts] do
      @behaviour PartitionedBuffer.GenPool
      {child, pool} = Keyword.split(opts, [:id, :restart])
      @partitioned_buffer_gen_pool pool
      @partitioned_buffer_child child

      @doc false
      def __gen_pool__, do: @partitioned_buffer_gen_pool

      @doc false
      def child_spec(arg) do
        Supervisor.child_spec(
          %{
            id: __MODULE__,
            start: {__MODULE__, :start_link, [arg]},
            # It bounds its end by itself.
            shutdown: :infinity
          },
          @partitioned_buffer_child
        )
      end

      @doc false
      def handle_call(message, _from, _state) do
        raise "attempted to call #{inspect(__MODULE__)} but no handle_call/3 clause was provided for " <>
                inspect(message)
      end

      @doc false
      def handle_cast(message, _state) do
        raise "attempted to cast #{inspect(__MODULE__)} but no handle_cast/2 clause was provided for " <>
                inspect(message)
      end

      defoverridable child_spec: 1, handle_call: 3, handle_cast: 2
    end
  end

  @doc """
  A child specification of a pool: of a callback module, `{module, init_arg}`, or `{module, init_arg, opts}`.

  (A module that uses `PartitionedBuffer.GenPool` has a `child_spec/1` too, which starts its own `start_link/1`.)

      iex> PartitionedBuffer.GenPool.child_spec({MyPool, :arg, name: :my_pool}).id
      :my_pool
  """
  @spec child_spec(module() | {module(), term()} | {module(), term(), keyword()}) ::
          Supervisor.child_spec()
  def child_spec({module, arg, opts}) do
    %{
      id: opts |> PartitionedBuffer.Options.keyword!() |> Keyword.get(:name, module),
      start: {__MODULE__, :start_link, [module, arg, opts]},
      shutdown: :infinity
    }
  end

  def child_spec({module, arg}), do: child_spec({module, arg, []})
  def child_spec(module), do: child_spec({module, [], []})

  @doc """
  Starts a pool of this callback module and links it to the calling process. Returns when `init/1` has returned
  and the workers are there.

  Returns what `GenServer.start_link/3` of the module would: `{:ok, pid}`; `:ignore`; `{:error, reason}` when `init/1`
  says `{:stop, reason}` or crashes; `{:error, {:already_started, pid}}`. With `external_broker?: true` also
  `{:error, {:broker_not_running, name}}` and `{:error, {:already_joined, pool_pid}}`.

  Raises `NimbleOptions.ValidationError` if an option is wrong, and `ArgumentError` if the broker's module describes
  none.

      iex> defmodule Sum do
      ...>   use PartitionedBuffer.GenPool
      ...>   def init(sum), do: {:ok, sum}
      ...>   def handle_call({:add, n}, _from, sum), do: {:reply, sum + n, sum + n}
      ...>   def handle_cast({:add, n}, sum), do: {:noreply, sum + n}
      ...> end
      iex> {:ok, _pid} = PartitionedBuffer.GenPool.start_link(Sum, 10, name: :sum_example)
      iex> PartitionedBuffer.GenPool.call(:sum_example, {:add, 5})
      15
      iex> PartitionedBuffer.GenPool.stop(:sum_example)
      :ok
  """
  @spec start_link(module(), init_arg :: term(), keyword()) :: GenServer.on_start()
  def start_link(module, init_arg \\ [], opts \\ []) do
    unless is_atom(module) and Code.ensure_loaded?(module) and
             function_exported?(module, :init, 1) do
      raise ArgumentError, "expected a module with init/1, got: #{inspect(module)}"
    end

    used = if function_exported?(module, :__gen_pool__, 0), do: module.__gen_pool__(), else: []
    opts = Options.pool!(module, used, opts)
    # A wrong description is the caller's mistake, so it is found here.
    _ = unless opts.external_broker?, do: PartitionedBuffer.GenPool.Broker.describe!(opts.broker)
    Owner.start_link(module, init_arg, opts)
  end

  # A call that takes longer than this monitors the pool. Most are answered before, and to set a monitor up and take
  # it down, with the alias that goes with it, costs half of what they take.
  @patience_ms 10

  # Nor is there a timer until then, or a look for the pool's handle, either of which costs a tenth, if the request has at least this much
  # time: the broker tells the caller.
  @patient_from_ms 50
  @max_ms 4_294_967_295

  @doc """
  Sends a request and waits for its answer.

  The last argument is a timeout in milliseconds (default 5,000) or options:

  #{Options.call_docs()}

  Returns

    * what the handler answers
    * `{:error, :too_many_requests}` - the request was not handled: the queue was full, or it waited there for
      too long. With `errors: :precise`, which of the two.
    * `{:error, reason}` - the handler crashed with this reason, or its worker was killed (`:killed`, if it is not known
      how it has ended). The state is as if the request had not been made.

  Exits, as `GenServer.call/3`,

    * with `{:timeout, _}` when the time is over. A request that still waits is taken back; one that a worker
      has begun goes on, and its answer is discarded.
    * with `{:noproc, _}` when the pool is not running
    * with `{reason, _}` when the pool ends before the answer: see "How a call ends" above
    * with `{:calling_self, _}` from a callback of the same pool, if the state is shared

  A pool on another node, or given by its pid, is called through its process.

      iex> defmodule Slow do
      ...>   use PartitionedBuffer.GenPool
      ...>   def init(test), do: {:ok, test}
      ...>   def handle_call(:ping, _from, test), do: {:reply, :pong, test}
      ...> end
      iex> {:ok, _pid} = PartitionedBuffer.GenPool.start_link(Slow, self())
      iex> PartitionedBuffer.GenPool.call(Slow, :ping, 1_000)
      :pong
      iex> PartitionedBuffer.GenPool.call(Slow, :ping, timeout: 1_000, errors: :precise)
      :pong
      iex> PartitionedBuffer.GenPool.stop(Slow)
      :ok
  """
  @spec call(pool(), message :: term(), timeout() | keyword()) :: term()
  def call(pool, message, timeout_or_opts \\ 5_000)

  # The usual one.
  def call(pool, message, timeout)
      when is_atom(pool) and timeout in @patient_from_ms..@max_ms do
    if Worker.inside?(pool), do: leave(:calling_self, pool, message, timeout)
    request(pool, message, timeout, :plain, timeout)
  end

  def call(pool, message, timeout_or_opts) when is_atom(pool) do
    {timeout, errors} = Options.call!(timeout_or_opts)
    if Worker.inside?(pool), do: leave(:calling_self, pool, message, timeout_or_opts)

    # A number is less than an atom.
    if timeout >= @patient_from_ms,
      do: request(pool, message, timeout, errors, timeout_or_opts),
      else: ask(pool, message, timeout, errors, timeout_or_opts)
  end

  def call(pool, message, timeout_or_opts) do
    {timeout, _errors} = Options.call!(timeout_or_opts)
    GenServer.call(pool, message, timeout)
  end

  # What is answered natively is answered once, and not at all after `Broker.abandon/2`; so no alias has to keep late
  # answers away. All in one function: a reference that was just made is looked for among what came after it.
  defp request(pool, message, timeout, errors, opts) do
    ref = make_ref()

    sent =
      case Broker.request(pool, {:call, message}, {self(), ref}) do
        # Who has to wait lets others run first: mostly there is an answer after that, and nobody has had to wake it.
        # Not with the worker about to run: another scheduler would steal one of the two.
        {:stored, id} ->
          _ = :erlang.yield()
          id

        {:wait, id} ->
          flush(pool)
          id

        sent ->
          sent
      end

    case sent do
      id when is_integer(id) ->
        receive do
          {^ref, reply} ->
            reply

          Broker.slow({_self, ^ref}, ms, told) ->
            told
            |> Handle.told()
            |> watch(ref, id, rest(timeout, ms), errors, {pool, message, opts})

          Broker.late({^ref, reply}) ->
            told(ref)
            reply

          Dropped.message(^ref, Broker.late(reason)) ->
            told(ref)
            dropped(reason, errors)

          Dropped.message(^ref, {:worker_down, reason}) ->
            told(ref)
            {:error, reason}

          Dropped.message(^ref, reason) ->
            dropped(reason, errors)
        end

      :queue_full ->
        queue_full(pool, errors)

      # As below.
      :closed ->
        leave(:noproc, pool, message, opts)

      :other ->
        ask(pool, message, timeout, errors, opts)
    end
  end

  defp ask(pool, message, timeout, errors, opts) do
    case Handle.fetch(pool) do
      {:ok, handle} -> ask(handle, pool, message, timeout, errors, opts)
      :error -> leave(:noproc, pool, message, opts)
    end
  end

  # As `request/5`.
  defp ask(%{broker: broker, keeper: keeper} = handle, pool, message, timeout, errors, opts) do
    ref = make_ref()

    sent =
      case Broker.hand_over_or_wait(broker, keeper, {:call, message}, {self(), ref}) do
        {:handed, id} ->
          id

        # As above, and no timer has to be set.
        sent ->
          _ = :erlang.yield()
          sent
      end

    case sent do
      id when is_integer(id) ->
        # A number is less than an atom.
        patience = min(timeout, @patience_ms)

        receive do
          {^ref, reply} -> reply
          Dropped.message(^ref, reason) -> dropped(reason, errors)
        after
          patience ->
            watch(handle, ref, id, rest(timeout, patience), errors, {pool, message, opts})
        end

      :queue_full ->
        queue_full(pool, errors)

      # It ends, or has been killed and is started again.
      :closed ->
        leave(:noproc, pool, message, opts)
    end
  end

  # It is on its way.
  defp told(ref) do
    receive do
      Broker.slow({_self, ^ref}, _ms, _pool) -> :ok
    end
  end

  defp watch(handle, ref, id, 0, errors, call), do: timed_out(handle, ref, id, errors, call)

  defp watch(handle, ref, id, rest, errors, {pool, message, opts} = call) do
    monitor = Process.monitor(handle.watch)

    receive do
      {^ref, reply} ->
        Process.demonitor(monitor, [:flush])
        reply

      Broker.late({^ref, reply}) ->
        Process.demonitor(monitor, [:flush])
        reply

      Dropped.message(^ref, reason) ->
        Process.demonitor(monitor, [:flush])
        dropped(reason, errors)

      {:DOWN, ^monitor, :process, _pool, reason} ->
        _ = give_up(handle, ref, id)
        reason |> Handle.ended(handle) |> leave(pool, message, opts)
    after
      rest ->
        Process.demonitor(monitor, [:flush])
        timed_out(handle, ref, id, errors, call)
    end
  end

  defp rest(:infinity, _ms), do: :infinity
  defp rest(timeout, ms), do: max(timeout - ms, 0)

  defp timed_out(handle, ref, id, errors, {pool, message, opts}) do
    case give_up(handle, ref, id) do
      {:answered, reply} -> reply
      {:dropped, reason} -> dropped(reason, errors)
      :nothing -> leave(:timeout, pool, message, opts)
    end
  end

  @late_ms 10

  # Nothing comes after this. A worker that is about to answer does so at once, since it has been told that the
  # request is through; so its answer is waited for, rather than left in the mailbox. And who would tell that the
  # request was dropped, or that its worker has died, has done so when it is flushed.
  defp give_up(%{broker: broker, keeper: keeper}, ref, id) do
    case Broker.abandon(broker, id) do
      :taken_back ->
        :nothing

      :abandoned ->
        :ok = Keeper.flush(keeper)
        late(ref, 0)

      :through ->
        :ok = Keeper.flush(keeper)
        late(ref, @late_ms)
    end
  end

  defp late(ref, ms) do
    receive do
      {^ref, reply} -> {:answered, reply}
      Broker.late({^ref, reply}) -> {:answered, reply}
      Dropped.message(^ref, reason) -> {:dropped, reason}
    after
      ms -> :nothing
    end
  end

  defp dropped(Broker.late(reason), errors), do: dropped(reason, errors)
  defp dropped({:worker_down, reason}, _errors), do: {:error, reason}
  defp dropped(reason, errors), do: refused(reason, errors)

  defp queue_full(pool, errors) do
    Telemetry.dropped(pool, 1, :queue_full)
    refused(:queue_full, errors)
  end

  defp refused(reason, :precise), do: {:error, reason}
  defp refused(_reason, :plain), do: Dropped.refused()

  @spec leave(term(), pool(), term(), term()) :: no_return()
  defp leave(reason, pool, message, opts),
    do: exit({reason, {__MODULE__, :call, [pool, message, opts]}})

  @doc """
  Sends a request that is not answered.

  Returns `:ok` when it was accepted: then it is handled, unless it waits for too long or the pool ends, and that
  is reported by an event. Returns `{:error, :too_many_requests}` (with `errors: :precise`: `{:error, :queue_full}`)
  if there is no room for it, and `{:error, :noproc}` if the pool is not running. A pool on another node, or given
  by its pid, is sent to through its process, and `:ok` says nothing.

  ## Options

  #{Options.cast_docs()}

  ## Examples

      iex> PartitionedBuffer.GenPool.cast(:no_such_pool, :message)
      {:error, :noproc}
  """
  @spec cast(pool(), message :: term(), keyword()) :: :ok | {:error, refusal() | :noproc}
  def cast(pool, message, opts \\ [])

  def cast(pool, message, opts) when is_atom(pool) do
    errors = Options.cast!(opts)

    case Broker.post(pool, {:cast, message}) do
      :ok -> :ok
      {:wait, _id} -> flush(pool)
      :queue_full -> queue_full(pool, errors)
      :other -> cast_other(pool, message, errors)
    end
  end

  def cast(pool, message, opts) do
    _ = Options.cast!(opts)
    GenServer.cast(pool, message)
  end

  # Who causes more to be dropped than is reported waits until that is done.
  defp flush(pool) do
    with {:ok, %{keeper: keeper}} <- Handle.fetch(pool), do: Keeper.flush(keeper)
    :ok
  end

  # It may be one that takes long to copy.
  defp cast_other(pool, message, errors) do
    with {:ok, %{broker: broker, keeper: keeper}} <- Handle.fetch(pool),
         id when is_integer(id) <- Broker.ask(broker, keeper, {:cast, message}, nil, nil) do
      :ok
    else
      :queue_full -> queue_full(pool, errors)
      _closed_or_unknown -> {:error, :noproc}
    end
  end

  @doc """
  Answers a call whose handler returned `{:noreply, …}`, or will. `from` is the handler's second argument. From any
  process, at any time; a caller that does not wait any more gets nothing.

  In a handler on a shared state, the answer leaves when the handler's new state is written.

      iex> defmodule Later do
      ...>   use PartitionedBuffer.GenPool
      ...>   def init(_), do: {:ok, nil}
      ...>   def handle_call(:later, from, state) do
      ...>     spawn(fn -> PartitionedBuffer.GenPool.reply(from, :now) end)
      ...>     {:noreply, state}
      ...>   end
      ...> end
      iex> {:ok, _pid} = PartitionedBuffer.GenPool.start_link(Later)
      iex> PartitionedBuffer.GenPool.call(Later, :later)
      :now
      iex> PartitionedBuffer.GenPool.stop(Later)
      :ok
  """
  @spec reply(GenServer.from(), term()) :: :ok
  def reply(from, reply), do: Answer.reply(from, reply)

  @doc """
  Stops a pool: see "The pool's process" above. The default reason is `:normal`; with another one than that,
  `:shutdown` or `{:shutdown, _}`, OTP reports it.

  Returns `:ok` when it has ended. `timeout` (milliseconds) is how long this call waits; when it is over the call exits
  with `{:timeout, _}`, and the pool goes on ending. Exits with `{:noproc, _}` if the pool is not running, and raises
  `ArgumentError` if the timeout is none. A handler that stops its own pool waits for itself: return
  `{:stop, reason, state}` instead.

      iex> defmodule Ends do
      ...>   use PartitionedBuffer.GenPool
      ...>   def init(test), do: {:ok, test}
      ...>   def terminate(reason, test), do: send(test, {:ended, reason})
      ...> end
      iex> {:ok, _pid} = PartitionedBuffer.GenPool.start_link(Ends, self())
      iex> PartitionedBuffer.GenPool.stop(Ends, :normal, 10_000)
      :ok
      iex> receive do: ({:ended, reason} -> reason)
      :normal
  """
  @spec stop(pool(), reason :: term(), timeout()) :: :ok
  def stop(pool, reason \\ :normal, timeout \\ :infinity),
    do:
      pool
      |> process(:stop)
      |> GenServer.stop(reason, PartitionedBuffer.Options.timeout!(timeout))

  @doc """
  The shared state; or, if each worker has its own, a list of those, in no particular order, of the workers that
  are there.

  A worker that is busy answers with its own state when its handler has returned. Exits with `{:noproc, _}` if the pool
  is not running.

      iex> defmodule Kept do
      ...>   use PartitionedBuffer.GenPool
      ...>   def init(state), do: {:ok, state}
      ...> end
      iex> alias PartitionedBuffer.GenPool
      iex> {:ok, _pid} = GenPool.start_link(Kept, :state)
      iex> GenPool.get_state(Kept)
      :state
      iex> GenPool.stop(Kept)
      :ok
      iex> {:ok, _pid} = GenPool.start_link(Kept, :state, pool_size: 2, shared_state?: false)
      iex> GenPool.get_state(Kept)
      [:state, :state]
      iex> GenPool.stop(Kept)
      :ok
  """
  @spec get_state(pool()) :: term()
  def get_state(pool) do
    owner = process(pool, :get_state)

    case Owner.state(owner) do
      {:shared, backend, ref} ->
        shared_state(pool, owner, backend, ref)

      {:workers, workers} ->
        Enum.flat_map(workers, &worker_state/1)
    end
  end

  defp shared_state(pool, owner, backend, ref) do
    {_version, state} = backend.get(ref, nil)
    state
  catch
    kind, reason ->
      # What it owned has gone with it.
      if is_pid(owner) and node(owner) == node() and not Process.alive?(owner),
        do: exit({:noproc, {__MODULE__, :get_state, [pool]}}),
        else: :erlang.raise(kind, reason, __STACKTRACE__)
  end

  defp worker_state(worker) do
    [:sys.get_state(worker, :infinity)]
  catch
    # It has ended meanwhile.
    :exit, _reason -> []
  end

  @doc """
  The pids of the workers. One that has died has been replaced, one that is about to leave is not among them.
  Exits with `{:noproc, _}` if the pool is not running.

      iex> defmodule Empty do
      ...>   use PartitionedBuffer.GenPool, pool_size: 4
      ...>   def init(_), do: {:ok, nil}
      ...> end
      iex> {:ok, _pid} = PartitionedBuffer.GenPool.start_link(Empty)
      iex> length(PartitionedBuffer.GenPool.get_children(Empty))
      4
      iex> PartitionedBuffer.GenPool.set_pool_size(Empty, 2)
      :ok
      iex> length(PartitionedBuffer.GenPool.get_children(Empty))
      2
      iex> PartitionedBuffer.GenPool.stop(Empty)
      :ok
  """
  @spec get_children(pool()) :: [pid()]
  def get_children(pool), do: pool |> process(:get_children) |> Owner.workers()

  @doc """
  Changes the number of workers of a running pool. New ones start on what waits at once. Of those that are too many,
  idle ones end now, others when they are through with what they have. With `0`, requests wait until there are
  workers again.

  Returns `:ok`, or `{:error, reason}` if a worker that has a state of its own could not be started; those that could are
  there. Raises `ArgumentError` if it is no such number, and exits with `{:noproc, _}` if the pool is not running. See
  `get_children/1` for an example.
  """
  @spec set_pool_size(pool(), non_neg_integer()) :: :ok | {:error, term()}
  def set_pool_size(pool, size) do
    size = Options.pool_size!(size)
    pool |> process(:set_pool_size) |> Owner.resize(size)
  end

  @doc """
  How things stand. `accepted` is `done`, `failed`, `cancelled`, all of `dropped`, `waiting` and `in_flight`
  together, in every reading.

    * `module`, `pool_size`, `workers` - what it is made of
    * `isolation` - `nil` if each worker has its own state
    * `retries` - how often handlers were run again because the state was changed underneath
    * `messages` - those to the pool's own process that wait for a worker
    * `accepted` - requests accepted (the pool's own, by which it wakes a worker for a message, among them)
    * `refused` - requests that there was no room for; they were not accepted
    * `waiting`, `in_flight`, `done`, `failed`, `cancelled` - requests that wait, that a worker has now, that are
      through, whose handler crashed or was killed, that were taken back by callers whose time was over
    * `dropped` - requests that were given up, by reason
    * `bytes`, `oldest_age_ns` - memory and age of what waits
    * `idle` - workers that wait for a request
    * `busy_ns` - time that workers have spent on requests that they are through with

  Exits with `{:noproc, _}` if the pool is not running.

      iex> defmodule Figures do
      ...>   use PartitionedBuffer.GenPool, pool_size: 2
      ...>   def init(_arg), do: {:ok, 0}
      ...>   def handle_call(:next, _from, count), do: {:reply, count, count + 1}
      ...> end
      iex> {:ok, _pid} = PartitionedBuffer.GenPool.start_link(Figures)
      iex> PartitionedBuffer.GenPool.call(Figures, :next)
      0
      iex> info = PartitionedBuffer.GenPool.info(Figures)
      iex> {info.pool_size, info.isolation, info.waiting, info.refused}
      {2, :exclusive, 0, 0}
      iex> PartitionedBuffer.GenPool.stop(Figures)
      :ok
  """
  @spec info(pool()) :: map()
  def info(pool) do
    {broker, info} = pool |> process(:info) |> Owner.info()
    broker |> Broker.info() |> Map.merge(info)
  end

  # What else may have the name is not asked: it would not bear that.
  defp process(pool, function) when is_atom(pool),
    do: Owner.whereis(pool) || exit({:noproc, {__MODULE__, function, [pool]}})

  defp process({pool, node}, function) when node == node(), do: process(pool, function)
  defp process(pool, _function), do: pool
end
