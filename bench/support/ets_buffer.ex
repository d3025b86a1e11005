defmodule Bench.EtsBuffer do
  @moduledoc false
  # The other side of every comparison: a double buffer in ETS, as fast as its design allows.
  #
  #   * Each partition has two `:ordered_set` tables, one that is written to and one that is drained.
  #   * A row is `{:entry, {monotonic_time, ref}, value, version, updates}`, so order is kept.
  #   * One `:persistent_term` holds the tables that are written to, as a tuple: the fastest way to
  #     find one of them that was measured (a term for each partition and a fixed term with an atomic
  #     index took 5 % more).
  #   * A list is grouped by partition and written with one `:ets.insert` for each.
  #   * A partition's process swaps; a task drains with `:ets.select` and its continuation, then
  #     clears the table at one go.
  #
  # Left out, since it would only make it slower: validation of options, telemetry, counters, timeouts,
  # and whatever it would take not to lose a write that found its table just before a swap.

  alias Bench.EtsBuffer.{Partition, Tables}

  @never 3_600_000
  @values [{{:_, :_, :"$1", :_, :_}, [], [:"$1"]}]

  def start_link(opts) do
    name = Keyword.fetch!(opts, :name)
    partitions = Keyword.get_lazy(opts, :partitions, &System.schedulers_online/0)
    # What a map does with the same processes: see ets_map.ex.
    defaults = %{new_table: &__MODULE__.new_table/0, rows: @values}

    job =
      opts |> Keyword.take([:processor, :processing_batch_size, :new_table, :rows]) |> Map.new()

    job = Map.merge(defaults, job)
    interval = Keyword.fetch!(opts, :processing_interval_ms)

    children =
      [{Task.Supervisor, name: tasks(name)}, {Tables, {name, partitions}}] ++
        for index <- 0..(partitions - 1) do
          Supervisor.child_spec({Partition, {name, index, job, interval}}, id: index)
        end

    Supervisor.start_link(children, strategy: :one_for_one, name: Module.concat(name, Supervisor))
  end

  @doc "Forgets what is left, once nobody is at work on it."
  def stop(name) do
    :ok = update_options(name, processing_interval_ms: @never)
    for index <- indexes(name), do: Partition.await_task(name, index)
    Supervisor.stop(Module.concat(name, Supervisor))
    :persistent_term.erase({__MODULE__, name})
    :ok
  end

  def push(buffer, items) when is_list(items) do
    tables = :persistent_term.get({__MODULE__, buffer})
    insert_list(tables, tuple_size(tables), items)
  end

  def push(buffer, item) do
    tables = :persistent_term.get({__MODULE__, buffer})
    :ets.insert(table(tables, tuple_size(tables), item), row(item))
    :ok
  end

  def size(buffer) do
    {__MODULE__, buffer}
    |> :persistent_term.get()
    |> Tuple.to_list()
    |> Enum.map(&:ets.info(&1, :size))
    |> Enum.sum()
  end

  def update_options(name, processing_interval_ms: interval) do
    for index <- indexes(name), do: Partition.interval(name, index, interval)
    :ok
  end

  @doc false
  def tasks(name), do: Module.concat(name, Tasks)

  @doc false
  def new_table do
    :ets.new(:entries, [:ordered_set, :public, keypos: 2, write_concurrency: true])
  end

  defp indexes(name), do: 0..(tuple_size(:persistent_term.get({__MODULE__, name})) - 1)

  defp table({table}, 1, _item), do: table

  defp table(tables, count, item) do
    elem(tables, :erlang.phash2(:erlang.phash2(item), count))
  end

  defp row(item), do: {:entry, {:erlang.monotonic_time(), make_ref()}, item, 0, 0}

  defp insert_list({table}, 1, items) do
    :ets.insert(table, rows(items))
    :ok
  end

  defp insert_list(tables, count, items) do
    items |> group(count, :erlang.make_tuple(count, [])) |> insert_groups(tables, count)
  end

  defp rows([item | items]), do: [row(item) | rows(items)]
  defp rows([]), do: []

  # The order of rows does not matter: their keys are sorted.
  defp group([item | items], count, groups) do
    index = :erlang.phash2(:erlang.phash2(item), count) + 1

    group(
      items,
      count,
      :erlang.setelement(index, groups, [row(item) | :erlang.element(index, groups)])
    )
  end

  defp group([], _count, groups), do: groups

  defp insert_groups(_groups, _tables, 0), do: :ok

  defp insert_groups(groups, tables, index) do
    case :erlang.element(index, groups) do
      [] -> :ok
      rows -> :ets.insert(:erlang.element(index, tables), rows)
    end

    insert_groups(groups, tables, index - 1)
  end
