defmodule PartitionedBuffer.DataBufferContract do
  @moduledoc false
  # What a module buffer does, as a contract between two: one that keeps lists (`Plain`), and the real one
  # (`Real`). Both are driven by the same calls, of which none waits, and are asked for the same answers.
  #
  #     start(opts), insert(b, item), insert_batch(b, items), flush(b), finish(b, partition, how), stop(b)
  #     look(b): what each partition has waiting, and in its flush; what has been flushed; what was lost
  #
  # A flush goes on until `finish/3`. A write that would have to wait answers `{:error, :full}`.

  defmodule Plain do
    @moduledoc false
    # Lists, newest first.

    def start(opts) do
      {:ok, agent} = Agent.start_link(fn -> new(opts) end)
      agent
    end

    def insert(buffer, item), do: write(buffer, [item])
    def insert_batch(buffer, items), do: write(buffer, Enum.to_list(items))
    def flush(buffer), do: Agent.update(buffer, &update_all(&1, fn p -> flush_one(p) end))

    def finish(buffer, index, how) do
      Agent.update(buffer, fn state ->
        done = Enum.at(state.partitions, index).flush || []
        key = if how == :ok, do: :flushed, else: :lost
        state = Map.update!(state, key, &[done | &1])

        update(state, index, fn p ->
          if p.late?, do: flush_one(%{p | flush: nil, late?: false}), else: %{p | flush: nil}
        end)
      end)
    end

    def look(buffer) do
      Agent.get(buffer, fn state ->
        %{
          waiting: Enum.map(state.partitions, &Enum.reverse(&1.live)),
          in_flush: Enum.map(state.partitions, & &1.flush),
          flushed: Enum.sort(Enum.reject(state.flushed, &(&1 == []))),
          lost: state.lost |> Enum.map(&length/1) |> Enum.sum()
        }
      end)
    end

    def stop(buffer) do
      rest =
        Agent.get(buffer, fn state ->
          Enum.flat_map(state.partitions, &[&1.flush || [], Enum.reverse(&1.live)])
        end)

      Agent.stop(buffer)
      Enum.reject(rest, &(&1 == []))
    end

    defp new(opts) do
      partition = %{live: [], flush: nil, late?: false}
      count = opts[:partitions]

      %{
        partitions: List.duplicate(partition, count),
        next: 0,
        size: max(opts[:max_size], 1),
        flushed: [],
        lost: []
      }
    end

    defp write(buffer, items) do
      Agent.get_and_update(buffer, fn state ->
        next = state.next + 1
        index = rem(next, length(state.partitions))
        partition = Enum.at(state.partitions, index)
        full? = length(partition.live) >= state.size
        state = %{state | next: next}

        cond do
          full? and partition.flush != nil -> {{:error, :full}, state}
          full? -> {:ok, update(state, index, &put(flush_one(&1), items))}
          true -> {:ok, update(state, index, &put(&1, items))}
        end
      end)
    end

    defp put(partition, items), do: %{partition | live: Enum.reverse(items) ++ partition.live}

    defp flush_one(%{flush: flush} = partition) when flush != nil, do: %{partition | late?: true}
    defp flush_one(%{live: []} = partition), do: partition
    defp flush_one(partition), do: %{partition | flush: Enum.reverse(partition.live), live: []}

    defp update(state, index, fun),
      do: %{state | partitions: List.update_at(state.partitions, index, fun)}

    defp update_all(state, fun), do: %{state | partitions: Enum.map(state.partitions, fun)}
  end

  defmodule Real do
    @moduledoc false
    # Each answer comes when all that a call has caused has happened.

    alias PartitionedBuffer.{DataBuffer, DataBufferCase, GatedProcessor, Handle, Native}

    defmodule Module do
      @moduledoc false
      use PartitionedBuffer.DataBuffer

      # Tells which partition it is, by the process that called it.
      @impl DataBuffer
      def handle_flush(items, opts) do
        GatedProcessor.process(Enum.to_list(items), opts[:meta], :contract)
      end
    end

    @now [timeout: 0, on_timeout: :error]

    def start(opts) do
      name = DataBufferCase.unique_name()
      opts = Keyword.merge([name: name, flush_interval: 3_600_000, flush_meta: self()], opts)
      {:ok, _pid} = DataBuffer.start_link(Module, opts)
      Process.put(name, %{flushes: %{}, flushed: []})
      name
    end

    def insert(name, item), do: settled(name, DataBuffer.insert(name, item, @now))
    def insert_batch(name, items), do: settled(name, DataBuffer.insert_batch(name, items, @now))
    def flush(name), do: settled(name, DataBuffer.flush(name))

    def finish(name, index, how) do
      %{flushes: flushes} = state = Process.get(name)

      case Map.pop(flushes, index) do
        {nil, _flushes} ->
          :ok

        {{pid, items}, flushes} ->
          flushed = if how == :ok, do: [items | state.flushed], else: state.flushed
          Process.put(name, %{state | flushes: flushes, flushed: flushed})
          batch = Native.partition_batch(ref(name), index)
          GatedProcessor.open(pid, if(how == :ok, do: :ok, else: how))
          DataBufferCase.await(fn -> Native.partition_batch(ref(name), index) != batch end)
          settled(name, :ok)
      end
    end

    def look(name) do
      state = Process.get(name)
      %{partitions: partitions} = info = PartitionedBuffer.info(name)
      indexes = Enum.to_list(0..(length(partitions) - 1))
      lost = info.discarded |> Map.values() |> Enum.sum()
      waiting = for index <- indexes, do: PartitionedBuffer.Entries.live(ref(name), index)
      true = Enum.sum(Enum.map(waiting, &length/1)) == DataBuffer.size(name)

      %{
        waiting: waiting,
        in_flush:
          for(index <- indexes, do: with({_pid, items} <- state.flushes[index], do: items)),
        flushed: Enum.sort(state.flushed),
        lost: lost
      }
    end

    def stop(name) do
      stop = Task.async(fn -> DataBuffer.stop(name) end)
      running = for {_index, {pid, items}} <- Process.get(name).flushes, do: {pid, items}
      for {pid, _items} <- running, do: GatedProcessor.open(pid)
      Enum.map(running, &elem(&1, 1)) ++ rest(stop.ref)
    end

    defp rest(stopped) do
      receive do
        {GatedProcessor, :contract, pid, items} ->
          GatedProcessor.open(pid)
          [items | rest(stopped)]

        {^stopped, :ok} ->
          Process.demonitor(stopped, [:flush])
          []
      end
    end

    defp ref(name), do: Handle.fetch!(name).ref

    defp settled(name, answer) do
      for index <- Handle.indexes(ref(name)), do: settle(name, index)
      answer
    end

    # What drains has a flush, which the test knows; and the partition's process knows that of it.
    defp settle(name, index) do
      DataBufferCase.await(fn ->
        _state = :sys.get_state(PartitionedBuffer.Names.partition(name, index))
        {owner, _ms} = Native.partition_status(ref(name), index)

        case Native.partition_batch(ref(name), index) do
          nil -> owner == nil and not Native.partition_pending(ref(name), index)
          _batch -> is_pid(owner) and known?(name, index, owner)
        end
      end)
    end

    defp known?(name, index, owner) do
      state = Process.get(name)

      if Map.has_key?(state.flushes, index) do
        true
      else
        receive do
          {GatedProcessor, :contract, ^owner, items} ->
            Process.put(name, put_in(state.flushes[index], {owner, items}))
            true
        after
          0 -> false
        end
      end
    end
  end
end
