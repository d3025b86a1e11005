defmodule PartitionedBuffer.Broker.BusyTest do
  # The time that workers are at work is added up of times that are milliseconds apart. It is right in the sum all the same,
  # however messages come to an end; and exact for each while somebody listens.
  use ExUnit.Case, async: true
  use PartitionedBuffer.GenPoolCase

  import PartitionedBuffer.GenBufferCase, only: [start_buffer: 1]

  alias PartitionedBuffer.{Broker, GenBuffer}

  defmodule Spins do
    # What is answered is how long it has taken, in nanoseconds.
    def init(state), do: {:ok, state}
    def handle_message(_buffer, us, state), do: {:ok, spin(us), state}
    def handle_call({:reply, us}, _from, state), do: {:reply, spin(us), state}

    def handle_call({:later, us}, from, state) do
      GenPool.reply(from, spin(us))
      {:noreply, state}
    end

    defp spin(us) do
      started = System.monotonic_time()
      spin_until(started + System.convert_time_unit(us, :microsecond, :native))
      System.convert_time_unit(System.monotonic_time() - started, :native, :nanosecond)
    end

    defp spin_until(time), do: if(System.monotonic_time() < time, do: spin_until(time))
  end

  defp spinning_pool!(opts),
    do: start_pool!(0, [module: Spins, shared_state?: false, pool_size: 2] ++ opts)

  # Ticks are up to 10 ms apart.
  defp assert_right(busy_ns, worked_ns),
    do: assert_in_delta(busy_ns, worked_ns, worked_ns / 3 + 20_000_000)

  describe "the time that workers are busy is right in the sum" do
    test "of a GenBuffer" do
      buffer = start_buffer(message_handler: Spins, init_args: 0)
      {:ok, %{broker: broker}} = GenBuffer.Handle.fetch(buffer)

      worked =
        for _ <- 1..300 do
          {:ok, ns} = GenBuffer.send_recv(buffer, 1_000)
          ns
        end

      assert_right(Broker.info(broker).busy_ns, Enum.sum(worked))
    end

    test "of one whose messages wait, and are taken one after the other" do
      buffer = start_buffer(message_handler: Spins, init_args: 0)
      {:ok, %{broker: broker}} = GenBuffer.Handle.fetch(buffer)
      worked = together(300, fn -> GenBuffer.send_recv(buffer, 1_000) |> elem(1) end)
      assert_right(Broker.info(broker).busy_ns, worked)
    end

    for how <- [:reply, :later] do
      test "of a pool whose handlers answer: #{how}" do
        pool = spinning_pool!([])
        worked = for _ <- 1..300, do: GenPool.call(pool, {unquote(how), 1_000})
        assert_right(GenPool.info(pool).busy_ns, Enum.sum(worked))
      end

      test "of a pool with more requests than workers, whose handlers answer: #{how}" do
        pool = spinning_pool!([])
        worked = together(300, fn -> GenPool.call(pool, {unquote(how), 1_000}, :infinity) end)
        assert_right(GenPool.info(pool).busy_ns, worked)
      end

      test "of a pool whose handlers take next to nothing: #{how}" do
        pool = spinning_pool!([])
        started = System.monotonic_time(:nanosecond)
        for _ <- 1..20_000, do: GenPool.call(pool, {unquote(how), 0})
        took = System.monotonic_time(:nanosecond) - started
        assert GenPool.info(pool).busy_ns in 0..(took + 20_000_000)
      end
    end

    # Each of these is longer than ticks are apart.
    test "and right for each that takes long" do
      pool = spinning_pool!([])
      worked = GenPool.call(pool, {:reply, 100_000})
      assert_in_delta GenPool.info(pool).busy_ns, worked, 20_000_000
    end
  end

  test "while somebody listens, times are exact, of requests to workers that are idle too" do
    pool = spinning_pool!([])
    assert GenPool.call(pool, {:reply, 0}) >= 0
    event = [:partitioned_buffer, :gen_pool, :message, :stop]
    :ok = :telemetry.attach(inspect(pool), event, &__MODULE__.tell/4, {pool, self()})
    on_exit(fn -> :telemetry.detach(inspect(pool)) end)
    millisecond = System.convert_time_unit(1, :millisecond, :native)
    # What is only a few milliseconds exact is none of that.
    assert exact?(pool, 0..millisecond, 10_000)
  end

  def tell(_event, %{queue_time: time}, %{pool: pool}, {pool, test}),
    do: send(test, {:queue_time, time})

  def tell(_event, _measurements, _metadata, _other), do: :ok

  defp exact?(_pool, _range, 0), do: false

  defp exact?(pool, range, tries) do
    _ns = GenPool.call(pool, {:reply, 0})

    receive do
      {:queue_time, time} when time > 0 -> time in range or exact?(pool, range, tries - 1)
      {:queue_time, _none} -> exact?(pool, range, tries - 1)
    after
      0 -> exact?(pool, range, tries)
    end
  end

  defp together(count, call) do
    tasks = for _ <- 1..count, do: Task.async(call)
    tasks |> Task.await_many(60_000) |> Enum.sum()
  end
end
