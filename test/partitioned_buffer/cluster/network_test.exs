defmodule PartitionedBuffer.Cluster.NetworkTest do
  # Nodes in network namespaces, whose link is cut without a word: connections stay, and nothing comes through.
  use PartitionedBuffer.ClusterCase, async: false

  alias PartitionedBuffer.Netns

  @moduletag :soak
  @moduletag timeout: 120_000

  if reason = Netns.impossible() do
    @moduletag skip: "network namespaces: " <> reason
  end

  # How soon nodes take silence for the loss of a node, in seconds.
  @tick 4

  setup do
    namespaces = Netns.create(3)
    on_exit(fn -> Netns.remove(namespaces) end)

    peers =
      for {namespace, n} <- Enum.with_index(namespaces, 1) do
        peer =
          start_node(
            number: n,
            host: namespace.host,
            exec: Netns.exec(namespace),
            kernel: [net_ticktime: @tick, prevent_overlapping_partitions: false]
          )

        on_exit(fn -> stop_node(peer) end)
        peer
      end

    connect(peers)
    %{peers: peers, namespaces: namespaces}
  end

  test "cut and heal under load: what callers were told is what nodes have", context do
    %{peers: [a, b, c] = peers, namespaces: namespaces} = context
    buffer = start_cluster(peers, processing_interval_ms: 5)

    writers =
      for {peer, who} <- [{a, :a1}, {b, :b1}, {c, :c1}] do
        Task.async(fn ->
          on(peer, ClusterNode, :push_until, [buffer, who, :stop_writing, [timeout: 300]])
        end)
      end

    accepted = fn peer -> on(peer, PartitionedBuffer, :info, [buffer]).accepted end
    wait_until(fn -> Enum.all?(peers, &(accepted.(&1) > 100)) end)

    Netns.cut(List.last(namespaces))

    # Nobody has noticed yet: calls end when their time is up. Then both sides go on without each other.
    await_members([a, b], buffer, [a.node, b.node])
    await_members([c], buffer, [c.node])
    marks = Enum.map(peers, accepted)

    wait_until(fn ->
      Enum.all?(Enum.zip(peers, marks), fn {peer, mark} -> accepted.(peer) > mark + 100 end)
    end)

    Netns.heal(List.last(namespaces))
    connect(peers)
    await_members(peers, buffer, Enum.map(peers, & &1.node))
    marks = Enum.map(peers, accepted)

    wait_until(fn ->
      Enum.all?(Enum.zip(peers, marks), fn {peer, mark} -> accepted.(peer) > mark + 100 end)
    end)

    for peer <- peers, do: on(peer, ClusterNode, :tell, [:stop_writing])

    told =
      Enum.flat_map(writers, fn writer ->
        {results, longest} = Task.await(writer, 30_000)
        # 300, and what the machine does meanwhile.
        assert longest < 1_500
        results
      end)

    _rows = on(a, Cluster, :sync_flush, [buffer])
    recorded = recorded(peers, buffer)
    infos = figures(peers, buffer)
    assert sum(infos, :processed) == sum(infos, :accepted)
    assert sum(infos, :accepted) == length(recorded)

    ok = MapSet.new(for {item, :ok} <- told, do: item)
    lost = MapSet.new(for {item, {:error, {:lost, _node}}} <- told, do: item)
    assert MapSet.size(ok) + MapSet.size(lost) == length(told)
    assert MapSet.size(lost) > 0
    assert recorded -- Enum.uniq(recorded) == []
    seen = MapSet.new(recorded)
    assert MapSet.subset?(ok, seen)
    assert MapSet.subset?(seen, MapSet.union(ok, lost))

    node = c.node

    assert [{%{duration: _}, %{node: ^node}}] =
             on(a, ClusterNode, :events, [buffer, [:cluster, :heal]])
  end

  test "on_lost: :block ends with what it blocks for, and accepts once", context do
    %{peers: [a, _b, c] = peers, namespaces: namespaces} = context
    buffer = start_cluster(peers, [])
    [item | _] = items = owned_by(a, buffer, c.node, 20)
    Netns.cut(List.last(namespaces))

    opts = [timeout: 60_000, on_lost: :block]
    push = Task.async(fn -> on(a, Cluster, :push, [buffer, items, opts]) end)

    assert {ms, {:error, {:lost, _}}} =
             on(a, ClusterNode, :timed, [Cluster, :push, [buffer, item, [timeout: 300]]])

    assert ms < 1_500
    await_members([a], buffer, Enum.map(peers -- [c], & &1.node))
    Netns.heal(List.last(namespaces))
    assert Task.await(push, 70_000) == :ok
    connect(peers)
    await_members(peers, buffer, Enum.map(peers, & &1.node))

    _rows = on(a, Cluster, :sync_flush, [buffer])
    recorded = on(c, ClusterNode, :recorded, [buffer])

    assert Enum.sort(recorded -- [item]) == Enum.sort(items) or
             Enum.sort(recorded) == Enum.sort(items)

    figures(peers, buffer)
  end
end
