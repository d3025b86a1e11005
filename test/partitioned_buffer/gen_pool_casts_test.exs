defmodule PartitionedBuffer.GenPoolCastsTest do
  # Casts that wait are taken along by a worker with a state of its own, several at a time. Those that it has not come to
  # are any worker's.
  use PartitionedBuffer.GenPoolCase, async: true

  @moduletag capture_log: true

  defp start!(opts \\ []),
    do: start_pool!([], [pool_size: 1, shared_state?: false] ++ opts)

  defp cast_all(pool, numbers) do
    test = self()

    for n <- numbers do
      :ok =
        GenPool.cast(pool, fn state ->
          send(test, {:handled, n, self()})
          {:noreply, state}
        end)
    end
  end

  defp handled(count) do
    for _ <- 1..count do
      assert_receive {:handled, n, _worker}, 5_000
      n
    end
  end

  defp let_go(worker, ref, fun \\ &{:noreply, &1}), do: send(worker, {:release, ref, fun})

  # A worker in the midst of casts that it has taken along: 50 are done, 100 wait behind the one it works on.
  defp in_the_midst(pool) do
    first = occupy(pool)
    cast_all(pool, 1..50)
    ref = cast_blocker(pool)
    cast_all(pool, 51..150)
    assert :released = release(first)
    worker = begun(ref)
    assert handled(50) == Enum.to_list(1..50)
    assert %{waiting: 100, in_flight: 1, done: 51, bytes: bytes} = assert_accounted(pool)
    assert bytes > 0
    {worker, ref}
  end

  test "one worker handles them in order, and calls in between" do
    pool = start!()
    busy = occupy(pool)
    cast_all(pool, 1..500)
    task = Task.async(fn -> GenPool.call(pool, &{:reply, :called, &1}) end)
    eventually(fn -> GenPool.info(pool).waiting == 501 end)
    cast_all(pool, 501..1_000)
    assert :released = release(busy)
    assert handled(1_000) == Enum.to_list(1..1_000)
    assert Task.await(task) == :called
    eventually(fn -> match?(%{waiting: 0, in_flight: 0, done: 1_002}, assert_accounted(pool)) end)
  end

  test "a call waits for those that came before, whoever has taken them along" do
    pool = start!()
    {worker, ref} = in_the_midst(pool)
    test = self()

    caller =
      Task.async(fn ->
        GenPool.call(pool, fn state ->
          send(test, {:handled, :call, self()})
          {:reply, :ok, state}
        end)
      end)

    eventually(fn -> GenPool.info(pool).waiting == 101 end)
    # It takes all of them, since the other one is busy.
    :ok = GenPool.set_pool_size(pool, 2)
    assert handled(101) == Enum.to_list(51..150) ++ [:call]
    assert Task.await(caller) == :ok
    let_go(worker, ref)
    eventually(fn -> match?(%{waiting: 0, in_flight: 0, done: 153}, assert_accounted(pool)) end)
  end

  test "a handler that crashes takes its own cast along, and no other" do
    pool = start!()
    {worker, ref} = in_the_midst(pool)
    let_go(worker, ref, fn _state -> raise "oops" end)
    assert handled(100) == Enum.to_list(51..150)
    eventually(fn -> match?(%{waiting: 0, failed: 1, done: 151}, assert_accounted(pool)) end)
    assert [other] = GenPool.get_children(pool)
    assert other != worker
  end

  test "a worker that is killed takes the one along that it has begun" do
    pool = start!()
    {worker, _ref} = in_the_midst(pool)
    Process.exit(worker, :kill)
    assert handled(100) == Enum.to_list(51..150)
    eventually(fn -> match?(%{waiting: 0, failed: 1, done: 151}, assert_accounted(pool)) end)
  end

  test "a worker that stops leaves the others" do
    pool = start!()
    {worker, ref} = in_the_midst(pool)
    let_go(worker, ref, &{:stop, :normal, &1})
    assert handled(100) == Enum.to_list(51..150)
    eventually(fn -> match?(%{waiting: 0, done: 152}, assert_accounted(pool)) end)
  end

  test "what a handler asks for besides counts in between" do
    pool = start!()
    {worker, ref} = in_the_midst(pool)
    test = self()

    let_go(worker, ref, fn state ->
      {:noreply, state,
       {:continue,
        fn state ->
          send(test, {:handled, :continue, self()})
          {:noreply, state}
        end}}
    end)

    assert handled(101) == [:continue | Enum.to_list(51..150)]
  end

  test "messages to the pool, and to the worker, are handled in between" do
    pool = start!()
    {worker, ref} = in_the_midst(pool)
    test = self()

    info = fn what ->
      fn state ->
        send(test, {:handled, what, self()})
        {:noreply, state}
      end
    end

    send(worker, info.(:worker))
    send(pool, info.(:pool))
    eventually(fn -> GenPool.info(pool).messages == 1 end)
    let_go(worker, ref)
    assert Enum.sort(handled(102)) == Enum.to_list(51..150) ++ [:pool, :worker]
  end

  test "a pool that is stopped handles them before" do
    pool = start!()
    {worker, ref} = in_the_midst(pool)
    stop = Task.async(fn -> GenPool.stop(pool) end)
    eventually(fn -> GenPool.cast(pool, &{:noreply, &1}) == {:error, :noproc} end)
    let_go(worker, ref)
    assert handled(100) == Enum.to_list(51..150)
    assert Task.await(stop) == :ok
  end

  test "a worker that is to leave gives them to the others" do
    pool = start!()
    {worker, ref} = in_the_midst(pool)
    :ok = GenPool.set_pool_size(pool, 0)
    let_go(worker, ref)
    down(worker)
    rest = GenPool.info(pool).waiting
    :ok = GenPool.set_pool_size(pool, 1)
    assert handled(100) == Enum.to_list(51..150)
    assert rest > 0
  end

  test "each is counted by who handles it, however many workers there are, and while some are killed" do
    pool = start!(pool_size: 3)
    counter = :counters.new(1, [])

    senders =
      for _ <- 1..4 do
        Task.async(fn ->
          for n <- 1..2_000 do
            :ok =
              GenPool.cast(pool, fn state ->
                :counters.add(counter, 1, 1)
                if rem(n, 500) == 0, do: exit(:killed_by_itself), else: {:noreply, state}
              end)
          end
        end)
      end

    Task.await_many(senders, 30_000)
    eventually(fn -> match?(%{waiting: 0, in_flight: 0}, assert_accounted(pool)) end)
    assert %{done: 7_984, failed: 16} = assert_accounted(pool)
    assert :counters.get(counter, 1) == 8_000
  end

  test "none is taken along where they are bounded" do
    pool = start!(broker: broker!(max: 2))
    busy = occupy(pool)
    cast_all(pool, 1..2)
    assert GenPool.cast(pool, & &1) == {:error, :too_many_requests}
    assert :released = release(busy)
    assert handled(2) == [1, 2]
  end

  test "a large one is accepted too, by a dirty scheduler" do
    pool = start!()
    large = Enum.to_list(1..300_000)
    test = self()

    :ok =
      GenPool.cast(pool, fn state ->
        send(test, {:length, length(large)})
        {:noreply, state}
      end)

    assert_receive {:length, 300_000}, 5_000
  end
end
