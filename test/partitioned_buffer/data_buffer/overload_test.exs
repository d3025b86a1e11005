defmodule PartitionedBuffer.DataBuffer.OverloadTest do
  # Writers that are ten times as fast as the flushes: they wait or give up; nothing is lost, and nothing is
  # written for one that gave up. Whoever looks at the buffer meanwhile does not wait.
  use PartitionedBuffer.DataBufferCase, async: false

  import PartitionedBuffer.Alive

  setup :assert_alive_baseline

  @writers 40
  @size 50
  # For a call that waits for nobody: a machine that is busy may keep it from running, but not for that long.
  @at_once_ms 2_000

  defmodule Slow do
    use PartitionedBuffer.DataBuffer

    # As long as the writers take for ten times as much.
    @impl DataBuffer
    def handle_flush(items, opts) do
      {table, ms} = opts[:meta]
      Enum.each(items, &(:ets.insert_new(table, {&1}) || :ets.insert(table, {{:twice, &1}})))

      receive do
      after
        ms -> :ok
      end
    end
  end

  test "for a moment" do
    overload(1_000, 5)
  end

  @tag :soak
  @tag timeout: 180_000
  test "for a minute" do
    overload(60_000, 20)
  end

  defp overload(duration_ms, flush_ms) do
    table = :ets.new(:flushed, [:public, :set, write_concurrency: true])
    name = unique_name()

    {:ok, _pid} =
      Slow.start_link(name: name, partitions: 2, max_size: @size, flush_meta: {table, flush_ms})

    deadline = System.monotonic_time(:millisecond) + duration_ms

    writers =
      for writer <- 1..@writers, do: Task.async(fn -> write(name, writer, 0, deadline, [], 0) end)

    slowest = watch(name, deadline, 0)
    {written, given_up} = writers |> Task.await_many(:infinity) |> Enum.unzip()
    stop = System.monotonic_time(:millisecond)
    assert DataBuffer.stop(name) == :ok
    assert System.monotonic_time(:millisecond) - stop < 10_000

    # It was an overload.
    assert Enum.sum(given_up) > 0
    written = List.flatten(written)
    assert :ets.match(table, {{:twice, :"$1"}}) == []
    assert Enum.sort(written) == Enum.sort(List.flatten(:ets.match(table, {:"$1"})))
    assert slowest < @at_once_ms
  end

  # Some give up at once, some never, some after a flush or so.
  defp write(name, writer, i, deadline, written, given_up) do
    if System.monotonic_time(:millisecond) > deadline do
      {written, given_up}
    else
      timeout = Enum.at([0, 1, 7, :infinity], rem(i, 4))

      case DataBuffer.insert(name, {writer, i}, timeout: timeout, on_timeout: :error) do
        :ok -> write(name, writer, i + 1, deadline, [{writer, i} | written], given_up)
        {:error, :full} -> write(name, writer, i + 1, deadline, written, given_up + 1)
      end
    end
  end

  defp watch(name, deadline, slowest) do
    {us, _looked} =
      :timer.tc(fn ->
        assert DataBuffer.size(name) <= 2 * @size
        assert [%{size: size}, %{size: _size}] = DataBuffer.info(name)
        assert size <= @size
        info = PartitionedBuffer.info(name)
        assert info.queued + info.in_flight <= 4 * @size
      end)

    slowest = max(slowest, div(us, 1_000))

    if System.monotonic_time(:millisecond) < deadline do
      receive do
      after
        10 -> watch(name, deadline, slowest)
      end
    else
      slowest
    end
  end
end
