defmodule PartitionedBuffer.ProcessorRunner do
  @moduledoc false
  # Takes a partition's draining generation out batch by batch and calls the processor with each, in
  # a process of its own.
  #
  # Invariant: the batch that the processor has is the only one that this process can fail. All of them are
  # held natively: a batch is settled by taking the next one.

  alias PartitionedBuffer.{Entries, Names, Native, Telemetry}

  # How long nobody listening to `processing` events may stay unnoticed to have changed.
  @look_again_ms 10
  # Rows inserted into a table at once.
  @rows 1_000
  # Words. A drain allocates all the time and keeps nothing: with the VM's smallest heap it would
  # collect garbage every few batches, which took a fifth of the time of a drain.
  @min_heap 50_000

  @enforce_keys [:ref, :index, :metadata, :module, :processor, :info?]
  defstruct [:look_again, :since, stream?: false] ++ @enforce_keys

  @type t :: %__MODULE__{
          ref: Native.handle(),
          index: Native.index(),
          metadata: %{buffer: atom(), partition: atom()},
          module: module(),
          processor: PartitionedBuffer.processor(),
          # whether the processor gets to know which batch it has
          info?: boolean(),
          # whether it gets all there is at once, as a stream
          stream?: boolean(),
          since: non_neg_integer() | nil,
          look_again: integer() | nil
        }

  # `:not_owner`: another process drains this partition already. That is so when a partition's process
  # was killed after it had started one, and the process that took its place started a second. Ends with
  # `{:shutdown, {:failed, reason}}` when the processor says that it has failed.
  @spec run(t()) :: :done | :not_owner
  def run(%__MODULE__{} = job) do
    _ = Process.flag(:min_heap_size, @min_heap)
    drain(job)
  end

  @doc "Calls the processor with nothing, which drains nothing."
  @spec run_nothing(t()) :: {:nothing, result :: term()}
  def run_nothing(%__MODULE__{} = job) do
    {:nothing, call(looking(job), [], 0, Telemetry.listening?(), now())}
  end

  @doc "The same in a process that does other things too."
  @spec drain(t()) :: :done | :not_owner
  def drain(%__MODULE__{} = job) do
    case Native.partition_claim(job.ref, job.index) do
      :ok ->
        batches(looking(job), nil, Telemetry.listening?(), now())

      :not_owner ->
        :not_owner
    end
  end

  defp looking(job) do
    look_again = System.convert_time_unit(@look_again_ms, :millisecond, :native)
    %{job | look_again: look_again, since: Native.buffer_since(job.ref)}
  end

  # The size of a batch is native, so that it can be changed while a generation is drained.
  defp batches(job, result, listening?, looked_at) do
    case next(job, result) do
      batch when is_list(batch) ->
        now = now()
        look? = now - looked_at > job.look_again
        listening? = if look?, do: Telemetry.listening?(), else: listening?
        result = call(job, batch, nil, listening?, now)
        batches(job, result, listening?, if(look?, do: now, else: looked_at))

      :table when job.stream? ->
        stream(job, result)

      :table ->
        table(job, result)

      :expired_some ->
        batches(job, nil, listening?, looked_at)

      # A partition that is paused goes on when it is told to.
      nothing when nothing in [:empty, :paused] ->
        :done

      :not_owner ->
        :not_owner
    end
  end

  defp next(job, result) do
    case Native.partition_next(job.ref, job.index, result) do
      :large -> Native.partition_copy_dirty(job.ref, job.index)
      :dirty -> Native.partition_next_dirty(job.ref, job.index, result)
      other -> other
    end
  end

  # All that is left is one batch. The table is filled while its entries still count as queued: a
  # process that is killed before the processor is called has lost nothing.
  defp table(job, result) do
    case Native.partition_done(job.ref, job.index, result) do
      0 ->
        :done

      :not_owner ->
        :not_owner

      _entries ->
        if Native.partition_expire(job.ref, job.index),
          do: table(job, nil),
          else: next_table(job)
    end
  end

  defp next_table(job) do
    table = fill_table(job)

    case Native.partition_start_all(job.ref, job.index, nil) do
      size when is_integer(size) ->
        result = call(job, table, size, Telemetry.listening?(), now())
        delete_table(table)
        # Those behind a batch that was tried again come next.
        table(job, result)

      _paused ->
        delete_table(table)
        :done
    end
  end

  # All that is left is one batch, which stays where it is and is read while the processor runs.
  defp stream(job, result) do
    case Native.partition_start_all(job.ref, job.index, result) do
      size when is_integer(size) ->
        stream = Entries.stream(job.ref, job.index)
        stream(job, call(job, stream, size, Telemetry.listening?(), now()))

      nothing when nothing in [:empty, :paused] ->
        :done

      :not_owner ->
        :not_owner
    end
  end

  defp call(job, batch, size, listening?, started) do
    info = if listening? or job.info?, do: info(job)

    if listening? do
      Telemetry.execute(
        [:processing, :start],
        %{system_time: System.system_time()},
        metadata(job, info)
      )
    end

    result =
      try do
        process(job, batch, info)
      catch
        kind, reason ->
          failure = %{kind: kind, reason: reason, stacktrace: __STACKTRACE__}
          metadata = job |> metadata(info(job)) |> Map.merge(failure)

          # Whatever it exits with: it was the processor that failed.
          _ = Native.partition_fail(job.ref, job.index, :exception)
          Telemetry.execute([:processing, :exception], %{duration: now() - started}, metadata)
          # The process ends with it: the partition is told by that, as it is when it is killed.
          :erlang.raise(kind, reason, __STACKTRACE__)
      end

    duration = now() - started

    if listening? or duration > job.look_again do
      Telemetry.execute(
        [:processing, :stop],
        %{duration: duration, size: size || length(batch)},
        metadata(job, info || info(job))
      )
    end

    check(job, batch, result)
  end

  defp process(%{stream?: true, processor: {module, function, args}} = job, batch, info),
    do: apply(module, function, [batch, Map.merge(info, job.metadata) | args])

  defp process(%{processor: processor}, batch, _info) when is_function(processor, 1),
    do: processor.(batch)

  defp process(%{processor: processor}, batch, info) when is_function(processor, 2),
    do: processor.(batch, info)

  defp process(%{processor: {module, function, args}, info?: true}, batch, info),
    do: apply(module, function, [batch, info | args])

  defp process(%{processor: {module, function, args}}, batch, _info),
    do: apply(module, function, [batch | args])

  # Whatever comes back from a stream is what whoever asked for it gets.
  defp check(%{stream?: true}, _batch, result), do: result

  # A list comes from a batch; a table has no entries to be named.
  defp check(job, batch, {:failed, [_ | _] = failed} = bad) do
    case is_list(batch) and not List.improper?(failed) and places(batch, failed) do
      {:ok, places} -> fail_some(job, places)
      _not_of_the_batch -> fail(job, {:bad_return, bad})
    end
  end

  defp check(_job, _batch, {:failed, []}), do: :ok
  defp check(job, _batch, {:error, reason}), do: fail(job, reason)
  defp check(_job, _batch, result), do: result

  @spec fail_some(t(), [non_neg_integer()]) :: no_return()
  defp fail_some(job, places) do
    case Native.partition_fail_some(job.ref, job.index, places) do
      true -> fail(job, {:failed, length(places)})
      _not_owner -> exit({:shutdown, :not_owner})
    end
  end

  @spec fail(t(), term()) :: no_return()
  defp fail(job, reason) do
    _ = Native.partition_fail(job.ref, job.index, :failed)
    exit({:shutdown, {:failed, reason}})
  end

  # Where in the batch the entries are that failed; in any order, each as often as it is named.
  defp places(batch, failed) do
    counts = Enum.frequencies(failed)

    {places, counts} =
      batch
      |> Enum.with_index()
      |> Enum.flat_map_reduce(counts, fn {entry, index}, counts ->
        case counts do
          %{^entry => 1} -> {[index], Map.delete(counts, entry)}
          %{^entry => more} -> {[index], %{counts | entry => more - 1}}
          _not_failed -> {[], counts}
        end
      end)

    if counts == %{}, do: {:ok, places}, else: :error
  end

  defp metadata(job, info), do: Map.merge(job.metadata, Map.take(info, [:batch, :attempt]))

  defp info(job) do
    case Native.partition_batch(job.ref, job.index) do
      {first, last, attempt, size} ->
        id = {job.metadata.buffer, job.metadata.partition, job.since, first, last}
        %{batch: id, attempt: attempt, size: size}

      # It has been taken away from this process, which is about to be killed.
      nil ->
        %{batch: nil, attempt: 1, size: 0}
    end
  end

  # A batch that is to be tried again is as large as it was; otherwise it is all there is.
  defp fill_table(job) do
    name = Names.table(job.metadata.partition)
    delete_table(name)
    ^name = :ets.new(name, [job.module.ets_type(), :public, :named_table, keypos: 2])

    case Native.partition_again(job.ref, job.index) do
      nil -> fill_table(job, name, 0, 1)
      {len, pending} -> insert(job, name, tried_before(job, len, pending), 1)
    end

    name
  end

  defp fill_table(job, name, cursor, position) do
    case Native.partition_peek_dirty(job.ref, job.index, cursor, @rows) do
      {[], _cursor} ->
        :ok

      {entries, cursor} ->
        insert(job, name, entries, position)
        fill_table(job, name, cursor, position + length(entries))
    end
  end

  defp tried_before(job, len, pending) do
    {entries, _cursor} = Native.partition_peek_dirty(job.ref, job.index, 0, len)
    if pending, do: some(Enum.with_index(entries), pending), else: entries
  end

  # Both are in order.
  defp some([{entry, place} | entries], [place | pending]), do: [entry | some(entries, pending)]
  defp some([_processed | entries], pending), do: some(entries, pending)
  defp some([], _pending), do: []

  defp insert(job, name, entries, position) do
    rows = entries |> Enum.with_index(position) |> Enum.map(&row(job.module, &1))
    :ets.insert(name, rows)
  end

  defp row(module, {entry, position}), do: module.row(entry, position)

  defp delete_table(name) do
    if :ets.whereis(name) != :undefined, do: :ets.delete(name)
  end

  defp now, do: System.monotonic_time()
end
