defmodule PartitionedBuffer.BrokerTest do
  use ExUnit.Case, async: true
  use PartitionedBuffer.BrokerCase

  import PartitionedBuffer.GenBufferCase, only: [await: 1]

  defp monitored(pid), do: pid |> Process.info(:monitors) |> elem(1)

  defp ask({broker, keeper}, message, opts \\ []) do
    Broker.ask(broker, keeper, message, opts[:reply], opts[:caller], opts[:timeout])
  end

  describe "messages and workers" do
    test "a message waits until a worker takes it" do
      {broker, _} = pair = start_broker()
      worker = start_worker(broker)
      assert is_integer(ask(pair, {:any, "term", %{self() => [1 | 2]}}, reply: {self(), 1}))
      assert Broker.size(broker) == 1
      assert take(worker) == {{:any, "term", %{self() => [1 | 2]}}, {self(), 1}}
      assert %{waiting: 0, in_flight: 1, accepted: 1} = figures(broker)
      assert take(worker) == :idle
      assert %{done: 1, in_flight: 0, idle: 1, bytes: 0} = figures(broker)
    end

    test "an idle worker is woken" do
      {broker, _} = pair = start_broker()
      worker = start_worker(broker)
      assert take(worker) == :idle
      ask(pair, :message)
      assert_receive {:woken, ^worker}
      assert take(worker) == {:message, nil}
    end

    test "one that has been woken wakes the next if more waits" do
      {broker, _} = pair = start_broker()
      [one, other] = [start_worker(broker), start_worker(broker)]
      assert take(other) == :idle
      assert take(one) == :idle
      ask(pair, 1)
      ask(pair, 2)
      assert_receive {:woken, ^one}
      refute_received {:woken, ^other}
      assert take(one) == {1, nil}
      assert_receive {:woken, ^other}
      assert take(other) == {2, nil}
    end

    test "who calls by name is told when the message waits, and when a worker was sent it" do
      {broker, _} = start_broker()
      name = PartitionedBuffer.BufferCase.unique_name("broker")
      reply = {self(), make_ref()}
      assert Broker.call(name, :message, reply) == :other
      :ok = Broker.put_name(broker, name, true, true)
      on_exit(fn -> Broker.erase_name(broker, name) end)
      assert {:stored, id} = Broker.call(name, :message, reply)
      assert %{accepted: 1, waiting: 1, in_flight: 0} = figures(broker)
      assert Broker.cancel(broker, id)
      worker = start_worker(broker)
      assert take(worker) == :idle
      assert id = Broker.call(name, :message, reply)
      assert is_integer(id)
      assert %{accepted: 2, waiting: 0, in_flight: 1, cancelled: 1} = figures(broker)
    end

    test "which idle worker is woken is a matter of configuration" do
      for {order, expected} <- [fifo: 0, lifo: 2] do
        {broker, _} = pair = start_broker(%{workers: order})
        workers = for _ <- 1..3, do: start_worker(broker)
        for worker <- workers, do: assert(take(worker) == :idle)
        ask(pair, :message)
        worker = Enum.at(workers, expected)
        assert_receive {:woken, ^worker}
      end
    end

    test "one that has to do something else passes its wake-up on" do
      {broker, _} = pair = start_broker(%{workers: :fifo})
      [one, other] = [start_worker(broker), start_worker(broker)]
      for worker <- [one, other], do: assert(take(worker) == :idle)
      ask(pair, :message)
      assert_receive {:woken, ^one}
      run(one, &Broker.withdraw/1)
      assert_receive {:woken, ^other}
      ask(pair, :more)
      assert take(other) == {:message, nil}
      assert take(one) == {:more, nil}
    end

    test "a worker takes from every partition" do
      {broker, _} = pair = start_broker(%{}, 4)
      worker = start_worker(broker)
      for n <- 1..8, do: ask(pair, n)
      taken = for _ <- 1..8, do: elem(take(worker), 0)
      assert Enum.sort(taken) == Enum.to_list(1..8)
      assert take(worker) == :idle
    end

    test "messages of any size" do
      {broker, _} = pair = start_broker()
      worker = start_worker(broker)

      messages = [
        :binary.copy("x", 1_000_000),
        Enum.to_list(1..200_000),
        fn -> :closure end,
        String.duplicate("y", 9_000) |> String.to_charlist(),
        Integer.pow(2, 2_000)
      ]

      for message <- messages, do: ask(pair, message, reply: :me)
      for message <- messages, do: assert(take(worker) == {message, :me})
    end
  end

  describe "order and bounds" do
    test "fifo and lifo" do
      for {order, expected} <- [fifo: [1, 2, 3], lifo: [3, 2, 1]] do
        {broker, _} = pair = start_broker(%{order: order})
        for n <- 1..3, do: ask(pair, n)
        worker = start_worker(broker)
        assert for(_ <- 1..3, do: elem(take(worker), 0)) == expected
      end
    end

    test "the newest is refused" do
      {broker, _} = pair = start_broker(%{max: 2})
      for n <- 1..2, do: ask(pair, n)
      assert ask(pair, 3) == :queue_full
      assert %{refused: 1, accepted: 2, waiting: 2} = figures(broker)
    end

    test "the oldest is dropped, and who waits for it is told" do
      {broker, _} = pair = start_broker(%{max: 2, overflow: :oldest})
      for n <- 1..4, do: ask(pair, n, reply: {:reply, n})
      for n <- 1..2, do: assert_receive({:dropped, {:reply, ^n}, :queue_full})
      worker = start_worker(broker)
      assert take(worker) == {3, {:reply, 3}}
      assert %{dropped: %{queue_full: 2}} = figures(broker)
    end

    test "a bound holds for all partitions together" do
      {broker, _} = pair = start_broker(%{max: 7}, 3)
      for n <- 1..7, do: assert(is_integer(ask(pair, n)))
      assert ask(pair, 8) == :queue_full
      assert Broker.size(broker) == 7
    end

    test "no bound at all, and none that lets anything in" do
      pair = start_broker(%{max: 0})
      assert ask(pair, 1) == :queue_full
      pair = start_broker(%{max: 0, overflow: :oldest})
      assert ask(pair, 1) == :queue_full
    end

    test "callers that wait for room are let in when there is some" do
      {broker, keeper} = pair = start_broker(%{max: 1})
      worker = start_worker(broker)
      ask(pair, 1)
      room = Task.async(fn -> Broker.Keeper.await_room(keeper, 5_000) end)
      # The keeper has seen that there is none.
      assert Broker.Keeper.await_room(keeper, 20) == :timeout
      assert take(worker) == {1, nil}
      assert Task.await(room) == :ok
      assert is_integer(ask(pair, 2))
    end

    test "callers that gave up or died keep none out that waits for room, and leave nothing" do
      {broker, keeper} = pair = start_broker(%{max: 1})
      worker = start_worker(broker)
      ask(pair, 1)
      for _ <- 1..2_000, do: assert(Broker.Keeper.await_room(keeper, 0) == :timeout)

      for _ <- 1..10 do
        pid = spawn(fn -> Broker.Keeper.await_room(keeper, :infinity) end)
        await(fn -> {:process, pid} in monitored(keeper) end)
        kill(pid)
      end

      room = Task.async(fn -> Broker.Keeper.await_room(keeper, :infinity) end)
      # The keeper has seen it.
      assert Broker.Keeper.await_room(keeper, 20) == :timeout
      assert take(worker) == {1, nil}
      assert Task.await(room) == :ok
      assert Broker.Keeper.flush(keeper) == :ok
      assert monitored(keeper) == [process: worker]
    end

    test "a live change of configuration" do
      {broker, _} = pair = start_broker(%{max: 1})
      ask(pair, 1, reply: 1)
      assert ask(pair, 2) == :queue_full
      Broker.configure(broker, %{max: 2, order: :lifo})
      ask(pair, 2)
      worker = start_worker(broker)
      assert take(worker) == {2, nil}
      Broker.configure(broker, %{timeout: 0})
      assert_receive {:dropped, 1, :queue_timeout}
    end
  end

  describe "time" do
    test "a message that waits for too long is dropped without anybody's doing" do
      {broker, _} = pair = start_broker(%{timeout: 20})
      ask(pair, :message, reply: :me)
      assert_receive {:dropped, :me, :queue_timeout}, 2_000
      assert_receive {:counted, %{queue_timeout: 1}}
      assert %{dropped: %{queue_timeout: 1}, waiting: 0} = figures(broker)
    end

    test "a deadline of its own" do
      {broker, _} = pair = start_broker()
      ask(pair, :long, reply: :long, timeout: 60_000)
      ask(pair, :short, reply: :short, timeout: 10)
      assert_receive {:dropped, :short, :queue_timeout}, 2_000
      assert Broker.size(broker) == 1
    end

    test "so many stay, however long they wait" do
      {broker, _} = pair = start_broker(%{timeout: 10, min: 1})
      for n <- 1..3, do: ask(pair, n, reply: n)
      assert_receive {:dropped, 1, :queue_timeout}, 2_000
      assert_receive {:dropped, 2, :queue_timeout}, 2_000
      refute_received {:dropped, 3, _}
      assert Broker.size(broker) == 1
    end

    test "what a worker finds too late it does not start" do
      {broker, _} = pair = start_broker(%{timeout: 0})
      worker = start_worker(broker)
      ask(pair, :message, reply: :me)
      assert take(worker) == :idle
      assert_receive {:dropped, :me, :queue_timeout}
    end
  end

  describe "cancel" do
    test "what waits is never started, and nobody is told" do
      {broker, _} = pair = start_broker()
      id = ask(pair, :message, reply: :me)
      kept = ask(pair, :kept)
      assert Broker.cancel(broker, id)
      refute Broker.cancel(broker, id)
      worker = start_worker(broker)
      assert take(worker) == {:kept, nil}
      refute Broker.cancel(broker, kept)
      assert %{cancelled: 1} = figures(broker)
      refute_received {:dropped, _, _}
    end

    test "an id that never was" do
      {broker, _} = start_broker(%{}, 3)
      for id <- [0, 1, 2, 77, 123_456_789], do: refute(Broker.cancel(broker, id))
    end
  end

  describe "death" do
    test "of a worker that has been woken: another one is" do
      {broker, _} = pair = start_broker(%{workers: :fifo})
      [one, other] = [start_worker(broker), start_worker(broker)]
      for worker <- [one, other], do: assert(take(worker) == :idle)
      ask(pair, :message)
      assert_receive {:woken, ^one}
      kill(one)
      assert_receive {:woken, ^other}
      assert take(other) == {:message, nil}
    end

    test "of a worker that has started a message: it is told, and not started again" do
      {broker, _} = pair = start_broker()
      [one, other] = [start_worker(broker), start_worker(broker)]
      ask(pair, :message, reply: :me)
      assert take(one) == {:message, :me}
      kill(one)
      assert_receive {:dropped, :me, {:worker_down, :killed}}
      assert take(other) == :idle
      assert %{failed: 1, in_flight: 0} = figures(broker)
      assert Broker.workers(broker) == [other]
    end

    test "of a worker that was through with its message: nothing is told" do
      {broker, _} = pair = start_broker()
      one = start_worker(broker)
      ask(pair, :message, reply: :me)
      assert take(one) == {:message, :me}
      test = self()
      assert run(one, &Broker.reply(&1, test, :answer)) == :ok
      assert_receive :answer
      kill(one)
      await_gone(broker, one)
      refute_received {:dropped, _, _}
      assert %{done: 1, failed: 0} = figures(broker)
    end

    test "of an idle worker, and of one that is working" do
      {broker, _} = start_broker()
      workers = for _ <- 1..3, do: start_worker(broker)
      for worker <- tl(workers), do: take(worker)
      for worker <- workers, do: kill(worker)
      for worker <- workers, do: await_gone(broker, worker)
      assert %{idle: 0} = figures(broker)
    end

    test "of a caller: its message is not started" do
      {broker, _} = pair = start_broker()
      caller = spawn(fn -> :ok end)
      kill(caller)
      ask(pair, :of_the_dead, caller: caller, reply: :dead)
      ask(pair, :of_the_living, caller: self(), reply: :living)
      worker = start_worker(broker)
      assert take(worker) == {:of_the_living, :living}
      assert %{dropped: %{caller_down: 1}} = figures(broker)
      refute_received {:dropped, :dead, _}
    end

    test "of a caller while nobody takes: its message goes soon" do
      {broker, _} = pair = start_broker(%{}, 2)
      caller = spawn(fn -> Process.sleep(:infinity) end)
      for n <- 1..600, do: ask(pair, n, caller: if(rem(n, 3) == 0, do: caller, else: self()))
      kill(caller)
      assert_receive {:counted, %{caller_down: n}}, 5_000
      assert n > 0
      assert_counted(n, :caller_down, 200)
      assert Broker.size(broker) == 400
    end

    test "of the keeper: its successor tells what was not told" do
      {broker, keeper} = start_broker(%{max: 1, overflow: :oldest})
      worker = start_worker(broker)
      stop_supervised_keeper(keeper)
      for n <- 1..3, do: Broker.ask(broker, keeper, n, n, nil)
      assert take(worker) == {3, 3}
      kill(worker)
      _keeper = start_keeper(broker)
      assert_receive {:dropped, 1, :queue_full}
      assert_receive {:dropped, 2, :queue_full}
      assert_receive {:dropped, 3, {:worker_down, _}}
    end
  end

  describe "only if a worker is idle" do
    test "one message for each" do
      {broker, keeper} = start_broker()
      workers = for _ <- 1..2, do: start_worker(broker)
      assert Broker.ask_idle(broker, keeper, 0, nil, nil) == :no_worker
      for worker <- workers, do: assert(take(worker) == :idle)
      assert is_integer(Broker.ask_idle(broker, keeper, 1, nil, nil))
      assert is_integer(Broker.ask_idle(broker, keeper, 2, nil, nil))
      assert Broker.ask_idle(broker, keeper, 3, nil, nil) == :no_worker
      for worker <- workers, do: assert_receive({:woken, ^worker})
      assert Enum.sort(for worker <- workers, do: take(worker)) == [{1, nil}, {2, nil}]
    end
  end

  describe "the end" do
    test "nothing comes in, and what waits is handed back" do
      {broker, _} = pair = start_broker()
      for n <- 1..5, do: ask(pair, n, reply: -n)
      Broker.close(broker)
      assert ask(pair, 6) == :closed
      worker = start_worker(broker)
      assert take(worker) == {1, -1}
      assert Broker.take_rest(broker, 2) == [{2, -2}, {3, -3}]
      assert Broker.take_rest(broker, 9) == [{4, -4}, {5, -5}]
      assert take(worker) == :idle
      assert %{dropped: %{shutdown: 4}, done: 1} = figures(broker)
    end

    test "a broker is found under its name until it is released" do
      name = "name_#{System.unique_integer()}"
      {:created, broker} = Broker.open(name, 2, %{})
      Broker.ask(broker, self(), :message, nil, nil)
      assert {:adopted, again} = Broker.open(name, 5, %{})
      assert Broker.size(again) == 1
      Broker.release(again)
      assert {:created, other} = Broker.open(name, 2, %{})
      assert Broker.size(other) == 0
      Broker.release(other)
    end
  end

  test "CoDel drops the oldest while all wait for too long" do
    {broker, _} = pair = start_broker(%{codel: {1, 1}})
    worker = start_worker(broker)
    for n <- 1..200, do: ask(pair, n, reply: n)
    # Each take is a moment later; at some time the first interval above the target is over.
    taken = take_all(worker, [])
    %{dropped: %{queue_delay: dropped}} = figures(broker)
    assert dropped > 0
    assert length(taken) == 200 - dropped
    assert taken == Enum.sort(taken)
  end

  defp take_all(worker, taken) do
    # A message that waits gets older by this.
    await_clock(System.monotonic_time(:millisecond) + 1)

    case take(worker) do
      :idle -> Enum.reverse(taken)
      {n, n} -> take_all(worker, [n | taken])
    end
  end

  defp await_clock(ms) do
    if System.monotonic_time(:millisecond) < ms, do: await_clock(ms)
  end

  defp assert_counted(sum, _reason, sum), do: :ok

  defp assert_counted(sum, reason, expected) do
    assert_receive {:counted, %{^reason => n}}, 5_000
    assert_counted(sum + n, reason, expected)
  end

  defp await_gone(broker, worker) do
    if worker in Broker.workers(broker) do
      :erlang.yield()
      await_gone(broker, worker)
    end
  end

  defp stop_supervised_keeper(keeper) do
    kill(keeper)
  end
end
