defmodule PartitionedBuffer.Faults.Combinations do
  # A queue with options drawn at random, written to in every way, whose processor fails in every way, whose
  # options change meanwhile. Each item is written once, so what became of it can be looked up.

  @moduledoc false

  import PartitionedBuffer.FaultHelpers

  alias PartitionedBuffer.Queue

  @enforce_keys [:opts, :handed, :given_up, :answers]
  defstruct @enforce_keys

  # Writes of each writer.
  @writes 300

  def start(seed) do
    :rand.seed(:exsss, seed)
    [handed, given_up, answers] = for _ <- 1..3, do: :ets.new(:items, [:public, :bag])
    # How many calls of a hundred fail.
    failing = Enum.random([0, 5, 20])

    opts = [
      name: unique_name(),
      partitions: Enum.random([1, 2, 5]),
      processor: {__MODULE__, :process, [handed, failing]},
      processor_info: true,
      processing_interval_ms: Enum.random([1, 20, 3_600_000]),
      processing_batch_size: Enum.random([1, 10, 1_000, :table]),
      max_size: Enum.random([:infinity, 1, 50]),
      max_size_jitter: Enum.random([0, 10]),
      max_bytes: Enum.random([:infinity, 2_000]),
      max_batch_bytes: Enum.random([:infinity, 200]),
      capacity: Enum.random([:infinity, 20, 200]),
      capacity_bytes: Enum.random([:infinity, 3_000]),
      overflow: Enum.random([:block, :reject, :drop_newest, :drop_oldest]),
      max_retries: Enum.random([0, 3, 50]),
      backoff: {1, 3},
      split_on_failure: Enum.random([true, false]),
      max_age_ms: Enum.random([:infinity, :infinity, 30]),
      on_discard: {__MODULE__, :give_up, [given_up]}
    ]

    start_queue(opts, restart: :temporary)
    %__MODULE__{opts: opts, handed: handed, given_up: given_up, answers: answers}
  end

  def process(batch, %{size: size}, handed, failing) do
    items = if is_atom(batch), do: Enum.map(:ets.tab2list(batch), &elem(&1, 2)), else: batch
    ^size = length(items)
    # Of a table, no entries can be named.
    ways = [:raise, :throw, :exit, :kill, :error] ++ if is_list(batch), do: [:some], else: []
    fail(:rand.uniform(100) <= failing && Enum.random(ways), items, handed)
  end

  defp fail(false, items, handed), do: note(handed, items, :handed)
  defp fail(:raise, _items, _handed), do: raise("failed")
  defp fail(:throw, _items, _handed), do: throw(:failed)
  defp fail(:exit, _items, _handed), do: exit(:failed)
  defp fail(:error, _items, _handed), do: {:error, :failed}

  defp fail(:kill, _items, _handed) do
    Process.exit(self(), :kill)
    pause(1_000)
  end

  # The last one of each batch.
  defp fail(:some, items, handed) do
    {done, failed} = Enum.split(items, -1)
    note(handed, done, :handed)
    {:failed, failed}
  end

  def give_up(items, reason, given_up), do: note(given_up, items, reason)

  defp note(table, items, what) do
    # A bag keeps equal objects once.
    for item <- items, do: true = :ets.insert(table, {item, what, make_ref()})
    :ok
  end

  # Writes, reads and changes until all writers are done. Answers how many readings there were.
  def run(combination) do
    writers = for writer <- 1..5, do: Task.async(fn -> write(combination, writer, 1) end)
    change(combination, writers, 0)
  end

  defp write(_combination, _writer, n) when n > @writes, do: :ok

  defp write(%{opts: opts, answers: answers} = combination, writer, n) do
    size = Enum.random([1, 1, 1, :rand.uniform(15)])
    items = for place <- 1..size, do: {writer, n, place}
    what = if size == 1, do: Enum.random([hd(items), items]), else: items
    answer = writer |> write_opts() |> write_one(opts[:name], what, writer)
    note(answers, items, answer)
    if rem(n, 10) == 0, do: pause(1)
    write(combination, writer, n + 1)
  end

  defp write_one(opts, name, what, 5), do: Queue.push_await(name, what, opts)
  defp write_one(opts, name, what, _writer), do: Queue.push(name, what, opts)

  defp write_opts(1), do: []
  defp write_opts(2), do: [partition_key: :fixed, timeout: 20]
  defp write_opts(3), do: [timeout: Enum.random([0, 1, 10])]
  defp write_opts(4), do: [partition_key: fn {_writer, _n, place} -> place end, timeout: 20]
  defp write_opts(5), do: [flush: Enum.random([true, false]), timeout: 20]

  defp change(%{opts: opts} = combination, writers, readings) do
    info = assert_identity(PartitionedBuffer.info(opts[:name]))
    true = info.room == nil or info.room.entries <= opts[:capacity]
    if :rand.uniform(10) == 1, do: change_one(Enum.random(1..8), opts[:name])

    case writers |> Task.yield_many(0) |> Enum.split_with(fn {_writer, result} -> result end) do
      {_done, []} -> readings
      {_done, left} -> change(combination, Enum.map(left, &elem(&1, 0)), readings + 1)
    end
  end

  defp change_one(1, name), do: update(name, processing_interval_ms: Enum.random([1, 10, 1_000]))
  defp change_one(2, name), do: update(name, max_size: Enum.random([1, 10, :infinity]))
  defp change_one(3, name), do: update(name, max_batch_bytes: Enum.random([300, :infinity]))
  defp change_one(4, name), do: update(name, backoff: {1, Enum.random([1, 5])})
  defp change_one(5, name), do: PartitionedBuffer.flush(name)
  defp change_one(6, name), do: PartitionedBuffer.sync_flush(name, timeout: Enum.random([0, 5]))
  defp change_one(7, name), do: PartitionedBuffer.dump(name)

  defp change_one(8, name) do
    :ok = PartitionedBuffer.pause(name)
    :ok = PartitionedBuffer.resume(name)
  end

  defp update(name, opts), do: :ok = PartitionedBuffer.update_options(name, opts)

  # Items for which something is wrong, with what was answered, how often they were handed over and given up.
  def wrong(%{opts: opts, answers: answers} = combination) do
    for {item, answer, _ref} <- :ets.tab2list(answers),
        handed = length(:ets.lookup(combination.handed, item)),
        given_up =
          for({_item, reason, _ref} <- :ets.lookup(combination.given_up, item), do: reason),
        not right?(answer, handed, given_up, opts),
        do: {item, answer, handed, given_up}
  end

  defp right?(:ok, handed, given_up, opts), do: accounted?(handed, given_up, opts)
  defp right?({:ok, _results}, handed, [], opts), do: handed == 1 or (handed > 1 and again?(opts))

  # It is not known, or was given up: also in this very moment, because there was no room.
  defp right?({:error, reason}, handed, given_up, opts) when reason not in [:full, :too_large],
    do: {handed, given_up} == {0, []} or accounted?(handed, given_up, opts)

  defp right?({:error, _no_room}, handed, given_up, _opts), do: {handed, given_up} == {0, []}
  defp right?(_answer, _handed, _given_up, _opts), do: false

  # Of a batch that failed in part, and is tried no more, some were handed over before.
  defp accounted?(1, [], _opts), do: true
  defp accounted?(0, [_reason], _opts), do: true

  defp accounted?(handed, given_up, opts),
    do: handed > 0 and again?(opts) and length(given_up) < 2

  defp again?(opts), do: opts[:max_retries] > 0 or opts[:split_on_failure]
end

defmodule PartitionedBuffer.Faults.CombinationsTest do
  # Bounds, triggers, retries, ages, flushes, changes of options and the end, all at once: every item is handed
  # over or given up, as its writer was told, and the account is right whenever somebody looks.
  use ExUnit.Case, async: false

  import PartitionedBuffer.Alive

  alias PartitionedBuffer.Faults.Combinations
  alias PartitionedBuffer.Queue

  @moduletag :capture_log

  setup_all :assert_alive_baseline

  setup do
    level = Logger.level()
    Logger.configure(level: :none)
    on_exit(fn -> Logger.configure(level: level) end)
  end

  for seed <- 1..8 do
    test "combination #{seed}" do
      combination(unquote(seed))
    end
  end

  @tag :soak
  @tag timeout: 900_000
  test "two hundred more" do
    Enum.each(9..208, &combination/1)
  end

  defp combination(seed) do
    combination = Combinations.start(seed)
    readings = Combinations.run(combination)
    :ok = Queue.stop(combination.opts[:name])

    wrong = Combinations.wrong(combination)
    assert readings > 0
    assert wrong == [], "#{inspect(Enum.take(wrong, 10))} with #{inspect(combination.opts)}"
  end
end
