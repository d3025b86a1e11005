defmodule PartitionedBuffer.Faults.KilledInACallTest do
  # Callers that are killed while a dirty scheduler works for them. From then on the VM sends nothing for them, and what they
  # were about to set going has to be set going all the same.
  use ExUnit.Case, async: true

  import PartitionedBuffer.FaultHelpers

  alias PartitionedBuffer.{DataBuffer, GenBuffer, GenBufferCase, GenPool, GenPoolCase, Queue}

  @rounds 1_500
  # For what has to happen.
  @patience_ms 10_000

  # More than a normal scheduler copies; it takes a moment.
  @large Enum.to_list(1..20_000)

  test "a queue's partition processes what a write was to start" do
    test = self()
    processor = fn batch -> for {:round, _} = round <- batch, do: send(test, round) end
    queue = start_queue(processor: processor, max_size: 1)

    rounds(fn -> Queue.push(queue, @large) end, fn round ->
      :ok = Queue.push(queue, {:round, round})
      assert_receive {:round, ^round}, @patience_ms
    end)

    queue |> await_empty() |> assert_identity()
  end

  test "a map's does, too" do
    test = self()

    processor = fn batch ->
      for {:round, round, _, _} <- batch, do: send(test, {:round, round})
    end

    opts = queue_options(processor: processor, max_size: 1)
    start_supervised!({PartitionedBuffer.Map, opts})
    map = opts[:name]

    rounds(fn -> PartitionedBuffer.Map.put(map, :large, @large) end, fn round ->
      :ok = PartitionedBuffer.Map.put(map, :round, round)
      assert_receive {:round, ^round}, @patience_ms
    end)
  end

  test "writers that wait for room get it" do
    queue = start_queue(processor: fn _batch -> :ok end, max_size: 1, capacity: 4)

    rounds(fn -> Queue.push(queue, @large, timeout: :infinity) end, fn round ->
      for item <- 1..6, do: :ok = Queue.push(queue, {round, item}, timeout: @patience_ms)
    end)

    queue |> await_empty() |> assert_identity()
  end

  defmodule Rounds do
    @moduledoc false
    use PartitionedBuffer.DataBuffer

    @impl true
    def handle_flush(items, opts) do
      for {:round, _} = round <- items, do: send(opts[:meta], round)
      :ok
    end
  end

  test "a module buffer's partition flushes" do
    opts = [name: unique_name(), partitions: 1, max_size: 1, flush_interval: 3_600_000]
    start_supervised!({Rounds, Keyword.put(opts, :flush_meta, self())})

    rounds(fn -> DataBuffer.insert(opts[:name], @large) end, fn round ->
      # The next one has it flushed.
      for item <- [{:round, round}, :next], do: :ok = DataBuffer.insert(opts[:name], item)
      assert_receive {:round, ^round}, @patience_ms
    end)
  end

  test "no worker of a pool is forgotten" do
    for isolation <- [:exclusive, :optimistic] do
      pool = GenPoolCase.start_pool!(0, pool_size: 2, isolation: isolation)
      read = &{:reply, {@large, &1}, &1}

      rounds(fn -> GenPool.call(pool, read) end, fn _round ->
        assert GenPool.call(pool, &{:reply, &1, &1 + 1}, @patience_ms)
      end)

      info = GenPool.info(pool)
      assert info.accepted == info.done + info.cancelled + Enum.sum(Map.values(info.dropped))
    end
  end

  test "no worker of a GenBuffer is" do
    buffer = GenBufferCase.start_buffer(workers: 2)

    rounds(fn -> GenBuffer.send(buffer, @large) end, fn round ->
      assert GenBuffer.send_recv(buffer, round, @patience_ms) == {:ok, {:handled, round}}
    end)
  end

  # Each round one that calls is killed at a moment of its call, and then the rest has to work as before.
  defp rounds(call, goes_on) do
    for round <- 1..@rounds do
      caller = spawn(call)
      for _ <- 1..:rand.uniform(2_000), do: :ok
      _ = :erlang.yield()
      Process.exit(caller, :kill)
      goes_on.(round)
    end
  end
end
