defmodule PartitionedBuffer.Broker do
  @moduledoc false
  # Messages and workers: what `GenBuffer` and `GenPool` have in common.
  #
  # A message waits natively until a worker takes it; an idle worker is sent a wake-up. Or it is handed over to
  # an idle worker: then that one is sent the message, which it has to start. Taken is started: a worker that
  # dies before has started nothing, and one that dies after has started one message, which is reported. A worker may take
  # messages that nobody waits for along, several at once, and starts each by `begin/1`.
  # Workers belong to all partitions of their broker.
  #
  # Who uses it has to see to this:
  #
  #   * The keeper (`PartitionedBuffer.Broker.Keeper`) runs before the first worker joins, and as long as
  #     any of them.
  #   * A worker that took `:idle` does nothing but wait for `wake/0` and `handed/3`, unless it calls
  #     `withdraw/1` first. Otherwise a message could wait for it while others idle. After whatever it did it
  #     takes again.
  #   * After a wake-up it takes. Wake-ups may come without need.
  #   * Whenever it finds `handed/3` in its mailbox, it calls `start/2` and handles the message if that says so.
  #     Otherwise it takes.
  #
  # Invariants: a message is started once at the most; none waits beside an idle worker; what is dropped is
  # told at least once to who waits for it, once if the keeper lives.

  alias PartitionedBuffer.Broker.Keeper
  alias PartitionedBuffer.Native

  @type t :: Native.broker()
  @type worker :: Native.worker()
  @type id :: Native.message_id()

  @typedoc """
  How messages wait.

    * `:order` - which is taken: `:fifo` (default) or `:lifo`.
    * `:max` - how many may wait, in all partitions together: `:infinity` (default).
    * `:overflow` - what happens to one more: `:newest` (it is refused, default) or `:oldest` (the oldest
      is dropped).
    * `:timeout` - for how many milliseconds one may wait: `:infinity` (default). Of all that wait for
      longer, `:min` stay (0).
    * `:codel` - `{target_ms, interval_ms}`, or `nil` (default).
    * `:workers` - which idle worker is woken: `:lifo` (the one that worked last, default) or `:fifo`.
  """
  @type config :: %{
          optional(:order) => :fifo | :lifo,
          optional(:max) => non_neg_integer() | :infinity,
          optional(:overflow) => :newest | :oldest,
          optional(:min) => non_neg_integer(),
          optional(:timeout) => timeout(),
          optional(:codel) => {pos_integer(), pos_integer()} | nil,
          optional(:workers) => :fifo | :lifo
        }

  # A worker that takes looks at all of them.
  @most_lanes 8

  # --- the owner ---

  @doc """
  Opens the broker of this name, or finds the one that a former owner has left.

  `:lanes` for the number of partitions: as many as there are schedulers, whose messages are taken in the order in
  which they came, as if it was one. For messages of which any number may wait, and the oldest is taken: bounds are
  split.
  """
  @spec open(String.t(), pos_integer() | :lanes, config()) :: {:created | :adopted, t()}
  def open(name, :lanes, config) do
    lanes = min(System.schedulers_online(), @most_lanes)
    Native.broker_open(name, lanes, true, settings(config))
  end

  def open(name, partitions, config),
    do: Native.broker_open(name, partitions, false, settings(config))

  @doc "Changes how messages wait, also those that wait already."
  @spec configure(t(), config()) :: :ok
  def configure(broker, config), do: Native.broker_configure(broker, settings(config))

  @doc """
  If `alone?`, no worker is woken, or handed a message, while another one is at work, which is to say that it takes what
  waits as soon as it is through with what it has. A worker that is about to do anything else calls `withdraw/1`
  before, also if it is not idle. For who has no workers yet.
  """
  @spec work_alone(t(), boolean()) :: :ok
  def work_alone(broker, alone?), do: Native.broker_work_alone(broker, alone?)

  @doc """
  Whether nobody wants to know for how long each message waits or takes. Then `busy_ns` is added up of times that the operating
  system notes every few milliseconds, which are a fifth of the work to read: right in the sum, not for each. So for what
  `put_name/4` says that calls are for.
  """
  @spec sum_only(t(), boolean()) :: :ok
  def sum_only(broker, only?), do: Native.broker_time(broker, only?)

  @doc """
  Sets or clears bits of what workers have to look after before they take. What they mean is up to who calls this. A
  worker that is idle has to be woken besides; of the first bit those are told that are about to be.
  """
  @spec attend(t(), 0..255, boolean()) :: :ok
  def attend(broker, bits, set?), do: Native.broker_attend(broker, bits, set?)

  @doc "The bits that are set."
  @spec attention(t()) :: 0..255
  def attention(broker), do: Native.broker_attention(broker)

  @doc "Refuses messages from now on. Workers go on."
  @spec close(t()) :: :ok
  def close(broker), do: Native.broker_close(broker)

  @doc "The oldest messages that wait, with their replies; they wait no more."
  @spec take_rest(t(), pos_integer()) :: [{message :: term(), reply :: term()}]
  def take_rest(broker, count), do: Native.broker_take_rest(broker, count)

  @doc "Forgets the name. What waits is freed with the last reference to the broker."
  @spec release(t()) :: :ok
  def release(broker), do: Native.broker_release(broker)

  @doc """
  From now on `send_to/2` and `call/3` find it by this name, those of them that are said to need nothing besides.
  """
  @spec put_name(t(), atom(), boolean(), boolean()) :: :ok
  def put_name(broker, name, send?, call?), do: Native.broker_put_name(broker, name, send?, call?)

  @doc "From now on it is not found by this name."
  @spec erase_name(t(), atom()) :: :ok
  def erase_name(broker, name), do: Native.broker_erase_name(broker, name)

  @doc """
  From now on `post/2` and `request/3` find it by the name of this pool, whose keeper has this name. `watch` is the process whose end
  is the end of requests that wait.
  """
  @spec put_pool(t(), atom(), atom(), pid()) :: :ok
  def put_pool(broker, pool, keeper, watch),
    do: Native.broker_put_pool(broker, pool, keeper, watch)

  @doc "From now on it does not."
  @spec erase_pool(t(), atom()) :: :ok
  def erase_pool(broker, pool), do: Native.broker_erase_pool(broker, pool)

  # A reason may refer to the broker, as `from` of a request does: as a term, the broker would keep it, and it the broker.
  @doc "Who serves the broker is about to end, for this reason. The first one counts."
  @spec put_end(t(), term()) :: :ok
  def put_end(broker, reason), do: Native.broker_put_end(broker, :erlang.term_to_binary(reason))

  @doc "Why it has ended, if it said so."
  @spec why_ended(t()) :: {:ok, reason :: term()} | :error
  def why_ended(broker) do
    with {:ok, reason} <- Native.broker_end(broker), do: {:ok, :erlang.binary_to_term(reason)}
  end

  # --- callers ---

  @doc """
  `ask/5` of nobody who waits, for the broker of this name, if that is all there is to do, and if it goes without a
  wait; or `:queue_full`. Otherwise `:other`, and nothing has been done; or `{:wait, id}`: sent, and who did this calls
  `Keeper.flush/1`. A worker may take such messages along (`take_along/1`), so they can't be cancelled.
  """
  @spec send_to(term(), term()) :: :ok | {:wait, id()} | :queue_full | :other
  def send_to(name, message) do
    case Native.broker_send(name, message) do
      :ok -> :ok
      asked -> by_name(asked)
    end
  end

  @doc "`send_to/2` for the broker of the pool of this name: always all there is to do, unless the message is large."
  @spec post(atom(), term()) :: :ok | {:wait, id()} | :queue_full | :other
  def post(pool, message) do
    case Native.broker_post(pool, message) do
      :ok -> :ok
      asked -> by_name(asked)
    end
  end

  @doc """
  `hand_over/4` for the broker of the pool of this name, or `:other`, and nothing has been done. `{:stored, id}`: it waits in the queue;
  or `{:wait, id}`: the same, and who did this calls `Keeper.flush/1`. `reply` is `{caller, reference}`.

  The caller waits with no timer and no monitor, whatever becomes of any process: it is answered, or told that its message was dropped, or
  sent `slow/3`, once, after 10 to 20 ms, or earlier if its message goes anywhere but to a worker. If the answer comes after `slow/3`, or in the
  same moment, it is sent as `late/1`, and `slow/3` may come after it. So is the reason for which the message was dropped. So
  who is sent `late/1`, or is told that its worker has died, receives `slow/3` before it goes on, and nothing comes afterwards.
  """
  @spec request(atom(), term(), {pid(), reference()}) ::
          id() | {:stored, id()} | {:wait, id()} | :queue_full | :closed | :other
  def request(pool, message, reply) do
    case Native.broker_request(pool, message, reply) do
      id when is_integer(id) -> id
      {:stored, _id} = stored -> stored
      :closed -> :closed
      asked -> by_name(asked)
    end
  end

  @doc "`hand_over/4` for the broker of this name, as `send_to/2`. `{:stored, id}`: it waits in the queue."
  @spec call(term(), term(), term()) ::
          id() | {:stored, id()} | {:wait, id()} | :queue_full | :other
  def call(name, message, reply) do
    case Native.broker_call(name, message, reply) do
      id when is_integer(id) -> id
      {:stored, _id} = stored -> stored
      asked -> by_name(asked)
    end
  end

  defp by_name({:wait, _id} = wait), do: wait
  defp by_name(:queue_full), do: :queue_full
  defp by_name(_other), do: :other

  @doc """
  Sends a message.

  `reply` goes with it: to the worker that takes it, or to who reports that it was dropped (`nil`: to
  nobody). `caller` is the process whose death removes the message while it waits, or `nil`. `timeout` is
  how long it may wait at the most, in milliseconds, whatever the broker's own is.
  """
  @spec ask(t(), Keeper.server(), term(), term(), pid() | nil, non_neg_integer() | nil) ::
          id() | :queue_full | :closed
  def ask(broker, keeper, message, reply, caller, timeout \\ nil) do
    case Native.broker_ask(broker, message, reply, caller, timeout, false) do
      id when is_integer(id) ->
        id

      :heavy ->
        broker
        |> Native.broker_ask_dirty(message, reply, caller, timeout, false)
        |> asked(keeper)

      other ->
        asked(other, keeper)
    end
  end

  @doc """
  `ask/5` for a caller, which is the calling process; and if a worker is idle and nothing waits, the message is handed
  over to that one: it is sent `handed/3`. For brokers whose workers call `start/2` then.

  Until they do, a message that was handed over can be taken back, and is given to another worker if this one does
  something else first, is dismissed, or dies. But it waits no longer: no timeout counts, and no bound.
  """
  @spec hand_over(t(), Keeper.server(), term(), term()) :: id() | :queue_full | :closed
  def hand_over(broker, keeper, message, reply) do
    case hand_over_or_wait(broker, keeper, message, reply) do
      {:handed, id} -> id
      other -> other
    end
  end

  @doc "The same, and whether it was handed over."
  @spec hand_over_or_wait(t(), Keeper.server(), term(), term()) ::
          {:handed, id()} | id() | :queue_full | :closed
  def hand_over_or_wait(broker, keeper, message, reply) do
    case Native.broker_hand_over(broker, message, reply) do
      id when is_integer(id) -> id
      {:handed, _id} = handed -> handed
      :heavy -> ask(broker, keeper, message, reply, self())
      other -> asked(other, keeper)
    end
  end

  @doc "The same, if a worker is idle: that one, or one that becomes free earlier, takes it next."
  @spec ask_idle(t(), Keeper.server(), term(), term(), pid() | nil) ::
          id() | :no_worker | :queue_full | :closed
  def ask_idle(broker, keeper, message, reply, caller) do
    case Native.broker_ask(broker, message, reply, caller, nil, true) do
      :no_worker ->
        :no_worker

      :heavy ->
        case Native.broker_ask_dirty(broker, message, reply, caller, nil, true) do
          :no_worker -> :no_worker
          other -> asked(other, keeper)
        end

      other ->
        asked(other, keeper)
    end
  end

  defp asked(id, _keeper) when is_integer(id), do: id

  # Who causes more to be dropped than is reported waits until that is done.
  defp asked({:wait, id}, keeper) do
    Keeper.flush(keeper)
    id
  end

  defp asked(:heavy, _keeper) do
    raise ArgumentError, "a message of 4 GB or more can't be sent"
  end

  defp asked(refused, _keeper) when refused in [:queue_full, :closed], do: refused

  @doc """
  Takes a message back. `true`: it was waiting, is never started, and nobody is told. `false`: it has been
  started or dropped.
  """
  @spec cancel(t(), id()) :: boolean()
  def cancel(broker, id), do: Native.broker_cancel(broker, id)

  @doc """
  The caller waits no longer. `:taken_back`: the message was waiting and is never started. `:abandoned`: a worker
  has it, and `reply/3` will send nothing. `:through`: it was dropped or settled; if `reply/3` sends an answer, it
  does so at this moment.
  """
  @spec abandon(t(), id()) :: :taken_back | :abandoned | :through
  def abandon(broker, id), do: Native.broker_abandon(broker, id)

  # --- workers ---

  @doc "What an idle worker is sent."
  defmacro wake, do: :"$broker_wake"

  @doc """
  What the caller of `request/3` is sent: for how many milliseconds it has waited, and of its pool the broker, the keeper's
  name, and the process whose end is the end of the request.
  """
  defmacro slow(reply, ms, pool) do
    quote do: {:"$broker_slow", unquote(reply), unquote(ms), unquote(pool)}
  end

  @doc "What it is sent as an answer that comes late, or might; or the reason for which its message was dropped."
  defmacro late(answer), do: {:"$broker_late", answer}

  @doc "What an idle worker is sent instead, by `hand_over/4`."
  defmacro handed(id, message, reply) do
    quote do: {:"$broker_message", unquote(id), unquote(message), unquote(reply)}
  end

  @doc """
  Starts a message that the worker was sent: the nanoseconds that it has waited. `nil`: the worker must not start it.
  It was taken back or given to another one, or the worker has taken it by `take/1` already. Then the worker
  takes.

  If they are not to be `measured?` the time does not have to be asked for: then it is 0, and `busy_ns` counts from
  when the message was sent to the worker, unless times are only summed (`sum_only/2`).
  """
  @spec start(worker(), id(), boolean()) :: non_neg_integer() | nil
  def start(worker, id, measured? \\ true), do: Native.broker_start(worker, id, measured?)

  @doc "Makes the calling process a worker. It is not idle yet."
  @spec join(t()) :: worker()
  def join(broker), do: Native.broker_join(broker)

  @doc """
  Is through with the message that was taken before, and takes the next one, with the nanoseconds that it
  has waited, and its id. `:idle`: there is none, and `wake/0` will come. `:attend`: the same, but there is something to
  look after (`attend/3`). `:gone`: it has been dismissed, or has left.
  """
  @spec take(worker()) ::
          {message :: term(), reply :: term(), non_neg_integer(), id()} | :idle | :attend | :gone
  def take(worker), do: taken(Native.broker_take(worker), worker)

  @doc """
  The same; or, of messages that nobody waits for, a list of some. The worker starts each by `begin/1`, in order.

  Until it does they wait: any worker that has nothing else to do takes those that are left, or that is about to take a newer
  message that somebody waits for, or newer ones at all if this one does not come back to them. So does this one, if it takes
  again instead.

  `:attend`, if there is something to look after before: it has taken nothing, is not through with what it had, and may be
  idle.

  One that is `patient?` is told `:soon` if less waits than is worth to be taken along, be it nothing, and if nobody
  waits for any of it. Then it is not idle: it lets others run, looks into its mailbox, and takes again.
  """
  @spec take_along(worker(), boolean()) ::
          {message :: term(), reply :: term(), non_neg_integer(), id()}
          | [message :: term(), ...]
          | :soon
          | :idle
          | :attend
          | :gone
  def take_along(worker, patient? \\ false) do
    case Native.broker_take_along(worker, patient?) do
      [_ | _] = messages -> messages
      :soon -> :soon
      other -> taken(other, worker)
    end
  end

  @doc """
  Is through with the message before, and starts the next one of the list. `false`: it is not the worker's any more,
  nor are those behind it, or there is something to look after; and the worker takes again.
  """
  @spec begin(worker()) :: boolean()
  def begin(worker), do: Native.broker_begin(worker)

  @doc "What `take/1` answers, if this is what the native call has answered that took."
  @spec taken(Native.taken(), worker()) ::
          {message :: term(), reply :: term(), non_neg_integer(), id()} | :idle | :attend | :gone
  def taken(:again, worker), do: take(worker)
  def taken(:heavy, worker), do: take_dirty(worker)
  def taken(taken, _worker), do: taken

  defp take_dirty(worker) do
    case Native.broker_take_dirty(worker) do
      :again -> take(worker)
      :heavy -> take(worker)
      taken -> taken
    end
  end

  @doc "Is not idle any more until it takes `:idle` again; a wake-up that was on its way goes to another worker."
  @spec withdraw(worker()) :: :ok
  def withdraw(worker), do: Native.broker_withdraw(worker)

  @doc "Is through with the message that was taken."
  @spec done(worker(), :done | :failed) :: :ok
  def done(worker, how), do: Native.broker_done(worker, how == :failed)

  @doc """
  Is through with the message that was taken, and sends its answer. For a process of this node nothing can
  fall between the two, not even a kill: it gets this answer, or the one for a dead worker.
  """
  @spec reply(worker(), pid() | Process.dest() | reference(), term()) :: :ok
  def reply(worker, to, answer) when is_pid(to) and node(to) == node(),
    do: Native.broker_reply(worker, to, answer, false)

  def reply(worker, to, answer) do
    :ok = send_answer(to, answer)
    Native.broker_done(worker, false)
  end

  @doc """
  `reply/3` and `take/1`: for a process of this node they are one native call. Whatever has come to the worker's
  mailbox is to be looked at before: the message that is taken has been started. `:attend`: it has taken nothing, and may be
  idle.
  """
  @spec reply_take(worker(), pid() | Process.dest() | reference(), term()) ::
          {message :: term(), reply :: term(), non_neg_integer(), id()} | :idle | :attend | :gone
  def reply_take(worker, to, answer) do
    case Native.broker_reply_take(worker, to, answer) do
      :idle ->
        :idle

      :elsewhere ->
        :ok = reply(worker, to, answer)
        take(worker)

      taken ->
        taken(taken, worker)
    end
  end

  @doc "The same, but if anything waits it answers `:more`, and takes nothing."
  @spec reply_rest(worker(), pid() | Process.dest() | reference(), term()) ::
          :more | :idle | :attend | :gone
  def reply_rest(worker, to, answer) do
    case Native.broker_reply_rest(worker, to, answer) do
      :idle ->
        :idle

      :attend ->
        :attend

      :elsewhere ->
        :ok = reply(worker, to, answer)
        :more

      :gone ->
        :gone

      :again ->
        :more
    end
  end

  @doc "As `reply/3`, for a message that the worker has failed with."
  @spec fail(worker(), pid() | Process.dest() | reference(), term()) :: :ok
  def fail(worker, to, answer) when is_pid(to) and node(to) == node(),
    do: Native.broker_reply(worker, to, answer, true)

  def fail(worker, to, answer) do
    :ok = send_answer(to, answer)
    Native.broker_done(worker, true)
  end

  @doc "Sends to a process, an alias or a name; nobody there is nobody to be told."
  @spec send_answer(pid() | atom() | {atom(), node()} | reference(), term()) :: :ok
  def send_answer(to, answer) do
    _ = :erlang.send(to, answer)
    :ok
  rescue
    # No process has this name.
    ArgumentError -> :ok
  end

  @doc "Is a worker no more."
  @spec leave(worker()) :: :ok
  def leave(worker), do: Native.broker_leave(worker)

  @doc "This worker takes no more messages from now on; it goes on with what it has, and is told to leave then."
  @spec dismiss(t(), pid()) :: :ok
  def dismiss(broker, pid), do: Native.broker_dismiss(broker, pid)

  # --- figures ---

  @doc "How many messages wait."
  @spec size(t()) :: non_neg_integer()
  def size(broker), do: Native.broker_size(broker)

  @doc "The workers."
  @spec workers(t()) :: [pid()]
  def workers(broker), do: Native.broker_workers(broker)

  @doc "How many workers are idle."
  @spec idle(t()) :: non_neg_integer()
  def idle(broker), do: Native.broker_idle(broker)

  @doc """
  The figures. In every reading `accepted` is the sum of `done`, `failed`, `cancelled`, all of `dropped`,
  `waiting` and `in_flight`. `busy_ns` is the time that workers spent on messages that they are through with.
  """
  @spec info(t()) :: map()
  def info(broker) do
    figures = broker |> Native.broker_info() |> Map.from_struct()
    {started, figures} = Map.pop!(figures, :started)

    Map.merge(figures, %{
      dropped: Map.from_struct(figures.dropped),
      in_flight: started - figures.done - figures.failed
    })
  end

  @doc "What each worker does. `age_ns` is for how long it has worked on the message that it has."
  @spec crew(t()) :: [map()]
  def crew(broker) do
    for {pid, state, done, failed, busy_ns, age_ns} <- Native.broker_crew(broker) do
      %{pid: pid, state: state, done: done, failed: failed, busy_ns: busy_ns, age_ns: age_ns}
    end
  end

  defp settings(config) do
    {Map.get(config, :order, :fifo), finite(Map.get(config, :max, :infinity)),
     Map.get(config, :overflow, :newest), Map.get(config, :min, 0),
     finite(Map.get(config, :timeout, :infinity)), Map.get(config, :codel),
     Map.get(config, :workers, :lifo)}
  end

  # More than this is for ever.
  @ever 1_000_000_000_000

  defp finite(bound) when is_integer(bound) and bound < @ever, do: bound
  defp finite(_infinity), do: nil
end
