defmodule PartitionedBuffer.DeliveryTest do
  # How often a batch is tried, what it is called, and what becomes of one that can't be processed.
  use PartitionedBuffer.BoundsCase, async: true

  @moduletag :capture_log

  # Tells the test what it was called with, and does what the test has put into the table for this attempt.
  def informed(batch, info, test) do
    send(test, {:called, self(), batch, info})

    receive do
      {:return, fun} -> fun.()
    end
  end

  defp next_call do
    assert_receive {:called, runner, batch, info}, 5_000
    {runner, batch, info}
  end

  defp return(runner, fun) do
    send(runner, {:return, fun})
    :ok
  end

  defp informed!(kind, opts) do
    defaults = [
      processor: {__MODULE__, :informed, [self()]},
      processor_info: true,
      backoff: {1, 2},
      processing_batch_size: 10
    ]

    start!(kind, Keyword.merge(defaults, opts))
  end

  @failures [
    raise: quote(do: fn -> raise "no" end),
    throw: quote(do: fn -> throw(:no) end),
    exit: quote(do: fn -> exit(:no) end),
    kill: quote(do: fn -> Process.exit(self(), :kill) end),
    error: quote(do: fn -> {:error, :no} end)
  ]

  for kind <- [:queue, :map] do
    @kind kind

    describe "a batch of a #{kind} that fails" do
      for {how, fun} <- @failures do
        test "by #{how} is tried again, with the same id" do
          name = informed!(@kind, max_retries: 2)
          :ok = write(@kind, name, [1, 2, 3])
          :ok = PartitionedBuffer.flush(name)

          calls =
            for _ <- 1..3 do
              {runner, batch, info} = next_call()
              return(runner, unquote(fun))
              {batch, info}
            end

          assert [{batch, %{batch: id, attempt: 1, size: 3}} | _] = calls
          assert [1, 2, 3] = for({_, %{attempt: attempt}} <- calls, do: attempt)
          assert Enum.all?(calls, &match?({^batch, %{batch: ^id}}, &1))
          assert {^name, partition, since, first, last} = id
          assert partition == Names.partition(name, 0)
          assert is_integer(since) and last - first == 2
          :ok = PartitionedBuffer.await_empty(name)
          info = assert_nothing_held(name)

          reason =
            unquote(
              %{
                raise: :exception,
                throw: :exception,
                exit: :exception,
                kill: :killed,
                error: :failed
              }[how]
            )

          assert %{retries: 2, processed: 0, discarded: %{^reason => 3}} = info

          assert [
                   {%{size: 3, delay_ms: one}, %{attempt: 1, split: false}},
                   {%{delay_ms: two}, %{attempt: 2}}
                 ] = retries()

          assert one == 1 and two in 1..2
          assert {%{size: 3}, %{reason: ^reason}} = next_event([:discarded])
        end

        test "by #{how} is not tried again by default" do
          name = informed!(@kind, [])
          :ok = write(@kind, name, [1, 2])
          :ok = PartitionedBuffer.flush(name)
          {runner, _batch, %{attempt: 1}} = next_call()
          return(runner, unquote(fun))
          :ok = PartitionedBuffer.await_empty(name)
          assert %{retries: 0, processed: 0} = assert_nothing_held(name)
          refute_received {:called, _runner, _batch, _info}
        end
      end

      test "because it takes too long is tried again" do
        name = informed!(@kind, max_retries: 1, processing_timeout_ms: 50)
        :ok = write(@kind, name, 1)
        :ok = PartitionedBuffer.flush(name)
        {runner, _batch, %{batch: id, attempt: 1}} = next_call()
        await_down(runner)
        assert {_, %{reason: :timeout}} = next_event([:processing_failed])
        {runner, _batch, %{batch: ^id, attempt: 2}} = next_call()
        return(runner, fn -> :ok end)
        :ok = PartitionedBuffer.await_empty(name)
        assert %{processed: 1, retries: 1} = assert_nothing_held(name)
      end

      test "holds up those behind it, and no other partition" do
        name = informed!(@kind, partitions: 2, processing_batch_size: 1, max_retries: 5)
        [here, other] = for index <- 0..1, do: Enum.find(1..100, &(index(name, &1) == index))
        behind = Enum.find(101..200, &(index(name, &1) == 0))
        :ok = write(@kind, name, here)
        :ok = write(@kind, name, behind)
        :ok = PartitionedBuffer.flush(name, partition: 0)
        {runner, first, %{attempt: 1}} = next_call()
        return(runner, fn -> {:error, :not_yet} end)
        :ok = write(@kind, name, other)
        :ok = PartitionedBuffer.flush(name, partition: 1)
        calls = for _ <- 1..2, do: next_call()
        assert Enum.any?(calls, fn {_, batch, _} -> numbers(batch) == [other] end)
        assert Enum.any?(calls, fn {_, batch, info} -> batch == first and info.attempt == 2 end)
        for {runner, _, _} <- calls, do: return(runner, fn -> :ok end)
        {runner, last, %{attempt: 1}} = next_call()
        assert Enum.sort(numbers(first ++ last)) == Enum.sort([here, behind])
        return(runner, fn -> :ok end)
        :ok = PartitionedBuffer.await_empty(name)
        assert %{processed: 3, retries: 1} = assert_nothing_held(name)
      end

      test "waits longer each time, up to the most" do
        name = informed!(@kind, max_retries: 8, backoff: {2, 10})
        :ok = write(@kind, name, 1)
        :ok = PartitionedBuffer.flush(name)

        for _ <- 1..9 do
          {runner, _batch, _info} = next_call()
          return(runner, fn -> {:error, :no} end)
        end

        :ok = PartitionedBuffer.await_empty(name)
        delays = for {%{delay_ms: delay}, _} <- retries(), do: delay
        bounds = [1..2, 2..4, 4..8] ++ List.duplicate(5..10, 5)
        assert Enum.all?(Enum.zip(delays, bounds), fn {delay, bounds} -> delay in bounds end)
        assert length(delays) == 8
      end

      test "is tried again after the next flush is asked for, which is not forgotten" do
        name = informed!(@kind, max_retries: 1, backoff: {100, 100})
        :ok = write(@kind, name, 1)
        :ok = PartitionedBuffer.flush(name)
        {runner, _batch, _info} = next_call()
        return(runner, fn -> {:error, :no} end)
        next_event([:retry])
        :ok = write(@kind, name, 2)
        flushed = Task.async(fn -> PartitionedBuffer.sync_flush(name, timeout: 10_000) end)
        {runner, [one], %{attempt: 2}} = next_call()
        return(runner, fn -> :one end)
        {runner, [two], %{attempt: 1}} = next_call()
        return(runner, fn -> :two end)
        assert numbers([one, two]) == [1, 2]
        assert [{_, {:ok, :two}}] = Task.await(flushed)
      end

      test "is halved until what can't be processed is alone" do
        name =
          informed!(@kind,
            split_on_failure: true,
            processing_batch_size: 16,
            on_discard: {BoundsCase, :tell, [self()]}
          )

        :ok = write(@kind, name, Enum.to_list(1..16))
        :ok = PartitionedBuffer.flush(name)
        {batches, ids} = answer_poison(name, [5, 12], [])
        assert_receive {:given_up, _, :failed, one}, 5_000
        assert_receive {:given_up, _, :failed, other}, 5_000
        assert Enum.sort(numbers(one ++ other)) == [5, 12]
        info = assert_nothing_held(name)
        assert %{processed: 14, discarded: %{failed: 2}} = info
        done = for {batch, :ok} <- batches, number <- batch, do: number
        assert Enum.sort(done) == Enum.to_list(1..16) -- [5, 12]
        # Each part has an id of its own.
        assert ids == Enum.uniq(ids)
        assert Enum.any?(retries(), &match?({%{delay_ms: 0}, %{split: true}}, &1))
      end

      test "is halved only when it has been tried as often as it may" do
        name = informed!(@kind, split_on_failure: true, max_retries: 1)
        :ok = write(@kind, name, [1, 2])
        :ok = PartitionedBuffer.flush(name)

        sizes =
          for _ <- 1..4 do
            {runner, batch, info} = next_call()
            return(runner, fn -> {:error, :no} end)
            {length(batch), info.attempt}
          end

        assert sizes == [{2, 1}, {2, 2}, {1, 3}, {1, 3}]
        :ok = PartitionedBuffer.await_empty(name)
        assert %{discarded: %{failed: 2}} = assert_nothing_held(name)
      end
    end

    describe "entries of a #{kind} that a processor names as failed" do
      test "are tried again, and no other" do
        name = informed!(@kind, max_retries: 2)
        :ok = write(@kind, name, Enum.to_list(1..6))
        :ok = PartitionedBuffer.flush(name)
        {runner, batch, %{batch: id, attempt: 1, size: 6}} = next_call()
        [a, b, c | _] = failed = [Enum.at(batch, 4), Enum.at(batch, 0), Enum.at(batch, 2)]
        return(runner, fn -> {:failed, failed} end)
        {runner, again, %{batch: ^id, attempt: 2, size: 3}} = next_call()
        assert again == [b, c, a]

        assert %{processed: 3, in_flight: 3, queued: 0} =
                 assert_accounted(PartitionedBuffer.info(name))

        return(runner, fn -> {:failed, [c]} end)
        {runner, [^c], %{batch: ^id, attempt: 3, size: 1}} = next_call()
        return(runner, fn -> {:failed, [c]} end)
        :ok = PartitionedBuffer.await_empty(name)
        assert %{processed: 5, discarded: %{failed: 1}, retries: 2} = assert_nothing_held(name)
        assert {_, %{reason: {:failed, 3}}} = next_event([:processing_failed])
      end

      test "are discarded by default, and the rest is processed" do
        name = informed!(@kind, on_discard: {BoundsCase, :tell, [self()]})
        :ok = write(@kind, name, Enum.to_list(1..6))
        :ok = PartitionedBuffer.flush(name)
        {runner, batch, _info} = next_call()
        failed = [Enum.at(batch, 1), Enum.at(batch, 5)]
        return(runner, fn -> {:failed, failed} end)
        assert_receive {:given_up, _, :failed, ^failed}, 5_000
        assert %{processed: 4, discarded: %{failed: 2}} = assert_nothing_held(name)
      end

      test "may be none" do
        name = informed!(@kind, max_retries: 1)
        :ok = write(@kind, name, [1, 2])
        :ok = PartitionedBuffer.flush(name)
        {runner, _batch, _info} = next_call()
        return(runner, fn -> {:failed, []} end)
        :ok = PartitionedBuffer.await_empty(name)
        assert %{processed: 2, retries: 0} = assert_nothing_held(name)
      end

      test "but are not in the batch fail it as a whole" do
        for {failed, number} <- Enum.with_index([[:stranger], [1, :stranger], [1 | 2], [1.0]]) do
          name = informed!(@kind, max_retries: 1)
          :ok = write(@kind, name, [1, 2, 3 + number])
          :ok = PartitionedBuffer.flush(name)
          {runner, batch, %{batch: id}} = next_call()
          return(runner, fn -> {:failed, failed} end)
          {runner, ^batch, %{batch: ^id, attempt: 2}} = next_call()
          assert %{processed: 0} = PartitionedBuffer.info(name)
          return(runner, fn -> :ok end)
          :ok = PartitionedBuffer.await_empty(name)

          assert_receive {:event, [:processing_failed], _,
                          %{buffer: ^name, reason: {:bad_return, {:failed, ^failed}}}}
        end
      end

      test "and are split keep apart from the rest" do
        name = informed!(@kind, split_on_failure: true)
        :ok = write(@kind, name, Enum.to_list(1..10))
        :ok = PartitionedBuffer.flush(name)
        {runner, batch, _info} = next_call()
        failed = for index <- [1, 4, 7, 9], do: Enum.at(batch, index)
        return(runner, fn -> {:failed, failed} end)
        [a, b, c, d] = failed
        {runner, [^a, ^b], _} = next_call()
        return(runner, fn -> {:error, :no} end)
        {runner, [^a], _} = next_call()
        return(runner, fn -> :ok end)
        {runner, [^b], _} = next_call()
        return(runner, fn -> {:error, :no} end)
        {runner, [^c, ^d], _} = next_call()
        return(runner, fn -> :ok end)
        :ok = PartitionedBuffer.await_empty(name)
        assert %{processed: 9, discarded: %{failed: 1}} = assert_nothing_held(name)
      end
    end

    describe "max_age_ms of a #{kind}" do
      test "gives up what is older, and nothing that is not" do
        name = start!(@kind, max_age_ms: 40, on_discard: {BoundsCase, :tell, [self()]})
        :ok = write(@kind, name, [1, 2, 3])
        wait_until(fn -> PartitionedBuffer.info(name).oldest_age_ms > 45 end)
        :ok = PartitionedBuffer.flush(name)
        :ok = PartitionedBuffer.await_empty(name)
        # The end of a cycle is what entries of a map, and the last of a queue, are older than.
        info = PartitionedBuffer.info(name)
        assert info.processed + info.discarded.expired == 3
        PartitionedBuffer.update_options(name, max_age_ms: :infinity)
        :ok = write(@kind, name, [4, 5])
        :ok = PartitionedBuffer.flush(name)
        :ok = PartitionedBuffer.await_empty(name)
        assert %{discarded: %{expired: expired}} = PartitionedBuffer.info(name)
        assert expired == info.discarded.expired
      end

      test "gives up what was tried before and is too old now" do
        name =
          informed!(@kind,
            max_age_ms: 30,
            max_retries: 1_000,
            backoff: {10, 10},
            on_discard: {BoundsCase, :tell, [self()]}
          )

        :ok = write(@kind, name, [1, 2])
        :ok = PartitionedBuffer.flush(name)
        fail_until_empty(name)
        assert_receive {:given_up, _, :expired, batch}, 5_000
        assert Enum.sort(numbers(batch)) == [1, 2]
        assert %{discarded: %{expired: 2}, processed: 0} = assert_nothing_held(name)
        assert {%{size: 2}, %{reason: :expired}} = next_event([:discarded])
      end

      test "tells who waits" do
        name = informed!(@kind, max_age_ms: 20, max_retries: 1_000, backoff: {5, 5})
        task = Task.async(fn -> write_await(@kind, name, 1, timeout: 10_000) end)
        fail_until_empty(name)
        assert Task.await(task) == {:error, :expired}
      end
    end

    describe "a #{kind} whose tables fail" do
      test "gets the same table again" do
        test = self()

        processor = fn table, info ->
          rows = table |> :ets.tab2list() |> Enum.map(&elem(&1, 1)) |> Enum.sort()
          send(test, {:table, rows, info.attempt, info.size, info.batch})
          if info.attempt < 3, do: {:error, :no}, else: :ok
        end

        name =
          start!(@kind,
            processing_batch_size: :table,
            processor: processor,
            max_retries: 5,
            backoff: {1, 1}
          )

        :ok = write(@kind, name, Enum.to_list(1..20))
        :ok = PartitionedBuffer.flush(name)
        :ok = PartitionedBuffer.await_empty(name)
        assert_received {:table, rows, 1, 20, id}
        assert length(rows) == 20
        assert_received {:table, ^rows, 2, 20, ^id}
        assert_received {:table, ^rows, 3, 20, ^id}
        assert %{processed: 20, retries: 2} = assert_nothing_held(name)
      end

      test "halves it until the poison is alone" do
        test = self()

        processor = fn table ->
          rows =
            for {:entry, key, value, _, _} <- :ets.tab2list(table),
                do: if(@kind == :queue, do: value, else: key)

          if 7 in rows, do: raise("poison"), else: send(test, {:done, rows})
        end

        name =
          start!(@kind,
            processing_batch_size: :table,
            processor: processor,
            split_on_failure: true,
            on_discard: {BoundsCase, :tell, [self()]}
          )

        :ok = write(@kind, name, Enum.to_list(1..20))
        :ok = PartitionedBuffer.flush(name)
        :ok = PartitionedBuffer.await_empty(name)
        assert_receive {:given_up, _, :exception, [poison]}, 5_000
        assert numbers([poison]) == [7]
        assert Enum.sort(done()) == Enum.to_list(1..20) -- [7]
        assert %{processed: 19, discarded: %{exception: 1}} = assert_nothing_held(name)
      end

      test "can't name entries: the table fails as a whole" do
        processor = fn _table -> {:failed, [1]} end
        name = start!(@kind, processing_batch_size: :table, processor: processor)
        :ok = write(@kind, name, [1, 2, 3])
        :ok = PartitionedBuffer.flush(name)
        :ok = PartitionedBuffer.await_empty(name)
        assert %{processed: 0, discarded: %{failed: 3}} = assert_nothing_held(name)
      end

      test "tries batches again as they were when it is switched to tables" do
        name = informed!(@kind, max_retries: 2, processing_batch_size: 4)
        :ok = write(@kind, name, Enum.to_list(1..10))
        :ok = PartitionedBuffer.flush(name)
        {runner, first, _} = next_call()
        PartitionedBuffer.update_options(name, processing_batch_size: :table)
        kept = [Enum.at(first, 1), Enum.at(first, 3)]
        return(runner, fn -> {:failed, kept} end)
        {runner, table, %{attempt: 2, size: 2}} = next_call()
        assert Enum.sort(in_table(@kind, table)) == Enum.sort(numbers(kept))
        return(runner, fn -> :ok end)
        {runner, table, %{attempt: 1, size: 6}} = next_call()
        assert length(in_table(@kind, table)) == 6
        return(runner, fn -> :ok end)
        :ok = PartitionedBuffer.await_empty(name)
        assert %{processed: 10} = assert_nothing_held(name)
      end

      test "gives up what is too old" do
        name =
          start!(@kind,
            processing_batch_size: :table,
            processor: fn _ -> {:error, :no} end,
            max_retries: 1_000,
            backoff: {5, 5},
            max_age_ms: 20
          )

        :ok = write(@kind, name, [1, 2, 3])
        :ok = PartitionedBuffer.flush(name)
        :ok = PartitionedBuffer.await_empty(name)
        assert %{processed: 0, discarded: %{expired: 3}} = assert_nothing_held(name)
      end
    end

    describe "processes of a #{kind} that are killed while a batch is to be tried again" do
      for victim <- [:partition, :task_supervisor, :owner, :partition_supervisor] do
        test "(#{victim}): it comes with its id, all the same" do
          name = informed!(@kind, max_retries: 3, backoff: {20, 20})
          :ok = write(@kind, name, [1, 2])
          :ok = PartitionedBuffer.flush(name)
          {runner, batch, %{batch: id}} = next_call()
          return(runner, fn -> {:error, :no} end)
          next_event([:retry])
          process = process(name, unquote(victim))
          pid = Process.whereis(process)
          kill(pid)
          await_successor(process, pid)
          {runner, ^batch, %{batch: ^id, attempt: 2}} = next_call()
          return(runner, fn -> :ok end)
          :ok = PartitionedBuffer.await_empty(name)
          assert %{processed: 2, retries: 1} = assert_nothing_held(name)
        end

        test "(#{victim}, while a processor has it): at least once, by the same id" do
          name = informed!(@kind, max_retries: 3)
          :ok = write(@kind, name, [1, 2])
          :ok = PartitionedBuffer.flush(name)
          {runner, batch, %{batch: id}} = next_call()
          process = process(name, unquote(victim))
          pid = Process.whereis(process)
          kill(pid)
          await_successor(process, pid)
          return(runner, fn -> :ok end)
          await_down(runner)

          # Its processors end with it.
          if unquote(victim) == :task_supervisor do
            {runner, ^batch, %{batch: ^id, attempt: 2}} = next_call()
            return(runner, fn -> :ok end)
          end

          :ok = PartitionedBuffer.await_empty(name)
          assert %{processed: 2} = assert_nothing_held(name)
        end
      end

      test "with its supervisor: what is adopted is tried again" do
        opts = [
          max_retries: 3,
          backoff: {50, 50},
          processor: {__MODULE__, :informed, [self()]},
          processor_info: true
        ]

        name = start!(@kind, opts, restart: :permanent)
        :ok = write(@kind, name, [1, 2])
        :ok = PartitionedBuffer.flush(name)
        {runner, batch, %{batch: id}} = next_call()
        return(runner, fn -> {:error, :no} end)
        next_event([:retry])
        supervisor = Process.whereis(Names.supervisor(name))
        kill(supervisor)
        await_successor(Names.supervisor(name), supervisor)
        {runner, ^batch, %{batch: ^id, attempt: 2}} = next_call()
        return(runner, fn -> :ok end)
        :ok = PartitionedBuffer.await_empty(name)
        assert %{processed: 2} = assert_nothing_held(name)
      end
    end

    test "a #{kind} that is stopped tries again until the time is up" do
      name = informed!(@kind, max_retries: 1, backoff: {5, 5})
      :ok = write(@kind, name, [1, 2])
      stop = Task.async(fn -> PartitionedBuffer.stop(name, :normal, :infinity) end)
      {runner, batch, _} = next_call()
      return(runner, fn -> {:error, :no} end)
      {runner, ^batch, %{attempt: 2}} = next_call()
      return(runner, fn -> :ok end)
      assert Task.await(stop) == :ok
      assert {%{left: 0}, _} = next_event([:stop])
    end

    test "a #{kind} that is stopped during a backoff longer than its time gives the batch up" do
      name =
        informed!(@kind,
          max_retries: 10,
          backoff: {100_000, 100_000},
          processing_timeout_ms: 100,
          on_discard: {BoundsCase, :tell, [self()]}
        )

      :ok = write(@kind, name, [1, 2])
      stop = Task.async(fn -> PartitionedBuffer.stop(name, :normal, :infinity) end)
      {runner, _batch, _} = next_call()
      return(runner, fn -> {:error, :no} end)
      assert Task.await(stop) == :ok
      assert {%{left: 2}, _} = next_event([:stop])
      assert [{:shutdown, batch}] = told()
      assert Enum.sort(numbers(batch)) == [1, 2]
    end

    test "options of delivery of a #{kind} reach batches that wait" do
      name = informed!(@kind, max_retries: 10, backoff: {1, 1})
      :ok = write(@kind, name, 1)
      :ok = PartitionedBuffer.flush(name)
      {runner, _batch, _} = next_call()
      PartitionedBuffer.update_options(name, max_retries: 0)
      return(runner, fn -> {:error, :no} end)
      :ok = PartitionedBuffer.await_empty(name)
      assert %{retries: 0, discarded: %{failed: 1}} = assert_nothing_held(name)
    end
  end

  describe "a processor" do
    test "of arity 2 gets to know its batch" do
      test = self()

      name =
        start!(:queue,
          processor: fn batch, info -> send(test, {:called, batch, info}) end,
          processing_batch_size: 2
        )

      Queue.push(name, [1, 2, 3])
      Queue.stop(name)

      assert_received {:called, [1, 2],
                       %{batch: {^name, partition, since, 1, 2}, attempt: 1, size: 2}}

      assert_received {:called, [3],
                       %{batch: {^name, ^partition, ^since, 3, 3}, attempt: 1, size: 1}}

      assert {_, %{batch: {^name, ^partition, ^since, 1, 2}, attempt: 1}} =
               next_event([:processing, :start])

      assert {%{size: 2}, %{batch: {_, _, _, 1, 2}, attempt: 1}} =
               next_event([:processing, :stop])
    end

    test "that is a module's gets it only if it asks for it" do
      name = start!(:queue, processor: {__MODULE__, :send_batch, [self()]})
      Queue.push(name, 1)
      Queue.stop(name)
      assert_received {:sent, [1]}
    end

    test "that is a module's is told from the next cycle on when that is changed" do
      name = start!(:queue, processor: {__MODULE__, :send_any, [self()]})
      Queue.push(name, 1)
      [{_, {:ok, _}}] = Queue.sync_flush(name)
      assert_received {:sent, [1], nil}
      Queue.update_options(name, processor_info: true)
      Queue.push(name, 2)
      [{_, {:ok, _}}] = Queue.sync_flush(name)
      assert_received {:sent, [2], %{attempt: 1, size: 1, batch: {_, _, _, 2, 2}}}
    end

    test "that raises is told of with its batch" do
      name = start!(:queue, processor: fn _ -> raise "no" end)
      Queue.push(name, 1)
      :ok = PartitionedBuffer.flush(name)
      assert {%{duration: _}, metadata} = next_event([:processing, :exception])

      assert %{
               kind: :error,
               reason: %RuntimeError{},
               stacktrace: [_ | _],
               attempt: 1,
               batch: {_, _, _, 1, 1}
             } = metadata
    end
  end

  test "ids of batches are unique, over partitions, cycles and buffers of one name" do
    test = self()
    processor = fn _batch, info -> send(test, {:id, info.batch}) end
    name = unique_name()

    for _ <- 1..2 do
      pid =
        start_supervised!(
          {Queue,
           queue_options(
             name: name,
             partitions: 3,
             processor: processor,
             processing_batch_size: 7
           )}
        )

      for i <- 1..200, do: Queue.push(name, i)
      Queue.sync_flush(name)
      for i <- 1..200, do: Queue.push(name, i)
      Queue.stop(pid)
      stop_supervised(name)
    end

    ids = ids()
    assert length(ids) >= 2 * 400 / 7
    assert ids == Enum.uniq(ids)
    assert 800 == Enum.sum(for {_, _, _, first, last} <- ids, do: last - first + 1)
  end

  test "of many equal entries as many fail as are named" do
    name = informed!(:queue, max_retries: 1)
    Queue.push(name, [:same, :same, :other, :same])
    :ok = PartitionedBuffer.flush(name)
    {runner, _, _} = next_call()
    return(runner, fn -> {:failed, [:same, :same]} end)
    {runner, [:same, :same], %{attempt: 2}} = next_call()
    return(runner, fn -> {:failed, [:same, :same, :same]} end)
    :ok = PartitionedBuffer.await_empty(name)
    assert %{processed: 2, discarded: %{failed: 2}} = assert_nothing_held(name)
  end

  @doc false
  def send_batch(batch, test), do: send(test, {:sent, batch})

  @doc false
  def send_any(batch, test), do: send(test, {:sent, batch, nil})
  def send_any(batch, info, test), do: send(test, {:sent, batch, info})

  defp ids do
    receive do
      {:id, id} -> [id | ids()]
    after
      0 -> []
    end
  end

  defp done do
    receive do
      {:done, rows} -> rows ++ done()
    after
      0 -> []
    end
  end

  defp retries do
    receive do
      {:event, [:retry], measurements, metadata} -> [{measurements, metadata} | retries()]
    after
      0 -> []
    end
  end

  defp index(name, number) do
    partition = PartitionedBuffer.get_partition(name, nil, number)
    Enum.find_index([0, 1], &(Names.partition(name, &1) == partition))
  end

  defp in_table(kind, table) do
    for {:entry, key, value, _, _} <- :ets.tab2list(table),
        do: if(kind == :queue, do: value, else: key)
  end

  # Fails whatever it gets until nothing is held.
  defp fail_until_empty(name) do
    receive do
      {:called, runner, _batch, _info} ->
        return(runner, fn -> {:error, :no} end)
        fail_until_empty(name)

      {:event, [:discarded], measurements, metadata} ->
        send(self(), {:event, [:discarded], measurements, metadata})
        :ok = PartitionedBuffer.await_empty(name)
    after
      5_000 -> flunk("nothing was discarded")
    end
  end

  # Fails each batch that has one of these; answers what was given, what came of it, and all ids.
  defp answer_poison(name, poison, batches) do
    receive do
      {:called, runner, batch, info} ->
        numbers = numbers(batch)
        result = if Enum.any?(poison, &(&1 in numbers)), do: {:error, :poison}, else: :ok
        return(runner, fn -> result end)
        answer_poison(name, poison, [{numbers, result, info.batch} | batches])
    after
      0 ->
        if PartitionedBuffer.await_empty(name, 10) == :ok,
          do:
            {for({numbers, result, _} <- batches, do: {numbers, result}),
             for({_, _, id} <- batches, do: id)},
          else: answer_poison(name, poison, batches)
    end
  end

  defp process(name, :partition), do: Names.partition(name, 0)
  defp process(name, :task_supervisor), do: Names.task_supervisor(name)
  defp process(name, :owner), do: Names.owner(name)
  defp process(name, :partition_supervisor), do: Names.partition_supervisor(name)
end
