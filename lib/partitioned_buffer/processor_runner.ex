defmodule PartitionedBuffer.ProcessorRunner do
  @moduledoc false
  # Takes a partition's draining generation out batch by batch and calls the processor with each, in
  # a process of its own.
  #
  # Invariant: the batch that the processor has is the only one that can be lost with this process.
  # All others are held natively: a batch is settled by taking the next one.

  alias PartitionedBuffer.{Names, Native, Telemetry}

  # How long nobody listening to `processing` events may stay unnoticed to have changed.
  @look_again_ms 10
  # Rows inserted into a table at once.
  @rows 1_000
  # Words. A drain allocates all the time and keeps nothing: with the VM's smallest heap it would
  # collect garbage every few batches, which took a fifth of the time of a drain.
  @min_heap 50_000

  @enforce_keys [:ref, :index, :metadata, :module, :processor]
  defstruct [:look_again | @enforce_keys]

  @type t :: %__MODULE__{
          ref: Native.handle(),
          index: Native.index(),
          metadata: %{buffer: atom(), partition: atom()},
          module: module(),
          processor: PartitionedBuffer.processor(),
          look_again: integer() | nil
        }

  # `:not_owner`: another process drains this partition already. That is so when a partition's process
  # was killed after it had started one, and the process that took its place started a second.
  @spec run(t()) :: :done | :not_owner
  def run(%__MODULE__{} = job) do
    _ = Process.flag(:min_heap_size, @min_heap)
    look_again = System.convert_time_unit(@look_again_ms, :millisecond, :native)

    case Native.partition_claim(job.ref, job.index) do
      :ok -> batches(%{job | look_again: look_again}, Telemetry.listening?(), now())
      :not_owner -> :not_owner
    end
  end

  # The size of a batch is native, so that it can be changed while a generation is drained.
  defp batches(job, listening?, looked_at) do
    case next(job) do
      batch when is_list(batch) ->
        now = now()
        look? = now - looked_at > job.look_again
        listening? = if look?, do: Telemetry.listening?(), else: listening?
        call(job, batch, nil, listening?, now)
        batches(job, listening?, if(look?, do: now, else: looked_at))

      :table ->
        table(job)

      :empty ->
        :done

      :not_owner ->
        :not_owner
    end
  end

  defp next(job) do
    case Native.partition_next(job.ref, job.index) do
      :large -> Native.partition_copy_dirty(job.ref, job.index)
      :dirty -> Native.partition_next_dirty(job.ref, job.index)
      other -> other
    end
  end

  # All that is left is one batch. The table is filled while its entries still count as queued: a
  # process that is killed before the processor is called has lost nothing.
  defp table(job) do
    case Native.partition_done(job.ref, job.index) do
      0 ->
        :done

      :not_owner ->
        :not_owner

      _entries ->
        table = fill_table(job)
        size = Native.partition_start_all(job.ref, job.index)
        call(job, table, size, Telemetry.listening?(), now())
        delete_table(table)
        _none = Native.partition_done(job.ref, job.index)
        :done
    end
  end

  defp call(job, batch, size, listening?, started) do
    if listening? do
      Telemetry.execute(
        [:processing, :start],
        %{system_time: System.system_time()},
        job.metadata
      )
    end

    try do
      process(job.processor, batch)
    catch
      kind, reason ->
        metadata =
          Map.merge(job.metadata, %{kind: kind, reason: reason, stacktrace: __STACKTRACE__})

        # Whatever it exits with: it was the processor that failed.
        _ = Native.partition_fail(job.ref, job.index)
        Telemetry.execute([:processing, :exception], %{duration: now() - started}, metadata)
        # The process ends with it: the partition is told by that, as it is when it is killed.
        :erlang.raise(kind, reason, __STACKTRACE__)
    end

    duration = now() - started

    if listening? or duration > job.look_again do
      Telemetry.execute(
        [:processing, :stop],
        %{duration: duration, size: size || length(batch)},
        job.metadata
      )
    end

    :ok
  end

  defp process(processor, batch) when is_function(processor, 1), do: processor.(batch)
  defp process({module, function, args}, batch), do: apply(module, function, [batch | args])

  defp fill_table(job) do
    name = Names.table(job.metadata.partition)
    delete_table(name)
    ^name = :ets.new(name, [job.module.ets_type(), :public, :named_table, keypos: 2])
    fill_table(job, name, 0, 1)
  end

  defp fill_table(job, name, cursor, position) do
    case Native.partition_peek_dirty(job.ref, job.index, cursor, @rows) do
      {[], _cursor} ->
        name

      {entries, cursor} ->
        rows = entries |> Enum.with_index(position) |> Enum.map(&row(job.module, &1))
        :ets.insert(name, rows)
        fill_table(job, name, cursor, position + length(entries))
    end
  end

  defp row(module, {entry, position}), do: module.row(entry, position)

  defp delete_table(name) do
    if :ets.whereis(name) != :undefined, do: :ets.delete(name)
  end

  defp now, do: System.monotonic_time()
end
