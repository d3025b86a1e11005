defmodule PartitionedBuffer.GenBuffer.Worker do
  @moduledoc false
  # A worker: a process that takes messages and calls the handler.
  #
  # It looks into its mailbox between two messages, and is idle when none waits. What comes meanwhile that
  # is neither a message nor a wake-up makes it withdraw first: no message may wait for a worker that does
  # something else.
  #
  # Messages that nobody waits for are given to it several at a time. It begins each by a call; those that it has not
  # begun are any worker's, so nothing has to be done about them when something else comes in between.
  #
  # Invariant: each message that was started is settled, with its answer, before the next is taken. Whatever
  # ends this process, the keeper knows which message it had.
  #
  # It traps exits: the end of its supervisor, or of the pool, does not cut a message short.

  alias PartitionedBuffer.Broker
  alias PartitionedBuffer.GenBuffer.{Handle, Telemetry}

  require Broker

  @shutdown_ms 5_000
  @heap_words 2_000

  # So often a worker lets others run before it takes less than is worth to be taken along, or is idle.
  @patience 3

  # What stays as it is. The state and the timeout, which change with each message, are arguments besides.
  @enforce_keys [:buffer, :observed?, :worker, :module, :handler, :parent, :info?]
  defstruct @enforce_keys

  @spec child_spec({atom(), Handle.t(), map()}) :: Supervisor.child_spec()
  def child_spec(arg) do
    %{
      id: __MODULE__,
      start: {__MODULE__, :start_link, [arg]},
      restart: :temporary,
      shutdown: @shutdown_ms
    }
  end

  @spec start_link({atom(), Handle.t(), map()}) :: {:ok, pid()} | :ignore | {:error, term()}
  def start_link({buffer, handle, opts}) do
    # With 233, which is what the VM begins with, garbage is collected with every few messages.
    spawn = [min_heap_size: @heap_words]
    :proc_lib.start_link(__MODULE__, :init, [self(), buffer, handle, opts], :infinity, spawn)
  end

  @doc "Has a worker end when it is through with what it has. It takes no other message."
  @spec leave(Broker.t(), pid()) :: :ok
  def leave(broker, pid) do
    :ok = Broker.dismiss(broker, pid)
    Kernel.send(pid, {:"$gen_buffer", :leave})
    :ok
  end

  @doc "Tells a worker whether a telemetry handler is attached."
  @spec observe(pid(), boolean()) :: :ok
  def observe(pid, observed?) do
    Kernel.send(pid, {:"$gen_buffer", {:observed, observed?}})
    :ok
  end

  @doc false
  @spec init(pid(), atom(), Handle.t(), map()) :: no_return() | :ok
  def init(parent, buffer, handle, %{message_handler: module, init_args: args}) do
    Process.flag(:trap_exit, true)
    Process.put(:"$initial_call", {module, :init, 1})

    case call_init(module, args) do
      {:ok, state, timeout} ->
        s = %__MODULE__{
          buffer: buffer,
          observed?: handle.observed?,
          worker: Broker.join(handle.broker),
          module: module,
          # Calling it looks no function up.
          handler: &module.handle_message/3,
          parent: parent,
          info?: function_exported?(module, :handle_info, 3)
        }

        :proc_lib.init_ack(parent, {:ok, self()})
        next(s, state, timeout)

      :ignore ->
        :proc_lib.init_ack(parent, :ignore)
        exit(:normal)

      {:stop, reason} ->
        :proc_lib.init_ack(parent, {:error, reason})
        exit(reason)
    end
  end

  defp call_init(module, args) do
    if function_exported?(module, :init, 1) do
      case module.init(args) do
        {:ok, state} -> {:ok, state, :infinity}
        {:ok, state, timeout} -> checked({:ok, state, timeout}, timeout)
        :ignore -> :ignore
        {:stop, reason} -> {:stop, reason}
        other -> {:stop, {:bad_return_value, other}}
      end
    else
      {:ok, args, :infinity}
    end
  catch
    kind, reason -> {:stop, failure(kind, reason, __STACKTRACE__)}
  end

  defp checked(return, timeout) do
    if timeout?(timeout), do: return, else: {:stop, {:bad_return_value, return}}
  end

  defp timeout?(timeout) do
    timeout in [:infinity, :hibernate] or
      (is_integer(timeout) and timeout >= 0 and timeout <= 4_294_967_295)
  end

  # --- the loop ---

  # Who has a turn in its mailbox has it before the next message.
  defp next(s, state, timeout) do
    receive do
      Broker.wake() -> next(s, state, timeout)
      other -> other(other, s, state, timeout)
    after
      0 -> take(s, state, timeout)
    end
  end

  # What is to be measured is taken one by one.
  defp take(%{observed?: false} = s, state, timeout),
    do: taken(Broker.take_along(s.worker, false), s, state, timeout)

  defp take(s, state, timeout), do: taken(Broker.take(s.worker), s, state, timeout)

  defp taken([_ | _] = messages, s, state, _timeout), do: along(messages, s, state)

  defp taken({message, reply, waited, _id}, s, state, _timeout),
    do: handle(message, reply, waited, :taken, s, state)

  defp taken(:idle, s, state, timeout), do: idle(s, state, timeout)
  defp taken(:gone, s, state, _timeout), do: stop(:normal, s, state)

  # Messages that nobody waits for. Each is any worker's until it has been begun: whatever comes in between, those that
  # are left are taken again, by this one or by another.
  defp along([message | messages], s, state) do
    case Broker.begin(s.worker) and call(message, s, state) do
      {:ok, _answer, state} -> along_next(messages, s, state)
      {:failed, kind, reason, stacktrace} -> failed(kind, reason, stacktrace, nil, s, state)
      false -> next(s, state, :infinity)
    end
  end

  # As `next/3`.
  defp along_next([], s, state), do: again(s, state, @patience)

  defp along_next(messages, s, state) do
    receive do
      Broker.wake() -> along_next(messages, s, state)
      other -> other(other, s, state, :infinity)
    after
      0 -> along(messages, s, state)
    end
  end

  # As `next/3`, after a message that nobody waits for: mostly more of them come. To be given some at a time is cheaper than
  # one by one, and to be runnable for a moment cheaper than to be idle and woken. Meanwhile whoever is idle may take them.
  defp again(%{observed?: true} = s, state, _patience), do: next(s, state, :infinity)

  defp again(s, state, patience) do
    receive do
      Broker.wake() -> again(s, state, patience)
      other -> other(other, s, state, :infinity)
    after
      0 ->
        case Broker.take_along(s.worker, patience > 0) do
          :soon ->
            :erlang.yield()
            again(s, state, patience - 1)

          taken ->
            taken(taken, s, state, :infinity)
        end
    end
  end

  defp idle(s, state, :hibernate),
    do: :proc_lib.hibernate(__MODULE__, :wait, [s, state, :infinity])

  defp idle(s, state, timeout), do: wait(s, state, timeout)

  @doc false
  @spec wait(%__MODULE__{}, term(), timeout()) :: no_return()
  def wait(s, state, timeout) do
    receive do
      Broker.handed(id, message, reply) ->
        handed(id, message, reply, s, state, timeout)

      Broker.wake() ->
        take(s, state, timeout)

      other ->
        :ok = Broker.withdraw(s.worker)
        other(other, s, state, timeout)
    after
      timeout ->
        :ok = Broker.withdraw(s.worker)
        info(:timeout, s, state)
    end
  end

  # The usual one. What is needed of what stays as it is comes out of it at once.
  defp handed(id, message, {to, ref}, %{observed?: false} = s, state, timeout) do
    %{worker: worker, handler: handler, buffer: buffer} = s

    case Broker.start(worker, id, false) do
      nil ->
        next(s, state, timeout)

      _not_known ->
        case call(handler, buffer, message, state) do
          # Mostly there is no other: then it waits in its mailbox at once, and has no need to look into it before.
          {:ok, answer, state} ->
            rested(Broker.reply_rest(worker, to, {:reply, ref, buffer, answer}), s, state)

          {:failed, kind, reason, stacktrace} ->
            failed(kind, reason, stacktrace, {to, ref}, s, state)
        end
    end
  end

  defp handed(id, message, reply, s, state, timeout) do
    case Broker.start(s.worker, id, s.observed?) do
      nil -> next(s, state, timeout)
      waited -> handle(message, reply, waited, :handed, s, state)
    end
  end

  # --- a message ---

  defp handle(message, reply, _waited, how, %{observed?: false} = s, state),
    do: result(call(message, s, state), reply, how, s, state)

  defp handle(message, reply, waited, how, s, state),
    do: observed(message, reply, waited, how, s, state)

  defp observed(message, reply, waited, how, s, state) do
    waited = System.convert_time_unit(waited, :nanosecond, :native)
    metadata = %{buffer: s.buffer, worker: self()}
    started = System.monotonic_time()
    measured = %{system_time: System.system_time(), queue_time: waited}
    Telemetry.execute([:start], measured, metadata)
    result = call(message, s, state)
    measured = %{duration: System.monotonic_time() - started, queue_time: waited}

    case result do
      {:failed, kind, reason, stacktrace} ->
        failed = %{kind: kind, reason: reason, stacktrace: stacktrace}
        Telemetry.execute([:exception], measured, Map.merge(metadata, failed))

      _returned ->
        Telemetry.execute([:stop], measured, metadata)
    end

    result(result, reply, how, s, state)
  end

  defp call(message, s, state), do: call(s.handler, s.buffer, message, state)

  defp call(handler, buffer, message, state) do
    case handler.(buffer, message, state) do
      {:ok, _answer, _state} = returned -> returned
      other -> {:failed, :exit, {:bad_return_value, other}, []}
    end
  catch
    kind, reason -> {:failed, kind, reason, __STACKTRACE__}
  end

  # Taking the next message settles one that nobody waits for.
  defp result({:ok, _answer, state}, nil, _how, s, _before), do: again(s, state, @patience)

  defp result({:ok, answer, state}, {destination, ref}, :handed, s, _before) do
    answer = {:reply, ref, s.buffer, answer}
    rested(Broker.reply_rest(s.worker, destination, answer), s, state)
  end

  defp result({:ok, answer, state}, {destination, ref}, :taken, s, _before) do
    answer = {:reply, ref, s.buffer, answer}

    # As `next/3`.
    receive do
      message ->
        :ok = Broker.reply(s.worker, destination, answer)

        if message == Broker.wake(),
          do: next(s, state, :infinity),
          else: other(message, s, state, :infinity)
    after
      0 -> s.worker |> Broker.reply_take(destination, answer) |> taken(s, state, :infinity)
    end
  end

  defp result({:failed, kind, reason, stacktrace}, reply, _how, s, state),
    do: failed(kind, reason, stacktrace, reply, s, state)

  defp rested(:idle, s, state), do: wait(s, state, :infinity)
  defp rested(:more, s, state), do: next(s, state, :infinity)
  defp rested(:gone, s, state), do: stop(:normal, s, state)

  @spec failed(:error | :throw | :exit, term(), list(), term(), %__MODULE__{}, term()) ::
          no_return()
  defp failed(kind, reason, stacktrace, reply, s, state) do
    case reply do
      nil -> Broker.done(s.worker, :failed)
      {to, ref} -> Broker.fail(s.worker, to, {:error, ref, s.buffer, reason})
    end

    stop(failure(kind, reason, stacktrace), s, state)
  end

  defp failure(:error, reason, stacktrace), do: {reason, stacktrace}
  defp failure(:throw, value, stacktrace), do: {{:nocatch, value}, stacktrace}
  defp failure(:exit, reason, _stacktrace), do: reason

  # --- everything else ---

  defp other(Broker.handed(id, message, reply), s, state, timeout),
    do: handed(id, message, reply, s, state, timeout)

  defp other({:system, from, request}, s, state, timeout) do
    :sys.handle_system_msg(request, from, s.parent, __MODULE__, [], {s, state, timeout})
  end

  defp other({:EXIT, parent, reason}, %{parent: parent} = s, state, _timeout),
    do: stop(reason, s, state)

  defp other({:"$gen_buffer", :leave}, s, state, _timeout), do: stop(:normal, s, state)

  defp other({:"$gen_buffer", {:observed, observed?}}, s, state, timeout),
    do: next(%{s | observed?: observed?}, state, timeout)

  defp other({:EXIT, _pid, :normal}, %{info?: false} = s, state, timeout),
    do: next(s, state, timeout)

  # Without a callback for it, it ends a worker as it ends any process that is linked.
  defp other({:EXIT, _pid, reason}, %{info?: false} = s, state, _timeout),
    do: stop(reason, s, state)

  # There is nothing that a worker could be called with: as in gen_buffer, nobody is left waiting for that.
  defp other({:"$gen_call", {pid, _tag} = from, _request}, s, state, timeout) when is_pid(pid) do
    :ok = GenServer.reply(from, :ok)
    next(s, state, timeout)
  end

  defp other({:"$gen_cast", _request}, s, state, timeout), do: next(s, state, timeout)

  defp other(message, s, state, _timeout), do: info(message, s, state)

  defp info(_message, %{info?: false} = s, state), do: next(s, state, :infinity)

  defp info(message, s, state) do
    returned =
      try do
        s.module.handle_info(s.buffer, message, state)
      catch
        :throw, thrown -> thrown
        kind, reason -> {:failed, failure(kind, reason, __STACKTRACE__)}
      end

    case returned do
      {:noreply, state} ->
        next(s, state, :infinity)

      {:noreply, state, timeout} ->
        if timeout?(timeout),
          do: next(s, state, timeout),
          else: stop({:bad_return_value, returned}, s, state)

      {:stop, reason, state} ->
        stop(reason, s, state)

      {:failed, reason} ->
        stop(reason, s, state)

      other ->
        stop({:bad_return_value, other}, s, state)
    end
  end

  @spec stop(term(), %__MODULE__{}, term()) :: no_return()
  defp stop(reason, s, state) do
    # One that has failed is settled by now; one that nobody waited for is through.
    :ok = Broker.done(s.worker, :done)
    :ok = Broker.leave(s.worker)

    reason =
      try do
        if function_exported?(s.module, :terminate, 3),
          do: s.module.terminate(s.buffer, reason, state)

        reason
      catch
        :throw, _ignored -> reason
        kind, other -> failure(kind, other, __STACKTRACE__)
      end

    exit(reason)
  end

  # --- :sys ---

  @doc false
  @spec system_continue(pid(), list(), {%__MODULE__{}, term(), timeout() | :hibernate}) ::
          no_return()
  def system_continue(_parent, _debug, {s, state, timeout}), do: next(s, state, timeout)

  @doc false
  @spec system_terminate(term(), pid(), list(), {%__MODULE__{}, term(), timeout() | :hibernate}) ::
          no_return()
  def system_terminate(reason, _parent, _debug, {s, state, _timeout}), do: stop(reason, s, state)

  @doc false
  def system_get_state({_s, state, _timeout}), do: {:ok, state}

  @doc false
  def system_replace_state(replace, {s, state, timeout}) do
    state = replace.(state)
    {:ok, state, {s, state, timeout}}
  end

  @doc false
  def system_code_change(misc, _module, _old, _extra), do: {:ok, misc}
end
