defmodule PartitionedBuffer.GenPool.Answer do
  @moduledoc false
  # Who is to be answered for the message that a worker works on, and how.
  #
  # Invariants:
  #
  #   * A worker that is killed has either answered or not: the answer to `GenPool.call/3`, the end of the
  #     message and the new state (in a native cell) are one native call.
  #   * What a handler answers by itself, with `GenPool.reply/2`, is held until its outcome counts.

  alias PartitionedBuffer.{Broker, Native}
  alias PartitionedBuffer.GenPool.{Backend, Callback, Shared}

  @held :"$partitioned_buffer_replies"

  @typedoc "What goes through the broker with a message: who called with `GenPool.call/3`, or otherwise."
  @type caller :: {pid(), reference()} | {:forwarded, GenServer.from()} | nil

  @typedoc "Nothing to settle, or the broker's worker and whom it answers."
  @type t :: nil | {Broker.worker(), caller()}

  @typedoc "What is the same in all of a pool."
  @type deliverer :: nonempty_improper_list(:alias, reference())

  # Such is a tag that `GenServer.reply/2` sends to an alias.
  @dialyzer {:no_improper_lists, usual: 4, deliverer: 1}

  @doc """
  What a handler gets for `from`. `GenServer.reply/2` sends to `answers`, an alias of a process that hands it to
  `deliver/2`.
  """
  @spec from(caller(), Broker.t(), Broker.id(), reference()) :: GenServer.from() | nil
  def from({:forwarded, from}, _broker, _id, _answers), do: from

  def from(caller, broker, id, answers), do: usual(caller, broker, id, deliverer(answers))

  @doc "The same for who called with `GenPool.call/3`, with what is the same in all of a pool."
  @spec usual({pid(), reference()}, Broker.t(), Broker.id(), deliverer()) :: GenServer.from()
  def usual({pid, _ref} = caller, broker, id, deliverer),
    do: {pid, [deliverer | {broker, id, caller}]}

  @doc "What is the same."
  @spec deliverer(reference()) :: deliverer()
  def deliverer(answers), do: [:alias | answers]

  @doc "Answers who waits for the answer with this tag: once, and if anybody does."
  @spec deliver(tag :: nonempty_improper_list(term(), term()), term()) :: :ok
  def deliver([[:alias | _answers] | {broker, id, {pid, ref}}], reply) do
    _sent? = Native.broker_answer(broker, id, pid, {ref, reply})
    :ok
  end

  @doc "The message has come to its end. Nobody has to be told, or the caller has to be."
  @spec answer(t(), Callback.answer()) :: :ok
  def answer(nil, _answer), do: :ok

  def answer({worker, {pid, ref}}, :noreply) when is_reference(ref),
    do: Native.broker_defer(worker, pid)

  def answer({worker, _caller}, :noreply), do: Broker.done(worker, :done)

  def answer({worker, {:forwarded, from}}, {:reply, reply}) do
    GenServer.reply(from, reply)
    Broker.done(worker, :done)
  end

  def answer({worker, {pid, tag}}, {:reply, reply}), do: Broker.reply(worker, pid, {tag, reply})

  @doc "The handler has crashed."
  @spec fail(t(), reason :: term()) :: :ok
  def fail(nil, _reason), do: :ok

  def fail({worker, caller}, reason) do
    case caller do
      {:forwarded, from} ->
        GenServer.reply(from, {:error, reason})
        Broker.done(worker, :failed)

      {pid, ref} ->
        Broker.fail(worker, pid, {ref, {:error, reason}})

      nil ->
        Broker.done(worker, :failed)
    end
  end

  @doc "Writes the state and answers, if the state was not changed meanwhile."
  @spec write(Shared.t(), term(), t(), Callback.answer()) :: {:ok, Backend.version()} | :changed
  def write(
        %{backend: Backend.Native, ref: cell, version: version},
        state,
        {worker, caller},
        answer
      )
      when not is_tuple(caller) or elem(caller, 0) != :forwarded do
    {to, message} =
      case {answer, caller} do
        {{:reply, reply}, {pid, ref}} -> {pid, {ref, reply}}
        # It will be answered later.
        {:noreply, {pid, _ref}} -> {pid, nil}
        {:noreply, nil} -> {nil, nil}
      end

    written =
      with :heavy <- Native.cell_answer(cell, version, state, worker, to, message),
           staged when staged != :heavy <- Native.cell_stage_dirty(state),
           do: Native.cell_answer_staged(cell, version, staged, worker, to, message)

    case written do
      :changed -> :changed
      :heavy -> Backend.Native.too_large!()
      version -> {:ok, version}
    end
  end

  def write(%{backend: backend, ref: ref, version: version}, state, to, answer) do
    with {:ok, version} <- backend.update(ref, version, state) do
      :ok = answer(to, answer)
      {:ok, version}
    end
  end

  @doc "Whether anything is held."
  @spec held?() :: boolean()
  def held?, do: Process.get(@held) != []

  @doc "From now on, what this process answers by itself is held."
  @spec hold() :: :ok
  def hold do
    # It is a worker's business for all of its life: only the first time is there anything to do.
    _ = if Process.get(@held) != [], do: Process.put(@held, [])
    :ok
  end

  @doc "What is held is sent, in order."
  @spec release() :: :ok
  def release do
    case Process.get(@held) do
      [] ->
        :ok

      held ->
        Process.put(@held, [])
        held |> Enum.reverse() |> Enum.each(fn {from, reply} -> send_reply(from, reply) end)
    end
  end

  @doc "What is held is forgotten."
  @spec drop() :: :ok
  def drop do
    Process.put(@held, [])
    :ok
  end

  @doc "What a handler answers: what it has answered by itself before it returned, if it has."
  @spec first(GenServer.from() | nil, Callback.answer()) :: Callback.answer()
  def first(from, {:reply, _reply} = answer) do
    held = Process.get(@held)

    # The last one is the first in the list.
    case held |> Enum.reverse() |> List.keyfind(from, 0) do
      {^from, reply} ->
        Process.put(@held, Enum.reject(held, &match?({^from, _reply}, &1)))
        {:reply, reply}

      nil ->
        answer
    end
  end

  def first(_from, answer), do: answer

  @doc "Answers a caller, now or when the handler that runs in this process is through."
  @spec reply(GenServer.from(), term()) :: :ok
  def reply(from, reply) do
    case Process.get(@held) do
      nil ->
        send_reply(from, reply)

      held ->
        Process.put(@held, [{from, reply} | held])
        :ok
    end
  end

  @doc "Answers a caller now."
  @spec send_reply(GenServer.from(), term()) :: :ok
  def send_reply({_pid, [[:alias | answers] | {_broker, _id, _caller}] = tag}, reply)
      when node(answers) == node(),
      do: deliver(tag, reply)

  def send_reply(from, reply), do: GenServer.reply(from, reply)
end
