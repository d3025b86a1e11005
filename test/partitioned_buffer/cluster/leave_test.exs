defmodule PartitionedBuffer.Cluster.LeaveTest do
  # Nodes that stop in order, with others that stay.
  use PartitionedBuffer.ClusterCase, async: false

  setup_all do
    %{peers: start_nodes(3)}
  end

  setup %{peers: [a, b, c]}, do: %{a: a, b: b, c: c}

  defp stop(peer, buffer), do: on(peer, Cluster, :stop, [buffer])

  test "a node that stops processes what it has, and its keys move", %{a: a, b: b, c: c} do
    buffer = start_cluster([a, b, c], [])
    items = for n <- 1..900, do: {:item, n}
    :ok = on(a, Cluster, :push, [buffer, items])
    moving = owned_by(a, buffer, c.node, 50, :later)
    staying = owned_by(a, buffer, b.node, 50, :later)

    :ok = stop(c, buffer)
    await_members([a, b], buffer, [a.node, b.node])

    assert {:error, %ArgumentError{}} =
             {:error, on(c, ClusterNode, :raised, [Cluster, :push, [buffer, 1]])}

    for item <- staying,
        do: assert(on(a, Cluster, :owner, [buffer, :erlang.phash2(item)]) == b.node)

    assert on(a, Cluster, :push, [buffer, moving]) == :ok
    _rows = on(a, Cluster, :sync_flush, [buffer])
    assert Enum.sort(recorded([a, b, c], buffer)) == Enum.sort(items ++ moving)

    left = on(a, ClusterNode, :events, [buffer, [:cluster, :leave]])
    node = c.node
    assert [{_, %{node: ^node, reason: :left}}] = left
  end

  test "a node that joins takes its share from then on", %{a: a, b: b, c: c} do
    buffer = start_cluster([a, b], [])
    :ok = on(a, Cluster, :push, [buffer, Enum.to_list(1..300)])
    start_member(c, buffer, [])
    await_members([a, b, c], buffer, [a.node, b.node, c.node])
    assert on(c, PartitionedBuffer, :info, [buffer]).accepted == 0
    items = owned_by(a, buffer, c.node, 50)
    :ok = on(a, Cluster, :push, [buffer, items])
    assert on(c, PartitionedBuffer, :info, [buffer]).accepted == 50
    assert [a, b, c] |> figures(buffer) |> sum(:accepted) == 350

    joined =
      for {_, %{node: node}} <- on(a, ClusterNode, :events, [buffer, [:cluster, :join]]), do: node

    assert Enum.sort(joined) == Enum.sort([a.node, b.node, c.node])
  end

  # The processor of `c` stands still, so that what it holds is left when it stops.
  defp stuck(c, buffer, opts) do
    gate = :"#{buffer}_gate"
    true = on(c, ClusterNode, :close, [gate])
    processor = {ClusterNode, :record_gated, [buffer, gate]}
    start_member(c, buffer, [processor: processor, processing_timeout_ms: 400] ++ opts)
    gate
  end

  test "hands over what it could not process, in order", %{a: a, b: b, c: c} do
    for key <- [&ClusterNode.user/1, nil] do
      opts = [handover: true, partition_key: key, processing_batch_size: 7]
      buffer = start_cluster([a, b], opts)
      _gate = stuck(c, buffer, opts)
      await_members([a, b, c], buffer, [a.node, b.node, c.node])

      # Under one key all items of a user are in one partition, whatever the cluster's key is. So many users that each
      # node owns some, whatever its name is.
      items = for n <- 1..50, user <- 1..40, do: {user, n}
      assert on(a, Cluster, :push, [buffer, items, [partition_key: &ClusterNode.user/1]]) == :ok
      held = on(c, PartitionedBuffer, :info, [buffer]).accepted
      assert held > 0

      :ok = stop(c, buffer)
      infos = figures([a, b], buffer)
      assert sum(infos, :accepted) == 2_000
      _rows = on(a, Cluster, :sync_flush, [buffer])

      assert on(c, ClusterNode, :recorded, [buffer]) == []
      recorded = recorded([a, b], buffer)
      assert Enum.sort(recorded) == Enum.sort(items)
      for user <- 1..40, do: assert(for({^user, n} <- recorded, do: n) == Enum.to_list(1..50))

      handed =
        for {%{count: n}, %{result: :ok}} <-
              on(c, ClusterNode, :events, [buffer, [:cluster, :handover]]),
            do: n

      assert Enum.sum(handed) == held
    end
  end

  @tag :soak
  test "hands over a backlog of many small batches", %{a: a, b: b, c: c} do
    opts = [handover: true, partition_key: {ClusterNode, :user, []}]
    buffer = start_cluster([a, b], opts)
    _gate = stuck(c, buffer, opts)
    await_members([a, b, c], buffer, [a.node, b.node, c.node])
    items = for n <- 1..1_000, user <- 1..100, do: {user, n}
    for chunk <- Enum.chunk_every(items, 5_000), do: :ok = on(a, Cluster, :push, [buffer, chunk])
    assert on(c, PartitionedBuffer, :info, [buffer]).accepted > 10_000
    :ok = stop(c, buffer)
    assert [a, b] |> figures(buffer) |> sum(:accepted) == 100_000
    _rows = on(a, Cluster, :sync_flush, [buffer])
    recorded = recorded([a, b], buffer)
    assert Enum.sort(recorded) == Enum.sort(items)

    for {_user, numbers} <- Enum.group_by(recorded, &elem(&1, 0), &elem(&1, 1)),
        do: assert(numbers == Enum.to_list(1..1_000))
  end

  test "without handover, what is left is discarded and reported", %{a: a, c: c} do
    buffer = start_cluster([a], [])
    _gate = stuck(c, buffer, [])
    await_members([a, c], buffer, [a.node, c.node])
    items = owned_by(a, buffer, c.node, 30)
    :ok = on(a, Cluster, :push, [buffer, items])
    :ok = stop(c, buffer)
    assert [%{accepted: 0}] = figures([a], buffer)
    discarded = on(c, ClusterNode, :events, [buffer, [:partition, :discarded]])
    assert Enum.sum(for {%{size: n}, %{reason: :shutdown}} <- discarded, do: n) == 30
  end

  test "what nobody takes goes to on_discard", %{c: c} do
    buffer = :"cluster_#{System.unique_integer([:positive])}"
    on_discard = {ClusterNode, :discarded, [buffer]}
    _gate = stuck(c, buffer, handover: true, on_discard: on_discard)
    await_members([c], buffer, [c.node])
    items = Enum.to_list(1..50)
    :ok = on(c, Cluster, :push, [buffer, items])
    :ok = stop(c, buffer)
    assert Enum.sort(on(c, ClusterNode, :recorded, [buffer])) == items
    failed = on(c, ClusterNode, :events, [buffer, [:cluster, :handover]])
    assert Enum.sum(for {%{count: n}, %{result: {:error, :no_nodes}}} <- failed, do: n) == 50
  end

  test "a map's entries keep their versions, and the newer ones win", %{a: a, b: b, c: c} do
    opts = [module: Map, handover: true]
    buffer = start_cluster([a, b], opts)
    _gate = stuck(c, buffer, opts)
    await_members([a, b, c], buffer, [a.node, b.node, c.node])
    keys = for n <- 1..300, on(a, Cluster, :owner, [buffer, n]) == c.node, do: n
    [before, later | _] = chunks = Enum.chunk_every(keys, div(length(keys), 3))
    rest = Enum.at(chunks, 2)
    assert on(a, Cluster, :put_all_newer, [buffer, for(k <- keys, do: {k, {:old, k}, 5})]) == :ok
    # Begin to process, so that some of it is in flight when the node stops.
    :ok = on(c, PartitionedBuffer, :flush, [buffer])

    stop = Task.async(fn -> stop(c, buffer) end)
    await_members([a, b], buffer, [a.node, b.node])
    # On the new owners, before the older versions come …
    for key <- before,
        do: assert(on(b, Cluster, :put_newer, [buffer, key, {:new, key}, 6]) == :ok)

    for key <- rest,
        do: assert(on(b, Cluster, :put_newer, [buffer, key, {:older, key}, 4]) == :ok)

    :ok = Task.await(stop, 20_000)
    # … and after.
    for key <- later, do: assert(on(b, Cluster, :put_newer, [buffer, key, {:new, key}, 6]) == :ok)

    for key <- before ++ later, do: assert(on(a, Cluster, :get, [buffer, key]) == {:new, key})
    for key <- rest, do: assert(on(a, Cluster, :get, [buffer, key]) == {:old, key})
    _rows = on(a, Cluster, :sync_flush, [buffer])

    versions =
      for {key, _value, version, _updates} <- recorded([a, b], buffer), do: {key, version}

    assert Elixir.Map.new(versions) ==
             Elixir.Map.new(for k <- keys, do: {k, if(k in before or k in later, do: 6, else: 5)})
  end

  test "under load nothing is lost and nothing is accepted twice", %{a: a, b: b, c: c} do
    opts = [handover: true, processing_interval_ms: 1, processing_batch_size: 20]
    buffer = start_cluster([a, b], opts)
    # Batches that take too long before the node stops are discarded for that.
    gate = stuck(c, buffer, opts ++ [on_discard: {ClusterNode, :discarded, [buffer]}])
    await_members([a, b, c], buffer, [a.node, b.node, c.node])

    writers =
      for {peer, who} <- [{a, :a1}, {a, :a2}, {b, :b1}, {c, :c1}] do
        items = for n <- 1..1_500, do: {who, n}

        Task.async(fn -> on(peer, ClusterNode, :push_each, [buffer, items, [timeout: 10_000]]) end)
      end

    wait_until(fn -> on(c, PartitionedBuffer, :info, [buffer]).accepted > 200 end)
    :ok = stop(c, buffer)
    on(c, ClusterNode, :open, [gate])

    told =
      Enum.flat_map(writers, fn writer ->
        {results, longest} = Task.await(writer, 60_000)
        assert longest < 10_500
        results
      end)

    # The writer on `c` has an end: its cluster is not there any more.
    {ok, failed} = Enum.split_with(told, fn {_item, result} -> result == :ok end)
    for {{who, _n}, result} <- failed, do: assert({who, result} == {:c1, :raised})

    _rows = on(a, Cluster, :sync_flush, [buffer])
    recorded = recorded([a, b, c], buffer)
    told = for {item, :ok} <- ok, do: item
    assert %{lost: told -- recorded, twice: recorded -- told} == %{lost: [], twice: []}

    infos = figures([a, b], buffer)
    assert sum(infos, :processed) == sum(infos, :accepted)
  end
end