end

defmodule Bench.EtsBuffer.Tables do
  @moduledoc false
  # The tuple of tables that are written to; one process changes it.

  use GenServer

  alias Bench.EtsBuffer

  def start_link({name, partitions}) do
    GenServer.start_link(__MODULE__, {name, partitions}, name: name(name))
  end

  def put(buffer, index, table), do: GenServer.call(name(buffer), {:put, index, table})

  @impl true
  def init({buffer, partitions}) do
    # Tables of nobody, until the partitions put theirs.
    :persistent_term.put({EtsBuffer, buffer}, :erlang.make_tuple(partitions, nil))
    {:ok, buffer}
  end

  @impl true
  def handle_call({:put, index, table}, _from, buffer) do
    key = {EtsBuffer, buffer}
    :persistent_term.put(key, put_elem(:persistent_term.get(key), index, table))
    {:reply, :ok, buffer}
  end

  defp name(buffer), do: Module.concat(buffer, Tables)
end

defmodule Bench.EtsBuffer.Partition do
  @moduledoc false

  use GenServer

  alias Bench.EtsBuffer
  alias Bench.EtsBuffer.Tables

  def start_link({buffer, index, job, interval}) do
    GenServer.start_link(__MODULE__, {buffer, index, job, interval}, name: name(buffer, index))
  end

  def interval(buffer, index, ms), do: GenServer.call(name(buffer, index), {:interval, ms})
  def await_task(buffer, index), do: GenServer.call(name(buffer, index), :await_task, :infinity)

  @impl true
  def init({buffer, index, job, interval}) do
    live = job.new_table.()
    :ok = Tables.put(buffer, index, live)

    state = %{
      buffer: buffer,
      index: index,
      job: job,
      interval: interval,
      live: live,
      other: job.new_table.(),
      task: nil,
      timer: nil
    }

    {:ok, schedule(state)}
  end

  @impl true
  def handle_call({:interval, interval}, _from, state) do
    {:reply, :ok, schedule(%{state | interval: interval})}
  end

  def handle_call(:await_task, _from, %{task: nil} = state), do: {:reply, :ok, state}

  def handle_call(:await_task, _from, %{task: task} = state) do
    receive do
      {^task, :done} -> {:reply, :ok, %{state | task: nil}}
    end
  end

  @impl true
  def handle_info({:tick, timer}, %{timer: {_ref, timer}} = state) do
    {:noreply, state |> schedule() |> cycle()}
  end

  def handle_info({task, :done}, %{task: task} = state) do
    Process.demonitor(task, [:flush])
    {:noreply, %{state | task: nil}}
  end

  def handle_info(_late, state), do: {:noreply, state}

  @doc false
  def drain(table, %{processor: processor, processing_batch_size: size, rows: rows}) do
    table |> :ets.select(rows, size) |> batches(processor)
    :ets.delete_all_objects(table)
    :done
  end

  defp batches(:"$end_of_table", _processor), do: :ok

  defp batches({batch, continuation}, processor) do
    processor.(batch)
    continuation |> :ets.select() |> batches(processor)
  end

  defp cycle(%{task: nil} = state) do
    # Cheaper than the size, which `write_concurrency` spreads over counters of the schedulers.
    if :ets.first(state.live) == :"$end_of_table" do
      state
    else
      :ok = Tables.put(state.buffer, state.index, state.other)
      tasks = EtsBuffer.tasks(state.buffer)
      task = Task.Supervisor.async_nolink(tasks, __MODULE__, :drain, [state.live, state.job])
      %{state | live: state.other, other: state.live, task: task.ref}
    end
  end

  defp cycle(state), do: state

  defp schedule(state) do
    with {ref, _timer} <- state.timer, do: Process.cancel_timer(ref)
    timer = make_ref()
    %{state | timer: {Process.send_after(self(), {:tick, timer}, state.interval), timer}}
  end

  defp name(buffer, index), do: Module.concat(buffer, "Partition#{index}")
end
