defmodule PartitionedBuffer.GenPoolPropertiesTest do
  # A pool against a model that is one number: calls, casts, crashes, kills, resizes, bursts of many callers, and
  # ends of every kind, at random. What callers are answered, what the state is, and the account of all requests
  # are what the model says, for every kind of pool.
  use PartitionedBuffer.GenPoolCase, async: true

  import PartitionedBuffer.Property

  alias :proper_types, as: Types
  alias PartitionedBuffer.GenPool.Backend

  @moduletag capture_log: true

  defp pool do
    {Types.integer(0, 3), Types.oneof([:exclusive, :optimistic]),
     Types.oneof([Backend.Native, Backend.ETS])}
  end

  defp operation do
    Types.frequency([
      {8, {:add, Types.integer()}},
      {6, {:cast, Types.integer()}},
      {4, {:send, Types.integer()}},
      {2, :read},
      {2, {:continue, Types.integer()}},
      {2, :crash},
      {1, :cast_crash},
      {2, {:kill, Types.integer(0, 3)}},
      {3, {:resize, Types.integer(0, 4)}},
      {2, {:burst, Types.integer(1, 40), Types.integer(0, 5)}},
      {1, {:stop, Types.oneof([:from_outside, :call, :cast, :info, :continue])}}
    ])
  end

  test "a pool is its model" do
    check({pool(), Types.list(operation())}, [tests: 60, size: 30], fn {kind, operations} ->
      Process.flag(:trap_exit, true)
      model = start(kind)
      model = Enum.reduce(operations, model, &(&1 |> run(&2) |> agree()))
      # What waits in a pool without workers is handled as soon as it has any.
      :ok = GenPool.set_pool_size(model.pool, 2)
      model = agree(%{model | size: 2})
      assert stop(:from_outside, model) == model.sum + model.waiting
    end)
  end

  defp start({size, isolation, backend} = kind) do
    pool = unique_name("property")
    test = self()
    opts = [name: pool, pool_size: size, isolation: isolation, backend: backend]
    {:ok, pid} = GenPool.start_link(Scripted, fn -> {:ok, %{test: test, sum: 0}} end, opts)
    %{kind: kind, pool: pool, pid: pid, size: size, sum: 0, waiting: 0}
  end

  # What waits is counted, once there is somebody to do it.
  defp agree(%{size: 0} = model) do
    assert GenPool.get_state(model.pool).sum == model.sum
    assert GenPool.get_children(model.pool) == []
    assert_accounted(model.pool)
    model
  end

  defp agree(%{pool: pool} = model) do
    eventually(fn -> GenPool.get_state(pool).sum == model.sum + model.waiting end)
    assert length(GenPool.get_children(pool)) == model.size
    eventually(fn -> match?(%{waiting: 0, in_flight: 0, messages: 0}, assert_accounted(pool)) end)
    %{model | sum: model.sum + model.waiting, waiting: 0}
  end

  defp add(n), do: fn state -> {:reply, state.sum, %{state | sum: state.sum + n}} end
  defp add_only(n), do: fn state -> {:noreply, %{state | sum: state.sum + n}} end

  # Nobody is there to do it: it is taken back.
  defp run({:add, n}, %{size: 0} = model) do
    assert {:exit, {:timeout, _call}} = call(model.pool, add(n), 0)
    model
  end

  defp run({:add, n}, model) do
    assert call(model.pool, add(n)) == model.sum
    %{model | sum: model.sum + n}
  end

  defp run({:cast, n}, model) do
    assert GenPool.cast(model.pool, add_only(n)) == :ok
    %{model | waiting: model.waiting + n}
  end

  defp run({:send, n}, model) do
    send(model.pool, add_only(n))
    %{model | waiting: model.waiting + n}
  end

  defp run(operation, %{size: 0} = model) when operation in [:read, :crash], do: model

  defp run(:read, model) do
    assert call(model.pool, &{:reply, &1.sum, &1}) == model.sum
    model
  end

  defp run({:continue, _n}, %{size: 0} = model), do: model

  defp run({:continue, n}, model) do
    assert call(model.pool, &{:reply, :ok, &1, {:continue, add_only(n)}}) == :ok
    %{model | waiting: model.waiting + n}
  end

  defp run(:crash, model) do
    assert {:error, {%RuntimeError{message: "oops"}, [_ | _]}} =
             call(model.pool, fn _state -> raise "oops" end)

    model
  end

  defp run(:cast_crash, model) do
    assert GenPool.cast(model.pool, fn _state -> raise "oops" end) == :ok
    model
  end

  # It has nothing in hand, so nothing changes.
  defp run({:kill, index}, model) do
    model.pool |> GenPool.get_children() |> Enum.drop(index) |> Enum.take(1) |> Enum.each(&kill/1)
    model
  end

  defp run({:resize, size}, model) do
    assert GenPool.set_pool_size(model.pool, size) == :ok
    # Those that leave may have something in hand.
    model = %{model | size: size}
    if size == 0, do: settle(model), else: model
  end

  defp run({:burst, _callers, _kills}, %{size: 0} = model), do: model

  defp run({:burst, callers, kills}, model) do
    tasks =
      for _ <- 1..callers do
        Task.async(fn ->
          :erlang.yield()
          call(model.pool, add(1), :infinity)
        end)
      end

    for _ <- 1..kills//1, do: model.pool |> GenPool.get_children() |> Enum.random() |> kill()
    answers = Task.await_many(tasks, 30_000)
    {sums, errors} = Enum.split_with(answers, &is_integer/1)
    assert Enum.uniq(errors) in [[], [{:error, :killed}]]
    assert length(errors) <= kills
    assert Enum.sort(sums) == Enum.take(model.sum..(model.sum + callers), length(sums))
    %{model | sum: model.sum + length(sums)}
  end

  # Nobody is there to end it.
  defp run({:stop, how}, %{size: 0} = model) when how != :from_outside, do: model

  defp run({:stop, how}, model) do
    last = stop(how, model)

    # Without workers, what waits is given up with the pool.
    assert last == if(model.size == 0, do: model.sum, else: model.sum + model.waiting)
    start(model.kind)
  end

  # No handler is running: what had begun is done or not begun.
  defp settle(model) do
    eventually(fn -> GenPool.info(model.pool).in_flight == 0 end)
    %{sum: sum} = GenPool.get_state(model.pool)
    %{model | sum: sum, waiting: model.waiting - (sum - model.sum)}
  end

  defp stop(how, %{pool: pool, pid: pid}) do
    case how do
      :from_outside ->
        :ok = GenPool.stop(pool, :shutdown)

      :call ->
        assert GenPool.call(pool, &{:stop, :shutdown, :bye, &1}) == :bye

      :cast ->
        :ok = GenPool.cast(pool, &{:stop, :shutdown, &1})

      :info ->
        send(pool, &{:stop, :shutdown, &1})

      :continue ->
        :ok =
          GenPool.call(pool, &{:reply, :ok, &1, {:continue, fn s -> {:stop, :shutdown, s} end}})
    end

    assert_receive {:terminated, :shutdown, %{sum: sum}}, 5_000
    assert_receive {:EXIT, ^pid, :shutdown}, 5_000
    sum
  end

  defp kill(worker) do
    Process.exit(worker, :kill)
    down(worker)
  end
end
