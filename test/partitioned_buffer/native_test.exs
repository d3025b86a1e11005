defmodule PartitionedBuffer.NativeCalls do
  # Calls of native functions with arguments drawn at random: mostly of the types that their specs name, with the
  # least and greatest numbers among them, and handles of every kind that former calls have returned.

  @moduledoc false

  alias PartitionedBuffer.Native

  @numbers [0, 0, 1, 1, 2, 3, 64, 1_000, -1] ++
             [
               Integer.pow(2, 32) - 1,
               Integer.pow(2, 32),
               Integer.pow(2, 63),
               Integer.pow(2, 64) - 1
             ] ++
             [Integer.pow(2, 70)]
  @handles [:handle, :broker, :worker, :cell, :turns, :staged]
  @names [:native_test, :ok, nil]
  @settings {:fifo, 5, :oldest, 2, 10, {1, 2}, :lifo}
  # What is forgotten can't be found again, to be closed in the end.
  @forgets [:buffer_close, :buffer_replace, :broker_release]
  # Names of buffers and brokers.
  @long String.duplicate("native_test", 50)
  @open ["", "native_test", @long | for(n <- 1..9, do: "native_test_#{n}")]
  # Handles of each kind that are kept.
  @most 20

  @enforce_keys [:functions, :types, :handles]
  defstruct @enforce_keys

  def new do
    {:ok, specs} = Code.Typespec.fetch_specs(Native)
    {:ok, types} = Code.Typespec.fetch_types(Native)

    calls = %__MODULE__{
      functions:
        for({{name, _arity}, [spec]} <- specs, name not in @forgets, do: {name, arguments(spec)}),
      types: for({_kind, {name, type, []}} <- types, into: %{}, do: {name, type}),
      handles: :ets.new(:handles, [:public, :bag])
    }

    for {kind, name} <- Enum.zip([:queue, :map], @open), do: open(calls, name, kind)
    keep(calls, :broker_open, Native.broker_open(hd(@open), 2, false, @settings))
    keep(calls, :cell_new, Native.cell_new({:state, [1, 2]}))
    calls
  end

  defp open(calls, name, kind), do: keep(calls, :buffer_open, Native.buffer_open(name, kind, 3))

  defp arguments({:type, _line, :fun, [{:type, _, :product, arguments}, _result]}), do: arguments

  defp arguments({:type, _line, :bounded_fun, [fun, _constraints]}), do: arguments(fun)

  def functions(%{functions: functions}), do: Enum.map(functions, &elem(&1, 0))

  # Answers the function, and whether it took its arguments.
  def call(%{functions: functions} = calls) do
    {name, types} = Enum.random(functions)
    arguments = Enum.map(types, &some(calls, &1))

    try do
      keep(calls, name, apply(Native, name, arguments))
      {name, true}
    rescue
      _error -> {name, false}
    end
  end

  # A name keeps what it names, so only those are given that are taken away in the end.
  defp some(calls, {:type, _, :atom, []} = name), do: of(calls, name)
  defp some(calls, type), do: if(:rand.uniform(40) == 1, do: any(), else: of(calls, type))

  defp of(_calls, {:user_type, _, :broker_settings, []}), do: @settings
  defp of(calls, {:user_type, _, kind, []}) when kind in @handles, do: handle(calls, kind)

  defp of(calls, {:user_type, _, :target, []}),
    do: Enum.random([handle(calls, :handle), :native_test])

  defp of(calls, {:user_type, _, name, []}), do: of(calls, calls.types[name])
  defp of(calls, {:ann_type, _, [_name, type]}), do: of(calls, type)
  defp of(calls, {:type, _, :union, types}), do: of(calls, Enum.random(types))
  defp of(calls, {:type, _, :reference, []}), do: handle(calls, Enum.random(@handles))
  defp of(_calls, {:type, _, :boolean, []}), do: Enum.random([true, false])
  defp of(_calls, {:type, _, :range, _bounds}), do: Enum.random([0, 1, 3, 255, 256])
  defp of(_calls, {:type, _, :atom, []}), do: Enum.random(@names)
  defp of(_calls, {:type, _, :pid, []}), do: self()
  defp of(_calls, {:atom, _, atom}), do: atom
  defp of(_calls, {:integer, _, integer}), do: integer
  defp of(_calls, {:remote_type, _, [{:atom, _, String}, _t, []]}), do: name()

  defp of(calls, {:type, _, :list, [type]}),
    do: for(_ <- 1..Enum.random([1, 2, 50]), do: some(calls, type))

  defp of(calls, {:type, _, :tuple, types}) when is_list(types),
    do: types |> Enum.map(&some(calls, &1)) |> List.to_tuple()

  defp of(_calls, {:type, _, integer, []})
       when integer in [:integer, :pos_integer, :non_neg_integer, :timeout],
       do: Enum.random(@numbers)

  defp of(_calls, _term), do: Enum.random([any(), [1 | 2]])

  defp name, do: Enum.random(@open)

  # What options are natively, among all kinds of terms.
  defp any do
    rules = %{
      batch_size: 10,
      max_batch_bytes: nil,
      capacity: Enum.random([nil, 5]),
      capacity_bytes: nil,
      overflow: Enum.random([:block, :reject, :drop_newest, :drop_oldest]),
      max_retries: 3,
      split_on_failure: true,
      max_age_ms: nil,
      keep_discarded: true
    }

    Enum.random([
      rules,
      :ok,
      nil,
      {1, 2},
      [{1, 2}],
      [{1, 2, 3}],
      %{a: 1},
      1.5,
      <<1::5>>,
      @long,
      self(),
      make_ref(),
      &is_atom/1,
      Enum.random(@numbers),
      Enum.to_list(1..100)
    ])
  end

  defp handle(%{handles: handles}, kind) do
    case :ets.lookup(handles, kind) do
      [] -> make_ref()
      some -> some |> Enum.random() |> elem(1)
    end
  end

  defp keep(calls, :buffer_open, {_how, handle}), do: put(calls, :handle, handle)
  defp keep(calls, :broker_open, {_how, broker}), do: put(calls, :broker, broker)
  defp keep(calls, :broker_join, worker), do: put(calls, :worker, worker)
  defp keep(calls, :cell_new, {_version, cell}), do: put(calls, :cell, cell)
  defp keep(calls, :turns_new, turns), do: put(calls, :turns, turns)

  defp keep(calls, name, staged) when is_reference(staged) do
    if to_string(name) =~ "stage", do: put(calls, :staged, staged)
  end

  defp keep(_calls, _name, _result), do: :ok

  defp put(%{handles: handles}, kind, handle) do
    if is_reference(handle) and length(:ets.lookup(handles, kind)) < @most,
      do: :ets.insert(handles, {kind, handle})
  end

  # All that is open by its name, whether its handle was kept or not.
  def close(%{handles: handles}) do
    for name <- @open do
      {_how, handle} = Native.buffer_open(name, :queue, 1)
      :ok = Native.buffer_close(handle)
      {_how, broker} = Native.broker_open(name, 1, false, @settings)
      :ok = Native.broker_close(broker)
      :ok = Native.broker_release(broker)

      for name <- @names do
        :ok = Native.buffer_erase_name(handle, name)
        :ok = Native.broker_erase_name(broker, name)
        :ok = Native.broker_erase_pool(broker, name)
      end
    end

    :ets.delete(handles)
  end
