defmodule PartitionedBuffer.MapWorkload do
  @moduledoc false
  # What a map's memory is tested with. Each workload runs in a VM of its own: in one that has done other things,
  # memory that was freed before would be used again, and hide as much that is never freed.

  alias PartitionedBuffer.{Alive, FaultHelpers}
  alias PartitionedBuffer.Map, as: Buffer

  @name __MODULE__
  @call_ms 1_800_000
  @rest_ms 10_000

  @doc """
  Runs a workload of so many writes: the most that the VM has taken beyond `multiple` times what was alive, looked at
  a hundred times; the same when nothing is written any more, or as soon as that is within `rest`; and `info/1`.
  """
  def measure(workload, writes, multiple, rest) do
    paths = for path <- :code.get_path(), arg <- [~c"-pa", path], do: arg
    {:ok, peer, _node} = :peer.start(%{connection: :standard_io, args: paths})

    try do
      :peer.call(peer, __MODULE__, :run, [workload, writes, multiple, rest], @call_ms)
    after
      :peer.stop(peer)
    end
  end

  @doc false
  def run(workload, writes, multiple, rest) do
    for app <- [:elixir, :telemetry, :nimble_options, :partitioned_buffer],
        do: {:ok, _started} = Application.ensure_all_started(app)

    {:ok, pid} = Buffer.start_link([name: @name, partitions: 2] ++ options(workload))
    Process.unlink(pid)
    # What the first writes make once is not counted.
    write(workload, 0)
    before = memory()
    beyond = fn -> memory() - before - multiple * PartitionedBuffer.info(@name).bytes end
    step = max(div(writes, 100), 1)

    most =
      for from <- 1..writes//step, reduce: 0 do
        most ->
          for number <- from..(from + step - 1), do: write(workload, number)
          max(most, beyond.())
      end

    FaultHelpers.wait_until(fn -> beyond.() <= rest end, @rest_ms)
    %{most: most, rest: beyond.(), info: PartitionedBuffer.info(@name)}
  rescue
    error in ExUnit.AssertionError -> %{most: :infinity, rest: error.message, info: nil}
  end

  defp memory do
    :erlang.garbage_collect()
    Alive.resident()
  end

  defp options(:versions),
    do: [version_memory: 1_000, processing_batch_size: 10_000] ++ options(nil)

  defp options(_other),
    do: [processor: {__MODULE__, :ignore, []}, processing_interval_ms: 3_600_000]

  @doc false
  def ignore(_batch), do: :ok

  defp write(:one_key, number), do: Buffer.put(@name, :key, {:value, number, "payload"})

  defp write({:at_random, keys}, number),
    do: Buffer.put(@name, :rand.uniform(keys), {:value, number, "payload"})

  defp write({:any_size, keys}, number) do
    size = Enum.random([1, 1, 1, 3, 10, 30, 100, 300, 1_000, 3_000])
    Buffer.put(@name, {:key, :rand.uniform(keys)}, List.duplicate(number, size))
  end

  defp write(:word_or_list, number) do
    value = if rem(number, 2) == 0, do: number, else: List.duplicate(number, 65_536)
    Buffer.put(@name, rem(div(number, 2), 7), value)
  end

  defp write(:word_or_binary, number) do
    value = if rem(number, 2) == 0, do: number, else: :binary.copy(<<number>>, 1_048_576)
    Buffer.put_newer(@name, rem(div(number, 2), 7), value, number)
  end

  defp write(:inserted_and_deleted, number) do
    Buffer.put(@name, {:key, number}, {:value, number, "payload"})
    Buffer.delete(@name, {:key, number - 100})
  end

  defp write(:versions, round) do
    for number <- 1..20_000 do
      Buffer.put_newer(@name, {:key, round, number}, number, number * Integer.pow(2, 48))
    end

    [_partition, _other] = PartitionedBuffer.sync_flush(@name)
  end
end
