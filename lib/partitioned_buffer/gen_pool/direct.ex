defmodule PartitionedBuffer.GenPool.Direct do
  @moduledoc false
  # What a worker with a shared state in a native cell does nearly always, as `GenPool.Own` with a state of its own:
  # requests whose handlers answer, or need not, and ask for nothing else, and for which it has to wait for nobody.
  #
  # The new state, the answer, the end of the request and the next one are one native call. What the worker knows of the
  # state, with its version, are arguments, beside a few words that never change. The worker as `GenPool.Worker` knows it
  # goes along as it is, and gets those, and whatever is not usual, from here.
  #
  # Casts that nobody waits for come several at a time. Each of them puts the state in by itself, by the native call that
  # begins the next one: one that crashes, or is run again, concerns no other.
  #
  # Invariants are those of `GenPool.Shared` and `GenPool.Worker`. What has to be looked after before a request is
  # taken or started is seen by the native calls that do it.

  import Bitwise

  alias PartitionedBuffer.{Broker, Native}
  alias PartitionedBuffer.GenPool.{Answer, Backend, Callback, Worker}

  require Broker

  # See `cell_answer_take`.
  @as_it_was 0
  @put 1
  @put_unless_held 2
  @as_it_was_in_turn 3
  # Besides: it takes no other one.
  @only_this 4
  # Or: most likely no other one waits.
  @likely_last 8
  # So often it lets others run to see whether who has the turn has left it.
  @let_by 32

  @typedoc """
  What does not change while it is here. Whether it has the turn is part of that, where it matters: to look for it in the
  worker, for each request, would take longer than the rest of what is asked about it.
  """
  @opaque t ::
            {Broker.worker(), Native.cell(), call :: fun(), cast :: fun(), Broker.t(),
             answers :: reference(), idle_ms :: timeout(), how :: 1..6,
             reads :: {:in_turn | :out_of_turn | :free, fun()} | nil}

  @doc "`nil` if the state is elsewhere."
  @spec new(Worker.setup(), Broker.worker()) :: t() | nil
  def new(%{module: module, shared: %{backend: Backend.Native} = shared} = setup, worker) do
    # Calling them looks no function up.
    {worker, shared.ref, &module.handle_call/3, &module.handle_cast/2, setup.broker,
     setup.answers, setup.idle_ms, how(shared), reads(setup)}
  end

  def new(_setup, _worker), do: nil

  defp how(%{isolation: :exclusive}), do: @put
  defp how(_optimistic), do: @put_unless_held

  # Handlers that are not named to read only may have to take turns.
  defp reads(%{module: module, shared: %{isolation: isolation}}) do
    if function_exported?(module, :read_only?, 2),
      do: {if(isolation == :exclusive, do: :out_of_turn, else: :free), &module.read_only?/2}
  end

  @doc "As long as it has the turn, or has it not."
  @spec with_turn(t(), boolean()) :: t()
  def with_turn({_, _, _, _, _, _, _, _, {:out_of_turn, read_only?}} = direct, true),
    do: put_elem(direct, 8, {:in_turn, read_only?})

  def with_turn(direct, _turn?), do: direct

  @doc "The same for one request, after which the worker goes on as usual."
  @spec only(t()) :: t()
  def only(direct), do: put_elem(direct, 7, elem(direct, 7) ||| @only_this)

  @doc "It is idle, and waits, with the turn if it may handle anything only then."
  @spec wait(t(), Backend.version(), state :: term(), Worker.t()) :: no_return()
  def wait({worker, cell, _, _, _, _, idle_ms, _, _} = direct, version, state, w) do
    receive do
      Broker.handed(id, message, caller) ->
        case Native.cell_start(cell, version, worker, id) do
          :unchanged -> run(direct, version, state, w, message, caller, id, 1, @likely_last)
          nil -> w |> Worker.with_known(version, state) |> Worker.loop()
          {version, state} -> run(direct, version, state, w, message, caller, id, 1, @likely_last)
          :heavy -> w |> Worker.with_known(version, state) |> Worker.started(message, caller, id)
        end

      message ->
        w |> Worker.with_known(version, state) |> Worker.woken(message)
    after
      idle_ms -> w |> Worker.with_known(version, state) |> Worker.waited()
    end
  end

  @doc "It has started this, on the state that it knows, which is that of now, or of a moment ago."
  @spec run(
          t(),
          Backend.version(),
          state :: term(),
          Worker.t(),
          message :: term(),
          Answer.caller(),
          Broker.id() | nil,
          attempt :: pos_integer(),
          next :: 0 | 8
        ) :: no_return()
  def run(direct, version, state, w, request, caller, id, attempt, next \\ 0)

  def run(
        direct,
        version,
        state,
        w,
        {:call, message} = request,
        {_pid, ref} = caller,
        id,
        attempt,
        next
      )
      when is_reference(ref) do
    {_worker, _cell, call, _cast, broker, answers, _idle_ms, _how, reads} = direct

    if in_place?(reads, :call, message) do
      from = Answer.from(caller, broker, id, answers)

      case Callback.call(call, message, from, state) do
        {:reply, reply, new} ->
          {pid, ref} = caller
          run = {request, from, caller, id, attempt}
          settle(direct, version, state, w, run, new, pid, {ref, reply}, next)

        outcome ->
          w
          |> Worker.with_known(version, state)
          |> Worker.settle(request, from, caller, outcome, attempt)
          |> Worker.loop()
      end
    else
      w |> Worker.with_known(version, state) |> Worker.unusual(request, caller, 0, id)
    end
  end

  def run(direct, version, state, w, {:cast, message} = request, nil, id, attempt, _next) do
    {_worker, _cell, _call, cast, _broker, _answers, _idle_ms, _how, reads} = direct

    if in_place?(reads, :cast, message) do
      case Callback.cast(cast, message, state) do
        {:noreply, new} ->
          settle(direct, version, state, w, {request, nil, nil, id, attempt}, new, nil, nil, 0)

        outcome ->
          w
          |> Worker.with_known(version, state)
          |> Worker.settle(request, nil, nil, outcome, attempt)
          |> Worker.loop()
      end
    else
      w |> Worker.with_known(version, state) |> Worker.unusual(request, nil, 0, id)
    end
  end

  # It came through the pool's process, or was only to wake it.
  def run(_direct, version, state, w, request, caller, id, _attempt, _next),
    do: w |> Worker.with_known(version, state) |> Worker.unusual(request, caller, 0, id)

  # One that only reads keeps nobody waiting, and one that may write needs the turn.
  defp in_place?({:in_turn, read_only?}, kind, message), do: read_only?.(kind, message) != true

  defp in_place?({:out_of_turn, read_only?}, kind, message),
    do: read_only?.(kind, message) == true

  defp in_place?(_free, _kind, _message), do: true

  # What is in the mailbox goes before the next request, but not after the first one of a worker that was idle: mostly there
  # is no other one, and then it waits in its mailbox at once.
  defp settle(direct, version, state, w, run, new, pid, answer, @likely_last) do
    how = how(direct, elem(run, 0), state, new)
    put(direct, version, state, w, run, new, pid, answer, (how && how) ||| @likely_last)
  end

  defp settle(direct, version, state, w, run, new, pid, answer, 0) do
    how = how(direct, elem(run, 0), state, new)

    receive do
      message ->
        w
        |> Worker.with_known(version, state)
        |> settle_otherwise(run, new, answer)
        |> Worker.mailbox(message)
    after
      0 -> put(direct, version, state, w, run, new, pid, answer, how)
    end
  end

  defp put(direct, version, state, w, run, new, pid, answer, how) do
    {worker, cell, _, _, _, _, _, _, _} = direct

    case how && Native.cell_answer_take(cell, version, new, worker, pid, answer, how) do
      version when is_integer(version) ->
        wait(direct, version, new, w)

      {version, message, caller, _ns, id} when is_integer(version) ->
        run(direct, version, new, w, message, caller, id, 1)

      {here, [_ | _] = casts} ->
        begun(direct, here, new, w, casts)

      {:changed, {now, term}} ->
        again(direct, version, state, w, run, new, answer, now, term)

      :changed ->
        case let_by(direct, version) do
          :unchanged ->
            put(direct, version, state, w, run, new, pid, answer, how)

          {now, term} ->
            again(direct, version, state, w, run, new, answer, now, term)

          _held_or_heavy ->
            w
            |> Worker.with_known(version, state)
            |> settle_otherwise(run, new, answer)
            |> Worker.loop()
        end

      {:changed, message, caller, _ns, id} ->
        w |> Worker.with_known(nil, nil) |> Worker.started(message, caller, id)

      {version, :idle} ->
        w |> Worker.with_known(version, new) |> Worker.taken(:idle)

      {version, _again} ->
        w |> Worker.with_known(version, new) |> Worker.loop()

      # It takes more than one call, or is not to be written.
      _nothing_was_done ->
        w
        |> Worker.with_known(version, state)
        |> settle_otherwise(run, new, answer)
        |> Worker.loop()
    end
  end

  # It has started the first of these casts, that nobody waits for. Each is any worker's until it has been begun: whatever
  # comes in between, those that are left are taken again, by this one or by another. Each puts its state in by itself.
  defp begun(direct, here, state, w, casts) when is_integer(here),
    do: along(direct, here, state, w, casts, 1)

  defp begun(direct, {version, state}, _state, w, casts),
    do: along(direct, version, state, w, casts, 1)

  defp begun(_direct, :heavy, _state, w, [cast | _casts]),
    do: w |> Worker.with_known(nil, nil) |> Worker.started(cast, nil, nil)

  # As `run/8`, with those behind it.
  defp along(direct, version, state, w, [cast], attempt),
    do: run(direct, version, state, w, cast, nil, nil, attempt)

  defp along(direct, version, state, w, [{:cast, message} = cast | _] = casts, attempt) do
    {_worker, _cell, _call, handle_cast, _broker, _answers, _idle_ms, _how, reads} = direct

    if in_place?(reads, :cast, message) do
      case Callback.cast(handle_cast, message, state) do
        {:noreply, new} ->
          settle_along(direct, version, state, w, casts, new, attempt)

        outcome ->
          w
          |> Worker.with_known(version, state)
          |> Worker.settle(cast, nil, nil, outcome, attempt)
          |> Worker.loop()
      end
    else
      w |> Worker.with_known(version, state) |> Worker.unusual(cast, nil, 0, nil)
    end
  end

  # As `settle/8`.
  defp settle_along(direct, version, state, w, [cast | rest] = casts, new, attempt) do
    how = how(direct, cast, state, new)

    receive do
      message ->
        w
        |> Worker.with_known(version, state)
        |> settle_cast_otherwise(cast, attempt, new)
        |> Worker.mailbox(message)
    after
      0 ->
        {worker, cell, _, _, _, _, _, _, _} = direct

        case how && Native.cell_begin(cell, version, new, worker, how) do
          version when is_integer(version) ->
            along(direct, version, new, w, rest, 1)

          {version, now} when is_integer(version) ->
            along(direct, version, now, w, rest, 1)

          {:again, version} ->
            w |> Worker.with_known(version, new) |> Worker.loop()

          {:changed, {now, term}} ->
            along_again(direct, version, state, w, casts, new, attempt, now, term)

          :changed ->
            case let_by(direct, version) do
              :unchanged ->
                settle_along(direct, version, state, w, casts, new, attempt)

              {now, term} ->
                along_again(direct, version, state, w, casts, new, attempt, now, term)

              _held_or_heavy ->
                w
                |> Worker.with_known(version, state)
                |> settle_cast_otherwise(cast, attempt, new)
                |> Worker.loop()
            end

          :begun ->
            w |> Worker.with_known(nil, nil) |> Worker.started(hd(rest), nil, nil)

          _nothing_was_done ->
            w
            |> Worker.with_known(version, state)
            |> settle_cast_otherwise(cast, attempt, new)
            |> Worker.loop()
        end
    end
  end

  # As `again/9`.
  defp along_again(direct, version, state, w, [cast | _] = casts, new, attempt, now, term) do
    if Worker.again?(w, :cast, attempt) do
      along(direct, now, term, w, casts, attempt + 1)
    else
      w
      |> Worker.with_known(version, state)
      |> settle_cast_otherwise(cast, attempt, new)
      |> Worker.loop()
    end
  end

  defp settle_cast_otherwise(w, cast, attempt, new),
    do: settle_otherwise(w, {cast, nil, nil, nil, attempt}, new, nil)

  # Somebody has the turn, so it may not write. Mostly that takes a moment, and to get in line for it would have everybody
  # who comes meanwhile do the same. What is there then.
  defp let_by({_, cell, _, _, _, _, _, how, _}, version)
       when (how &&& @put_unless_held) != 0 do
    if left?(cell, @let_by), do: Native.cell_get(cell, version), else: :held
  end

  defp let_by(_direct, _version), do: :held

  defp left?(cell, tries) do
    cond do
      not Native.cell_held(cell) ->
        true

      tries == 0 ->
        false

      true ->
        _ = :erlang.yield()
        left?(cell, tries - 1)
    end
  end

  # It was changed underneath. The last attempt is made with the turn.
  defp again(direct, version, state, w, run, new, answer, now, term) do
    {{kind, _message} = request, _from, caller, id, attempt} = run

    if Worker.again?(w, kind, attempt) do
      run(direct, now, term, w, request, caller, id, attempt + 1)
    else
      w
      |> Worker.with_known(version, state)
      |> settle_otherwise(run, new, answer)
      |> Worker.loop()
    end
  end

  defp settle_otherwise(w, {request, from, caller, _id, attempt}, new, answer),
    do: Worker.settle(w, request, from, caller, outcome(answer, new), attempt)

  # `nil`: there is more to it. What a handler answers by itself leaves after its state.
  defp how(direct, request, state, new) do
    cond do
      Answer.held?() -> nil
      new === state -> left(direct)
      wrote_in_vain?(direct, request) -> nil
      true -> elem(direct, 7)
    end
  end

  # One that is not named to read only keeps others waiting, whatever it does.
  defp left({_, _, _, _, _, _, _, how, {:in_turn, _read_only?}}),
    do: @as_it_was_in_turn ||| (how &&& @only_this)

  defp left({_, _, _, _, _, _, _, how, _reads}), do: @as_it_was ||| (how &&& @only_this)

  # With the turn it is not named so: see `in_place?/3`.
  defp wrote_in_vain?({_, _, _, _, _, _, _, _, {:out_of_turn, _read_only?}}, _request), do: true

  defp wrote_in_vain?({_, _, _, _, _, _, _, _, {:free, read_only?}}, {kind, message}),
    do: read_only?.(kind, message) == true

  defp wrote_in_vain?(_direct, _request), do: false

  defp outcome(nil, new), do: {:next, :noreply, new, :none}
  defp outcome({_ref, reply}, new), do: {:next, {:reply, reply}, new, :none}
end
