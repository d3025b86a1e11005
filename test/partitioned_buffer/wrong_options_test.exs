defmodule PartitionedBuffer.WrongOptionsTest do
  # Options and timeouts that are wrong, of the calls that are not writes: told by name, and nothing was done.
  use ExUnit.Case, async: true

  alias PartitionedBuffer.{BufferCase, DataBuffer, GenBuffer, GenPool, Queue, Testing}
  alias PartitionedBuffer.GenBuffer.Dist
  alias PartitionedBuffer.GenPool.{Broker, DefaultBroker}

  @no_timeouts [nil, :soon, "1", -1, 1.5, 4_294_967_296, [], {}, %{}]
  @no_options [:now, "1", 1, {}, %{}, [1], [:partition | :all]]

  defmodule Echo do
    use PartitionedBuffer.GenBuffer

    @impl true
    def handle_message(_buffer, message, test) do
      send(test, {:handled, message})
      {:ok, message, test}
    end
  end

  defmodule NoPool do
    use PartitionedBuffer.GenPool

    @impl true
    def init(state), do: {:ok, state}
  end

  describe "calls on demand" do
    setup do
      name = BufferCase.unique_name()
      start_supervised!({Queue, name: name, manual: true, processor: & &1})
      :ok = Queue.push(name, :item)
      %{name: name}
    end

    test "raise if an option is unknown", %{name: name} do
      for call <- [&Queue.flush/2, &Queue.sync_flush/2, &Queue.dump/2, &Testing.drain/2],
          opts <- [[partitoin: 0], [partition: 0, other: 1]] do
        assert_raise NimbleOptions.ValidationError, fn -> call.(name, opts) end
      end

      assert_raise NimbleOptions.ValidationError, fn -> Queue.flush(name, timeout: 1) end
      assert %{queued: 1} = PartitionedBuffer.info(name)
    end

    test "raise if the options are none", %{name: name} do
      for call <- [&Queue.flush/2, &Queue.sync_flush/2, &Queue.dump/2, &Testing.drain/2],
          opts <- @no_options do
        assert_raise ArgumentError, ~r/keyword list/, fn -> call.(name, opts) end
      end

      assert %{queued: 1} = PartitionedBuffer.info(name)
    end
  end

  describe "a GenBuffer" do
    setup do
      name = BufferCase.unique_name()

      start_supervised!(
        {Dist, buffer: name, message_handler: Echo, init_args: self(), workers: 1}
      )

      %{name: name}
    end

    test "raises if a timeout is none, and sends nothing", %{name: name} do
      for timeout <- @no_timeouts do
        assert_raise ArgumentError, fn ->
          apply(GenBuffer, :send_recv, [name, :message, timeout])
        end

        assert_raise ArgumentError, fn -> apply(GenBuffer, :recv, [name, make_ref(), timeout]) end
      end

      assert %{accepted: 0} = GenBuffer.info(name)
      assert GenBuffer.send_recv(name, :last, 4_294_967_295) == {:ok, :last}
      assert GenBuffer.recv(name, make_ref(), 0) == {:error, :timeout}
      refute_received {:handled, :message}
    end

    test "raises if the options of a call of several nodes are none", %{name: name} do
      for opts <- @no_options -- [%{}] do
        assert_raise ArgumentError, fn -> apply(Dist, :send, [name, :message, opts]) end
      end

      for call <- [:send_recv, :eval] do
        assert_raise ArgumentError, fn -> apply(Dist, call, [name, :message, [1 | 2]]) end
      end

      assert %{accepted: 0} = GenBuffer.info(name)
    end

    test "is stopped by a name only" do
      for name <- ["name", 1, {}, %{}, []] do
        assert_raise FunctionClauseError, ~r/GenBuffer.stop/, fn ->
          apply(GenBuffer, :stop, [name])
        end

        assert_raise FunctionClauseError, ~r/Dist.stop/, fn -> apply(Dist, :stop, [name]) end
      end
    end
  end

  describe "a child specification" do
    test "of options that are none raises" do
      for opts <- [nil, :now, "1", 1, {}, %{name: :a}, [1], [:name], [{:name, 1} | :tail]] do
        for module <- [Queue, PartitionedBuffer.Map, PartitionedBuffer.Cluster, DocBuffer],
            do: keyword(fn -> apply(module, :child_spec, [opts]) end)

        keyword(fn -> apply(GenPool, :child_spec, [{GenPool, :arg, opts}]) end)
        keyword(fn -> apply(Broker, :child_spec, [{DefaultBroker, opts}]) end)
        keyword(fn -> apply(Broker, :start_link, [DefaultBroker, opts]) end)
      end
    end

    test "of a broker that is none raises, and so does its start" do
      for module <- [nil, Enum, NoSuchModule, "broker", 1, %{}, [], {}] do
        wrong = ~r/expected a module that implements/
        assert_raise ArgumentError, wrong, fn -> apply(Broker, :child_spec, [{module, []}]) end
        assert_raise ArgumentError, wrong, fn -> apply(Broker, :start_link, [module, []]) end

        assert_raise ArgumentError, wrong, fn ->
          apply(Broker, :start_link, [module, [name: :none]])
        end
      end
    end
  end

  test "a child specification of a GenBuffer's handler says what its options have to be" do
    for opts <- [nil, :now, "1", 1, {}, [1], [:buffer], [{:buffer, 1} | :tail]] do
      assert_raise ArgumentError, ~r/expected options to be/, fn ->
        apply(Echo, :child_spec, [opts])
      end
    end

    # As everywhere: of an option that is given twice, the first counts.
    assert %{id: :first} = Echo.child_spec(buffer: :first, buffer: :second)
    assert %{id: Echo, start: {GenBuffer, :start_link, [opts]}} = Echo.child_spec(%{workers: 0})
    assert Enum.sort(opts) == [buffer: Echo, message_handler: Echo, workers: 0]
  end

  test "of a name that is none, it is told what is allowed" do
    long = String.to_atom(String.duplicate("n", 221))

    for {name, told} <- [
          {true, "other than nil, true, false and :undefined, got: true"},
          {:undefined, "other than nil, true, false and :undefined, got: :undefined"},
          {{:global, :name}, "expected an atom other than"},
          {long, "at most 220 characters, got one of 221"}
        ] do
      starts = [
        fn -> Queue.start_link(name: name, processor: & &1) end,
        fn -> GenPool.start_link(NoPool, [], name: name) end,
        fn -> apply(GenBuffer, :start_link, [name, [message_handler: Echo]]) end
      ]

      for start <- starts do
        error = catch_error(start.())
        assert Exception.message(error) =~ told
      end

      assert {:error, {:shutdown, {:failed_to_start_child, DataBuffer, error}}} =
               DocBuffer.start_link(name: name)

      assert Exception.message(error) =~ told
    end
  end

  test "a pool of what is no module is not started" do
    for module <- ["pool", 1, {}, [], nil, NoSuchModule] do
      assert_raise ArgumentError, ~r/init\/1/, fn -> apply(GenPool, :start_link, [module]) end
    end
  end

  defp keyword(fun), do: assert_raise(ArgumentError, ~r/keyword list/, fun)

  test "a call of no pool is not one of the own" do
    assert {:noproc, _call} = catch_exit(GenPool.call(nil, :message))
  end

  describe "a DataBuffer" do
    test "is not started for a module that nothing can be flushed to" do
      for module <- [Enum, NoSuchModule, nil, "module", 1] do
        opts = [name: BufferCase.unique_name()]

        assert {:error, {:shutdown, {:failed_to_start_child, DataBuffer, error}}} =
                 apply(DataBuffer, :start_link, [module, opts])

        assert Exception.message(error) =~ "handle_flush/2"
      end
    end

    test "raises if the options of a write are none" do
      name = BufferCase.unique_name()
      start_supervised!({DocBuffer, name: name})

      for opts <- [[1], [1 | 2], [{"timeout", 1}]], write <- [:insert, :insert_batch] do
        assert_raise ArgumentError, fn -> apply(DataBuffer, write, [name, [:item], opts]) end
      end

      assert DataBuffer.size(name) == 0
    end
  end
end
