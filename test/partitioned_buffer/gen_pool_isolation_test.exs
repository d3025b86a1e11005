defmodule PartitionedBuffer.GenPoolIsolationTest do
  # The shared state, with handlers that run at the same time.
  use PartitionedBuffer.GenPoolCase, async: true

  alias PartitionedBuffer.GenPool.Backend
  alias PartitionedBuffer.Native

  @moduletag capture_log: true

  defmodule ReadsAreNamed do
    @moduledoc false
    # As `Scripted`, with messages that say whether they read only.
    use PartitionedBuffer.GenPool, isolation: :exclusive

    @impl true
    def init(state), do: {:ok, state}
    @impl true
    def handle_call({_kind, fun}, from, state) when is_function(fun, 2), do: fun.(from, state)
    def handle_call({_kind, fun}, _from, state), do: fun.(state)
    @impl true
    def handle_cast({_kind, fun}, state), do: fun.(state)
    @impl true
    def read_only?(_callback, {kind, _fun}), do: kind == :read
    def read_only?(_callback, _other), do: false
  end

  # 10,000 additions by 100 callers, of which every tenth takes its time, while workers are killed. An answer is a sum
  # that was there once, so that no two are alike; an error means that nothing was added.
  for {isolation, backend} <- [
        exclusive: Backend.Native,
        optimistic: Backend.Native,
        exclusive: Backend.ETS,
        optimistic: Backend.ETS
      ] do
    @isolation isolation
    @backend backend
    @additions if backend == Backend.Native, do: 10_000, else: 3_000

    test "#{isolation}, #{inspect(backend)}: no addition is lost, none is made twice" do
      pool = start_pool!(0, isolation: @isolation, backend: @backend, pool_size: 4)
      answers = add(pool, @additions)
      assert Enum.sort(answers) == Enum.to_list(1..@additions)
      assert GenPool.get_state(pool) == @additions
      assert %{done: @additions, failed: 0} = assert_accounted(pool)
    end
  end

  for isolation <- [:exclusive, :optimistic] do
    @isolation isolation

    test "#{isolation}: the sum is exact while workers are killed at random" do
      pool = start_pool!(0, isolation: @isolation, pool_size: 4)
      killer = spawn_link(fn -> kill(pool, :rand.seed_s(:exsss, 1)) end)
      answers = add(pool, 10_000)
      send(killer, {:stop, self()})
      assert_receive {:killed, kills}, 5_000
      {errors, sums} = Enum.split_with(answers, &match?({:error, _reason}, &1))

      # Every caller has an answer, and who was answered can rely on it.
      assert length(answers) == 10_000
      assert Enum.uniq(errors) in [[], [{:error, :killed}]]
      assert Enum.sort(sums) == Enum.to_list(1..length(sums)//1)
      assert GenPool.get_state(pool) == length(sums)
      assert kills > 0 and length(errors) <= kills
      assert length(GenPool.get_children(pool)) == 4

      info = assert_accounted(pool)
      assert info.done == length(sums)
      assert info.failed == length(errors)
    end
  end

  test "the sum is exact while workers with a large state are killed" do
    # Copied on a dirty scheduler, which goes on for a process that was killed.
    large = Enum.to_list(1..20_000)
    pool = start_pool!({0, large}, isolation: :optimistic, pool_size: 3)
    killer = spawn_link(fn -> kill(pool, :rand.seed_s(:exsss, 2)) end)
    add = fn {sum, [_first | rest]} -> {:reply, sum + 1, {sum + 1, [sum | rest]}} end

    answers =
      1..600
      |> Task.async_stream(fn _ -> GenPool.call(pool, add, :infinity) end,
        max_concurrency: 8,
        timeout: 60_000
      )
      |> Enum.map(fn {:ok, answer} -> answer end)

    send(killer, {:stop, self()})
    assert_receive {:killed, _kills}, 5_000
    {errors, sums} = Enum.split_with(answers, &match?({:error, _reason}, &1))
    assert Enum.uniq(errors) in [[], [{:error, :killed}]]
    assert Enum.sort(sums) == Enum.to_list(1..length(sums)//1)
    assert {sum, [_last | _rest]} = GenPool.get_state(pool)
    assert sum == length(sums)
    assert_accounted(pool)
  end

  # Whoever is slow lets the others go first, in the middle of the handler.
  defp add(pool, additions) do
    fast = fn sum -> {:reply, sum + 1, sum + 1} end

    slow = fn sum ->
      for _ <- 1..20, do: :erlang.yield()
      {:reply, sum + 1, sum + 1}
    end

    1..additions
    |> Task.async_stream(
      fn i -> GenPool.call(pool, if(rem(i, 10) == 0, do: slow, else: fast), :infinity) end,
      max_concurrency: 100,
      ordered: false,
      timeout: 60_000
    )
    |> Enum.map(fn {:ok, answer} -> answer end)
  end

  defp kill(pool, seed, kills \\ 0) do
    receive do
      {:stop, test} -> send(test, {:killed, kills})
    after
      1 ->
        workers = GenPool.get_children(pool)
        {index, seed} = :rand.uniform_s(length(workers), seed)
        workers |> Enum.at(index - 1) |> Process.exit(:kill)
        kill(pool, seed, kills + 1)
    end
  end

  describe "optimistic:" do
    test "a handler whose state was changed underneath is run again, with the new one" do
      pool = start_pool!([], isolation: :optimistic, pool_size: 2)
      busy = occupy(pool)
      assert GenPool.call(pool, &{:reply, :ok, [:fast | &1]}) == :ok
      # It is let go with what it had read, and then with what is there.
      send(busy.worker, {:release, busy.ref, &{:reply, {:slow, &1}, [:slow | &1]}})
      %{ref: ref, worker: worker} = busy
      assert_receive {:busy, ^ref, ^worker}, 5_000
      assert release(busy, &{:reply, {:slow, &1}, [:slow | &1]}) == {:slow, [:fast]}
      assert GenPool.get_state(pool) == [:slow, :fast]
      assert GenPool.info(pool).retries == 1
    end

    test "a handler that does not change the state is never run again" do
      pool = start_pool!(0, isolation: :optimistic, pool_size: 2)
      busy = occupy(pool)
      for _ <- 1..10, do: GenPool.call(pool, &{:reply, :ok, &1 + 1})
      # The state of the moment in which it was read.
      assert release(busy, &{:reply, &1, &1}) == 0
      assert GenPool.info(pool).retries == 0
      # Nor one that puts the same state together anew.
      busy = occupy(pool)
      GenPool.call(pool, &{:reply, :ok, &1 + 1})
      assert release(busy, &{:reply, &1, &1 + 1 - 1}) == 10
      assert GenPool.info(pool).retries == 0
    end

    test "a handler that is overtaken again and again gets its turn" do
      test = self()
      pool = start_pool!(0, isolation: :optimistic, pool_size: 2, max_attempts: 3)

      slow = fn state ->
        send(test, {:attempt, state, self()})

        receive do
          :go -> {:reply, state, state + 1_000}
        end
      end

      caller = Task.async(fn -> GenPool.call(pool, slow, :infinity) end)

      for attempt <- 0..2 do
        assert_receive {:attempt, ^attempt, worker}, 5_000
        assert GenPool.call(pool, &{:reply, &1, &1 + 1}) == attempt
        send(worker, :go)
      end

      # Now it has the turn. Who would write waits; who reads does not.
      assert_receive {:attempt, 3, worker}, 5_000
      other = Task.async(fn -> GenPool.call(pool, &{:reply, &1, &1 + 1}, :infinity) end)
      eventually(fn -> GenPool.info(pool).retries == 4 end)
      send(worker, :go)
      assert Task.await(caller) == 3
      assert Task.await(other) == 1_003
      assert GenPool.get_state(pool) == 1_004
    end

    test "handlers that meet somebody with the turn wait for it a moment, or get in line: no addition is lost" do
      # Each that runs in vain takes the turn at once.
      pool = start_pool!(0, isolation: :optimistic, pool_size: 4, max_attempts: 1)
      add = &{:reply, &1 + 1, &1 + 1}
      cast = &{:noreply, &1 + 1}

      answers =
        1..20
        |> Enum.map(fn _caller ->
          Task.async(fn ->
            for _ <- 1..300 do
              :ok = GenPool.cast(pool, cast)
              GenPool.call(pool, add, :infinity)
            end
          end)
        end)
        |> Task.await_many(60_000)
        |> List.flatten()

      eventually(fn -> GenPool.get_state(pool) == 12_000 end)
      assert length(Enum.uniq(answers)) == 6_000
    end

    test "whether anybody has the turn is known of a state that is shared, and of no other one" do
      {_version, cell} = Native.cell_new(0)
      turns = Native.turns_new()
      :ok = Native.turns_join(turns)
      :ok = Native.turns_take(turns)
      refute Native.cell_held(cell)
      :ok = Native.cell_share(cell, turns, false)
      assert Native.cell_held(cell)
      :ok = Native.turns_leave(turns)
      refute Native.cell_held(cell)
      refute Native.cell_held(:none)
    end

    test "answers of a handler that is run again are sent once" do
      pool = start_pool!([], isolation: :optimistic, pool_size: 2)
      test = self()

      caller =
        Task.async(fn ->
          answer =
            GenPool.call(pool, fn from, state ->
              GenPool.reply(from, {:early, state})
              send(test, {:attempt, self()})

              receive do
                :go -> {:noreply, [:slow | state]}
              end
            end)

          {answer, Process.info(self(), :messages)}
        end)

      assert_receive {:attempt, worker}, 5_000
      assert GenPool.call(pool, &{:reply, :ok, [:fast | &1]}) == :ok
      send(worker, :go)
      assert_receive {:attempt, ^worker}, 5_000
      send(worker, :go)
      assert Task.await(caller) == {{:early, [:fast]}, {:messages, []}}
    end

    test "handlers run at the same time" do
      pool = start_pool!(0, isolation: :optimistic, pool_size: 3)
      busy = for _ <- 1..3, do: occupy(pool)
      assert busy |> Enum.map(& &1.worker) |> Enum.uniq() |> length() == 3
      for one <- busy, do: release(one)
    end
  end

  describe "exclusive:" do
    test "handlers that may write run one at a time, and once" do
      pool = start_pool!([], pool_size: 4)
      test = self()
      inside = :counters.new(2, [])

      handler = fn state ->
        :counters.add(inside, 1, 1)
        :counters.add(inside, 2, 1)
        if :counters.get(inside, 1) > 1, do: send(test, :two_inside)
        :erlang.yield()
        :counters.sub(inside, 1, 1)
        {:reply, :ok, [1 | state]}
      end

      1..1_000
      |> Task.async_stream(fn _ -> GenPool.call(pool, handler) end, max_concurrency: 20)
      |> Stream.run()

      refute_received :two_inside
      assert :counters.get(inside, 2) == 1_000
      assert length(GenPool.get_state(pool)) == 1_000
      assert GenPool.info(pool).retries == 0
    end

    test "turns go in order: nobody is passed over" do
      pool = start_pool!([], pool_size: 8, module: ScriptedReader)
      first = occupy(pool)
      # One after the other gets in line behind it, each in a worker of its own.
      tasks =
        for i <- 1..7 do
          task = Task.async(fn -> GenPool.call(pool, &{:reply, i, [i | &1]}, :infinity) end)
          eventually(fn -> line(pool) == i + 1 end)
          task
        end

      release(first)
      assert Task.await_many(tasks) == Enum.to_list(1..7)
      assert GenPool.get_state(pool) == Enum.to_list(7..1//-1)
    end

    test "without read_only?/2, requests are handled in the order of the queue" do
      pool = start_pool!([], pool_size: 4)
      busy = occupy(pool)

      tasks =
        for i <- 1..100 do
          task = Task.async(fn -> GenPool.call(pool, &{:reply, i, [i | &1]}, :infinity) end)
          eventually(fn -> GenPool.info(pool).accepted == i + 1 end)
          task
        end

      release(busy)
      assert Task.await_many(tasks) == Enum.to_list(1..100)
      assert GenPool.get_state(pool) == Enum.to_list(100..1//-1)
      # The one that has handled them keeps the turn.
      eventually(fn -> length(for %{state: :idle} <- crew(pool), do: :idle) == 4 end)
      assert line(pool) == 1
    end

    test "a worker that keeps the turn gives it to another one that is sent a message" do
      pool = start_pool!(%{test: self()}, pool_size: 3)
      assert GenPool.call(pool, &{:reply, self(), &1}) in GenPool.get_children(pool)

      for _ <- 1..3, worker <- GenPool.get_children(pool) do
        send(worker, :to_you)
        assert_receive {:info, :to_you, ^worker}, 5_000
        assert GenPool.call(pool, &{:reply, :ok, &1}) == :ok
      end
    end

    test "one that keeps the turn and is suspended, or killed, holds nobody up" do
      pool = start_pool!(0, pool_size: 2)
      keeps = GenPool.call(pool, &{:reply, self(), &1})
      :ok = :sys.suspend(keeps)
      other = GenPool.call(pool, &{:reply, self(), &1 + 1})
      assert other != keeps
      assert GenPool.call(pool, &{:reply, &1, &1}) == 1
      :ok = :sys.resume(keeps)
      Process.exit(other, :kill)
      assert GenPool.call(pool, &{:reply, &1, &1 + 1}) == 1
      assert GenPool.get_state(pool) == 2
    end

    test "what came while a worker was at work is not left to it when it is suspended" do
      pool = start_pool!([], pool_size: 2)
      busy = occupy(pool)
      suspended = Task.async(fn -> :sys.suspend(busy.worker) end)

      tasks =
        for i <- 1..10 do
          task = Task.async(fn -> GenPool.call(pool, &{:reply, self(), [i | &1]}) end)
          eventually(fn -> GenPool.info(pool).accepted == i + 1 end)
          task
        end

      release(busy)
      assert Task.await(suspended) == :ok
      # It has begun with the first one at the most.
      assert busy.worker not in tl(Task.await_many(tasks))
      assert GenPool.get_state(pool) == Enum.to_list(10..1//-1)
      :ok = :sys.resume(busy.worker)
    end

    test "a message to one worker is not kept waiting by requests that come without end" do
      pool = start_pool!(%{test: self()}, pool_size: 2)

      again = fn again ->
        fn state ->
          GenPool.cast(pool, again.(again))
          {:noreply, state}
        end
      end

      for _ <- 1..10, do: :ok = GenPool.cast(pool, again.(again))

      for worker <- GenPool.get_children(pool) do
        send(worker, :to_you)
        assert_receive {:info, :to_you, ^worker}, 5_000
      end
    end

    test "a worker that is killed gives up its turn, or its place in line" do
      pool = start_pool!([], pool_size: 4, module: ScriptedReader)
      first = occupy(pool)
      second = Task.async(fn -> GenPool.call(pool, &{:reply, :second, [2 | &1]}) end)
      eventually(fn -> line(pool) == 2 end)
      third = Task.async(fn -> GenPool.call(pool, &{:reply, :third, [3 | &1]}) end)
      eventually(fn -> line(pool) == 3 end)

      # One of those in line, whichever request it has.
      waiting = for %{pid: pid, state: :running} <- crew(pool), pid != first.worker, do: pid

      Process.exit(hd(waiting), :kill)
      eventually(fn -> line(pool) == 2 end)
      Process.exit(first.worker, :kill)
      assert returned(first) == {:error, :killed}
      answers = Task.await_many([second, third])
      assert {:error, :killed} in answers
      assert Enum.count(answers, &(&1 in [:second, :third])) == 1
      assert length(GenPool.get_state(pool)) == 1
      # That of the last one, which keeps it.
      assert line(pool) == 1
    end

    test "a handler that crashes gives up its turn" do
      pool = start_pool!(0, pool_size: 2)
      busy = occupy(pool)
      other = Task.async(fn -> GenPool.call(pool, &{:reply, &1, &1 + 1}) end)
      eventually(fn -> GenPool.info(pool).accepted == 2 end)
      assert {:error, {%RuntimeError{}, _}} = release(busy, fn _state -> raise "oops" end)
      assert Task.await(other) == 0
    end

    test "handlers that are named to read only run beside one that writes" do
      {:ok, pool} = GenPool.start_link(ReadsAreNamed, 0, name: unique_name())
      {:registered_name, name} = Process.info(pool, :registered_name)
      test = self()

      writer =
        Task.async(fn ->
          GenPool.call(
            name,
            {:write,
             fn state ->
               send(test, {:writes, self()})

               receive do
                 :go -> {:reply, :written, state + 1}
               end
             end}
          )
        end)

      assert_receive {:writes, worker}, 5_000
      for _ <- 1..20, do: assert(GenPool.call(name, {:read, &{:reply, &1, &1}}) == 0)
      send(worker, :go)
      assert Task.await(writer) == :written
      assert GenPool.call(name, {:read, &{:reply, &1, &1}}) == 1
      GenPool.stop(name)
    end

    test "one that reads waits for no writer after many have written either, nor does one of many that read" do
      name = unique_name()
      {:ok, _pid} = GenPool.start_link(ReadsAreNamed, 0, name: name, pool_size: 4)
      test = self()

      held = fn name, kind, new ->
        fun = fn state ->
          send(test, {kind, self()})

          receive do
            :go -> {:reply, state, new.(state)}
          end
        end

        Task.async(fn -> GenPool.call(name, {kind, fun}) end)
      end

      # By now one worker does all of it.
      for n <- 0..199, do: assert(GenPool.call(name, {:write, &{:reply, &1, &1 + 1}}) == n)
      for _ <- 1..100, do: assert(GenPool.call(name, {:write, &{:reply, &1, &1}}) == 200)
      for _ <- 1..100, do: GenPool.cast(name, {:write, &{:noreply, &1}})

      writer = held.(name, :write, &(&1 + 1))
      assert_receive {:write, writes}, 5_000
      readers = for _ <- 1..2, do: held.(name, :read, & &1)
      reads = for _ <- 1..2, do: assert_receive({:read, _pid}, 5_000)
      :ok = GenPool.cast(name, {:read, &{:noreply, tap(&1, fn n -> send(test, {:cast, n}) end)}})
      assert_receive {:cast, 200}, 5_000
      for _ <- 1..20, do: assert(GenPool.call(name, {:read, &{:reply, &1, &1}}) == 200)

      for {:read, reader} <- reads, do: send(reader, :go)
      assert Task.await_many(readers) == [200, 200]
      send(writes, :go)
      assert Task.await(writer) == 200
      assert GenPool.call(name, {:read, &{:reply, &1, &1}}) == 201
      GenPool.stop(name)
    end

    test "a worker that has written and reads then does not keep the turn meanwhile" do
      name = unique_name()
      {:ok, _pid} = GenPool.start_link(ReadsAreNamed, 0, name: name, pool_size: 2)
      test = self()
      assert GenPool.call(name, {:write, &{:reply, &1, &1 + 1}}) == 0

      # Each worker reads for as long as this takes; one of the two has had the turn before.
      for written <- 1..4 do
        reader =
          Task.async(fn ->
            GenPool.call(
              name,
              {:read,
               fn state ->
                 send(test, {:reads, self()})

                 receive do
                   :go -> {:reply, state, state}
                 end
               end}
            )
          end)

        assert_receive {:reads, worker}, 5_000
        assert GenPool.call(name, {:write, &{:reply, &1, &1 + 1}}) == written
        send(worker, :go)
        assert Task.await(reader) == written
      end

      GenPool.stop(name)
    end

    test "one that is named to read only and writes has crashed" do
      name = unique_name()
      {:ok, _pid} = GenPool.start_link(ReadsAreNamed, 0, name: name)
      fun = &{:reply, &1, &1 + 1}

      assert GenPool.call(name, {:read, fun}) ==
               {:error, {:read_only_handler_wrote, :call, {:read, fun}}}

      assert GenPool.get_state(name) == 0
      GenPool.stop(name)
    end

    test "what follows a handler belongs to its turn" do
      pool = start_pool!([], pool_size: 3)
      test = self()

      continue = fn state ->
        send(test, {:continues, self()})

        receive do
          :go -> {:noreply, [:continue | state]}
        end
      end

      assert GenPool.call(pool, &{:reply, :ok, [:call | &1], {:continue, continue}}) == :ok
      assert_receive {:continues, worker}, 5_000
      other = Task.async(fn -> GenPool.call(pool, &{:reply, &1, [:other | &1]}) end)
      eventually(fn -> GenPool.info(pool).accepted == 2 end)
      send(worker, :go)
      assert Task.await(other) == [:continue, :call]
    end
  end

  # The supervisor's signal comes to the worker whose handler has ended the pool before it comes to the others.
  test "optimistic: the turn of a handler that has ended the pool is nobody's after it" do
    pool = start_pool!(%{test: self(), sum: 0}, isolation: :optimistic, pool_size: 2)
    owner = Process.whereis(pool)
    :ok = :sys.suspend(owner)
    test = self()
    {ender, 0} = GenPool.call(pool, &{:stop, :shutdown, {self(), &1.sum}, &1})

    add = fn state ->
      send(test, :ran)
      {:reply, :ok, %{state | sum: state.sum + 1}}
    end

    writer = spawn(fn -> GenPool.call(pool, add) end)
    # In vain, and then it waits for the turn.
    assert_receive :ran, 5_000
    {:dictionary, dictionary} = Process.info(ender, :dictionary)
    [parent | _] = Keyword.fetch!(dictionary, :"$ancestors")
    monitor = Process.monitor(ender)

    send(
      ender,
      {:EXIT, if(is_atom(parent), do: Process.whereis(parent), else: parent), :shutdown}
    )

    assert_receive {:DOWN, ^monitor, _, _, _}, 5_000
    :ok = :sys.resume(owner)
    assert_receive {:terminated, :shutdown, %{sum: 0}}, 5_000
    down(writer)
  end

  describe "whatever the isolation:" do
    for isolation <- [:exclusive, :optimistic] do
      @isolation isolation

      test "#{isolation}: a handler that crashes has changed nothing, and answered nobody" do
        pool = start_pool!(1, isolation: @isolation)
        {pid, tag} = {self(), make_ref()}

        assert {:error, {%RuntimeError{}, _}} =
                 call(pool, fn from, _state ->
                   GenPool.reply(from, :early)
                   GenPool.reply({pid, tag}, :to_another_one)
                   raise "oops"
                 end)

        refute_receive {^tag, :to_another_one}, 20
        assert GenPool.get_state(pool) == 1
      end

      # Others write as fast as they can. The last state is that of the handler that ended the pool, whether it has
      # changed it or not.
      for {how, put} <- [changes: &__MODULE__.ended/1, leaves: &Function.identity/1] do
        @put put
        test "#{isolation}: nobody writes after a handler that ends the pool and #{how} the state" do
          for _ <- 1..20 do
            pool = start_pool!(%{test: self(), sum: 0}, isolation: @isolation, pool_size: 4)
            writers = for _ <- 1..3, do: spawn(fn -> write_for_ever(pool) end)
            eventually(fn -> GenPool.call(pool, &{:reply, &1.sum > 10, &1}) end)
            sum = GenPool.call(pool, &{:stop, :shutdown, &1.sum, @put.(&1)})
            assert_receive {:terminated, :shutdown, %{sum: ^sum}}, 5_000
            Enum.each(writers, &down/1)
          end
        end
      end

      test "#{isolation}: who was answered with reply/2 is not answered again by what its handler returns" do
        pool = start_pool!(1, isolation: @isolation)
        pid = Process.whereis(pool)
        {other, tag} = {self(), make_ref()}

        for put <- [&Function.identity/1, &(&1 + 1)],
            call <- [&GenPool.call(pool, &1), &GenServer.call(pid, &1)] do
          assert call.(fn from, state ->
                   GenPool.reply({other, tag}, :first)
                   GenPool.reply(from, :one)
                   GenPool.reply({other, tag}, :second)
                   {:reply, :two, put.(state)}
                 end) == :one

          # Others are, in order.
          assert_receive {^tag, :first}, 5_000
          assert_receive {^tag, :second}, 5_000
        end

        assert GenPool.get_state(pool) == 3
        assert Process.info(self(), :message_queue_len) == {:message_queue_len, 0}
        assert %{done: done, failed: 0} = assert_accounted(pool)
        assert done >= 4
      end

      test "#{isolation}: what a worker is sent itself waits for one request more at the most" do
        pool = start_pool!([], isolation: @isolation, pool_size: 1)
        # From now on it knows that nobody listens to its events.
        assert GenPool.call(pool, &{:reply, :ok, &1}) == :ok
        busy = occupy(pool)
        send(busy.worker, &{:noreply, [:info | &1]})
        later = for n <- 1..3, do: call_later(pool, n)
        release(busy)
        assert Task.await_many(later) == [:ok, :ok, :ok]
        assert GenPool.get_state(pool) in [[3, 2, 1, :info], [3, 2, :info, 1]]
      end

      test "#{isolation}: a timeout is the pool's: none while it handles anything" do
        pool = start_pool!(%{test: self()}, isolation: @isolation, pool_size: 3)
        assert GenPool.call(pool, &{:reply, :ok, &1, 200}) == :ok
        # Another worker, most likely.
        busy = occupy(pool)
        refute_receive {:info, :timeout, _worker}, 250
        release(busy, &{:reply, :ok, &1, 10})
        assert_receive {:info, :timeout, _worker}, 5_000
        refute_receive {:info, :timeout, _worker}, 50
      end
    end
  end

  @doc false
  def ended(state), do: Map.put(state, :ended, true)

  defp write_for_ever(pool) do
    :ok = GenPool.call(pool, &{:reply, :ok, %{&1 | sum: &1.sum + 1}})
    write_for_ever(pool)
  catch
    :exit, _ended -> :ok
  end

  # It waits in the queue when this returns.
  defp call_later(pool, n) do
    waiting = GenPool.info(pool).waiting
    task = Task.async(fn -> GenPool.call(pool, &{:reply, :ok, [n | &1]}) end)
    eventually(fn -> GenPool.info(pool).waiting == waiting + 1 end)
    task
  end

  # How many are in line for a turn, with the one that has it.
  defp line(pool) do
    Native.turns_len(:sys.get_state(Process.whereis(pool)).shared.turns)
  end

  defp crew(pool),
    do: PartitionedBuffer.Broker.crew(:sys.get_state(Process.whereis(pool)).broker.broker)
end
