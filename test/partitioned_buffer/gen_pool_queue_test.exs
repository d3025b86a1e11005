defmodule PartitionedBuffer.GenPoolQueueTest do
  # How requests wait: what is refused, what is dropped, and what the caller is told.
  use PartitionedBuffer.GenPoolCase, async: true

  alias PartitionedBuffer.GenPool.Broker

  @moduletag capture_log: true

  # A pool with one worker, which is busy.
  defp busy_pool!(client, opts \\ []) do
    pool = start_pool!([], [pool_size: 1, broker: broker!(client)] ++ opts)
    {pool, occupy(pool)}
  end

  # A call that waits in the queue when this returns: its task.
  defp wait_in_line(pool, value, opts \\ :infinity) do
    %{accepted: accepted} = GenPool.info(pool)
    task = Task.async(fn -> call(pool, &{:reply, value, [value | &1]}, opts) end)
    eventually(fn -> GenPool.info(pool).accepted > accepted end)
    task
  end

  describe "max:" do
    test "one more call is refused at once, and the others are served" do
      {pool, busy} = busy_pool!(max: 2)
      waiting = for i <- 1..2, do: wait_in_line(pool, i)
      assert GenPool.call(pool, &{:reply, :ok, &1}) == {:error, :too_many_requests}

      assert GenPool.call(pool, &{:reply, :ok, &1}, errors: :precise) == {:error, :queue_full}
      release(busy)
      assert Task.await_many(waiting) == [1, 2]
      assert %{refused: 2, dropped: %{queue_full: 0}} = assert_accounted(pool)
    end

    test "one more cast is refused at once" do
      {pool, busy} = busy_pool!(max: 2)
      cast = &{:noreply, [:cast | &1]}
      assert [:ok, :ok] = for(_ <- 1..2, do: GenPool.cast(pool, cast))
      assert GenPool.cast(pool, cast) == {:error, :too_many_requests}
      assert GenPool.cast(pool, cast, errors: :precise) == {:error, :queue_full}
      release(busy)
      eventually(fn -> GenPool.get_state(pool) == [:cast, :cast] end)
      assert Process.info(self(), :message_queue_len) == {:message_queue_len, 0}
    end

    test "0: what would have to wait is refused, what a worker is free for is not" do
      {pool, busy} = busy_pool!(max: 0)
      assert GenPool.cast(pool, & &1) == {:error, :too_many_requests}
      release(busy)
      eventually(fn -> call(pool, &{:reply, :ok, &1}) == :ok end)
    end

    test "messages to the pool are never refused" do
      {pool, busy} = busy_pool!(max: 0)
      for i <- 1..10, do: send(pool, fn state -> {:noreply, [i | state]} end)
      eventually(fn -> GenPool.info(pool).messages == 10 end)
      release(busy)
      eventually(fn -> GenPool.get_state(pool) == Enum.to_list(10..1//-1) end)
    end

    test "through the pool's process" do
      {pool, busy} = busy_pool!(max: 1)
      :ok = GenPool.cast(pool, &{:noreply, [1 | &1]})
      pid = Process.whereis(pool)
      assert GenServer.call(pid, &{:reply, :ok, &1}) == {:error, :too_many_requests}
      assert GenServer.cast(pid, &{:noreply, [2 | &1]}) == :ok
      # It comes after that.
      assert length(GenPool.get_children(pool)) == 1
      release(busy)
      assert GenServer.call(pid, &{:reply, &1, &1}) == [1]
    end
  end

  describe "drop: :oldest" do
    test "the oldest gives way, and its caller is told" do
      {pool, busy} = busy_pool!(max: 2, drop: :oldest)
      [one, two, three, four] = for i <- 1..4, do: wait_in_line(pool, i, errors: :precise)
      assert Task.await(one) == {:error, :queue_full}
      assert Task.await(two) == {:error, :queue_full}
      release(busy)
      assert Task.await_many([three, four]) == [3, 4]
      assert %{dropped: %{queue_full: 2}, refused: 0} = assert_accounted(pool)
    end

    test "plainly" do
      {pool, busy} = busy_pool!(max: 1, drop: :oldest)
      one = wait_in_line(pool, 1)
      assert GenPool.cast(pool, &{:noreply, [2 | &1]}) == :ok
      assert Task.await(one) == {:error, :too_many_requests}
      release(busy)
      eventually(fn -> GenPool.get_state(pool) == [2] end)
    end
  end

  describe "timeout:" do
    test "a request that has waited for so long is dropped" do
      {pool, busy} = busy_pool!(timeout: 30)
      one = wait_in_line(pool, 1)
      two = wait_in_line(pool, 2, errors: :precise)
      :ok = GenPool.cast(pool, &{:noreply, [3 | &1]})
      assert Task.await(one) == {:error, :too_many_requests}
      assert Task.await(two) == {:error, :queue_timeout}
      eventually(fn -> GenPool.info(pool).dropped.queue_timeout == 3 end)
      release(busy)
      assert GenPool.get_state(pool) == []
      assert_accounted(pool)
    end

    test "it is that of the queue alone: a handler may take longer" do
      {_pool, busy} = busy_pool!(timeout: 20)
      refute_receive {:returned, _ref, _result}, 60
      assert release(busy) == :released
    end

    test "as long as no more than `min` wait, nothing is dropped" do
      {pool, busy} = busy_pool!(timeout: 20, min: 2)
      waiting = for i <- 1..4, do: wait_in_line(pool, i)
      [one, two, three, four] = waiting
      assert Task.await(one) == {:error, :too_many_requests}
      assert Task.await(two) == {:error, :too_many_requests}
      release(busy)
      assert Task.await_many([three, four]) == [3, 4]
    end

    test "that of the call is for the queue and the handler together" do
      {pool, busy} = busy_pool!([])
      one = wait_in_line(pool, 1, 30)
      assert {:exit, {:timeout, _call}} = Task.await(one)
      assert %{cancelled: 1, waiting: 0} = GenPool.info(pool)
      release(busy)
      assert GenPool.get_state(pool) == []
    end
  end

  describe "queue_type:" do
    for {type, order} <- [fifo: [1, 2, 3], lifo: [3, 2, 1], filo: [3, 2, 1]] do
      @type_name type
      @order order

      test "#{type}" do
        {pool, busy} = busy_pool!(queue_type: @type_name)
        waiting = for i <- 1..3, do: wait_in_line(pool, i)
        release(busy)
        assert Task.await_many(waiting) == [1, 2, 3]
        assert Enum.reverse(GenPool.get_state(pool)) == @order
      end
    end

    for type <- [:fifo, :lifo] do
      @type_name type

      test "of workers: #{type}" do
        broker = broker!([], queue_type: @type_name)
        pool = start_pool!([], pool_size: 3, broker: broker)
        eventually(fn -> GenPool.info(pool).idle == 3 end)
        who = fn -> GenPool.call(pool, fn state -> {:reply, self(), state} end) end

        workers =
          for _ <- 1..6 do
            worker = who.()
            eventually(fn -> GenPool.info(pool).idle == 3 end)
            worker
          end

        # The one that has been free for longest, or the one that was busy last.
        distinct = workers |> Enum.uniq() |> length()
        assert distinct == if(@type_name == :fifo, do: 3, else: 1)
      end
    end
  end

  test "codel: requests are dropped when all of them wait for too long, and no more when not" do
    broker = broker!(codel: [target: 1, interval: 5])
    pool = start_pool!(0, pool_size: 1, broker: broker)

    slow = fn state ->
      receive do
      after
        2 -> {:reply, :ok, state + 1}
      end
    end

    answers =
      1..60
      |> Task.async_stream(fn _ -> call(pool, slow, errors: :precise) end, max_concurrency: 60)
      |> Enum.map(fn {:ok, answer} -> answer end)
      |> Enum.frequencies()

    assert %{:ok => served, {:error, :queue_delay} => dropped} = answers
    assert served + dropped == 60
    assert GenPool.get_state(pool) == served
    assert %{dropped: %{queue_delay: ^dropped}} = assert_accounted(pool)
    # One at a time waits for nobody.
    for _ <- 1..10, do: assert(call(pool, slow) == :ok)
  end

  test "process_queue timeout: a worker without work hibernates, and works again" do
    pool = start_pool!(0, pool_size: 1, broker: broker!([], timeout: 5))
    [worker] = GenPool.get_children(pool)

    asleep = fn ->
      match?(
        {:current_function, {:erlang, :hibernate, _}},
        Process.info(worker, :current_function)
      )
    end

    eventually(asleep)
    assert GenPool.call(pool, &{:reply, &1, &1 + 1}) == 0
    eventually(asleep)
    send(pool, fn state -> {:noreply, state + 10} end)
    eventually(fn -> GenPool.get_state(pool) == 11 end)
    eventually(asleep)
    assert :sys.get_state(worker) == 11
    GenPool.stop(pool)
  end

  test "a call whose caller dies while it waits is not handled" do
    {pool, busy} = busy_pool!([])
    caller = spawn(fn -> GenPool.call(pool, &{:reply, :ok, [:dead | &1]}, :infinity) end)
    eventually(fn -> GenPool.info(pool).waiting == 1 end)
    Process.exit(caller, :kill)
    down(caller)
    release(busy)
    assert GenPool.call(pool, &{:reply, &1, &1}) == []
    eventually(fn -> GenPool.info(pool).dropped.caller_down == 1 end)
    assert_accounted(pool)
  end

  describe "use PartitionedBuffer.GenPool.Broker" do
    defmodule Short do
      use PartitionedBuffer.GenPool.Broker, timeout: 300, min_requests: 0, max_requests: 1
    end

    defmodule Plain do
      use PartitionedBuffer.GenPool.Broker
    end

    defmodule AsInTheExample do
      use PartitionedBuffer.GenPool.Broker

      @impl true
      def process_queue do
        [
          queue_type: :filo,
          timeout: :infinity
        ]
      end

      @impl true
      def client_queue do
        [
          queue_type: :fifo,
          timeout: 10_000,
          min: 0,
          max: :infinity
        ]
      end
    end

    test "with options" do
      assert Short.client_queue() == [timeout: 300, min: 0, max: 1]
      pool = start_pool!([], pool_size: 1, broker: Short)
      busy = occupy(pool)
      one = wait_in_line(pool, 1)
      assert GenPool.cast(pool, & &1) == {:error, :too_many_requests}
      assert Task.await(one) == {:error, :too_many_requests}
      release(busy)
    end

    test "without" do
      assert Plain.client_queue() == [timeout: 5_000, min: 0, max: :infinity]
      assert Plain.process_queue() == []
    end

    test "as in the example" do
      pool = start_pool!(1, broker: AsInTheExample)
      assert GenPool.call(pool, &{:reply, &1, &1}) == 1
    end

    test "refuses wrong options where they are written" do
      assert_raise NimbleOptions.ValidationError, fn ->
        defmodule Wrong do
          use PartitionedBuffer.GenPool.Broker, max_requests: -1
        end
      end
    end

    test "refuses wrong queues when the pool is started" do
      for client <- [
            [queue_type: :none],
            [timeout: -1],
            [min: -1],
            [max: :many],
            [drop: :all],
            [codel: true],
            [codel: [target: 0, interval: 1]],
            [codel: [target: 1]],
            [unknown: 1]
          ] do
        broker = broker!(client)

        assert_raise NimbleOptions.ValidationError, fn ->
          GenPool.start_link(Scripted, fn -> {:ok, 1} end, name: unique_name(), broker: broker)
        end
      end

      broker = broker!([], unknown: 1)
      opts = [name: unique_name(), broker: broker]
      assert_raise NimbleOptions.ValidationError, fn -> GenPool.start_link(Scripted, 1, opts) end

      opts = [name: unique_name(), broker: broker!(min: 2, max: 1)]
      assert_raise ArgumentError, ~r/:min/, fn -> GenPool.start_link(Scripted, 1, opts) end
    end
  end

  describe "a broker outside of the pool" do
    setup do
      name = unique_name("broker")
      broker = broker!(max: 10)
      start_supervised!({Broker, {broker, name: name}})
      {:ok, broker: name}
    end

    test "serves one pool at a time", %{broker: broker} do
      pool = start_pool!(1, broker: broker, external_broker?: true)
      assert GenPool.call(pool, &{:reply, &1, &1 + 1}) == 1
      pid = Process.whereis(pool)
      Process.flag(:trap_exit, true)
      opts = [name: unique_name(), broker: broker, external_broker?: true]

      assert GenPool.start_link(Scripted, fn -> {:ok, 1} end, opts) ==
               {:error, {:already_joined, pid}}

      GenPool.stop(pool)
      assert {:ok, _pid} = GenPool.start_link(Scripted, fn -> {:ok, 5} end, opts)
      assert GenPool.call(opts[:name], &{:reply, &1, &1}) == 5
    end

    test "has to run" do
      Process.flag(:trap_exit, true)
      name = unique_name()
      opts = [name: unique_name(), broker: name, external_broker?: true]

      assert GenPool.start_link(Scripted, fn -> {:ok, 1} end, opts) ==
               {:error, {:broker_not_running, name}}
    end

    test "keeps what waits while the pool is started again", %{broker: broker} do
      opts = [name: unique_name(), pool_size: 1, broker: broker, external_broker?: true]
      spec = {GenPool, {Scripted, fn -> {:ok, []} end, opts}}
      start_supervised!(spec)
      pool = opts[:name]
      busy = occupy(pool)
      waiting = for i <- 1..3, do: wait_in_line(pool, i)
      Process.exit(Process.whereis(pool), :kill)
      assert Task.await_many(waiting) == [1, 2, 3]
      assert {:error, reason} = returned(busy)
      assert reason in [:killed, :shutdown]
      assert GenPool.get_state(pool) == [3, 2, 1]
    end

    test "is stopped with what waits, and takes the pool along", %{broker: broker} do
      Process.flag(:trap_exit, true)
      opts = [name: unique_name(), pool_size: 1, broker: broker, external_broker?: true]
      {:ok, pid} = GenPool.start_link(Scripted, fn -> {:ok, []} end, opts)
      pool = opts[:name]
      busy = occupy(pool)
      waiting = wait_in_line(pool, 1)
      GenServer.stop(broker)
      assert {:exit, {:normal, _call}} = Task.await(waiting)
      assert {:exit, _reason} = returned(busy)
      assert_receive {:EXIT, ^pid, {:broker_down, :normal}}, 5_000
    end

    test "a handler that ends the pool tells its caller", %{broker: broker} do
      pool = start_pool!(%{}, broker: broker, external_broker?: true)
      assert GenPool.call(pool, &{:stop, :shutdown, &1}) == {:error, :shutdown}
    end
  end
end