end

defmodule PartitionedBuffer.NativeTest do
  # Whatever a native function is called with: it returns or raises, nothing hangs, and buffers work after it. (One
  # that ends the VM is known by that.)
  use PartitionedBuffer.BufferCase, async: false

  import PartitionedBuffer.Alive

  alias PartitionedBuffer.{Native, NativeCalls}

  # Calls of one process, which ends with what it has joined and waits for.
  @a_process 100

  setup :assert_alive_baseline

  test "a number of partitions that no memory is enough for is refused" do
    settings = {:fifo, nil, :newest, 0, nil, nil, :fifo}
    {_created, handle} = Native.buffer_open("native_test_partitions", :map, 1)

    for partitions <- [32_769, Integer.pow(2, 32), Integer.pow(2, 64) - 1, -1, nil] do
      for call <- [
            fn -> Native.buffer_open("native_test_refused", :queue, partitions) end,
            fn -> Native.buffer_replace(handle, :map, partitions) end,
            fn -> Native.broker_open("native_test_refused", partitions, false, settings) end
          ],
          do: assert_raise(ArgumentError, call)
    end

    for versions <- [10_000_001, Integer.pow(2, 40)],
        do: assert_raise(ArgumentError, fn -> Native.map_remember_dirty(handle, versions) end)

    assert Native.buffer_close(handle) == :ok
  end

  test "thousands of calls with any arguments", do: call_at_random(20_000)

  @tag :soak
  @tag timeout: 900_000
  test "a million calls with any arguments", do: call_at_random(1_000_000)

  defp call_at_random(count) do
    calls = NativeCalls.new()
    called = :ets.new(:called, [:public])

    for _ <- 1..div(count, @a_process) do
      fn -> for _ <- 1..@a_process, do: :ets.insert(called, NativeCalls.call(calls)) end
      |> Task.async()
      |> Task.await(30_000)
    end

    NativeCalls.close(calls)
    assert Enum.sort(Enum.uniq(NativeCalls.functions(calls))) == called |> keys() |> Enum.sort()

    name = start_queue!()
    Queue.push(name, :item)
    assert drain(name) == [[:item]]
  end

  defp keys(table), do: for({name, _taken?} <- :ets.tab2list(table), do: name)
end
