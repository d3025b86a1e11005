defmodule PartitionedBuffer.ProcessorRunner do
  @moduledoc false
  # Takes a partition's draining generation out batch by batch and calls the processor with each, in
  # a process of its own, and waits for the next cycle then: whoever starts one wakes it natively.
  #
  # Invariants:
  #
  #   * The batch that the processor has is the only one that this process can fail. All of them are
  #     held natively: a batch is settled by taking the next one.
  #   * What its processor came to is noted natively before an event tells it. When the call was ended because it took
  #     too long, that was first: then it comes to nothing, and nothing is told of it.
  #   * It drains what the native side has made it the owner of, for the partition's process that started it.
  #     When there is another one, or none, it ends; so it does when it has nothing to do for a while.
  #   * A processor finds it as a new process, but for the process dictionary: what is sent to it between two
  #     cycles is dropped, and when a processor has left links or traps exits, it ends.

  alias PartitionedBuffer.{Entries, Names, Native, Partition, Telemetry}

  # Milliseconds without a cycle until its garbage is collected, if there may be much.
  @tidy_ms 20
  # So what a processor leaves behind unseen, such as tables, does not stay for longer.
  @age_ms 60_000
  # Words: what is larger is given back.
  @max_heap 1_000_000
  # How long it may stay unnoticed that somebody has begun to listen to events of its own, or has ceased to; and that it
  # is too old or its heap too large.
  @look_again_ms 1
  # In nanoseconds, which the native clock counts.
  @ms 1_000_000
  # Rows inserted into a table at once.
  @rows 1_000
  # Words. A drain allocates all the time and keeps nothing: with the VM's smallest heap it would
  # collect garbage every few batches, which took a fifth of the time of a drain.
  @min_heap 50_000

  @enforce_keys [:ref, :index, :metadata, :module, :processor, :info?]
  defstruct [:since, :partition, stream?: false, tells?: false, empty?: false] ++
              @enforce_keys

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
          # the partition's process, whether it is told of each cycle, and of those without entries
          partition: pid() | nil,
          tells?: boolean(),
          empty?: boolean(),
          since: non_neg_integer() | nil
        }

  # Ends with `{:shutdown, {:failed, reason}}` when the processor says that it has failed. `:nothing`: its first
  # call is one with nothing.
  @spec run(t(), :cycle | :nothing) :: :done
  def run(%__MODULE__{} = job, first) do
    _ = Process.flag(:min_heap_size, @min_heap)
    {:links, links} = Process.info(self(), :links)

    me = %{
      monitor: Process.monitor(job.partition),
      links: links,
      until: Native.clock() + @age_ms * @ms,
      # whether somebody listens to `processing` events and to those of cycles, whether it is too old or too large, and
      # when that is to be looked at again
      listening?: false,
      cycles?: false,
      worn?: false,
      look_at: 0
    }

    job = looking(job)
    if first == :nothing, do: nothing(job)
    idle(job, me)
  end

  @doc "Has a runner call the processor with nothing, and send `{:nothing, pid, result}` then."
  @spec call_with_nothing(pid()) :: :ok
  def call_with_nothing(runner) do
    send(runner, {:nothing, self()})
    :ok
  end

  @doc "Has a runner go by other options."
  @spec change(pid(), t()) :: :ok
  def change(runner, job) do
    send(runner, {:job, self(), job})
    :ok
  end

  # Between two cycles.
  defp idle(job, me) do
    case sweep(job, me) do
      %__MODULE__{} = job -> if tidy?(me), do: next_cycle(job, me), else: :done
      :ends -> :done
    end
  end

  defp next_cycle(job, me) do
    serve_line(job)

    case Native.partition_idle(job.ref, job.index, job.partition) do
      {:waits, noted} ->
        if job.empty?, do: Partition.waits(job.partition, noted)
        wait(job, me, @tidy_ms)

      {trigger, size} ->
        cycle(job, me, trigger, size)

      :ends ->
        :done
    end
  end

  defp cycle(job, me, trigger, size) do
    serve_line(job)
    advance(job, me, {trigger, size}, nil)
  end

  # Batch by batch, and cycle by cycle as long as there is one. While nobody listens, a batch takes one look at the
  # clock, a native one: `look_at` is when to see again whether somebody does. `begun`: the cycle that has not been told
  # of, or nil. (What changes with each batch is no part of `me`: to copy that took longer than to call a short processor.)
  defp advance(job, me, begun, result) do
    %{ref: ref, index: index, partition: partition} = job

    case Native.partition_advance(ref, index, partition, result, me.look_at) do
      :look ->
        advance(job, look_again(job, me), begun, result)

      :dirty ->
        dirty = Native.partition_advance_dirty(ref, index, partition, result)
        advanced(dirty, job, me, begun, result)

      advanced ->
        advanced(advanced, job, me, begun, result)
    end
  end

  defp advanced([_ | _] = batch, job, me, begun, _result) do
    began(job, me, begun)
    advance(job, me, nil, call(job, batch, nil, me.listening?))
  end

  # It waits already: whoever has seen what it did may wake it.
  defp advanced(:waits, job, me, begun, result),
    do: advanced({:waits, nil, false}, job, me, begun, result)

  defp advanced({:waits, noted, much?}, job, me, _begun, _result) do
    if tidy?(me) do
      if job.empty?, do: Partition.waits(job.partition, noted)
      wait(job, me, if(much?, do: @tidy_ms, else: :infinity))
    else
      leave(job, nil)
    end
  end

  # Another cycle, with its first batch.
  defp advanced({trigger, size, first}, job, me, begun, result) do
    case between(job, me) do
      %__MODULE__{} = job ->
        began(job, me, begun)
        advanced(first, job, me, {trigger, size}, result)

      :ends ->
        leave(job, trigger)
    end
  end

  defp advanced(:large, job, me, begun, result),
    do: job |> copy() |> advanced(job, me, begun, result)

  defp advanced(:expired_some, job, me, begun, _result) do
    began(job, me, begun)
    Partition.gave_up(job.partition)
    advance(job, me, nil, nil)
  end

  defp advanced(:table, job, me, begun, result) do
    began(job, me, begun)
    _end = if job.stream?, do: stream(job, result), else: table(job, result)
    idle(job, me)
  end

  defp advanced(ends, job, me, begun, _result) when ends in [:ends, :not_owner] do
    began(job, me, begun)
    :done
  end

  # Looking costs as much as a short cycle.
  defp look_again(job, me) do
    {listening?, cycles?, look_at} = look(job, me.listening?)
    {:total_heap_size, heap} = Process.info(self(), :total_heap_size)
    worn? = heap >= @max_heap or look_at >= me.until
    %{me | listening?: listening?, cycles?: cycles?, worn?: worn?, look_at: look_at}
  end

  defp look(job, listening?) do
    {listens?, cycles?} = Telemetry.listening()
    if listens? and not listening?, do: stopped_unheard(job)
    {listens?, cycles?, Native.clock() + @look_again_ms * @ms}
  end

  # In turn, there is room for those in line when a generation has been swapped out, and when one is through.
  defp serve_line(%{stream?: true} = job) do
    _draining = Native.data_buffer_turn(job.ref, job.index)
    :ok
  end

  defp serve_line(_job), do: :ok

  defp began(_job, _me, nil), do: :ok

  # What is left of a former cycle is none of its own.
  defp began(_job, _me, {nil, _size}), do: :ok

  defp began(job, me, {trigger, size}) do
    if me.cycles? do
      Telemetry.execute(
        [:flush],
        %{system_time: System.system_time(), size: size},
        Map.put(job.metadata, :trigger, trigger)
      )
    end

    if job.tells?, do: Partition.began(job.partition, trigger)
    :ok
  end

  defp wait(job, me, ms) do
    receive do
      {:partitioned_buffer_cycle, trigger, size} ->
        cycle(job, me, trigger, size)

      # By the partition, when nothing has been done for a while: it does not wait any more.
      :partitioned_buffer_sent_away ->
        :done

      message ->
        case handle(message, job, me) do
          :ends -> leave(job, nil)
          job -> wait(job, me, ms)
        end
    after
      ms ->
        :erlang.garbage_collect()
        wait(job, me, :infinity)
    end
  end

  # Whatever was started for it is done by the next one, which the partition starts when it sees the end of this one.
  defp leave(job, unsaid) do
    :ok = Native.partition_leave(job.ref, job.index, unsaid)
    :done
  end

  # Before a cycle of which it has the first batch already. It can't process nothing with that.
  defp between(job, me) do
    receive do
      {:nothing, _partition} -> :ends
      message -> with %__MODULE__{} = job <- handle(message, job, me), do: between(job, me)
    after
      0 -> if tidy?(me), do: job, else: :ends
    end
  end

  # What has come meanwhile.
  defp sweep(job, me) do
    receive do
      message -> with %__MODULE__{} = job <- handle(message, job, me), do: sweep(job, me)
    after
      0 -> job
    end
  end

  defp handle({:job, partition, job}, %{partition: partition}, _me), do: looking(job)

  defp handle({:nothing, partition}, %{partition: partition} = job, _me) do
    nothing(job)
    job
  end

  defp handle({:DOWN, monitor, :process, _pid, _reason}, _job, %{monitor: monitor}), do: :ends
  # Of the processor: nobody waits for it any more.
  defp handle(_stray, job, _me), do: job

  defp tidy?(%{worn?: true}), do: false

  # One by one: a list of both takes longer.
  defp tidy?(%{links: links}) do
    {:trap_exit, traps?} = :erlang.process_info(self(), :trap_exit)
    not traps? and match?({:links, ^links}, :erlang.process_info(self(), :links))
  end

  # Drains nothing.
  defp nothing(job) do
    result = call(job, [], 0, Telemetry.listening?())
    send(job.partition, {:nothing, self(), result})
  end

  @doc "Drains what is draining, in a process that does other things too."
  @spec drain(t()) :: :done | :not_owner
  def drain(%__MODULE__{} = job) do
    case Native.partition_claim(job.ref, job.index) do
      :ok ->
        {outcome, _listening?, _look_at} = batches(looking(job), nil, false, 0)
        outcome

      :not_owner ->
        :not_owner
    end
  end

  defp looking(job) do
    %{job | since: Native.buffer_since(job.ref)}
  end

  # The size of a batch is native, so that it can be changed while a generation is drained.
  defp batches(job, result, listening?, look_at) do
    case next(job, result, look_at) do
      batch when is_list(batch) ->
        batches(job, call(job, batch, nil, listening?), listening?, look_at)

      :look ->
        {listening?, _cycles?, look_at} = look(job, listening?)
        batches(job, result, listening?, look_at)

      :table ->
        outcome = if job.stream?, do: stream(job, result), else: table(job, result)
        {outcome, listening?, look_at}

      :expired_some ->
        if job.partition, do: Partition.gave_up(job.partition)
        batches(job, nil, listening?, look_at)

      # A partition that is paused goes on when it is told to.
      nothing when nothing in [:empty, :paused] ->
        {:done, listening?, look_at}

      :not_owner ->
        {:not_owner, listening?, look_at}
    end
  end

  defp next(job, result, look_at) do
    case Native.partition_next(job.ref, job.index, result, look_at) do
      :large -> copy(job)
      :dirty -> Native.partition_next_dirty(job.ref, job.index, result)
      other -> other
    end
  end

  # If its call was ended meanwhile, the batch is in flight no more.
  defp copy(job) do
    with [] <- Native.partition_copy_dirty(job.ref, job.index), do: :not_owner
  end

  # Somebody has begun to listen while a batch was processed.
  defp stopped_unheard(job) do
    case info(job) do
      %{batch: nil} ->
        :ok

      info ->
        returned(job)
        stopped(job, info, info.size, duration(job, nil))
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
        if Native.partition_expire(job.ref, job.index) do
          if job.partition, do: Partition.gave_up(job.partition)
          table(job, nil)
        else
          next_table(job)
        end
    end
  end

  defp next_table(job) do
    table = fill_table(job)

    case Native.partition_start_all(job.ref, job.index, nil) do
      size when is_integer(size) ->
        result = call(job, table, size, Telemetry.listening?())
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
        stream(job, call(job, stream, size, Telemetry.listening?()))

      nothing when nothing in [:empty, :paused] ->
        :done

      :not_owner ->
        :not_owner
    end
  end

  # What is no list comes with its size.
  defp call(job, batch, size, listening?) do
    info = if listening? or job.info?, do: info(job)
    started = if listening? or size, do: now()

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
        kind, reason -> raised(job, kind, reason, __STACKTRACE__, started)
      end

    failure = failure(job, batch, result)

    if listening? or size || failure do
      # A failure has been noted already.
      if failure == nil and size != 0, do: returned(job)
      stopped(job, info || info(job), size || length(batch), duration(job, started))
    end

    if failure, do: exit({:shutdown, {:failed, elem(failure, 0)}})
    plain(result, job)
  end

  # That none has failed is no result of a stream's.
  defp plain({:failed, []}, %{stream?: false}), do: :ok
  defp plain(result, _job), do: result

  @spec raised(t(), :error | :throw | :exit, term(), list(), integer() | nil) :: no_return()
  defp raised(job, kind, reason, stacktrace, started) do
    failure = %{kind: kind, reason: reason, stacktrace: stacktrace}
    metadata = job |> metadata(info(job)) |> Map.merge(failure)
    duration = duration(job, started)

    # Whatever it exits with: it was the processor that failed.
    if Native.partition_fail(job.ref, job.index, :exception) == :ok,
      do: Telemetry.execute([:processing, :exception], %{duration: duration}, metadata)

    # The process ends with it: the partition is told by that, as it is when it is killed.
    :erlang.raise(kind, reason, stacktrace)
  end

  defp stopped(job, info, size, duration) do
    measured = %{duration: duration, size: size}
    Telemetry.execute([:processing, :stop], measured, metadata(job, info))
  end

  # Of a call whose beginning was not looked at, with the time that it took to copy the batch.
  defp duration(job, nil) do
    elapsed = Native.partition_elapsed(job.ref, job.index) || 0
    System.convert_time_unit(elapsed, :nanosecond, :native)
  end

  defp duration(_job, started), do: now() - started

  defp returned(job), do: :ok = job.ref |> Native.partition_returned(job.index) |> may_go_on()

  # It has been taken away from this process, which is about to be killed.
  defp may_go_on(:not_owner), do: exit({:shutdown, :not_owner})
  defp may_go_on(noted), do: noted

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

  # `{reason}` of a processor that says that it has failed, which is noted. Whatever comes back from a stream is what
  # whoever asked for it gets.
  defp failure(_job, _batch, result) when not is_tuple(result), do: nil
  defp failure(%{stream?: true}, _batch, _result), do: nil

  # A list comes from a batch; a table has no entries to be named.
  defp failure(job, batch, {:failed, [_ | _] = failed} = bad) do
    case is_list(batch) and not List.improper?(failed) and places(batch, failed) do
      {:ok, places} -> fail_some(job, places)
      _not_of_the_batch -> fail(job, {:bad_return, bad})
    end
  end

  defp failure(job, _batch, {:error, reason}), do: fail(job, reason)
  defp failure(_job, _batch, _result), do: nil

  defp fail_some(job, places) do
    true = job.ref |> Native.partition_fail_some(job.index, places) |> may_go_on()
    fail(job, {:failed, length(places)})
  end

  defp fail(job, reason) do
    :ok = job.ref |> Native.partition_fail(job.index, :failed) |> may_go_on()
    {reason}
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
