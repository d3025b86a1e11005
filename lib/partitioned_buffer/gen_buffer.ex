defmodule PartitionedBuffer.GenBuffer do
  @moduledoc """
  Messages for a pool of stateful workers: handled at once if one is free, kept until then if all are busy, with
  replies if wanted.

  A worker is a process with a state of its own. What it does with a message is told by a module:

      iex> defmodule Adder do
      ...>   use PartitionedBuffer.GenBuffer
      ...>
      ...>   @impl true
      ...>   def init(start), do: {:ok, start}
      ...>
      ...>   @impl true
      ...>   def handle_message(_buffer, number, sum), do: {:ok, sum + number, sum + number}
      ...> end
      iex> alias PartitionedBuffer.GenBuffer
      iex> {:ok, _pid} =
      ...>   GenBuffer.start_link(:adder,
      ...>     message_handler: Adder,
      ...>     init_args: 10,
      ...>     workers: 1,
      ...>     send_replies: true
      ...>   )
      iex> ref = GenBuffer.send(:adder, 5)
      iex> GenBuffer.recv(:adder, ref)
      {:ok, 15}
      iex> GenBuffer.send_recv(:adder, 1)
      {:ok, 16}
      iex> GenBuffer.stop(:adder)
      :ok

  In a supervision tree, with `use PartitionedBuffer.GenBuffer` in the module or without:

      children = [
        {MyApp.Mailer, buffer: :mails, workers: 8},
        {PartitionedBuffer.GenBuffer, buffer: :reports, message_handler: MyApp.Reports}
      ]

  Options of `use` are those of the module's child specification, unless that is given others.

  ## Options

  #{PartitionedBuffer.GenBuffer.Options.docs()}

  Options may be a keyword list or a map. Those that are not known are ignored by `start_link/2`.

  ## What is guaranteed

    * Messages are kept natively. Any process of the buffer may die, its supervisor as well if it is
      started again under the same name: no message that waits is lost.
    * A message is handled once at the most. One that a worker has started is never given to another. If
      the worker raises, throws, exits, or is killed, who waits for the answer is told; the next worker takes
      its place at once, however often that happens.
    * No message waits while a worker is idle. That goes for workers that are added, too, and for all partitions.
    * Messages that wait are taken in the order in which they came, or in the reverse order
      (`buffer_type: :lifo`), within a partition. With several workers, the order in which they are handled is
      another matter.
    * A message that was accepted is handled, or its end is reported (and counted in `info/1`): it failed, its
      worker died, it was dropped, or it was left when the buffer was stopped.
    * Who waits for an answer gets one. Only if the process that tells of dropped messages and dead workers is killed
      while it tells does its successor tell again: a second `{:error, reference, buffer, reason}` may then stay in the
      mailbox.

  ## Telemetry

  See `PartitionedBuffer.GenBuffer.Telemetry`.

  ## Different from gen_buffer 0.1

  The calls, options, shapes and error atoms are those of gen_buffer for Erlang. What is different:

    * It starts. (gen_buffer needs `pg2`, which OTP 24 removed.)
    * A worker takes what waits by itself: as soon as it is started, and in every other case. `poll/1` is there
      and has nothing left to do.
    * `eval/2,3` never spins: it makes one attempt more than there are retries, whether their number is even or
      odd, and returns `:no_available_workers`. A message is never taken for anything else, whatever its
      shape. It has no timeout.
    * A killed worker swallows one message at the most, and that is reported: `{:error, {:worker_down, :killed}}`.
      One whose `c:init/1` returns `:ignore` swallows none.
    * Handlers may crash as often as they like without ending the buffer and its backlog.
    * When `c:init/1` returns `{:stop, reason}`, `start_link/2` returns `{:error, reason}`. Later on,
      workers that can't be started are tried again ten times a second.
    * What a handler returns that is not `{:ok, reply, state}` is told to who waits for the answer:
      `{:error, {:bad_return_value, returned}}`.
    * `size/1` of a ring goes down when messages are taken. A sender whose message was overwritten is told
      `{:error, :full}`.
    * `send/2,3`, `send_recv/2,3` and `eval/2,3` raise `ArgumentError` when no buffer of that name is running.
    * `recv/3` and `send_recv/3` that have run out of time: an answer that comes later does not reach the
      mailbox after `send_recv/3`, and `discard/2` does the same for `send/2`. A message of
      `send_recv/3` that still waits then is never handled, and neither is that of a caller that has died.
    * `send_recv/2,3` is answered whatever `:send_replies` says.
    * `set_workers/2,3` takes `0`. `decr_worker/1` and `set_workers/2,3` let workers finish what they are at.
    * Workers trap exits.
    * `stop/1` lets the workers go on for `:drain_timeout_ms`, and reports what is left; `stop/2` hands it back.
    * New: `:max`, `:overflow`, `:queue_timeout_ms`, `:drain_timeout_ms`, `discard/2`, `stop/2`, telemetry.
  """

  import Kernel, except: [send: 2]

  alias PartitionedBuffer.{Broker, Native}
  alias PartitionedBuffer.Broker.Keeper
  alias PartitionedBuffer.GenBuffer.{Handle, Listener, Manager, Options, Supervisor, Telemetry}

  # What `receive` can wait for.
  @max_ms 4_294_967_295

  @typedoc "The name of a buffer."
  @type buffer :: atom()
  @typedoc "Where answers are sent: a process or a name."
  @type reply_to :: pid() | atom() | {atom(), node()}
  @type opts :: keyword() | map()
  @type received :: {:ok, reply :: term()} | {:error, reason :: term()}

  @doc """
  Handles one message.

  Returns `{:ok, reply, new_state}`. Whatever else happens ends the worker: another one, with a fresh
  state, takes its place, and who waits for the answer gets `{:error, reason}`, with what was raised, thrown,
  or the reason of an exit, as it is.
  """
  @callback handle_message(buffer(), message :: term(), state :: term()) ::
              {:ok, reply :: term(), new_state :: term()}

  @doc """
  Prepares a worker, in its process. Called with `:init_args`.

  Without it, the state is `:init_args`. With a timeout, `c:handle_info/3` is called with `:timeout` if the
  worker has nothing to do for that many milliseconds.
  """
  @callback init(init_args :: term()) ::
              {:ok, state :: term()}
              | {:ok, state :: term(), timeout() | :hibernate}
              | {:stop, reason :: term()}
              | :ignore

  @doc """
  Handles a message that was sent to the worker's process by other means. May also throw what it would return.
  While it runs, the worker is not available. Without it, such messages are dropped, but an exit of a linked
  process ends the worker, unless its reason is `:normal`.

  What comes by `GenServer.call/3` is answered with `:ok`, and what comes by `GenServer.cast/2` is dropped, in any case.
  """
  @callback handle_info(buffer(), message :: term(), state :: term()) ::
              {:noreply, new_state :: term()}
              | {:noreply, new_state :: term(), timeout() | :hibernate}
              | {:stop, reason :: term(), new_state :: term()}

  @doc "Called when the worker ends, unless it is killed. What it returns or throws is ignored."
  @callback terminate(buffer(), reason :: term(), state :: term()) :: any()

  @optional_callbacks init: 1, handle_info: 3, terminate: 3

  @doc false
  defmacro __using__(opts) do
    quote location: :keep, bind_quoted: [opts: opts] do
      @behaviour PartitionedBuffer.GenBuffer
      @partitioned_buffer_gen_buffer PartitionedBuffer.GenBuffer.Options.keyword!(opts)

      @doc """
      A child specification of a `PartitionedBuffer.GenBuffer` with this module as its handler. Its name is the
      option `:buffer`, by default this module.
      """
      def child_spec(opts) do
        @partitioned_buffer_gen_buffer
        |> Keyword.merge(PartitionedBuffer.GenBuffer.Options.keyword!(opts))
        |> Keyword.put_new(:buffer, __MODULE__)
        |> Keyword.put_new(:message_handler, __MODULE__)
        |> PartitionedBuffer.GenBuffer.child_spec()
      end

      defoverridable child_spec: 1
    end
  end

  @doc """
  Starts a buffer and links it to the calling process.

  Returns `{:ok, pid}`, `{:error, {:already_started, pid}}` if one of this name is running, or
  `{:error, reason}` with the reason of `{:stop, reason}` or of an exception of `c:init/1`.

  Exits with `{{:missing_option, :message_handler}, _}`, `{{:invalid_message_handler, module}, _}` if there is
  no such module, or `{{:missing_callback, :handle_message}, _}`. Raises `NimbleOptions.ValidationError` if
  another option is wrong, and `ArgumentError` if the options are neither a keyword list nor a map.

      iex> try do
      ...>   PartitionedBuffer.GenBuffer.start_link(:wrong, message_handler: Enum)
      ...> catch
      ...>   :exit, {reason, _call} -> reason
      ...> end
      {:missing_callback, :handle_message}
  """
  @spec start_link(buffer(), opts()) :: Elixir.Supervisor.on_start()
  def start_link(buffer, opts) do
    keyword = Options.keyword!(opts)
    :ok = check_handler(keyword, {__MODULE__, :start_link, [buffer, opts]})

    case PartitionedBuffer.Options.name(buffer) do
      {:ok, buffer} -> Supervisor.start_link(buffer, Options.start!(keyword))
      {:error, message} -> raise ArgumentError, message
    end
  end

  defp check_handler(opts, call) do
    with {:error, reason} <- Options.handler(opts), do: exit({reason, call})
  end

  @doc false
  @spec start_link(opts()) :: Elixir.Supervisor.on_start()
  def start_link(opts) do
    {buffer, opts} = opts |> Options.keyword!() |> Keyword.pop!(:buffer)
    start_link(buffer, opts)
  end

  @doc """
  A child specification. The option `:buffer` is the buffer's name and the id.

      iex> spec = PartitionedBuffer.GenBuffer.child_spec(buffer: :mails, message_handler: MyApp.Mailer)
      iex> {spec.id, spec.type}
      {:mails, :supervisor}

  Raises `KeyError` without `:buffer`.
  """
  @spec child_spec(opts()) :: Elixir.Supervisor.child_spec()
  def child_spec(opts) do
    %{
      id: opts |> Options.keyword!() |> Keyword.fetch!(:buffer),
      start: {__MODULE__, :start_link, [opts]},
      type: :supervisor
    }
  end

  @doc """
  Stops a buffer. `:ok`, also if there is none of this name.

  It takes no more messages, and its workers go on for up to `:drain_timeout_ms`, until nothing waits.
  What is left then is discarded, counted, and reported as `:shutdown`. Workers that are in the middle of a
  message get five more seconds. (A handler that stops its own buffer waits for itself until then, and is killed.)
  """
  @spec stop(buffer()) :: :ok
  def stop(buffer) when is_atom(buffer) do
    case Process.whereis(PartitionedBuffer.Names.supervisor(buffer)) do
      nil -> :ok
      pid -> stop_supervisor(pid)
    end
  end

  defp stop_supervisor(pid) do
    Elixir.Supervisor.stop(pid, :normal, :infinity)
  catch
    # Somebody else has stopped it, or it was killed.
    :exit, _reason -> :ok
  end

  @doc """
  Stops a buffer within a time, and hands back what was left: `{:left, messages}`, the oldest of each partition
  first, or `:ok` if there was nothing, or no buffer of this name.

  For `timeout` milliseconds workers go on; `0` hands everything back that waits. Senders that wait for an
  answer to one of `messages` are told `{:error, :shutdown}`.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.GenBuffer.start_link(:stop_doc, message_handler: DocHandler, workers: 0)
      iex> PartitionedBuffer.GenBuffer.send(:stop_doc, :one)
      iex> PartitionedBuffer.GenBuffer.send(:stop_doc, :two)
      iex> PartitionedBuffer.GenBuffer.stop(:stop_doc, 0)
      {:left, [:one, :two]}
      iex> PartitionedBuffer.GenBuffer.stop(:stop_doc, 0)
      :ok
  """
  @spec stop(buffer(), timeout()) :: :ok | {:left, [message :: term()]}
  def stop(buffer, timeout) when is_atom(buffer) do
    timeout = PartitionedBuffer.Options.timeout!(timeout)

    # Taken by this process: a list of very many messages is better not sent.
    left =
      with {:ok, handle} <- Handle.fetch(buffer), {:ok, :ok} <- call(handle, {:drain, timeout}) do
        Manager.hand_back(buffer, handle, &Enum.reverse/2, [])
      else
        _not_running -> []
      end

    :ok = stop(buffer)
    if left == [], do: :ok, else: {:left, Enum.reverse(left)}
  end

  # --- messages ---

  @doc """
  Sends a message, and returns at once with a reference.

  If the buffer was started with `send_replies: true`, the sender (or `reply_to`, a pid, a name, or
  `{name, node}`) is sent `{:reply, reference, buffer, reply}` or `{:error, reference, buffer, reason}`, which
  `recv/2,3` waits for.

  Returns `{:error, :full}` if the buffer has a `:max` that is reached and `overflow: :reject`. With
  `overflow: :block` it waits until there is room. Raises `ArgumentError` if no buffer of this name is running,
  `reply_to` is none, or the message takes 4 GB or more.

  Reasons, beside those that the handler raises, throws or exits with: `{:bad_return_value, returned}`,
  `{:worker_down, reason}`, `:full`, `:queue_timeout`, `:shutdown`.
  """
  @spec send(buffer(), message :: term()) :: reference() | {:error, :full}
  def send(buffer, message) do
    case Broker.send_to(buffer, message) do
      :ok -> make_ref()
      other -> send_other(other, buffer, message)
    end
  end

  defp send_other({:wait, _id}, buffer, _message) do
    :ok = flush(buffer)
    make_ref()
  end

  defp send_other(:queue_full, buffer, message) do
    handle = Handle.fetch!(buffer)
    handle |> full(buffer, message, nil) |> queued(make_ref(), buffer, handle)
  end

  defp send_other(:other, buffer, message) do
    case Handle.fetch!(buffer) do
      %{replies?: false} = handle ->
        queued(send_to(handle, buffer, message, nil), make_ref(), buffer, handle)

      handle ->
        # An alias: `discard/2` keeps a late answer out of the mailbox.
        ref = :erlang.alias([:reply])
        result = queued(send_to(handle, buffer, message, {ref, ref}), ref, buffer, handle)
        _ = if not is_reference(result), do: :erlang.unalias(ref)
        result
    end
  end

  @doc "Sends a message whose answer goes to `reply_to`. See `send/2`."
  @spec send(buffer(), message :: term(), reply_to()) :: reference() | {:error, :full}
  def send(buffer, message, reply_to) when reply_to == self(), do: send(buffer, message)

  def send(buffer, message, reply_to) do
    handle = Handle.fetch!(buffer)
    :ok = check_reply_to(reply_to)
    ref = make_ref()
    reply = if handle.replies?, do: {reply_to, ref}
    queued(send_to(handle, buffer, message, reply), ref, buffer, handle)
  end

  defp check_reply_to(to) when is_pid(to), do: :ok
  defp check_reply_to(to) when is_atom(to) and to not in [nil, true, false], do: :ok
  defp check_reply_to({name, node}) when is_atom(name) and is_atom(node), do: :ok

  defp check_reply_to(other) do
    raise ArgumentError, "expected a pid, a name, or {name, node}, got: #{inspect(other)}"
  end

  defp queued(:ok, ref, buffer, handle) do
    if handle.observed? do
      Telemetry.execute([:queued], %{system_time: System.system_time()}, %{buffer: buffer})
    end

    ref
  end

  defp queued(full, _ref, _buffer, _handle), do: full

  defp send_to(%{broker: broker, keeper: keeper} = handle, buffer, message, reply) do
    case Broker.ask(broker, keeper, message, reply, nil) do
      id when is_integer(id) -> :ok
      :queue_full -> full(handle, buffer, message, reply)
      :closed -> buffer |> reopened!(broker, reply) |> send_to(buffer, message, reply)
    end
  end

  defp full(%{overflow: :block} = handle, buffer, message, reply) do
    _room = Keeper.await_room(handle.keeper, :infinity)
    send_to(handle, buffer, message, reply)
  end

  defp full(%{overflow: :drop_newest}, buffer, _message, reply), do: drop_newest(buffer, reply)
  defp full(%{overflow: :drop_oldest}, buffer, _message, reply), do: drop_newest(buffer, reply)
  defp full(%{overflow: :reject}, _buffer, _message, _reply), do: {:error, :full}

  # It is counted as refused, and reported like any other that is dropped.
  defp drop_newest(buffer, reply) do
    _ = if reply, do: Listener.dropped(reply, :queue_full, buffer)
    Listener.counted(%{queue_full: 1}, buffer)
  end

  # Another one that has been started under the name since.
  defp reopened!(buffer, closed, reply) do
    case Handle.fetch(buffer) do
      {:ok, %{broker: broker} = handle} when broker != closed ->
        handle

      _stopped ->
        :ok = unalias(reply)
        Handle.unknown!(buffer)
    end
  end

  defp unalias({ref, ref}) do
    _ = :erlang.unalias(ref)
    :ok
  end

  defp unalias(_no_alias), do: :ok

  @doc """
  Waits for the answer to a message that this process has sent with `send/2`.

  `{:ok, reply}`, `{:error, reason}` (see `send/2`), or `{:error, :timeout}` if none has come after `timeout`
  milliseconds. The default is to wait for ever: with `send_replies: false` no answer ever comes. After a timeout
  the answer may still come, and can be waited for again; or see `discard/2`.

  Raises `ArgumentError` if the timeout is neither `:infinity` nor a number of milliseconds that a timer can wait.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.GenBuffer.start_link(:recv_doc, message_handler: DocHandler, workers: 1, send_replies: true)
      iex> ref = PartitionedBuffer.GenBuffer.send(:recv_doc, :hello)
      iex> PartitionedBuffer.GenBuffer.recv(:recv_doc, ref, 5_000)
      {:ok, :hello}
      iex> PartitionedBuffer.GenBuffer.stop(:recv_doc)
      :ok
  """
  @spec recv(buffer(), reference(), timeout()) :: received()
  def recv(buffer, ref, timeout \\ :infinity)

  def recv(buffer, ref, timeout)
      when timeout == :infinity or (is_integer(timeout) and timeout in 0..@max_ms) do
    receive do
      {:reply, ^ref, ^buffer, reply} -> {:ok, reply}
      {:error, ^ref, ^buffer, reason} -> {:error, reason}
    after
      timeout -> {:error, :timeout}
    end
  end

  def recv(buffer, ref, timeout),
    do: recv(buffer, ref, PartitionedBuffer.Options.timeout!(timeout))

  @doc """
  The answer to this message is not wanted any more: it is taken out of the mailbox if it has come, and does
  not reach it later. Returns `:ok`. The message itself is handled all the same.

  For messages that this process has sent with `send/2`. What was to be answered to another process is not
  kept from it.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.GenBuffer.start_link(:discard_doc, message_handler: DocHandler, workers: 1, send_replies: true)
      iex> ref = PartitionedBuffer.GenBuffer.send(:discard_doc, :hello)
      iex> PartitionedBuffer.GenBuffer.discard(:discard_doc, ref)
      :ok
      iex> PartitionedBuffer.GenBuffer.recv(:discard_doc, ref, 0)
      {:error, :timeout}
      iex> PartitionedBuffer.GenBuffer.stop(:discard_doc)
      :ok
  """
  @spec discard(buffer(), reference()) :: :ok
  def discard(buffer, ref) do
    _ = :erlang.unalias(ref)

    receive do
      {:reply, ^ref, ^buffer, _reply} -> :ok
      {:error, ^ref, ^buffer, _reason} -> :ok
    after
      0 -> :ok
    end
  end

  @doc """
  Sends a message and waits for its answer, which comes whatever `:send_replies` says.

  Returns as `recv/3`, and `{:error, :full}` if the message was not taken. After `{:error, :timeout}` (the
  default is to wait for ever) a message that still waits is never handled, and a late answer does not reach the
  mailbox. If the caller dies, its message is not handled unless it has been started.

  Raises `ArgumentError` if no buffer of this name is running, or if the timeout is none; nothing was sent then.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.GenBuffer.start_link(:call_doc, message_handler: DocHandler, workers: 1)
      iex> PartitionedBuffer.GenBuffer.send_recv(:call_doc, :hello, 5_000)
      {:ok, :hello}
      iex> PartitionedBuffer.GenBuffer.stop(:call_doc)
      :ok
  """
  @spec send_recv(buffer(), message :: term(), timeout()) :: received()
  def send_recv(buffer, message, timeout \\ :infinity)

  # All in one function: a reference that was just made is looked for among what came after it.
  def send_recv(buffer, message, :infinity) do
    ref = make_ref()

    sent =
      case Broker.call(buffer, message, {self(), ref}) do
        id when is_integer(id) -> :ok
        # Who has to wait lets others run first, as in a call of a pool.
        {:stored, _id} -> yield()
        {:wait, _id} -> flush(buffer)
        other -> call_other(other, buffer, message, {self(), ref})
      end

    case sent do
      :ok ->
        receive do
          {:reply, ^ref, ^buffer, reply} -> {:ok, reply}
          {:error, ^ref, ^buffer, reason} -> {:error, reason}
        end

      error ->
        error
    end
  end

  def send_recv(buffer, message, timeout) do
    timeout = PartitionedBuffer.Options.timeout!(timeout)
    handle = Handle.fetch!(buffer)
    # It may have gone on when the answer comes.
    ref = :erlang.alias([:reply])
    reply = {ref, ref}

    case call_to(handle, buffer, message, reply, deadline(timeout)) do
      {:ok, broker, id} ->
        _ref = queued(:ok, ref, buffer, handle)
        await(buffer, ref, timeout, broker, id)

      {:error, reason} ->
        :ok = unalias(reply)
        {:error, reason}
    end
  end

  # Who waits for ever gets the one answer there is, and needs no alias.
  defp call_other(other, buffer, message, {_self, ref} = reply) do
    handle = Handle.fetch!(buffer)

    called =
      if other == :queue_full,
        do: called(:queue_full, handle, buffer, message, reply, :infinity),
        else: call_to(handle, buffer, message, reply, :infinity)

    with {:ok, _broker, _id} <- called do
      _ref = queued(:ok, ref, buffer, handle)
      :ok
    end
  end

  defp yield do
    _ = :erlang.yield()
    :ok
  end

  defp flush(buffer) do
    with {:ok, %{keeper: keeper}} <- Handle.fetch(buffer), do: Keeper.flush(keeper)
    :ok
  end

  defp await(buffer, ref, timeout, broker, id) do
    case recv(buffer, ref, timeout) do
      {:error, :timeout} ->
        _cancelled = Broker.cancel(broker, id)
        :erlang.unalias(ref)
        # It may have come at the last moment.
        recv(buffer, ref, 0)

      received ->
        received
    end
  end

  defp call_to(%{broker: broker, keeper: keeper} = handle, buffer, message, reply, deadline) do
    broker
    |> Broker.hand_over(keeper, message, reply)
    |> called(handle, buffer, message, reply, deadline)
  end

  defp called(asked, %{broker: broker} = handle, buffer, message, reply, deadline) do
    case asked do
      id when is_integer(id) ->
        {:ok, broker, id}

      :closed ->
        buffer |> reopened!(broker, reply) |> call_to(buffer, message, reply, deadline)

      :queue_full when handle.overflow == :block ->
        case Keeper.await_room(handle.keeper, left(deadline)) do
          :ok -> call_to(handle, buffer, message, reply, deadline)
          :timeout -> {:error, :timeout}
        end

      :queue_full ->
        {:error, :full}
    end
  end

  defp deadline(:infinity), do: :infinity
  defp deadline(ms), do: System.monotonic_time(:millisecond) + ms

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)

  @doc """
  Has a worker that is idle handle a message, and returns what the handler replies.

  If no worker is idle, it is tried `retries` more times (an integer from 0, or `:infinity`; 1 by default),
  with a millisecond in between, and then returns `:no_available_workers`. What the handler raises, throws or exits
  with, the caller exits with; so it does when the worker dies (`{:worker_down, reason}`).

  Raises `ArgumentError` if no buffer of this name is running.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.GenBuffer.start_link(:eval_doc, message_handler: DocHandler, workers: 0)
      iex> PartitionedBuffer.GenBuffer.eval(:eval_doc, :hello, 5)
      :no_available_workers
      iex> {:ok, _worker} = PartitionedBuffer.GenBuffer.incr_worker(:eval_doc)
      iex> PartitionedBuffer.GenBuffer.eval(:eval_doc, :hello, :infinity)
      :hello
      iex> PartitionedBuffer.GenBuffer.stop(:eval_doc)
      :ok
  """
  @spec eval(buffer(), message :: term(), non_neg_integer() | :infinity) ::
          term() | :no_available_workers
  def eval(buffer, message, retries \\ 1)
      when retries == :infinity or (is_integer(retries) and retries >= 0) do
    %{broker: broker, keeper: keeper} = handle = Handle.fetch!(buffer)
    ref = make_ref()

    case Broker.ask_idle(broker, keeper, message, {self(), ref}, self()) do
      id when is_integer(id) ->
        _ref = queued(:ok, ref, buffer, handle)
        evaluated(buffer, ref, broker, id)

      refused ->
        retry(refused, buffer, broker, message, retries)
    end
  end

  # The worker that was idle may be dismissed before it takes, and be the last one.
  @no_workers_ms 100

  defp evaluated(buffer, ref, broker, id) do
    receive do
      {:reply, ^ref, ^buffer, reply} -> reply
      {:error, ^ref, ^buffer, reason} -> exit(reason)
    after
      @no_workers_ms ->
        if Broker.workers(broker) == [] and Broker.cancel(broker, id),
          do: :no_available_workers,
          else: evaluated(buffer, ref, broker, id)
    end
  end

  defp retry(:closed, buffer, broker, message, retries) do
    _handle = reopened!(buffer, broker, nil)
    eval(buffer, message, retries)
  end

  defp retry(_none_or_full, _buffer, _broker, _message, 0), do: :no_available_workers

  defp retry(_none_or_full, buffer, _broker, message, retries) do
    receive do
    after
      1 -> eval(buffer, message, if(retries == :infinity, do: :infinity, else: retries - 1))
    end
  end

  @doc """
  Asks whether there are workers. Those that are idle take what waits by themselves, so there is nothing else
  to do.

  `:ok`, `{:error, :no_available_workers}`, or `{:error, :no_available_buffer}`.
  """
  @spec poll(buffer()) :: :ok | {:error, :no_available_workers | :no_available_buffer}
  def poll(buffer) do
    with {:ok, _pids} <- get_workers(buffer), do: :ok
  end

  # --- workers ---

  @doc "The pid of one of the workers, at random. Errors as `get_workers/1`."
  @spec get_worker(buffer()) ::
          {:ok, pid()} | {:error, :no_available_workers | :no_available_buffer}
  def get_worker(buffer) do
    with {:ok, pids} <- get_workers(buffer), do: {:ok, Enum.random(pids)}
  end

  @doc "The pids of all workers: `{:ok, pids}`, or `{:error, :no_available_workers | :no_available_buffer}`."
  @spec get_workers(buffer()) ::
          {:ok, [pid(), ...]} | {:error, :no_available_workers | :no_available_buffer}
  def get_workers(buffer) do
    case manage(buffer, fn _handle -> :workers end) do
      [] -> {:error, :no_available_workers}
      pids when is_list(pids) -> {:ok, pids}
      error -> error
    end
  end

  @doc """
  Adds a worker. `opts` (`:message_handler`, `:init_args`) take the place of those of the start.

  `{:ok, pid}`, `:ignore` or `{:error, reason}` as `c:init/1` says, or `{:error, :no_available_buffer}`. A
  `:message_handler` that is none is `{:error, {:invalid_message_handler, module}}` or
  `{:error, {:missing_callback, :handle_message}}`. Raises `NimbleOptions.ValidationError` if an option is unknown.
  """
  @spec incr_worker(buffer(), opts()) :: {:ok, pid()} | :ignore | {:error, term()}
  def incr_worker(buffer, opts \\ []) do
    with {:ok, opts} <- added(opts),
         do: manage(buffer, fn handle -> {:incr, Manager.worker_opts(handle, opts)} end)
  end

  # Every message that such a worker took would fail.
  defp added(opts) do
    opts = Options.keyword!(opts)

    if Keyword.has_key?(opts, :message_handler),
      do: with(:ok <- Options.handler(opts), do: {:ok, opts}),
      else: {:ok, opts}
  end

  @doc """
  Ends one of the workers, at random, when it is through with its message.

  `:ok`, also if there is no such buffer, or `{:error, :no_available_workers}`.
  """
  @spec decr_worker(buffer()) :: :ok | {:error, :no_available_workers}
  def decr_worker(buffer) do
    with {:error, :no_available_buffer} <- manage(buffer, fn _handle -> :decr end), do: :ok
  end

  @doc """
  Sets how many workers there are: `{:ok, pids}`, or `{:error, :no_available_buffer}`. Those that are added
  take `opts` as in `incr_worker/2`; those that are too many end when they are through with their message. A
  `:message_handler` that is none is an error as there, and nothing was changed.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.GenBuffer.start_link(:workers_doc, message_handler: DocHandler, workers: 1)
      iex> {:ok, pids} = PartitionedBuffer.GenBuffer.set_workers(:workers_doc, 3)
      iex> length(pids)
      3
      iex> PartitionedBuffer.GenBuffer.decr_worker(:workers_doc)
      :ok
      iex> {:ok, pids} = PartitionedBuffer.GenBuffer.get_workers(:workers_doc)
      iex> length(pids)
      2
      iex> PartitionedBuffer.GenBuffer.set_workers(:workers_doc, 0)
      {:ok, []}
      iex> PartitionedBuffer.GenBuffer.poll(:workers_doc)
      {:error, :no_available_workers}
      iex> PartitionedBuffer.GenBuffer.stop(:workers_doc)
      :ok
  """
  @spec set_workers(buffer(), non_neg_integer(), opts()) ::
          {:ok, [pid()]}
          | {:error, :no_available_buffer | {:invalid_message_handler, term()}}
          | {:error, {:missing_callback, :handle_message}}
  def set_workers(buffer, count, opts \\ []) when is_integer(count) and count >= 0 do
    with {:ok, opts} <- added(opts),
         do: manage(buffer, fn handle -> {:set, count, Manager.worker_opts(handle, opts)} end)
  end

  defp manage(buffer, request) do
    with {:ok, handle} <- Handle.fetch(buffer),
         {:ok, answer} <- call(handle, request.(handle)) do
      answer
    else
      _not_running -> {:error, :no_available_buffer}
    end
  end

  # A manager that was killed is back in a moment.
  @tries 500

  defp call(handle, request, tries \\ @tries) do
    {:ok, GenServer.call(handle.manager, request, :infinity)}
  catch
    :exit, _not_there when tries > 0 ->
      if still_running?(handle) do
        receive do
        after
          10 -> call(handle, request, tries - 1)
        end
      else
        :error
      end

    :exit, _not_there ->
      :error
  end

  defp still_running?(%{broker: broker}),
    do: Enum.any?(running(), fn {_buffer, handle} -> handle.broker == broker end)

  # --- figures ---

  @doc "How many messages wait, or `:undefined` if there is no such buffer."
  @spec size(buffer()) :: non_neg_integer() | :undefined
  def size(buffer) do
    case Handle.fetch(buffer) do
      {:ok, handle} -> Broker.size(handle.broker)
      :error -> :undefined
    end
  end

  @doc """
  How things stand, or `:undefined` if there is no such buffer.

    * `workers`, `idle` - how many workers there are, and how many of them have nothing to do.
    * `size`, `in_flight` - how many messages wait, and how many are being handled.
    * `accepted` - how many have come in. In every reading it is the sum of `size`, `in_flight`, `processed`,
      `failed`, `cancelled`, and all of `discarded`.
    * `processed`, `failed` - how many were handled, and how many have failed or died with their worker.
    * `cancelled` - how many `send_recv/3` has taken back when its time was up.
    * `discarded` - how many were never handled, by reason: `full`, `queue_timeout`, `caller_down`, `shutdown`.
    * `refused` - how many were not taken because the buffer was full.
    * `busy` - what part of their time the workers were busy, from 0.0 to 1.0, in the last half second.
    * `bytes`, `oldest_age_ms` - what waits takes, and for how long the oldest has waited, or `nil`.

  ## Examples

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.GenBuffer.start_link(:figures_doc, message_handler: DocHandler, workers: 0)
      iex> PartitionedBuffer.GenBuffer.send(:figures_doc, :hello)
      iex> PartitionedBuffer.GenBuffer.size(:figures_doc)
      1
      iex> info = PartitionedBuffer.GenBuffer.info(:figures_doc)
      iex> {info.workers, info.size, info.accepted, info.processed}
      {0, 1, 1, 0}
      iex> PartitionedBuffer.GenBuffer.stop(:figures_doc, 0)
      {:left, [:hello]}
  """
  @spec info(buffer()) :: map() | :undefined
  def info(buffer) do
    case Handle.fetch(buffer) do
      {:ok, handle} -> figures(handle)
      :error -> :undefined
    end
  end

  @doc "`info/1` of every buffer that is running, by name."
  @spec info() :: %{buffer() => map()}
  def info, do: Map.new(running(), fn {buffer, handle} -> {buffer, figures(handle)} end)

  defp running do
    for "gen_buffer:" <> name <- Native.broker_names(),
        buffer = String.to_existing_atom(name),
        {:ok, handle} <- [Handle.fetch(buffer)],
        do: {buffer, handle}
  end

  defp figures(%{broker: broker} = handle) do
    info = Broker.info(broker)
    dropped = info.dropped

    %{
      workers: length(Broker.workers(broker)),
      idle: info.idle,
      size: info.waiting,
      in_flight: info.in_flight,
      accepted: info.accepted,
      processed: info.done,
      failed: info.failed,
      cancelled: info.cancelled,
      discarded: %{
        full: dropped.queue_full,
        queue_timeout: dropped.queue_timeout,
        caller_down: dropped.caller_down,
        shutdown: dropped.shutdown
      },
      refused: info.refused,
      busy: Handle.busy(handle),
      bytes: info.bytes,
      oldest_age_ms: info.oldest_age_ns && div(info.oldest_age_ns, 1_000_000)
    }
  end
end
