defmodule PartitionedBuffer.Faults.Chaos do
  # Many writers, a processor that checks, and somebody who kills what is in between.
  #
  # An item is `{producer, seq}`. The processor marks each in an array and keeps the last one of each
  # producer and partition, so that what is missing, came twice or came out of order can be counted
  # without holding a million items. Both are a few atomic operations for each item.

  @moduledoc false

  import PartitionedBuffer.FaultHelpers

  alias PartitionedBuffer.{Names, Queue}

  @enforce_keys [:buffer, :producers, :partitions, :per_producer, :seen, :last, :wrong]
  defstruct @enforce_keys

  # Slots of `wrong`.
  @twice 1
  @disorder 2

  # Starts a queue with a processor that marks what it gets.
  def start(opts) do
    %{producers: producers, partitions: partitions, items: items} = Map.new(opts)
    per_producer = div(items, producers)

    chaos = %__MODULE__{
      buffer: unique_name(),
      producers: producers,
      partitions: partitions,
      per_producer: per_producer,
      seen: :atomics.new(producers * per_producer, []),
      last: :atomics.new(producers * partitions, []),
      wrong: :counters.new(2, [])
    }

    start_queue(
      name: chaos.buffer,
      partitions: partitions,
      processor: &mark(chaos, &1),
      processing_interval_ms: 1,
      processing_batch_size: 100
    )

    chaos
  end

  # Slow now and then: it is to be at work when something is killed.
  defp mark(chaos, batch) do
    if :rand.uniform(20) == 1, do: pause(:rand.uniform(5))

    Enum.each(batch, fn {producer, seq} = item ->
      if :atomics.exchange(chaos.seen, producer * chaos.per_producer + seq, 1) != 0,
        do: :counters.add(chaos.wrong, @twice, 1)

      partition = item |> :erlang.phash2() |> :erlang.phash2(chaos.partitions)
      place = producer * chaos.partitions + partition + 1

      if :atomics.exchange(chaos.last, place, seq) >= seq,
        do: :counters.add(chaos.wrong, @disorder, 1)
    end)
  end

  # Has all producers push all their items while `disturb` is called every few milliseconds.
  def run(chaos, disturb) do
    writers = for id <- 0..(chaos.producers - 1), do: Task.async(fn -> write(chaos, id, 1) end)
    disturb_until_done(writers, disturb)
  end

  defp disturb_until_done(writers, disturb) do
    pause(:rand.uniform(4))
    disturb.()

    case Task.yield_many(writers, 0) |> Enum.split_with(fn {_writer, result} -> result end) do
      {_done, []} -> :ok
      {_done, left} -> left |> Enum.map(&elem(&1, 0)) |> disturb_until_done(disturb)
    end
  end

  # Single items and lists of up to fifty. The pauses spread it over the time that it takes to kill
  # often enough.
  defp write(%{per_producer: last}, _id, seq) when seq > last, do: :ok

  defp write(chaos, id, seq) do
    size =
      if :rand.uniform(4) == 1, do: min(:rand.uniform(50), chaos.per_producer - seq + 1), else: 1

    items = for seq <- seq..(seq + size - 1), do: {id, seq}
    :ok = Queue.push(chaos.buffer, if(size == 1, do: hd(items), else: items))
    if :rand.uniform(2) == 1, do: pause(1)
    write(chaos, id, seq + size)
  end

  # How many items were pushed, never arrived, arrived twice, arrived after a later one.
  def result(chaos) do
    pushed = chaos.producers * chaos.per_producer

    %{
      pushed: pushed,
      missing: Enum.count(1..pushed, &(:atomics.get(chaos.seen, &1) == 0)),
      twice: :counters.get(chaos.wrong, @twice),
      disorder: :counters.get(chaos.wrong, @disorder)
    }
  end

  ## What is done to it

  # Does one of these, at random.
  def disturb(chaos, kinds), do: kinds |> Enum.random() |> inflict(chaos)

  defp inflict(:partition, chaos), do: kill_name(a_partition(chaos))
  defp inflict(:registry, chaos), do: kill_name(chaos.buffer)
  defp inflict(:owner, chaos), do: kill_name(Names.owner(chaos.buffer))

  defp inflict(:partition_supervisor, chaos),
    do: kill_name(Names.partition_supervisor(chaos.buffer))

  defp inflict(:task_supervisor, chaos), do: kill_name(Names.task_supervisor(chaos.buffer))

  defp inflict(:task, chaos) do
    tasks = Task.Supervisor.children(Names.task_supervisor(chaos.buffer))
    if tasks != [], do: tasks |> Enum.random() |> Process.exit(:kill)
  catch
    # It is being started again.
    :exit, _reason -> :ok
  end

  defp inflict(:stray, chaos) do
    stray = [
      :stray,
      {make_ref(), :done},
      {:DOWN, make_ref(), :process, self(), :killed},
      {:tick, 1}
    ]

    partition = Process.whereis(a_partition(chaos))
    if partition, do: send(partition, Enum.random(stray))
  end

  defp inflict(:options, chaos) do
    PartitionedBuffer.update_options(chaos.buffer,
      processing_interval_ms: :rand.uniform(5),
      processing_batch_size: Enum.random([1, 10, 100, 1_000, 5_000])
    )
  catch
    # The owner is being started again.
    :exit, _reason -> :ok
  end

  defp a_partition(chaos), do: Names.partition(chaos.buffer, :rand.uniform(chaos.partitions) - 1)

  defp kill_name(name) do
    pid = Process.whereis(name)
    if pid, do: Process.exit(pid, :kill)
  end
