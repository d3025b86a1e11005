defmodule PartitionedBuffer.GenPoolWaitingTest do
  # Callers whose requests wait in the queue, with no timer and no monitor until they are told that they have waited for long:
  # whatever becomes of a request, before its caller is told or after, the caller learns of it, and nothing is left in its
  # mailbox.
  use PartitionedBuffer.GenPoolCase, async: true

  alias PartitionedBuffer.{Broker, Names}
  alias PartitionedBuffer.GenPool.Telemetry

  require Broker

  @moduletag capture_log: true

  defmodule Handlers do
    # A message names what is done: functions are copied elsewhere, and their callers wait with a timer.
    def init(state), do: {:ok, state}
    def handle_call({name, args}, from, state), do: apply(__MODULE__, name, [from, state | args])
    def handle_cast(_message, state), do: {:noreply, state}

    def note(_from, state, value), do: {:reply, value, [value | state]}
    def noted(_from, state), do: {:reply, Enum.reverse(state), state}
    def crash(_from, _state), do: exit(:crash)

    def block(_from, state, test) do
      send(test, {:busy, self()})

      receive do
        :release -> {:reply, :released, state}
      end
    end

    def defer(from, state, test) do
      send(test, {:from, from})
      {:noreply, state}
    end

    def take(_from, state, ms) do
      receive do
      after
        ms -> {:reply, :taken, state}
      end
    end
  end

  defmodule NamedHandlers do
    defdelegate init(state), to: Handlers
    defdelegate handle_call(message, from, state), to: Handlers
    defdelegate handle_cast(message, state), to: Handlers
    def read_only?(_callback, _message), do: false
  end

  @pools [
    exclusive: [module: Handlers],
    named: [module: NamedHandlers],
    optimistic: [module: Handlers, isolation: :optimistic],
    "own state": [module: Handlers, shared_state?: false]
  ]

  @nothing [messages: [], monitors: []]

  defp start!(opts \\ []) do
    opts = opts |> Keyword.put_new_lazy(:name, &unique_name/0) |> Keyword.put_new(:pool_size, 1)

    {module, opts} = Keyword.pop(opts, :module, Handlers)
    spec = Supervisor.child_spec({GenPool, {module, [], opts}}, restart: :temporary)
    start_supervised!(spec)
    opts[:name]
  end

  # All of its workers have something to do until they are released.
  defp busy!(opts \\ []) do
    pool = start!(opts)
    {pool, occupy!(pool)}
  end

  defp occupy!(pool) do
    for _ <- GenPool.get_children(pool) do
      caller = calls(pool, :block, [self()])
      assert_receive {:busy, worker}, 5_000
      {worker, caller}
    end
  end

  defp free(busy) do
    for {worker, _caller} <- busy, do: send(worker, :release)
    for {_worker, caller} <- busy, do: assert(returned(caller) == {:released, @nothing})
  end

  defp calls(pool, name, args, opts \\ :infinity),
    do: calling(pool, {name, args}, opts)

  # The same, and it waits in the queue when this returns.
  defp waits(pool, name, args, opts \\ :infinity) do
    %{accepted: accepted} = GenPool.info(pool)
    caller = calls(pool, name, args, opts)
    eventually(fn -> GenPool.info(pool).accepted > accepted end)
    caller
  end

  defp noted(pool), do: GenPool.call(pool, {:noted, []})

  for {kind, opts} <- @pools, order <- [:fifo, :lifo] do
    describe "#{kind}, #{order}:" do
      @describetag opts: opts, order: order

      setup %{opts: opts, order: order} do
        # One of its own for each test, and a bound only where there has to be one.
        {:ok, opts: opts ++ [broker: broker!(queue_type: order)]}
      end

      test "callers are told, oldest and newest alike, and answered in order", context do
        {pool, busy} = busy!(context.opts)
        callers = for i <- 1..100, do: waits(pool, :note, [i])
        Enum.each(callers, &await_told/1)
        # They have not.
        late = for i <- 101..110, do: waits(pool, :note, [i])
        free(busy)
        for {caller, i} <- Enum.with_index(callers ++ late, 1), do: assert(answer(caller) == i)
        order = if context.order == :fifo, do: 1..110, else: 110..1//-1
        assert noted(pool) == Enum.to_list(order)
        assert_accounted(pool)
      end

      test "their time is for the queue and the handler together, and up when it is", context do
        {pool, busy} = busy!(context.opts)

        for timeout <- [0, 20, 49, 50, 51, 80, 200] do
          started = System.monotonic_time(:millisecond)
          caller = calls(pool, :note, [timeout], timeout)
          assert {{:exit, {:timeout, _call}}, @nothing} = returned(caller)
          assert System.monotonic_time(:millisecond) - started >= timeout
        end

        assert %{waiting: 0, cancelled: 7} = assert_accounted(pool)
        free(busy)
        assert noted(pool) == []
      end

      test "what comes of them late is what came of others early", context do
        {pool, busy} = busy!(context.opts)
        crash = waits(pool, :crash, [])
        await_told(crash)
        free(busy)
        assert returned(crash) == {{:error, :crash}, @nothing}

        # The worker is another one by now.
        busy = occupy!(pool)
        block = waits(pool, :block, [self()])
        await_told(block)
        free(busy)
        assert_receive {:busy, worker}, 5_000
        defer = waits(pool, :defer, [self()])
        await_told(defer)
        Process.exit(worker, :kill)
        assert returned(block) == {{:error, :killed}, @nothing}
        assert_receive {:from, from}, 5_000
        GenPool.reply(from, :later)
        assert returned(defer) == {:later, @nothing}
        assert_accounted(pool)
      end

      test "callers exit when the pool is stopped, or killed", context do
        Process.flag(:trap_exit, true)

        for how <- [:stop, :kill], late? <- [false, true] do
          opts = [name: pool = unique_name(), shutdown: 0, pool_size: 1] ++ context.opts
          {module, opts} = Keyword.pop!(opts, :module)
          {:ok, pid} = GenPool.start_link(module, [], opts)
          [{_worker, held}] = occupy!(pool)
          callers = for i <- 1..40, do: waits(pool, :note, [i])
          if late?, do: Enum.each(callers, &await_told/1)
          if how == :stop, do: GenPool.stop(pool), else: Process.exit(pid, :kill)
          reason = if how == :stop, do: :normal, else: :killed
          assert down(pid) in [reason, :noproc]

          for caller <- callers do
            assert {{:exit, {^reason, {GenPool, :call, _args}}}, @nothing} = returned(caller)
          end

          assert {_error_or_exit, @nothing} = returned(held)

          if how == :kill do
            # It takes away what the killed one has left.
            {:ok, _pid} = GenPool.start_link(module, [], opts)
            :ok = GenPool.stop(pool)
          end
        end
      end

      test "requests of callers that die are not handled", context do
        {pool, busy} = busy!(context.opts)

        callers =
          for i <- 1..4 do
            caller = waits(pool, :note, [i])
            if i < 3, do: await_told(caller)
            caller
          end

        for %{caller: pid} <- Enum.take_every(callers, 2), do: Process.exit(pid, :kill)
        for %{caller: pid} <- Enum.take_every(callers, 2), do: down(pid)
        free(busy)
        [_, two, _, four] = callers
        assert {answer(two), answer(four)} == {2, 4}
        eventually(fn -> GenPool.info(pool).dropped.caller_down == 2 end)
        assert Enum.sort(noted(pool)) == [2, 4]
        assert_accounted(pool)
      end
    end
  end

  defp answer(caller) do
    assert {answer, @nothing} = returned(caller)
    answer
  end

  # What is dropped is told to callers that have been told that they wait, or not, or are told in that very moment.
  for order <- [:fifo, :lifo], late? <- [false, true] do
    describe "#{order}, #{if late?, do: "late", else: "early"}:" do
      @describetag order: order, late?: late?

      test "the oldest gives way", %{order: order, late?: late?} do
        {pool, busy} = busy!(broker: broker!(queue_type: order, max: 2, drop: :oldest))
        one = waits(pool, :note, [1])
        two = waits(pool, :note, [2], timeout: :infinity, errors: :precise)
        if late?, do: Enum.each([one, two], &await_told/1)
        three = waits(pool, :note, [3])
        assert answer(one) == {:error, :too_many_requests}
        four = waits(pool, :note, [4])
        assert answer(two) == {:error, :queue_full}
        free(busy)
        assert {answer(three), answer(four)} == {3, 4}
        assert %{dropped: %{queue_full: 2}, refused: 0} = assert_accounted(pool)
      end

      test "they have waited for too long", %{order: order, late?: late?} do
        ms = if late?, do: 60, else: 4
        {pool, busy} = busy!(broker: broker!(queue_type: order, timeout: ms))
        one = calls(pool, :note, [1])
        two = calls(pool, :note, [2], timeout: :infinity, errors: :precise)
        assert answer(one) == {:error, :too_many_requests}
        assert answer(two) == {:error, :queue_timeout}
        free(busy)
        assert noted(pool) == []
        assert %{dropped: %{queue_timeout: 2}} = assert_accounted(pool)
      end
    end
  end

  test "codel gives up what has waited for too long" do
    broker = broker!(codel: [target: 1, interval: 2])
    {pool, busy} = busy!(broker: broker)
    opts = [timeout: :infinity, errors: :precise]
    callers = for _ <- 1..50, do: waits(pool, :take, [3], opts)
    Enum.each(callers, &await_told/1)
    free(busy)
    answers = callers |> Enum.map(&answer/1) |> Enum.frequencies()
    assert %{:taken => taken, {:error, :queue_delay} => dropped} = answers
    assert taken + dropped == 50
    assert %{dropped: %{queue_delay: ^dropped}} = assert_accounted(pool)
  end

  test "what there is no room for is refused at once, and told" do
    {pool, busy} = busy!(broker: broker!(max: 1))
    listen(pool)
    one = waits(pool, :note, [1])
    assert answer(calls(pool, :note, [2])) == {:error, :too_many_requests}
    opts = [timeout: 1_000, errors: :precise]
    assert answer(calls(pool, :note, [3], opts)) == {:error, :queue_full}

    for _ <- 1..2,
        do: assert_receive({[:message, :dropped], %{count: 1}, %{reason: :queue_full}}, 5_000)

    free(busy)
    assert answer(one) == 1
    assert %{refused: 2} = assert_accounted(pool)
  end

  test "callers that cause more to be dropped than is reported wait until it is" do
    {pool, busy} = busy!(broker: broker!(max: 1, drop: :oldest))
    keeper = Process.whereis(Names.keeper(Names.broker(pool)))
    :ok = :sys.suspend(keeper)
    callers = for i <- 1..1_500, do: calls(pool, :note, [i])
    eventually(fn -> GenPool.info(pool).accepted == 1_501 end)
    :ok = :sys.resume(keeper)
    free(busy)
    answers = Enum.map(callers, &answer/1)
    assert [_one] = answers -- List.duplicate({:error, :too_many_requests}, 1_499)
    assert %{dropped: %{queue_full: 1_499}} = assert_accounted(pool)
  end

  test "whoever listens is told how long a request has waited" do
    {pool, busy} = busy!()
    listen(pool)
    caller = waits(pool, :note, [1])
    await_told(caller)
    # It looks every ten milliseconds whether anybody listens.
    await_told(waits(pool, :note, [2]))
    free(busy)
    assert answer(caller) == 1
    assert_receive {[:message, :start], %{queue_time: time}, %{kind: :call}}, 5_000
    assert System.convert_time_unit(time, :native, :millisecond) >= 10
  end

  test "a pool without workers keeps them, and its first worker answers" do
    pool = start!()
    :ok = GenPool.set_pool_size(pool, 0)
    eventually(fn -> GenPool.info(pool).idle == 0 end)
    callers = for i <- 1..3, do: waits(pool, :note, [i])
    Enum.each(callers, &await_told/1)
    early = waits(pool, :note, [4])
    :ok = GenPool.set_pool_size(pool, 1)
    assert Enum.map(callers ++ [early], &answer/1) == [1, 2, 3, 4]
  end

  test "they wait behind casts, however many" do
    {pool, busy} = busy!(shared_state?: false)
    for i <- 1..10_000, do: :ok = GenPool.cast(pool, i)
    one = waits(pool, :note, [1])
    for i <- 1..10_000, do: :ok = GenPool.cast(pool, i)
    two = waits(pool, :note, [2])
    Enum.each([one, two], &await_told/1)
    free(busy)
    assert {answer(one), answer(two)} == {1, 2}
    assert_accounted(pool)
  end

  test "large requests are told too" do
    {pool, busy} = busy!()
    callers = for _ <- 1..3, do: waits(pool, :note, [List.duplicate(:large, 10_000)])
    Enum.each(callers, &await_told/1)
    free(busy)
    for caller <- callers, do: assert(length(answer(caller)) == 10_000)
  end

  test "callers are told while the keeper is dead" do
    {pool, busy} = busy!()
    callers = for i <- 1..3, do: waits(pool, :note, [i])
    keeper = Process.whereis(Names.keeper(Names.broker(pool)))
    Process.exit(keeper, :kill)
    down(keeper)
    Enum.each(callers, &await_told/1)
    free(busy)
    assert Enum.map(callers, &answer/1) == [1, 2, 3]
    assert_accounted(pool)
  end

  describe "a broker outside of the pool:" do
    setup do
      broker = unique_name("broker")
      server = start_supervised!({GenPool.Broker, {broker!([]), name: broker}})
      {:ok, server: server, broker: broker}
    end

    test "callers wait for the next pool", %{broker: broker} do
      opts = [broker: broker, external_broker?: true, shutdown: 0]
      {pool, [{_worker, held}]} = busy!(opts)
      late = waits(pool, :note, [1])
      await_told(late)
      early = waits(pool, :note, [2])
      pid = Process.whereis(pool)
      Process.exit(pid, :kill)
      assert {{:error, _reason}, @nothing} = returned(held)
      down(pid)
      # Under the same name: it takes away what the killed one has left.
      start!([name: pool] ++ opts)
      assert {answer(late), answer(early)} == {1, 2}
    end

    test "callers exit when it ends, early and late", %{server: server, broker: broker} do
      {pool, _busy} = busy!(broker: broker, external_broker?: true)
      late = waits(pool, :note, [1])
      await_told(late)
      early = waits(pool, :note, [2])
      GenServer.stop(server, :shutdown)

      for caller <- [late, early] do
        assert {{:exit, {:shutdown, {GenPool, :call, _args}}}, @nothing} = returned(caller)
      end
    end
  end

  test "nothing is left in a mailbox by answers, drops and deadlines that come about when a caller is told" do
    broker = broker!(max: 6, drop: :oldest, timeout: 16)
    pool = start!(pool_size: 2, shared_state?: false, broker: broker)

    callers =
      for caller <- 1..16 do
        Task.async(fn ->
          for i <- 1..50 do
            timeout = if rem(i, 5) == 0, do: 50, else: :infinity
            opts = [timeout: timeout, errors: :precise]
            result = call(pool, {:take, [rem(caller + i, 7)]}, opts)

            assert result in [:taken, {:error, :queue_full}, {:error, :queue_timeout}] or
                     match?({:exit, {:timeout, _call}}, result)

            assert Process.info(self(), [:messages, :monitors]) == @nothing
          end
        end)
      end

    Task.await_many(callers, 60_000)
    assert %{waiting: 0} = assert_accounted(pool)
  end

  test "who has been told can be told by nobody again" do
    {pool, busy} = busy!()
    test = self()
    ref = make_ref()
    assert {:stored, _id} = Broker.request(pool, {:call, {:note, [1]}}, {test, ref})
    assert_receive Broker.slow({^test, ^ref}, ms, {_broker, _pool}), 5_000
    assert ms >= 10
    # Another one that comes later is told in its turn, and nothing else is.
    other = waits(pool, :note, [2])
    await_told(other)
    refute_received Broker.slow({^test, ^ref}, _ms, _pool)
    free(busy)
    assert_receive Broker.late({^ref, 1}), 5_000
    assert answer(other) == 2
  end

  defp listen(pool) do
    id = {__MODULE__, pool}
    :ok = :telemetry.attach_many(id, Telemetry.events(), &__MODULE__.forward/4, {self(), pool})
    on_exit(fn -> :telemetry.detach(id) end)
  end

  def forward([_, _ | event], measurements, %{pool: pool} = metadata, {test, pool}),
    do: send(test, {event, measurements, metadata})

  def forward(_event, _measurements, _metadata, _other), do: :ok
end
