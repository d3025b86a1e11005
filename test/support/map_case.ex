defmodule PartitionedBuffer.MapCase do
  @moduledoc false
  # What every test of a map needs, beside what `PartitionedBuffer.BufferCase` has for all buffers.
  # Elixir's own `Map` keeps its name: the buffer is `Buffer` here.

  use ExUnit.CaseTemplate

  import PartitionedBuffer.BufferCase, only: [queue_options: 1, assert_accounted: 1]

  alias PartitionedBuffer.{FaultHelpers, Names}

  using do
    quote do
      import PartitionedBuffer.BufferCase, except: [start_queue!: 0, start_queue!: 1]
      import PartitionedBuffer.MapCase
      alias PartitionedBuffer.GatedProcessor
      alias PartitionedBuffer.Map, as: Buffer
    end
  end

  @doc "Starts a map that ends with the test; options and defaults are those of `start_queue!/1`."
  def start_map!(opts \\ [], child_opts \\ []) do
    opts = queue_options(opts)

    child =
      Supervisor.child_spec({PartitionedBuffer.Map, opts}, [restart: :temporary] ++ child_opts)

    ExUnit.Callbacks.start_supervised!(child)
    opts[:name]
  end

  @doc "Stops a map whose processor is `forward/2`, and returns its entries in the order of terms."
  def entries(buffer) do
    buffer |> PartitionedBuffer.BufferCase.drain() |> Enum.concat() |> Enum.sort()
  end

  @doc """
  One cycle of each partition that is not at work, and no other one after it: what was written is not live
  then. (With a short interval a tick may come while a cycle is running, and start another one after it.)
  """
  def cycle(buffer) do
    for %{partition: name} <- PartitionedBuffer.info(buffer).partitions, do: tick(name)
    :ok
  end

  defp tick(name) do
    %{tick: {_timer, tick}} =
      FaultHelpers.wait_until(fn ->
        state = name |> FaultHelpers.await_successor(nil) |> :sys.get_state()
        {state.index, state.ref} |> idle?() and state
      end)

    send(name, {:tick, tick})
    # Answered after that; a runner that had to be started for it finds that noted.
    state = :sys.get_state(name)
    noted = fn -> PartitionedBuffer.Native.partition_noted(state.ref, state.index) end
    FaultHelpers.wait_until(fn -> noted.() == nil end)
  end

  defp idle?({index, ref}),
    do: PartitionedBuffer.Native.partition_status(ref, index) == {nil, nil}

  @doc "Waits until nothing is queued or in flight; answers the figures, which are right all the time."
  def await_idle(buffer, patience_ms \\ 20_000) do
    FaultHelpers.wait_until(
      fn ->
        info = buffer |> PartitionedBuffer.info() |> assert_accounted()
        info.queued == 0 and info.in_flight == 0 and info
      end,
      patience_ms
    )
  end

  @doc "A processor that keeps all entries in a table, in order; `recorded/1` answers them."
  def recorder do
    table = :ets.new(:recorded, [:public, :ordered_set])
    {{__MODULE__, :record, [table]}, table}
  end

  @doc false
  def record(batch, table) do
    :ets.insert(table, {:erlang.unique_integer([:monotonic]), batch})
  end

  @doc "All entries that the processor of `recorder/0` was given, in the order in which it was."
  def recorded(table), do: for({_time, batch} <- :ets.tab2list(table), entry <- batch, do: entry)

  @doc "Kills the buffer's own supervisor and waits until every process of the buffer is gone."
  def kill_buffer(buffer) do
    buffer |> Names.supervisor() |> FaultHelpers.kill()

    names = [
      buffer,
      Names.owner(buffer),
      Names.partition_supervisor(buffer),
      Names.task_supervisor(buffer)
    ]

    FaultHelpers.wait_until(fn -> Enum.all?(names, &(Process.whereis(&1) == nil)) end)
  end
end
