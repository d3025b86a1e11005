defmodule PartitionedBuffer.GenPoolAnswersTest do
  # Answers by somebody else than the worker that took the request, and ends that a caller learns of late: an answer
  # comes once, to who waits, whoever gives it and whatever happens meanwhile.
  use PartitionedBuffer.GenPoolCase, async: true

  @later ["GenPool.reply/2", "GenServer.reply/2"]

  @pools [exclusive: [], optimistic: [isolation: :optimistic], own_state: [shared_state?: false]]

  # A call that is to be answered by the test: `{from, caller}`. What it comes to is `returned/1`'s.
  defp defer(pool, timeout \\ :infinity) do
    test = self()
    ref = make_ref()

    defer = fn from, state ->
      send(test, {:from, ref, from})
      {:noreply, state}
    end

    caller =
      spawn(fn ->
        send(test, {:returned, ref, call(pool, defer, timeout)})
        # A later call does not get what was meant for the former one.
        send(test, {:after, ref, call(pool, &{:reply, :another, &1})})
        send(test, {:left, ref, Process.info(self(), [:message_queue_len, :monitors])})

        receive do
          {:mailbox, ^ref} ->
            send(test, {:mailbox, ref, Process.info(self(), :message_queue_len)})
        end
      end)

    assert_receive {:from, ^ref, from}, 5_000
    %{ref: ref, from: from, caller: caller}
  end

  # Whatever comes to the caller from now on has come when this returns: it is sent by way of the same processes.
  defp assert_nothing_left(pool, %{ref: ref, caller: caller, from: from}) do
    assert_receive {:after, ^ref, :another}, 5_000
    assert_receive {:left, ^ref, [message_queue_len: 0, monitors: []]}, 5_000
    assert {^caller, _tag} = from
    _ = :sys.get_state(pool)
    _ = :sys.get_state(PartitionedBuffer.Names.broker(pool))
    send(caller, {:mailbox, ref})
    assert_receive {:mailbox, ^ref, {:message_queue_len, 0}}, 5_000
  end

  for name <- @later, {kind, opts} <- @pools do
    describe "#{name}, #{kind}" do
      @describetag reply: name, opts: opts

      setup %{reply: name, opts: opts} do
        reply = if name == "GenPool.reply/2", do: &GenPool.reply/2, else: &GenServer.reply/2
        %{reply: reply, pool: start_pool!(0, opts ++ [pool_size: 2])}
      end

      test "answers once, by whoever is first", %{pool: pool, reply: reply} do
        deferred = defer(pool)
        assert {caller, _tag} = deferred.from
        assert caller == deferred.caller
        for n <- 1..3, do: :ok = reply.(deferred.from, n)
        assert returned(deferred) == 1
        :ok = reply.(deferred.from, 4)
        assert_nothing_left(pool, deferred)
        assert_accounted(pool)
      end

      test "answers nobody who waits no longer", %{pool: pool, reply: reply} do
        deferred = defer(pool, 20)
        assert {:exit, {:timeout, _call}} = returned(deferred)
        :ok = reply.(deferred.from, :late)
        assert_nothing_left(pool, deferred)
      end

      test "answers before the handler returns something else", %{pool: pool, reply: reply} do
        deferred = defer(pool)
        test = self()

        # By another process, since what a handler answers itself may be held until it returns.
        twice = fn from, state ->
          pid = spawn(fn -> reply.(from, :first) end)
          monitor = Process.monitor(pid)

          receive do
            {:DOWN, ^monitor, :process, ^pid, _reason} -> :ok
          end

          _ = :sys.get_state(PartitionedBuffer.Names.broker(pool))
          send(test, :answered)
          {:reply, :second, state}
        end

        assert GenPool.call(pool, twice) == :first
        assert_receive :answered, 5_000
        assert GenPool.call(pool, &{:reply, :another, &1}) == :another
        refute_received _anything
        :ok = reply.(deferred.from, :done)
        assert returned(deferred) == :done
        assert_nothing_left(pool, deferred)
      end

      test "answers after its worker has died", %{pool: pool, reply: reply} do
        deferred = defer(pool)
        for worker <- GenPool.get_children(pool), do: Process.exit(worker, :kill)
        :ok = reply.(deferred.from, :answer)
        assert returned(deferred) == :answer
      end
    end
  end

  test "nothing is kept for callers that have died before they were answered" do
    pool = start_pool!(0)
    test = self()
    {:ok, %{broker: broker}} = GenPool.Handle.fetch(pool)

    defer = fn from, state ->
      send(test, {:from, from})
      {:noreply, state}
    end

    for _ <- 1..200 do
      caller = spawn(fn -> GenPool.call(pool, defer, :infinity) end)
      assert_receive {:from, {^caller, _tag} = from}, 5_000
      eventually(fn -> GenPool.info(pool).in_flight == 0 end)
      Process.exit(caller, :kill)
      down(caller)
      :ok = GenPool.reply(from, :nobody)
    end

    assert PartitionedBuffer.Native.broker_deferred(broker) == 0

    for _ <- 1..200 do
      caller = spawn(fn -> GenPool.call(pool, defer, :infinity) end)
      assert_receive {:from, {^caller, _tag}}, 5_000
      Process.exit(caller, :kill)
      down(caller)
    end

    assert PartitionedBuffer.Native.broker_deferred(broker) < 20
  end

  describe "a call that waits for an answer exits" do
    test "when the pool is stopped, with its reason" do
      pool = start_pool!(0)
      deferred = defer(pool)
      :ok = GenPool.stop(pool, :shutdown)
      assert {:exit, {:shutdown, _call}} = returned(deferred)
    end

    test "when the pool is killed" do
      Process.flag(:trap_exit, true)
      pool = unique_name()
      pid = start!(pool)
      deferred = defer(pool)
      Process.exit(pid, :kill)
      assert {:exit, {:killed, _call}} = returned(deferred)
      # It takes away what the killed one has left.
      _pid = start!(pool)
      :ok = GenPool.stop(pool)
    end

    # Before the call has had the time to monitor the pool, mostly.
    test "when a handler ends the pool at once" do
      Process.flag(:trap_exit, true)

      for _ <- 1..50 do
        {:ok, _pid} = GenPool.start_link(Scripted, fn -> {:ok, 0} end, name: pool = unique_name())
        stop = fn state -> {:stop, {:shutdown, :because}, state} end

        assert {:exit, {{:shutdown, :because}, {GenPool, :call, [^pool, ^stop, _]}}} =
                 call(pool, stop)
      end

      assert Process.info(self(), :monitors) == {:monitors, []}
    end

    test "when the pool is killed at once" do
      Process.flag(:trap_exit, true)
      pool = unique_name()

      for _ <- 1..50 do
        pid = start!(pool)

        kill = fn state ->
          Process.exit(pid, :kill)
          {:noreply, state}
        end

        # One that is killed together with the pool may be told before it.
        assert call(pool, kill) |> ended() == :killed
      end

      _pid = start!(pool)
      :ok = GenPool.stop(pool)
    end

    defp start!(pool) do
      if pid = Process.whereis(pool), do: down(pid)
      {:ok, pid} = GenPool.start_link(Scripted, fn -> {:ok, 0} end, name: pool, pool_size: 2)
      pid
    end

    defp ended({:exit, {reason, _call}}), do: reason
    defp ended({:error, reason}), do: reason
  end
end
