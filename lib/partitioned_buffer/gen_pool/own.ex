defmodule PartitionedBuffer.GenPool.Own do
  @moduledoc false
  # What a worker with a state of its own does nearly always: requests whose handlers answer, or need not, and ask for
  # nothing else.
  #
  # The state and a few words that never change are arguments. The worker as `GenPool.Worker` knows it, which is many
  # words to look through and to copy, goes along as it is, and gets its state, and whatever is not usual, from here.

  alias PartitionedBuffer.Broker
  alias PartitionedBuffer.GenPool.{Answer, Callback, Worker}

  require Broker

  @typedoc "What never changes."
  @opaque t ::
            {Broker.worker(), call :: fun(), cast :: fun(), Broker.t(), Answer.deliverer(),
             idle_ms :: timeout()}

  @spec new(Worker.setup(), Broker.worker()) :: t()
  def new(%{module: module} = setup, worker) do
    # Calling them looks no function up.
    {worker, &module.handle_call/3, &module.handle_cast/2, setup.broker,
     Answer.deliverer(setup.answers), setup.idle_ms}
  end

  @doc "It is idle, and waits."
  @spec wait(t(), state :: term(), Worker.t()) :: no_return()
  def wait({worker, _call, _cast, _broker, _answers, idle_ms} = own, state, w) do
    receive do
      Broker.handed(id, {:call, message}, {_pid, ref} = caller) when is_reference(ref) ->
        # How long it has waited does not have to be known: nobody listens.
        case Broker.start(worker, id, false) do
          nil -> next(own, state, w)
          _ns -> handed(own, state, w, message, caller, id)
        end

      message ->
        w |> Worker.with_state(state) |> Worker.woken(message)
    after
      idle_ms -> w |> Worker.with_state(state) |> Worker.waited()
    end
  end

  # Mostly there is no other request: then it waits in its mailbox at once, and has no need to look into it before.
  defp handed({worker, call, _, broker, deliverer, _} = own, state, w, message, caller, id) do
    from = Answer.usual(caller, broker, id, deliverer)

    case Callback.call(call, message, from, state) do
      {:reply, reply, state} ->
        {pid, ref} = caller

        case Broker.reply_rest(worker, pid, {ref, reply}) do
          :idle -> wait(own, state, w)
          :attend -> taken(own, state, w, :attend)
          _more_or_gone -> next(own, state, w)
        end

      outcome ->
        w |> Worker.with_state(state) |> Worker.returned(:call, outcome, from, caller)
    end
  end

  # What is in the mailbox first. A cast that it has just handled is over then; otherwise it is when the next one is taken.
  defp next(own, state, w) do
    worker = elem(own, 0)

    receive do
      message ->
        :ok = Broker.done(worker, :done)
        w |> Worker.with_state(state) |> Worker.mailbox(message)
    after
      0 -> taken(own, state, w, Broker.take_along(worker))
    end
  end

  @doc "It has taken this."
  @spec taken(t(), state :: term(), Worker.t(), term()) :: no_return()
  def taken(own, state, w, {{:call, message}, {_pid, ref} = caller, _ns, id})
      when is_reference(ref) do
    {worker, call, _cast, broker, deliverer, _idle_ms} = own
    from = Answer.usual(caller, broker, id, deliverer)

    case Callback.call(call, message, from, state) do
      {:reply, reply, state} ->
        {pid, ref} = caller
        answer = {ref, reply}

        # As `next/3`.
        receive do
          message ->
            :ok = Broker.reply(worker, pid, answer)
            w |> Worker.with_state(state) |> Worker.mailbox(message)
        after
          0 -> taken(own, state, w, Broker.reply_take(worker, pid, answer))
        end

      outcome ->
        w |> Worker.with_state(state) |> Worker.returned(:call, outcome, from, caller)
    end
  end

  # Taking the next one settles a cast.
  def taken({_, _, cast, _, _, _} = own, state, w, {{:cast, message}, nil, _ns, _id}) do
    case Callback.cast(cast, message, state) do
      {:noreply, state} -> next(own, state, w)
      outcome -> w |> Worker.with_state(state) |> Worker.returned(:cast, outcome, nil, nil)
    end
  end

  def taken(own, state, w, [_ | _] = casts), do: along(own, state, w, casts)
  def taken(own, state, w, :idle), do: wait(own, state, w)

  def taken(own, state, w, :attend) do
    :ok = Broker.done(elem(own, 0), :done)
    w |> Worker.with_state(state) |> Worker.taken(:attend)
  end

  def taken(_own, state, w, other), do: w |> Worker.with_state(state) |> Worker.taken(other)

  # Casts that nobody waits for. Each is any worker's until it has been begun: whatever comes in between, those that are
  # left are taken again, by this one or by another.
  defp along(own, state, w, [{:cast, message} | casts]) do
    if Broker.begin(elem(own, 0)) do
      case Callback.cast(elem(own, 2), message, state) do
        {:noreply, state} -> along_next(own, state, w, casts)
        outcome -> w |> Worker.with_state(state) |> Worker.returned(:cast, outcome, nil, nil)
      end
    else
      next(own, state, w)
    end
  end

  defp along_next(own, state, w, []), do: next(own, state, w)

  # As `next/3`.
  defp along_next(own, state, w, casts) do
    receive do
      message ->
        :ok = Broker.done(elem(own, 0), :done)
        w |> Worker.with_state(state) |> Worker.mailbox(message)
    after
      0 -> along(own, state, w, casts)
    end
  end
end
