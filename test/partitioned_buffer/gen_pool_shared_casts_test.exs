defmodule PartitionedBuffer.GenPoolSharedCastsTest do
  # Casts that wait are taken along by a worker with a shared state too. Each puts the state in by itself, before the
  # next one is begun, and those that have not been begun are any worker's.
  use PartitionedBuffer.GenPoolCase, async: true

  @moduletag capture_log: true

  defmodule Reader do
    @moduledoc false
    # As `Scripted`, with messages that are named to read only or not.
    def init(fun), do: fun.()
    def handle_call({_kind, fun}, from, state) when is_function(fun, 2), do: fun.(from, state)
    def handle_call({_kind, fun}, _from, state), do: fun.(state)
    def handle_call(fun, from, state) when is_function(fun, 2), do: fun.(from, state)
    def handle_call(fun, _from, state), do: fun.(state)
    def handle_cast({_kind, fun}, state), do: fun.(state)
    def handle_cast(fun, state), do: fun.(state)
    def handle_info(fun, state), do: fun.(state)
    def handle_continue(fun, state), do: fun.(state)
    def read_only?(_callback, {kind, _fun}), do: kind == :read
    def read_only?(_callback, _other), do: false
  end

  @ways [
    exclusive: [isolation: :exclusive],
    named: [isolation: :exclusive, module: Reader],
    optimistic: [isolation: :optimistic],
    optimistic_named: [isolation: :optimistic, module: Reader]
  ]

  defp put_all(pool, numbers) do
    for n <- numbers, do: :ok = GenPool.cast(pool, &{:noreply, [n | &1]})
  end

  defp let_go(worker, ref, fun \\ &{:noreply, [:blocker | &1]}),
    do: send(worker, {:release, ref, fun})

  # A worker in the midst of casts that it has taken along: 50 are done, 100 wait behind the one it works on.
  defp in_the_midst(opts) do
    pool = start_pool!([], [pool_size: 1] ++ opts)
    first = occupy(pool)
    put_all(pool, 1..50)
    ref = cast_blocker(pool)
    put_all(pool, 51..150)
    assert :released = release(first)
    worker = begun(ref)
    assert %{waiting: 100, in_flight: 1, done: 51} = assert_accounted(pool)
    # What was done before is there for everybody.
    assert GenPool.get_state(pool) == Enum.to_list(50..1//-1)
    {pool, worker, ref}
  end

  # What came before does not count: it may be told to look who listens.
  defp in_mailbox?(worker, is?) do
    {:messages, messages} = Process.info(worker, :messages)
    Enum.any?(messages, is?)
  end

  defp through(pool, done, failed \\ 0) do
    eventually(fn ->
      match?(%{waiting: 0, in_flight: 0, done: ^done, failed: ^failed}, assert_accounted(pool))
    end)
  end

  defp in_order(pool), do: Enum.reverse(GenPool.get_state(pool))

  for {way, opts} <- @ways do
    @opts opts

    describe "#{way}:" do
      test "one worker handles them in order, and calls in between" do
        pool = start_pool!([], [pool_size: 1] ++ @opts)
        busy = occupy(pool)
        put_all(pool, 1..500)
        task = Task.async(fn -> GenPool.call(pool, &{:reply, hd(&1), [:call | &1]}) end)
        eventually(fn -> GenPool.info(pool).waiting == 501 end)
        put_all(pool, 501..1_000)
        assert :released = release(busy)
        assert Task.await(task) == 500
        through(pool, 1_002)
        assert in_order(pool) == Enum.to_list(1..500) ++ [:call] ++ Enum.to_list(501..1_000)
      end

      test "a handler that crashes leaves the state as it was before, and no other is lost" do
        {pool, worker, ref} = in_the_midst(@opts)
        let_go(worker, ref, fn _state -> raise "oops" end)
        through(pool, 151, 1)
        assert in_order(pool) == Enum.to_list(1..150)
        assert [other] = GenPool.get_children(pool)
        assert other != worker
      end

      test "a worker that is killed takes the one along that it has begun" do
        {pool, worker, _ref} = in_the_midst(@opts)
        Process.exit(worker, :kill)
        through(pool, 151, 1)
        assert in_order(pool) == Enum.to_list(1..150)
      end

      test "one that stops the pool leaves what is there, and those behind it are not handled" do
        {pool, worker, ref} = in_the_midst(@opts)
        monitor = Process.monitor(pool)
        let_go(worker, ref, &{:stop, :normal, &1})
        assert_receive {:DOWN, ^monitor, :process, _pool, :normal}, 5_000
      end

      test "what a handler asks for besides counts in between" do
        {pool, worker, ref} = in_the_midst(@opts)

        let_go(worker, ref, fn state ->
          {:noreply, [:blocker | state], {:continue, &{:noreply, [:continue | &1]}}}
        end)

        through(pool, 152)
        expected = Enum.to_list(1..50) ++ [:blocker, :continue] ++ Enum.to_list(51..150)
        assert in_order(pool) == expected
      end

      test "messages to the worker and to the pool are handled in between" do
        {pool, worker, ref} = in_the_midst(@opts)
        send(worker, &{:noreply, [:worker | &1]})
        send(pool, &{:noreply, [:pool | &1]})
        eventually(fn -> GenPool.info(pool).messages == 1 end)
        let_go(worker, ref)
        through(pool, 152)
        eventually(fn -> length(GenPool.get_state(pool)) == 153 end)
        # Before it comes to them it may have to look who listens, once.
        assert Enum.find_index(in_order(pool), &(&1 == :worker)) < 60
        assert Enum.find_index(in_order(pool), &(&1 == :pool)) < 60
        assert in_order(pool) -- [:blocker, :worker, :pool] == Enum.to_list(1..150)
      end

      test "a worker that is suspended in between leaves them to others" do
        {pool, worker, ref} = in_the_midst(@opts)
        suspended = Task.async(fn -> :sys.suspend(worker) end)
        eventually(fn -> in_mailbox?(worker, &match?({:system, _from, :suspend}, &1)) end)
        let_go(worker, ref)
        assert Task.await(suspended) == :ok
        :ok = GenPool.set_pool_size(pool, 2)
        through(pool, 152)
        assert in_order(pool) == Enum.to_list(1..50) ++ [:blocker] ++ Enum.to_list(51..150)
        :ok = :sys.change_code(worker, __MODULE__, nil, nil)
        :ok = :sys.resume(worker)
        assert GenPool.call(pool, &{:reply, length(&1), &1}) == 151
      end

      test "a worker that is to leave gives them to the others" do
        {pool, worker, ref} = in_the_midst(@opts)
        :ok = GenPool.set_pool_size(pool, 0)
        let_go(worker, ref)
        down(worker)
        assert GenPool.info(pool).waiting > 0
        :ok = GenPool.set_pool_size(pool, 1)
        through(pool, 152)
        assert in_order(pool) == Enum.to_list(1..50) ++ [:blocker] ++ Enum.to_list(51..150)
      end

      test "a pool that is stopped handles them before" do
        test = self()
        {pool, worker, ref} = in_the_midst(@opts)
        :ok = GenPool.cast(pool, &{:noreply, tap(&1, fn state -> send(test, {:last, state}) end)})
        stop = Task.async(fn -> GenPool.stop(pool) end)
        eventually(fn -> GenPool.cast(pool, &{:noreply, &1}) == {:error, :noproc} end)
        let_go(worker, ref)
        assert Task.await(stop) == :ok
        assert_received {:last, state}
        assert length(state) == 151
      end

      test "an answer that a cast gives leaves after its state, and those behind it go on" do
        {pool, worker, ref} = in_the_midst(@opts)
        test = self()
        tag = make_ref()

        let_go(worker, ref, fn state ->
          GenPool.reply({test, tag}, :from_a_cast)
          {:noreply, [:blocker | state]}
        end)

        assert_receive {^tag, :from_a_cast}, 5_000
        assert :blocker in GenPool.get_state(pool)
        through(pool, 152)
      end

      test "a state that takes more than one call, and one of a few words again" do
        {pool, worker, ref} = in_the_midst(@opts)
        large = Enum.to_list(1..300_000)
        let_go(worker, ref, &{:noreply, [large | &1]})
        :ok = GenPool.cast(pool, &{:noreply, &1 -- [large]})
        put_all(pool, 151..200)
        through(pool, 203)
        assert in_order(pool) == Enum.to_list(1..200)
      end

      test "each is counted once, however many workers there are, and while some are killed" do
        pool = start_pool!(0, [pool_size: 3] ++ @opts)

        senders =
          for _ <- 1..4 do
            Task.async(fn ->
              for n <- 1..2_000 do
                :ok =
                  GenPool.cast(pool, fn sum ->
                    if rem(n, 500) == 0, do: exit(:by_itself), else: {:noreply, sum + 1}
                  end)
              end
            end)
          end

        kill(pool, 20)
        Task.await_many(senders, 30_000)
        eventually(fn -> match?(%{waiting: 0, in_flight: 0}, assert_accounted(pool)) end)
        # One that is killed has put its state in and is through, or neither.
        assert %{done: done, failed: failed} = assert_accounted(pool)
        assert done + failed == 8_000
        assert failed in 16..36
        assert GenPool.get_state(pool) == done
      end
    end
  end

  defp kill(_pool, 0), do: :ok

  defp kill(pool, times) do
    pool |> GenPool.get_children() |> Enum.random() |> Process.exit(:kill)
    eventually(fn -> length(GenPool.get_children(pool)) == 3 end)
    kill(pool, times - 1)
  end

  test "optimistic: one that was overtaken is run again, and those behind it with what is there then" do
    {pool, worker, ref} = in_the_midst(isolation: :optimistic)
    :ok = GenPool.set_pool_size(pool, 2)
    # The other one takes them, and the handler has run in vain.
    eventually(fn -> GenPool.info(pool).waiting == 0 end)
    eventually(fn -> hd(GenPool.get_state(pool)) == 150 end)
    let_go(worker, ref)
    assert begun(ref) == worker
    let_go(worker, ref)
    through(pool, 152)
    assert in_order(pool) == Enum.to_list(1..150) ++ [:blocker]
    assert GenPool.info(pool).retries == 1
  end

  test "optimistic: one begins with no less than what was there when it was sent" do
    pool = start_pool!([], isolation: :optimistic, pool_size: 2)

    senders =
      for sender <- 1..4 do
        Task.async(fn ->
          for n <- 1..500 do
            :ok = GenPool.call(pool, &{:reply, :ok, [{sender, n} | &1]})
            cast = fn state -> {:noreply, [{sender, n, {sender, n} in state} | state]} end
            for _ <- 1..3, do: :ok = GenPool.cast(pool, cast)
          end
        end)
      end

    Task.await_many(senders, 30_000)
    through(pool, 8_000)
    state = GenPool.get_state(pool)
    assert length(state) == 8_000
    assert Enum.count(state, &match?({_sender, _n, true}, &1)) == 6_000
  end

  test "one that only reads goes in between, without the turn" do
    {pool, worker, ref} = in_the_midst(isolation: :exclusive, module: Reader)
    test = self()
    read = &{:noreply, tap(&1, fn state -> send(test, {:read, length(state)}) end)}
    :ok = GenPool.cast(pool, {:read, read})
    put_all(pool, 151..200)
    # One that writes all the same is a mistake of its own.
    :ok = GenPool.cast(pool, {:read, &{:noreply, [:written | &1]}})
    put_all(pool, 201..250)
    let_go(worker, ref)
    assert_receive {:read, 151}, 5_000
    through(pool, 253, 1)
    assert in_order(pool) == Enum.to_list(1..50) ++ [:blocker] ++ Enum.to_list(51..250)
  end

  test "exclusive: who wants the turn gets it after a few requests" do
    {pool, worker, ref} = in_the_midst(isolation: :exclusive)
    :ok = GenPool.set_pool_size(pool, 2)
    [other] = GenPool.get_children(pool) -- [worker]
    send(other, &{:noreply, [:other | &1]})
    eventually(fn -> in_mailbox?(worker, &(&1 == :partitioned_buffer_turn_wanted)) end)
    let_go(worker, ref)
    through(pool, 152)
    eventually(fn -> :other in GenPool.get_state(pool) end)
    assert Enum.find_index(in_order(pool), &(&1 == :other)) in 51..68

    assert in_order(pool) -- [:other] ==
             Enum.to_list(1..50) ++ [:blocker] ++ Enum.to_list(51..150)
  end
end
