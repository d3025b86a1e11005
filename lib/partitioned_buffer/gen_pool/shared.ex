defmodule PartitionedBuffer.GenPool.Shared do
  @moduledoc false
  # The shared state as one worker sees it, and how a handler is run on it.
  #
  # Invariants:
  #
  #   * A handler's new state replaces exactly the state that the handler was given. If another one is there
  #     by then, nothing is written, and the handler is run again with that one.
  #   * What a handler answers leaves the worker with its state or after it, never before, and not at all if
  #     the handler is run again or crashes.
  #   * A worker that has the turn is the only one that writes, but for those that had begun to write when
  #     it got the turn: so it is run again once for each of them at the most.
  #   * A handler that ends the pool has the turn, and keeps it: nobody writes after it, not even when its worker is the
  #     first one to end.
  #   * A worker leaves nothing behind when it is killed: turns are given up by the native side, and a
  #     state is written and answered in one native call.

  alias PartitionedBuffer.GenPool.{Answer, Backend, Callback}
  alias PartitionedBuffer.Native

  @enforce_keys [:backend, :ref, :turns, :isolation, :max_attempts]
  defstruct @enforce_keys ++ [:version, :state, turn?: false]

  @type t :: %__MODULE__{
          backend: module(),
          ref: Backend.ref(),
          turns: Native.turns(),
          isolation: :exclusive | :optimistic,
          max_attempts: pos_integer(),
          version: Backend.version() | nil,
          state: term(),
          turn?: boolean()
        }

  @typedoc """
  What is to be run. `retried` is told which attempt was in vain; `parent` is whose end ends the worker, while it
  waits for its turn.
  """
  @type request :: %{
          required(:module) => module(),
          required(:kind) => Callback.kind(),
          required(:message) => term(),
          required(:from) => GenServer.from() | nil,
          required(:answer) => Answer.t(),
          required(:read_only?) => boolean(),
          required(:retried) => (pos_integer() -> term()),
          required(:parent) => pid()
        }

  @doc "The state of now."
  @spec refresh(t()) :: t()
  def refresh(%__MODULE__{backend: backend, ref: ref, version: version} = shared) do
    case backend.get(ref, version) do
      :unchanged -> shared
      {version, state} -> %{shared | version: version, state: state}
    end
  end

  @doc "Lets go of the copy of the state."
  @spec forget(t()) :: t()
  def forget(shared), do: %{shared | version: nil, state: nil}

  @doc """
  Runs a callback until its outcome has become part of the state. Answers how many attempts it took. The
  turn is kept, if it was taken: what follows from the outcome belongs to it.
  """
  @spec run(t(), request()) :: {Callback.outcome(), pos_integer(), t()}
  def run(%{isolation: :exclusive} = shared, %{read_only?: false} = request),
    do: shared |> take_turn(request.parent) |> attempt(request, 1)

  def run(shared, request), do: attempt(shared, request, 1)

  @doc "Goes on with the outcome of a callback that was run, in this attempt, as `run/2`."
  @spec settle(t(), request(), Callback.outcome(), pos_integer()) ::
          {Callback.outcome(), pos_integer(), t()}
  def settle(shared, request, outcome, attempt), do: settled(outcome, shared, request, attempt)

  defp attempt(shared, request, attempt) do
    shared = refresh(shared)
    %{module: module, kind: kind, message: message, from: from} = request
    :ok = Answer.hold()
    outcome = Callback.run(module, kind, message, from, shared.state)
    settled(outcome, shared, request, attempt)
  end

  defp settled(
         {:stop, _reason, _answer, _state} = outcome,
         %{turn?: false} = shared,
         request,
         attempt
       ),
       do: settled(outcome, take_turn(shared, request.parent), request, attempt)

  defp settled(outcome, shared, request, attempt) do
    case try_settle(outcome, shared, request) do
      {:ok, outcome, shared} ->
        Answer.release()
        {outcome, attempt, shared}

      {:crash, outcome} ->
        Answer.drop()
        {outcome, attempt, shared}

      {:again, outrun?} ->
        Answer.drop()
        request.retried.(attempt)
        last? = outrun? or attempt >= shared.max_attempts
        shared = if last?, do: take_turn(shared, request.parent), else: shared
        attempt(shared, request, attempt + 1)
    end
  end

  defp try_settle({:crash, _reason, _stack} = crash, _shared, _request), do: {:crash, crash}

  defp try_settle({:next, answer, state, _action} = outcome, shared, request),
    do: write(outcome, first(answer, request), state, shared, request)

  # Others have not written meanwhile, even if it has changed nothing itself.
  defp try_settle(
         {:stop, _reason, answer, state} = outcome,
         %{isolation: :optimistic, state: state} = shared,
         request
       ),
       do: put(outcome, first(answer, request), state, shared, request)

  defp try_settle({:stop, _reason, answer, state} = outcome, shared, request),
    do: write(outcome, first(answer, request), state, shared, request)

  # Who has been answered is answered, as by a `GenServer`.
  defp first(answer, %{answer: nil}), do: answer
  defp first(answer, %{from: from}), do: Answer.first(from, answer)

  # Nothing was changed: the handler might as well have run in the moment in which its state was read.
  defp write(outcome, answer, state, %{state: state} = shared, request) do
    Answer.answer(request.answer, answer)
    {:ok, outcome, shared}
  end

  defp write(_outcome, _answer, _state, _shared, %{read_only?: true} = request),
    do: {:crash, {:crash, {:read_only_handler_wrote, request.kind, request.message}, []}}

  defp write(outcome, answer, state, shared, request),
    do: put(outcome, answer, state, shared, request)

  defp put(outcome, answer, state, shared, request) do
    if waits_for_others?(shared) do
      {:again, true}
    else
      case Answer.write(shared, state, request.answer, answer) do
        {:ok, version} -> {:ok, outcome, %{shared | version: version, state: state}}
        :changed -> {:again, false}
      end
    end
  end

  @doc "Whether somebody was overtaken for long enough: now it is waited for."
  @spec waits_for_others?(t()) :: boolean()
  def waits_for_others?(%{turn?: true}), do: false
  def waits_for_others?(%{isolation: :exclusive}), do: false
  def waits_for_others?(%{turns: turns}), do: Native.turns_held(turns)

  @doc "Waits for the turn, unless it has it."
  @spec take_turn(t(), pid()) :: t()
  def take_turn(%{turn?: true} = shared, _parent), do: shared

  def take_turn(%{turns: turns} = shared, parent) do
    case Native.turns_take(turns) do
      :ok ->
        %{shared | turn?: true}

      :wait ->
        receive do
          :partitioned_buffer_turn -> %{shared | turn?: true}
          # It traps exits, and is told to end.
          {:EXIT, ^parent, reason} -> exit(reason)
        end
    end
  end

  @doc "Gives the turn up, if it has it."
  @spec leave_turn(t()) :: t()
  def leave_turn(%{turn?: false} = shared), do: shared

  def leave_turn(%{turns: turns} = shared) do
    :ok = Native.turns_leave(turns)
    %{shared | turn?: false}
  end

  @doc "A handler that has the turn has ended the pool: nobody gets the turn after it."
  @spec close(t()) :: :ok
  def close(%{turns: turns}), do: Native.turns_close(turns)
end
