defmodule Bench.ServerBuffer do
  @moduledoc false
  # A buffer whose partitions are processes that own an ETS table each: an insert is a call of one of them, in
  # turn. A full one gives its table to a process that flushes it, and goes on with another one; if that is
  # not through when the next one is full, the insert waits. Each insert is a span.

  defmodule Partition do
    @moduledoc false
    use GenServer

    def start_link({name, max_size}), do: GenServer.start_link(__MODULE__, max_size, name: name)

    @impl true
    def init(max_size), do: {:ok, %{max_size: max_size, table: new(), next: 1, flusher: nil}}

    @impl true
    def handle_call({:insert, item}, _from, state) do
      state = make_room(state)
      :ets.insert(state.table, {state.next, item})
      {:reply, :ok, %{state | next: state.next + 1}}
    end

    def handle_call({:insert_batch, items}, _from, state) do
      state = make_room(state)
      {rows, next} = Enum.map_reduce(items, state.next, &{{&2, &1}, &2 + 1})
      :ets.insert(state.table, rows)
      {:reply, :ok, %{state | next: next}}
    end

    @impl true
    def handle_info({:flushed, flusher}, %{flusher: flusher} = state),
      do: {:noreply, %{state | flusher: nil}}

    defp make_room(%{next: next, max_size: max_size} = state) when next <= max_size, do: state

    defp make_room(%{flusher: flusher} = state) when flusher != nil do
      receive do
        {:flushed, ^flusher} -> make_room(%{state | flusher: nil})
      end
    end

    defp make_room(state) do
      partition = self()

      flusher =
        spawn_link(fn ->
          receive do
            {:"ETS-TRANSFER", table, ^partition, nil} ->
              _items = table |> :ets.tab2list() |> Stream.map(&elem(&1, 1))
              :ets.delete(table)
              send(partition, {:flushed, self()})
          end
        end)

      :ets.give_away(state.table, flusher, nil)
      %{state | table: new(), next: 1, flusher: flusher}
    end

    defp new, do: :ets.new(:partition, [:ordered_set, :private])
  end

  def start_link(opts) do
    names = for index <- 1..opts[:partitions], do: Module.concat(opts[:name], "#{index}")

    children =
      for name <- names,
          do: %{id: name, start: {Partition, :start_link, [{name, opts[:max_size]}]}}

    turn = :atomics.new(1, [])
    :persistent_term.put({__MODULE__, opts[:name]}, {turn, List.to_tuple(names)})
    Supervisor.start_link(children, strategy: :one_for_one, name: opts[:name])
  end

  def stop(name), do: Supervisor.stop(name)

  def insert(name, item), do: span(name, {:insert, item})
  def insert_batch(name, items), do: span(name, {:insert_batch, items})

  # The same without events.
  def insert_silently(name, item), do: GenServer.call(partition(name), {:insert, item})

  defp span(name, call) do
    :telemetry.span([:server_buffer, :insert], %{buffer: name}, fn ->
      partition = partition(name)
      {GenServer.call(partition, call), %{buffer: name, partition: partition}}
    end)
  end

  defp partition(name) do
    {turn, names} = :persistent_term.get({__MODULE__, name})
    elem(names, rem(:atomics.add_get(turn, 1, 1), tuple_size(names)))
  end
end