end

defmodule PartitionedBuffer.Faults.ChaosTest do
  # All at once: many writers, short intervals, options that change, and kills every few milliseconds.
  use ExUnit.Case, async: false

  import PartitionedBuffer.Alive
  import PartitionedBuffer.FaultHelpers

  alias PartitionedBuffer.Faults.Chaos
  alias PartitionedBuffer.Telemetry

  @moduletag :capture_log
  @moduletag timeout: 900_000

  @producers 16
  @partitions 4

  # None of these runs a processor.
  @harmless [:partition, :partition, :registry, :partition_supervisor, :owner, :stray, :options]
  @harmful @harmless ++ [:task, :task, :task_supervisor]

  setup_all :assert_alive_baseline

  # Every kill is logged by a supervisor, which takes longer than all the rest.
  setup do
    level = Logger.level()
    Logger.configure(level: :none)
    on_exit(fn -> Logger.configure(level: level) end)
  end

  test "a million items: nothing is lost, nothing comes twice, all in order" do
    lossless(1_000_000)
  end

  test "a million items, processors killed too: what is missing is reported" do
    accounted(1_000_000)
  end

  @tag :soak
  test "twenty million items: nothing is lost, nothing comes twice, all in order" do
    lossless(20_000_000)
  end

  @tag :soak
  test "twenty million items, processors killed too: what is missing is reported" do
    accounted(20_000_000)
  end

  defp lossless(items) do
    chaos = Chaos.start(producers: @producers, partitions: @partitions, items: items)
    discards = count_discards(chaos.buffer)
    :ok = Chaos.run(chaos, fn -> Chaos.disturb(chaos, @harmless) end)
    info = await_empty(chaos.buffer)

    assert Chaos.result(chaos) == %{pushed: items, missing: 0, twice: 0, disorder: 0}
    assert {info.accepted, info.processed, discarded(info)} == {items, items, 0}
    assert :counters.get(discards, 1) == 0
  end

  defp accounted(items) do
    chaos = Chaos.start(producers: @producers, partitions: @partitions, items: items)
    discards = count_discards(chaos.buffer)
    :ok = Chaos.run(chaos, fn -> Chaos.disturb(chaos, @harmful) end)
    info = await_empty(chaos.buffer)

    # A batch may have been marked before its processor was killed: it is discarded all the same.
    assert %{missing: missing, twice: 0, disorder: 0} = Chaos.result(chaos)
    assert missing <= info.discarded.killed
    assert discarded(info) == info.discarded.killed
    assert :counters.get(discards, 1) == info.discarded.killed
    assert {info.accepted, info.processed} == {items, items - info.discarded.killed}
  end

  # Entries of discard events. The handler runs in the processes of the buffer.
  defp count_discards(buffer) do
    counters = :counters.new(1, [])
    id = {__MODULE__, buffer}
    event = [:partitioned_buffer, :partition, :discarded]
    true = event in Telemetry.events()
    :ok = :telemetry.attach(id, event, &__MODULE__.count/4, {buffer, counters})
    on_exit(fn -> :telemetry.detach(id) end)
    counters
  end

  @doc false
  def count(_event, %{size: size}, %{buffer: buffer}, {buffer, counters}) do
    :counters.add(counters, 1, size)
  end

  def count(_event, _measurements, _metadata, _config), do: :ok
end
