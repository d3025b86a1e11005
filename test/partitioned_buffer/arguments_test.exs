defmodule PartitionedBuffer.ArgumentsTest do
  # Wrong arguments of every kind: an exception for the caller, and nothing else. Calls are made by
  # `apply/3`, for a compiler that knows types to let them through.
  use PartitionedBuffer.BufferCase, async: true

  @moduletag :capture_log

  @names [nil, true, "name", ~c"name", 1, 1.5, {:name, :node}, {:via, Registry, :name}, %{}, []]

  # Raises whatever it is given.
  def fail(_item), do: raise(ArithmeticError)

  setup do
    name = start_queue!(partitions: 3)
    :ok = Queue.push(name, [:one, :two, :three])
    before = reading(name)

    # Whatever a test does: the buffer is as it was, and works.
    %{
      name: name,
      unchanged: fn ->
        assert reading(name) == before
        assert Queue.push(name, :four) == :ok
        assert name |> drain() |> Enum.concat() |> Enum.sort() == [:four, :one, :three, :two]
      end
    }
  end

  # All but the age, which goes on.
  defp reading(name) do
    info = PartitionedBuffer.info(name)

    {Queue.size(name), Map.drop(info, [:oldest_age_ms, :partitions]),
     Enum.map(info.partitions, &Map.drop(&1, [:oldest_age_ms, :next_flush_ms]))}
  end

  defp unknown(fun), do: assert_raise(ArgumentError, ~r/unknown registry/, fun)

  describe "a name of no buffer" do
    test "raises ArgumentError in every function that works on one", %{unchanged: unchanged} do
      for name <- [unique_name(), self(), make_ref() | @names] do
        for items <- [:item, [:item], []],
            opts <- [[], [partition_key: nil], [partition_key: 1]] do
          unknown(fn -> apply(Queue, :push, [name, items, opts]) end)
        end

        unknown(fn -> apply(Queue, :push, [name, :item]) end)
        unknown(fn -> apply(Queue, :size, [name]) end)
        unknown(fn -> apply(Queue, :update_options, [name, [processing_batch_size: 1]]) end)
        unknown(fn -> apply(PartitionedBuffer, :update_options, [name, []]) end)
        unknown(fn -> apply(PartitionedBuffer, :buffer_size, [name]) end)
        unknown(fn -> apply(PartitionedBuffer, :info, [name]) end)
        unknown(fn -> apply(PartitionedBuffer, :get_partition, [name, nil, :item]) end)
      end

      unchanged.()
    end

    test "raises ArgumentError in a push if it is that of a map" do
      name = unique_name()
      start_supervised!({PartitionedBuffer.Map, name: name, processor: &Function.identity/1})

      for items <- [:item, [:item], []], opts <- [[], [partition_key: :key]] do
        assert_raise ArgumentError, ~r/another kind/, fn -> Queue.push(name, items, opts) end
      end

      assert %{accepted: 0} = PartitionedBuffer.info(name)
    end

    test "raises for names that the buffer's processes have", %{name: name, unchanged: unchanged} do
      for part <- [Supervisor, TaskSupervisor, "0", "1"], name = Module.concat(name, part) do
        unknown(fn -> Queue.push(name, :item) end)
        unknown(fn -> PartitionedBuffer.info(name) end)
      end

      unchanged.()
    end

    test "exits with :noproc in stop, or raises if it is no name", %{unchanged: unchanged} do
      dead = spawn(fn -> :ok end)
      monitor = Process.monitor(dead)
      assert_receive {:DOWN, ^monitor, :process, ^dead, _reason}

      for name <- [unique_name(), nil, true, dead] do
        assert {:noproc, _call} = catch_exit(Queue.stop(name))
        assert {:noproc, _call} = catch_exit(PartitionedBuffer.stop(name, :normal, 1_000))
      end

      for name <- ["name", ~c"name", 1, 1.5, %{}, [], make_ref(), {:name, :node}] do
        assert_raise FunctionClauseError, fn -> apply(Queue, :stop, [name]) end
      end

      unchanged.()
    end
  end

  describe "an improper list" do
    test "raises ArgumentError, and nothing of it is pushed", %{name: name, unchanged: unchanged} do
      long = Enum.to_list(1..2_000)
      large = [:binary.copy("x", 1_000_000), Enum.to_list(1..50_000)]

      for start <- [[1], [1, 2, 3], long, large],
          tail <- [:tail, 1, {:a, :b}, %{}, "binary"],
          opts <- [[], [partition_key: nil], [partition_key: :key], [partition_key: & &1]] do
        improper = start ++ tail
        assert_raise ArgumentError, ~r/proper list/, fn -> Queue.push(name, improper, opts) end
      end

      unchanged.()
    end

    test "as an item is an item", %{name: name} do
      Queue.push(name, [[1 | 2]])
      assert [1 | 2] in (name |> drain() |> Enum.concat())
    end
  end

  describe "wrong options of a push" do
    test "that are no keyword list raise ArgumentError", %{name: name, unchanged: unchanged} do
      for opts <- [
            nil,
            :partition_key,
            1,
            "options",
            %{partition_key: 1},
            {:partition_key, 1},
            [1],
            [:partition_key],
            [{"partition_key", 1}],
            [{:partition_key, 1} | :tail],
            [{:partition_key, 1, 2}]
          ],
          items <- [:item, [:item], []] do
        assert_raise ArgumentError, ~r/keyword/, fn ->
          apply(Queue, :push, [name, items, opts])
        end
      end

      unchanged.()
    end

    test "that are unknown raise ValidationError", %{name: name, unchanged: unchanged} do
      for opts <- [[key: 1], [partition_key: 1, size: 5], [size: 5, partition_key: nil]],
          items <- [:item, [:item], []] do
        assert_raise NimbleOptions.ValidationError, ~r/unknown/, fn ->
          Queue.push(name, items, opts)
        end
      end

      unchanged.()
    end
  end

  describe "a routing function that fails" do
    @keys [
      {quote(do: fn _ -> raise ArithmeticError end), ArithmeticError},
      {quote(do: &Map.fetch!(&1, :missing)), BadMapError},
      {quote(do: fn :other -> 1 end), FunctionClauseError},
      {quote(do: {__MODULE__, :fail, []}), ArithmeticError},
      {quote(do: {__MODULE__, :undefined, []}), UndefinedFunctionError},
      {quote(do: {__MODULE__, :fail, [:too, :many]}), UndefinedFunctionError},
      {quote(do: {NoSuchModule, :fail, []}), UndefinedFunctionError},
      {quote(do: {__MODULE__, :fail, [1 | 2]}), ArgumentError}
    ]

    for {{key, exception}, number} <- Enum.with_index(@keys) do
      @exception exception
      test "raises for the caller, number #{number}", %{name: name, unchanged: unchanged} do
        key = unquote(key)
        assert_raise(@exception, fn -> Queue.push(name, :item, partition_key: key) end)
        assert_raise(@exception, fn -> Queue.push(name, [:item], partition_key: key) end)
        assert_raise(@exception, fn -> PartitionedBuffer.get_partition(name, key, :item) end)
        unchanged.()
      end
    end

    test "in the middle of a list: nothing of it is pushed", %{name: name, unchanged: unchanged} do
      for count <- [2, 100, 5_000], bad <- [1, div(count, 2), count] do
        key = fn item -> if item == bad, do: raise(ArithmeticError), else: item end
        items = Enum.to_list(1..count)

        assert_raise ArithmeticError, fn -> Queue.push(name, items, partition_key: key) end
      end

      unchanged.()
    end

    test "throws and exits like any function", %{name: name, unchanged: unchanged} do
      assert catch_throw(Queue.push(name, [1, 2], partition_key: &throw/1)) == 1
      assert catch_exit(Queue.push(name, 1, partition_key: &exit/1)) == 1
      unchanged.()
    end
  end

  describe "a wrong timeout of stop" do
    test "raises ArgumentError and stops nothing", %{name: name, unchanged: unchanged} do
      pid = name |> Module.concat(Supervisor) |> Process.whereis()

      for timeout <- [-1, 1.5, nil, :never, "1000", [], Integer.pow(2, 32), Integer.pow(10, 30)],
          buffer <- [name, pid] do
        assert_raise ArgumentError, fn -> apply(Queue, :stop, [buffer, :normal, timeout]) end
      end

      unchanged.()
    end
  end

  describe "a stray message or call" do
    test "to a process of the buffer changes nothing", %{name: name, unchanged: unchanged} do
      for part <- ["0", "1", "2"], partition = Module.concat(name, part) do
        for message <- [:stray, {:tick, make_ref()}, {:watchdog, 1}, {make_ref(), :done}, 1, nil] do
          send(partition, message)
          GenServer.cast(partition, message)
        end

        send(partition, {:DOWN, make_ref(), :process, self(), :killed})
        send(partition, {:EXIT, self(), :normal})
        _answer = GenServer.call(partition, :stray)
      end

      unchanged.()
    end
  end
end
