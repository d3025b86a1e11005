defmodule PartitionedBuffer.DataBuffer.PressureTest do
  # Writes to a partition that is full while its former items are being flushed.
  use PartitionedBuffer.DataBufferCase, async: true

  # A buffer of one partition that is full with two items, and has a flush of two.
  defp full!(opts \\ []) do
    name = start_buffer!(Keyword.merge([max_size: 2], opts))
    for item <- 1..4, do: DataBuffer.insert(name, item)
    {flush, [1, 2], _opts} = next_flush()
    {name, flush}
  end

  test "wait until the flush is over, and are the first of the next batch" do
    {name, flush} = full!()
    insert = wait_in_line(name, fn -> DataBuffer.insert(name, 5) end)
    assert DataBuffer.size(name) == 2
    open(flush)
    assert Task.await(insert) == :ok
    {flush, [3, 4], _opts} = next_flush()
    assert DataBuffer.dump(name) == [{1, 5}]
    close(flush, name)
  end

  test "wait in the order in which they came, and nobody goes before them" do
    {name, flush} = full!(max_size: 2)
    tasks = for item <- 5..9, do: wait_in_line(name, fn -> DataBuffer.insert(name, item) end)
    batch = wait_in_line(name, fn -> DataBuffer.insert_batch(name, [10, 11, 12]) end)
    open(flush)
    {flush, [3, 4], _opts} = next_flush()
    assert Task.await_many(Enum.take(tasks, 2)) == [:ok, :ok]
    assert DataBuffer.dump(name) == [{1, 5}, {2, 6}]
    last = wait_in_line(name, fn -> DataBuffer.insert(name, 13) end)
    open(flush)
    {flush, [5, 6], _opts} = next_flush()
    open(flush)
    {flush, [7, 8], _opts} = next_flush()
    # A batch is not split.
    assert Task.await(batch) == :ok
    open(flush)
    {flush, [9, 10, 11, 12], _opts} = next_flush()
    assert Task.await(last) == :ok
    close(flush, name)
    assert DataBuffer.dump(name) == [{1, 13}]
  end

  test "exit when their time is over, as a call does, and are never written" do
    {name, flush} = full!()

    assert catch_exit(DataBuffer.insert(name, 5, 0)) ==
             {:timeout, {DataBuffer, :insert, [name, 5, 0]}}

    assert catch_exit(DataBuffer.insert_batch(name, 5..6, 1)) ==
             {:timeout, {DataBuffer, :insert_batch, [name, [5, 6], 1]}}

    close(flush, name)
    assert DataBuffer.dump(name) == [{1, 3}, {2, 4}]
    assert %{accepted: 4, blocked: 0, rejected: 2} = PartitionedBuffer.info(name)
  end

  test "return an error where that is asked for" do
    {name, flush} = full!()
    opts = [timeout: 1, on_timeout: :error]
    assert DataBuffer.insert(name, 5, opts) == {:error, :full}
    assert DataBuffer.insert_batch(name, [5, 6], opts) == {:error, :full}
    assert DataBuffer.insert_batch(name, [], opts) == {:error, :full}
    close(flush, name)
    assert DataBuffer.insert(name, 5, opts) == :ok
    {flush, [3, 4], _opts} = next_flush()
    assert DataBuffer.dump(name) == [{1, 5}]
    close(flush, name)
  end

  test "are not written for a process that was killed" do
    {name, flush} = full!()
    {:ok, other} = Agent.start(fn -> nil end)
    Agent.cast(other, fn _ -> DataBuffer.insert(name, :dead, :infinity) end)
    await(fn -> PartitionedBuffer.info(name).blocked == 1 end)
    living = wait_in_line(name, fn -> DataBuffer.insert(name, :living, :infinity) end)
    monitor = Process.monitor(other)
    Process.exit(other, :kill)
    assert_receive {:DOWN, ^monitor, :process, _pid, :killed}
    open(flush)
    assert Task.await(living) == :ok
    {flush, [3, 4], _opts} = next_flush()
    assert DataBuffer.dump(name) == [{1, :living}]
    close(flush, name)
  end

  test "the dead are looked for when somebody asks" do
    {name, flush} = full!()
    {:ok, other} = Agent.start(fn -> nil end)
    Agent.cast(other, fn _ -> DataBuffer.insert(name, :dead, :infinity) end)
    await(fn -> PartitionedBuffer.info(name).blocked == 1 end)
    Process.exit(other, :kill)
    await(fn -> PartitionedBuffer.info(name).blocked == 0 end)
    close(flush, name)
  end

  test "hold up nobody else" do
    {name, flush} = full!()
    insert = wait_in_line(name, fn -> DataBuffer.insert(name, 5, :infinity) end)
    assert DataBuffer.size(name, 0) == 2
    assert [%{size: 2, flush_size: 2}] = DataBuffer.info(name, 0)
    assert DataBuffer.dump(name, 0) == [{1, 3}, {2, 4}]
    assert DataBuffer.flush(name, 0) == :ok
    open(flush)
    {flush, [3, 4], _opts} = next_flush()
    assert Task.await(insert) == :ok
    close(flush, name)
  end

  test "another partition has room" do
    name = start_buffer!(partitions: 2, max_size: 1)
    # 1, 3 and 5 go to the second one, 2 and 4 to the first.
    for item <- 1..2, do: DataBuffer.insert(name, item)
    DataBuffer.insert(name, 3)
    {flush, [1], _opts} = next_flush()
    DataBuffer.insert(name, 4)
    {other, [2], _opts} = next_flush()
    close_one = fn -> open(other) end
    waiting = wait_in_line(name, fn -> DataBuffer.insert(name, 5) end)
    close_one.()
    await(fn -> PartitionedBuffer.info(name).in_flight == 1 end)
    assert DataBuffer.insert(name, 6) == :ok
    {other, [4], _opts} = next_flush()
    assert Task.yield(waiting, 0) == nil
    open(flush)
    assert Task.await(waiting) == :ok
    {flush, [3], _opts} = next_flush()
    for flush <- [flush, other], do: open(flush)
  end

  test "a flush by time or on demand makes room, too" do
    {name, flush} = full!()
    waiting = for item <- 5..7, do: wait_in_line(name, fn -> DataBuffer.insert(name, item) end)
    DataBuffer.flush(name)
    open(flush)
    {flush, [3, 4], _opts} = next_flush()
    open(flush)
    # Since one still waits.
    {flush, [5, 6], _opts} = next_flush()
    assert Task.await_many(waiting) == [:ok, :ok, :ok]
    assert DataBuffer.dump(name) == [{1, 7}]
    close(flush, name)
  end

  test "large items and long batches wait as others do" do
    {name, flush} = full!()
    large = String.duplicate("x", 200_000)
    one = wait_in_line(name, fn -> DataBuffer.insert(name, [large]) end)
    all = wait_in_line(name, fn -> DataBuffer.insert_batch(name, 1..3_000) end)
    open(flush)
    {flush, [3, 4], _opts} = next_flush()
    assert Task.await_many([one, all]) == [:ok, :ok]
    assert DataBuffer.size(name) == 3_001
    close(flush, name)
  end

  test "are refused when the buffer is stopped; what it holds is flushed" do
    {name, flush} = full!()

    waiting =
      for item <- 5..6,
          do: wait_in_line(name, fn -> catch_error(DataBuffer.insert(name, item)) end)

    stop = Task.async(fn -> DataBuffer.stop(name) end)

    for error <- Task.await_many(waiting), do: assert(%ArgumentError{} = error)
    open(flush)
    {flush, [3, 4], _opts} = next_flush()
    open(flush)
    assert Task.await(stop) == :ok
    refute_flush()
  end

  @tag :capture_log
  test "are written when the partition's process was killed while they waited" do
    {name, flush} = full!()
    waiting = wait_in_line(name, fn -> DataBuffer.insert(name, 5, :infinity) end)
    [%{pid: pid}] = DataBuffer.info(name)
    Process.exit(pid, :kill)
    open(flush)
    assert Task.await(waiting) == :ok
    {flush, [3, 4], _opts} = next_flush()
    close(flush, name)
    assert DataBuffer.dump(name) == [{1, 5}]
    assert %{processed: 4, queued: 1} = PartitionedBuffer.info(name)
  end

  @tag :capture_log
  test "go on when the buffer's supervisor was killed while they waited" do
    {name, flush} = full!()
    waiting = wait_in_line(name, fn -> DataBuffer.insert(name, 5, :infinity) end)
    supervisor = Process.whereis(Module.concat(name, Supervisor))
    Process.exit(supervisor, :kill)
    await(fn -> Process.whereis(Module.concat(name, Supervisor)) == nil end)
    opts = [name: name, max_size: 2, flush_interval: 3_600_000, flush_meta: gate()]
    {:ok, _pid} = DataBuffer.start_link(Watched, opts)
    open(flush)
    {flush, [3, 4], _opts} = next_flush()
    assert Task.await(waiting) == :ok
    close(flush, name)
    assert DataBuffer.dump(name) == [{1, 5}]
    stop = Task.async(fn -> DataBuffer.stop(name) end)
    {flush, [5], _opts} = next_flush()
    open(flush)
    assert Task.await(stop) == :ok
  end

  test "the events tell of waiting and giving up" do
    {name, flush} = full!()
    id = make_ref()
    events = for event <- [:blocked, :rejected], do: [:partitioned_buffer, :write, event]
    on_exit(fn -> :telemetry.detach(id) end)

    :ok =
      :telemetry.attach_many(
        id,
        events,
        &PartitionedBuffer.DataBufferCase.forward/4,
        {self(), name}
      )

    DataBuffer.insert(name, 5, timeout: 0, on_timeout: :error)
    assert_received {:event, [_, _, :blocked], %{duration: _}, %{result: :timeout}}
    assert_received {:event, [_, _, :rejected], %{count: 1}, %{reason: :timeout}}
    close(flush, name)
  end

  test "of many writers, none is lost or written twice, and each one's are in order" do
    name = start_buffer!(partitions: 2, max_size: 5, flush_meta: tell())

    1..20
    |> Enum.map(fn writer ->
      Task.async(fn ->
        for i <- 1..200 do
          what = {writer, i}

          if rem(i, 7) == 0,
            do: DataBuffer.insert_batch(name, [what]),
            else: DataBuffer.insert(name, what)
        end
      end)
    end)
    |> Task.await_many(60_000)

    DataBuffer.stop(name)
    items = Enum.concat(flushed())
    assert length(items) == 4_000
    assert Enum.sort(items) == for(writer <- 1..20, i <- 1..200, do: {writer, i})
  end
end
