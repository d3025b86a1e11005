defmodule PartitionedBuffer.GenPoolTelemetryTest do
  use PartitionedBuffer.GenPoolCase, async: true

  alias PartitionedBuffer.GenPool.Telemetry

  @moduletag capture_log: true

  # Events of this pool, as messages without the common prefix.
  defp listen(pool) do
    id = {__MODULE__, pool}
    :ok = :telemetry.attach_many(id, Telemetry.events(), &__MODULE__.forward/4, {self(), pool})
    on_exit(fn -> :telemetry.detach(id) end)
  end

  def forward(
        [:partitioned_buffer, :gen_pool | event],
        measurements,
        %{pool: pool} = metadata,
        {test, pool}
      ),
      do: send(test, {:event, event, measurements, metadata})

  def forward(_event, _measurements, _metadata, _other), do: :ok

  defp next(event) do
    assert_receive {:event, ^event, measurements, metadata}, 5_000
    {measurements, metadata}
  end

  defp started!(opts) do
    pool = unique_name()
    listen(pool)
    start_pool!(0, [name: pool] ++ opts)
  end

  test "of a pool and its workers" do
    pool = started!(pool_size: 1)
    assert {%{system_time: _, pool_size: 1}, %{module: Scripted}} = next([:start])
    assert {%{system_time: _}, %{worker: worker}} = next([:worker, :start])
    assert GenPool.get_children(pool) == [worker]
    Process.exit(worker, :kill)
    assert {%{system_time: _}, %{worker: ^worker, reason: :killed}} = next([:worker, :stop])
    assert {_measurements, %{worker: other}} = next([:worker, :start])
    assert GenPool.get_children(pool) == [other]
    GenPool.stop(pool, :shutdown)
    assert {%{duration: duration, discarded: 0}, %{reason: :shutdown}} = next([:stop])
    assert duration > 0
  end

  test "of messages of every kind" do
    pool = started!(pool_size: 1)
    [worker] = GenPool.get_children(pool)

    for {kind, give} <- [
          call: fn -> GenPool.call(pool, &{:reply, &1, &1 + 1}) end,
          cast: fn -> GenPool.cast(pool, &{:noreply, &1 + 1}) end,
          info: fn -> send(pool, &{:noreply, &1 + 1}) end
        ] do
      give.()

      assert {%{system_time: _, queue_time: _}, %{kind: ^kind, worker: ^worker}} =
               next([:message, :start])

      assert {%{duration: duration, queue_time: queue, attempts: 1}, %{kind: ^kind}} =
               next([:message, :stop])

      assert duration > 0 and queue >= 0
    end

    GenPool.call(pool, &{:reply, :ok, &1, {:continue, fn state -> {:noreply, state} end}})
    assert {_measurements, %{kind: :call}} = next([:message, :stop])
    assert {_measurements, %{kind: :continue}} = next([:message, :stop])
  end

  test "of crashes" do
    pool = started!(pool_size: 1)
    assert {:error, reason} = call(pool, fn _ -> raise "oops" end)
    assert {measurements, metadata} = next([:message, :exception])
    assert %{duration: _, queue_time: _} = measurements
    assert %{kind: :call, reason: ^reason, stacktrace: [_ | _]} = metadata
    assert {_measurements, %{reason: ^reason}} = next([:worker, :stop])
  end

  test "of retries" do
    pool = started!(pool_size: 2, isolation: :optimistic)
    busy = occupy(pool)
    GenPool.call(pool, &{:reply, &1, &1 + 1})
    assert {%{attempts: 1}, %{kind: :call}} = next([:message, :stop])
    send(busy.worker, {:release, busy.ref, &{:reply, &1, &1 + 1}})
    assert {%{attempt: 1}, %{kind: :call}} = next([:message, :retry])
    assert release(busy, &{:reply, &1, &1 + 1}) == 1
    assert {%{attempts: 2}, %{kind: :call}} = next([:message, :stop])
  end

  test "of requests that are given up, by reason" do
    pool = started!(pool_size: 1, broker: broker!(max: 1, timeout: 300))
    busy = occupy(pool)
    :ok = GenPool.cast(pool, &{:noreply, &1})
    {:error, _} = GenPool.cast(pool, &{:noreply, &1})
    assert {%{count: 1}, %{reason: :queue_full}} = next([:message, :dropped])
    {:error, _} = call(pool, &{:reply, &1, &1})
    assert {%{count: 1}, %{reason: :queue_full}} = next([:message, :dropped])
    assert {%{count: 1}, %{reason: :queue_timeout}} = next([:message, :dropped])
    Process.exit(busy.worker, :kill)
    assert {%{count: 1}, %{reason: :worker_down}} = next([:message, :dropped])
    # Each once.
    returned(busy)

    :ok =
      PartitionedBuffer.Broker.Keeper.flush(
        PartitionedBuffer.Names.keeper(PartitionedBuffer.Names.broker(pool))
      )

    refute_received {:event, [:message, :dropped], _measurements, _metadata}
  end

  def cast_again(_event, _measurements, %{pool: pool}, {pool, dropped}) do
    :counters.add(dropped, 1, 1)
    GenPool.cast(pool, &{:noreply, &1})
  end

  def cast_again(_event, _measurements, _metadata, _other), do: :ok

  # The handler drops another one each time: there is always something to tell.
  for {kind, opts} <- [shared: [], own: [shared_state?: false]] do
    @opts opts
    test "of messages that are dropped for ever, while workers come: #{kind}" do
      pool = start_pool!(0, [pool_size: 1, broker: broker!(max: 1, drop: :oldest)] ++ @opts)

      dropped = :counters.new(1, [])
      busy = occupy(pool)
      id = {__MODULE__, :again, pool}
      event = [:partitioned_buffer, :gen_pool, :message, :dropped]
      :ok = :telemetry.attach(id, event, &__MODULE__.cast_again/4, {pool, dropped})
      on_exit(fn -> :telemetry.detach(id) end)
      for _ <- 1..2, do: GenPool.cast(pool, &{:noreply, &1})
      eventually(fn -> :counters.get(dropped, 1) > 100 end)

      resized = Task.async(fn -> GenPool.set_pool_size(pool, 3) end)
      assert Task.await(resized) == :ok
      assert length(GenPool.get_children(pool)) == 3
      release(busy)
      eventually(fn -> GenPool.info(pool).waiting == 0 end)
      assert_accounted(pool)
    end
  end

  test "of what a pool is stopped with" do
    pool = started!(pool_size: 1, shutdown: 0)
    busy = occupy(pool)
    for _ <- 1..3, do: :ok = GenPool.cast(pool, &{:noreply, &1})
    GenPool.stop(pool)
    assert {%{discarded: 3}, %{reason: :normal}} = next([:stop])
    # That of the worker aside.
    assert_receive {:event, [:message, :dropped], %{count: 3}, %{reason: :shutdown}}, 5_000
    returned(busy)
  end

  test "of a killed worker that had a cast" do
    pool = started!(pool_size: 1)
    test = self()

    :ok =
      GenPool.cast(pool, fn state ->
        send(test, {:casting, self()})
        receive(do: (:never -> {:noreply, state}))
      end)

    assert_receive {:casting, worker}, 5_000
    Process.exit(worker, :kill)
    assert {%{count: 1}, %{reason: :worker_down}} = next([:message, :dropped])
  end

  test "every event has its documentation" do
    {:docs_v1, _, _, _, %{"en" => docs}, _, _} = Code.fetch_docs(Telemetry)
    for event <- Telemetry.events(), do: assert(docs =~ inspect(event))
  end
end
