defmodule PartitionedBuffer.MapVersionsTest do
  # `:version_memory`: versions that were handed over count for those that come later.
  use PartitionedBuffer.MapCase, async: true

  import PartitionedBuffer.{Generators, Property}

  alias :proper_types, as: Types
  alias PartitionedBuffer.{FaultHelpers, Names}

  @moduletag :capture_log

  defp start!(opts), do: start_map!(Keyword.put_new(opts, :version_memory, 100))

  # Everything that is live has been processed then.
  defp hand_over(buffer) do
    cycle(buffer)
    await_idle(buffer)
  end

  defp processed(buffer) do
    Buffer.stop(buffer)

    forwarded()
    |> Enum.concat()
    |> Enum.map(fn {key, value, _version, _updates} -> {key, value} end)
  end

  test "by default a version lives for one cycle" do
    buffer = start_map!()
    Buffer.put_newer(buffer, :key, :new, 10)
    hand_over(buffer)
    Buffer.put_newer(buffer, :key, :old, 5)
    assert processed(buffer) == [key: :new, key: :old]
  end

  for {title, write} <- [
        put_newer: quote(do: &Buffer.put_newer(&1, &2, &3, &4)),
        put_all_newer: quote(do: &Buffer.put_all_newer(&1, [{&2, &3, &4}]))
      ] do
    test "#{title}: an older version that comes later is ignored and counted" do
      buffer = start!([])
      write = unquote(write)
      write.(buffer, :key, :new, 10)
      hand_over(buffer)
      for version <- [5, 10, -1, -Integer.pow(2, 70)], do: write.(buffer, :key, :old, version)
      assert Buffer.size(buffer) == 0
      assert %{accepted: 5, superseded: 4, processed: 1} = PartitionedBuffer.info(buffer)
      write.(buffer, :key, :newer, 11)
      write.(buffer, :other, :other, 1)
      hand_over(buffer)
      write.(buffer, :key, :old, 11)
      write.(buffer, :key, :newest, Integer.pow(2, 70))
      hand_over(buffer)
      write.(buffer, :key, :old, Integer.pow(2, 70) - 1)
      assert processed(buffer) == [key: :new, key: :newer, other: :other, key: :newest]
    end
  end

  test "a list in which versions of a key rise and fall" do
    buffer = start!(partitions: 3)
    Buffer.put_all_newer(buffer, for(key <- 1..90, do: {key, :first, 100 + key}))
    hand_over(buffer)
    entries = for version <- Enum.shuffle(1..300), key <- 1..90, do: {key, version, version}
    Buffer.put_all_newer(buffer, entries)
    assert PartitionedBuffer.info(buffer) |> assert_accounted() |> Map.fetch!(:queued) == 90
    Buffer.put_all_newer(buffer, for(key <- 1..90, do: {key, :old, 299}))
    assert Enum.sort(Buffer.to_list(buffer)) == for(key <- 1..90, do: {key, 300})
  end

  test "the keys that were written last are remembered" do
    buffer = start!(version_memory: 2)
    for key <- [:a, :b, :c], do: Buffer.put_newer(buffer, key, :new, 10)
    hand_over(buffer)
    # `:b` becomes the last one, and `:c` the first.
    Buffer.put_newer(buffer, :b, :newer, 11)
    hand_over(buffer)
    for key <- [:b, :c], do: Buffer.put_newer(buffer, key, :old, 9)
    assert Buffer.to_list(buffer) == []
    Buffer.put_newer(buffer, :a, :old, 9)
    Buffer.put_newer(buffer, :c, :old, 9)
    assert Buffer.to_list(buffer) == [a: :old]
    hand_over(buffer)
    for key <- [:a, :b, :c], do: Buffer.put_newer(buffer, key, :old, 9)
    assert Buffer.to_list(buffer) == [c: :old]
  end

  describe "beside other writes" do
    setup do
      buffer = start!([])
      Buffer.put_newer(buffer, :key, :handed_over, 10)
      hand_over(buffer)
      %{buffer: buffer}
    end

    test "delete/3 and take/3 take nothing back that was handed over", %{buffer: buffer} do
      Buffer.delete(buffer, :key)
      :error = Buffer.take(buffer, :key)
      Buffer.put_newer(buffer, :key, :old, 9)
      refute Buffer.has_key?(buffer, :key)
    end

    test "what is deleted or taken before was not handed over", %{buffer: buffer} do
      for {remove, version} <- [delete: 30, take: 20] do
        Buffer.put_newer(buffer, :key, :removed, version)
        _answer = apply(Buffer, remove, [buffer, :key])
        Buffer.put_newer(buffer, :key, :old, 10)
        refute Buffer.has_key?(buffer, :key)
      end

      Buffer.put_newer(buffer, :key, :newer, 11)
      assert Buffer.get(buffer, :key) == :newer
      Buffer.put_newer(buffer, :other, :removed, 2)
      Buffer.delete(buffer, :other)
      Buffer.put_newer(buffer, :other, :older, 1)
      assert Buffer.get(buffer, :other) == :older
    end

    test "put/4, put_all/3 and update/5 write in any case, and leave it remembered", %{
      buffer: buffer
    } do
      for write <- [
            &Buffer.put(&1, :key, :put),
            &Buffer.put_all(&1, key: :put),
            &Buffer.update(&1, :key, :put, {:max, 0})
          ] do
        write.(buffer)
        Buffer.put_newer(buffer, :key, :old, 10)
        assert Buffer.get(buffer, :key) == :put
        Buffer.put_newer(buffer, :key, :newer, 11)
        assert Buffer.get(buffer, :key) == :newer
        write.(buffer)
        Buffer.delete(buffer, :key)
        Buffer.put_newer(buffer, :key, :old, 10)
        assert Buffer.get(buffer, :key) == nil
      end
    end
  end

  test "keys of every kind" do
    check({Types.list(any_term()), Types.list(any_term())}, [tests: 60, size: 15], fn {keys,
                                                                                       others} ->
      buffer = start!(partitions: 2, version_memory: 1_000)
      keys = Enum.uniq(keys)
      for key <- keys, do: Buffer.put_newer(buffer, key, :new, 2)
      hand_over(buffer)
      for key <- keys ++ others, do: Buffer.put_newer(buffer, key, :old, 1)
      assert Enum.sort(Buffer.keys(buffer)) == Enum.sort(Enum.uniq(others) -- keys)
      Buffer.stop(buffer)
      forwarded()
    end)
  end

  test "keys of any size" do
    buffer = start!([])
    keys = for size <- [10, 1_000, 9_000, 130_000, 1_000_000], do: Enum.to_list(1..div(size, 9))
    for key <- keys, do: Buffer.put_newer(buffer, key, :new, 2)
    hand_over(buffer)
    for key <- keys, do: Buffer.put_newer(buffer, key, :old, 1)
    assert Buffer.size(buffer) == 0
  end

  describe "is native, and outlasts" do
    defp written(opts) do
      buffer = start_map!(opts, restart: :permanent)
      for key <- 1..50, do: Buffer.put_newer(buffer, key, :new, 10)
      hand_over(buffer)
      # Some are live, and one is gone again.
      for key <- 41..60, do: Buffer.put_newer(buffer, key, :live, 20)
      Buffer.delete(buffer, 60)
      buffer
    end

    defp assert_remembered(buffer) do
      for key <- 1..59, do: Buffer.put_newer(buffer, key, :old, if(key > 40, do: 20, else: 10))
      assert Enum.sort(Buffer.to_list(buffer)) == for(key <- 41..59, do: {key, :live})
      hand_over(buffer)
      for key <- 41..59, do: Buffer.put_newer(buffer, key, :old, 20)
      assert Buffer.to_list(buffer) == []
      for key <- [1, 41, 60], do: Buffer.put_newer(buffer, key, :newer, 21)
      assert Enum.sort(Buffer.keys(buffer)) == [1, 41, 60]
      assert_accounted(PartitionedBuffer.info(buffer))
    end

    test "the process of a partition" do
      buffer = written(version_memory: 100, partitions: 2)

      for index <- 0..1 do
        name = Names.partition(buffer, index)
        former = FaultHelpers.await_successor(name, nil)
        FaultHelpers.kill(former)
        FaultHelpers.await_successor(name, former)
      end

      assert_remembered(buffer)
    end

    for partitions <- [2, 1, 5] do
      test "the supervisor, with #{partitions} partitions after 2" do
        opts = [name: unique_name(), version_memory: 100, partitions: 2]
        Process.flag(:trap_exit, true)
        buffer = start_unsupervised!(opts)
        for key <- 1..50, do: Buffer.put_newer(buffer, key, :new, 10)
        hand_over(buffer)
        for key <- 41..59, do: Buffer.put_newer(buffer, key, :live, 20)
        kill_buffer(buffer)
        ^buffer = start_unsupervised!(Keyword.put(opts, :partitions, unquote(partitions)))
        assert_remembered(buffer)
        Buffer.stop(buffer)
      end
    end

    defp start_unsupervised!(opts) do
      opts = queue_options(opts)
      {:ok, _pid} = Buffer.start_link(opts)
      opts[:name]
    end

    test "nothing else: a buffer that was stopped has forgotten" do
      opts = [name: unique_name(), version_memory: 100]
      buffer = start_unsupervised!(opts)
      Buffer.put_newer(buffer, :key, :new, 10)
      Buffer.stop(buffer)
      ^buffer = start_unsupervised!(opts)
      Buffer.put_newer(buffer, :key, :old, 5)
      assert Buffer.size(buffer) == 1
      Buffer.stop(buffer)
    end
  end

  test "a lower number forgets the oldest, 0 all" do
    Process.flag(:trap_exit, true)
    opts = [name: unique_name(), version_memory: 1_000]
    buffer = start_unsupervised!(opts)
    for key <- 1..1_000, do: Buffer.put_newer(buffer, key, :new, 10)
    hand_over(buffer)
    kill_buffer(buffer)
    ^buffer = start_unsupervised!(Keyword.put(opts, :version_memory, 300))
    for key <- 1..1_000, do: Buffer.put_newer(buffer, key, :old, 9)
    assert Enum.sort(Buffer.keys(buffer)) == Enum.to_list(1..700)
    hand_over(buffer)
    kill_buffer(buffer)
    ^buffer = start_unsupervised!(Keyword.put(opts, :version_memory, 0))
    for key <- 1..1_000, do: Buffer.put_newer(buffer, key, :old, 1)
    assert Buffer.size(buffer) == 1_000
    Buffer.stop(buffer)
  end

  test "what is no number is refused, by a running buffer any" do
    for wrong <- [-1, 10_000_001, 1.0, nil, :infinity] do
      assert_raise NimbleOptions.ValidationError, ~r/version_memory/, fn ->
        Buffer.start_link(queue_options(version_memory: wrong))
      end
    end

    assert_raise NimbleOptions.ValidationError, fn ->
      Buffer.update_options(start!([]), version_memory: 1)
    end

    queue = PartitionedBuffer.BufferCase.start_queue!(version_memory: 5)
    assert PartitionedBuffer.Queue.push(queue, 1) == :ok
  end

  # The same as a model that knows what was handed over.
  defp step do
    key = Types.integer(1, 4)

    version =
      Types.oneof([Types.integer(1, 12), let(Types.integer(1, 3), &Integer.pow(2, 61 + &1))])

    Types.frequency([
      {8, {:put_newer, key, version}},
      {2, {:put, key}},
      {2, {:delete, key}},
      {2, {:take, key}},
      {3, :cycle},
      {1, :kill}
    ])
  end

  test "any sequence of writes, cycles and kills" do
    check(Types.list(step()), [tests: 300, size: 60], fn steps ->
      buffer = start!(version_memory: 4)
      Enum.reduce(steps, {%{}, %{}}, &run(buffer, &1, &2))
      Buffer.stop(buffer)
      forwarded()
    end)
  end

  defp run(buffer, step, model) do
    {live, handed_over} = run_one(buffer, step, model)
    assert Map.new(Buffer.to_list(buffer)) == live
    {live, handed_over}
  end

  defp run_one(buffer, {:put_newer, key, version}, {live, handed_over}) do
    Buffer.put_newer(buffer, key, version, version)
    # The value says the version; one without a version has 0.
    highest = Enum.max([Map.get(live, key, -1), Map.get(handed_over, key, -1)])
    {if(version > highest, do: Map.put(live, key, version), else: live), handed_over}
  end

  defp run_one(buffer, {:put, key}, {live, handed_over}) do
    Buffer.put(buffer, key, 0)
    {Map.put(live, key, 0), handed_over}
  end

  defp run_one(buffer, {remove, key}, {live, handed_over}) do
    _answer = apply(Buffer, remove, [buffer, key])
    {Map.delete(live, key), handed_over}
  end

  defp run_one(buffer, :cycle, {live, handed_over}) do
    hand_over(buffer)
    {%{}, Map.merge(handed_over, live, fn _key, one, other -> max(one, other) end)}
  end

  defp run_one(buffer, :kill, model) do
    name = Names.partition(buffer, 0)
    former = FaultHelpers.await_successor(name, nil)
    FaultHelpers.kill(former)
    FaultHelpers.await_successor(name, former)
    model
  end
end
