defmodule PartitionedBuffer.Cluster.LostNodesTest do
  # Nodes that are killed, and connections that are cut. Each test has nodes of its own.
  use PartitionedBuffer.ClusterCase, async: false

  # What callers were told, against what the nodes that are left have had.
  defp account(told, recorded, killed_owner?) do
    by = fn match -> for {item, result} <- told, match.(result), do: item end
    ok = MapSet.new(by.(&(&1 == :ok)))
    lost = MapSet.new(by.(&match?({:error, {:lost, _node}}, &1)))

    refused =
      MapSet.new(by.(&match?({:error, reason} when reason in [:no_nodes, :timeout, :full], &1)))

    seen = MapSet.new(recorded)

    assert MapSet.size(ok) + MapSet.size(lost) + MapSet.size(refused) == length(told)
    assert MapSet.disjoint?(seen, refused)
    assert MapSet.subset?(seen, MapSet.union(ok, lost))
    # Nothing accepted is missing but what the killed node had.
    for item <- MapSet.difference(ok, seen), do: assert(killed_owner?.(item))
    %{ok: ok, lost: lost, seen: seen}
  end

  for {on_lost, nodes} <- [error: 4, next: 3] do
    test "kill -9 of one of #{nodes} nodes under load, on_lost: #{on_lost}" do
      # Otherwise `global` may cut connections between the nodes that are left, too.
      [a, b | _] =
        peers = start_nodes(unquote(nodes), kernel: [prevent_overlapping_partitions: false])

      {killed, left} = List.pop_at(peers, -1)
      opts = [processing_interval_ms: 5, on_lost: unquote(on_lost)]
      buffer = start_cluster(peers, opts)

      writers =
        for {peer, who} <- [{a, :a1}, {a, :a2}, {b, :b1}] do
          items = for n <- 1..2_000, do: {who, n}

          owners = on(a, ClusterNode, :owners, [buffer, items])
          owned = for {item, owner} <- owners, owner == killed.node, do: item

          {MapSet.new(owned),
           Task.async(fn ->
             on(peer, ClusterNode, :push_each, [buffer, items, [timeout: 2_000]])
           end)}
        end

      wait_until(fn -> on(killed, PartitionedBuffer, :info, [buffer]).accepted > 100 end)
      signal(killed, "KILL")

      {told, owned} =
        Enum.reduce(writers, {[], MapSet.new()}, fn {owned, writer}, {told, all_owned} ->
          {results, longest} = Task.await(writer, 60_000)
          # Far less, but the machine is not the test's own.
          assert longest < 4_000
          {results ++ told, MapSet.union(all_owned, owned)}
        end)

      await_members(left, buffer, Enum.map(left, & &1.node))
      _rows = on(a, Cluster, :sync_flush, [buffer])
      recorded = recorded(left, buffer)
      # None was accepted twice by those that are left.
      assert recorded -- Enum.uniq(recorded) == []
      %{ok: ok, lost: lost, seen: seen} = account(told, recorded, &(&1 in owned))

      case unquote(on_lost) do
        :next -> assert MapSet.size(lost) == 0
        :error -> assert MapSet.disjoint?(lost, seen)
      end

      # All that were in flight, one for each writer, and no other.
      assert MapSet.size(lost) <= 3
      assert MapSet.size(ok) >= 6_000 - 3
      infos = figures(left, buffer)
      assert sum(infos, :accepted) == length(recorded)

      node = killed.node

      assert [{_, %{node: ^node, reason: :lost}}] =
               on(a, ClusterNode, :events, [buffer, [:cluster, :leave]])
    end
  end

  test "of a list, the parts of a killed node are named, and all others accepted" do
    [a, b, c] = peers = start_nodes(3)
    buffer = start_cluster(peers, [])
    items = for n <- 1..600, do: {:item, n}
    owner = on(a, ClusterNode, :owners, [buffer, items])
    # So that the request is on its way when the node is killed.
    signal(c, "STOP")
    push = Task.async(fn -> on(a, Cluster, :push, [buffer, items, [timeout: 10_000]]) end)
    wait_until(fn -> on(b, PartitionedBuffer, :info, [buffer]).accepted > 0 end)
    refute Task.yield(push, 100)
    signal(c, "KILL")

    node = c.node
    assert {:error, {:partial, [{{:lost, ^node}, failed}]}} = Task.await(push, 15_000)
    assert failed == Enum.filter(items, &(owner[&1] == node))
    _rows = on(a, Cluster, :sync_flush, [buffer])
    assert Enum.sort(recorded([a, b], buffer)) == Enum.sort(items -- failed)
  end

  test "a connection that is cut and comes back: both sides go on, and what is told is so" do
    [a, b, c] =
      peers =
      start_nodes(3, kernel: [prevent_overlapping_partitions: false, dist_auto_connect: :never])

    buffer = start_cluster(peers, [])

    for {one, other} <- [{a, c}, {b, c}], do: on(one, Node, :disconnect, [other.node])
    await_members([a, b], buffer, [a.node, b.node])
    await_members([c], buffer, [c.node])

    items = for n <- 1..300, do: {:cut, n}
    assert on(a, Cluster, :push, [buffer, items]) == :ok
    assert on(c, Cluster, :push, [buffer, for(n <- 1..50, do: {:alone, n})]) == :ok
    assert [a, b] |> figures(buffer) |> sum(:accepted) == 300
    assert [c] |> figures(buffer) |> sum(:accepted) == 50

    connect(peers)
    await_members(peers, buffer, Enum.map(peers, & &1.node))
    assert on(a, Cluster, :push, [buffer, for(n <- 1..300, do: {:healed, n})]) == :ok
    infos = figures(peers, buffer)
    assert sum(infos, :accepted) == 650
    assert List.last(infos).accepted > 50

    node = c.node
    wait_until(fn -> on(a, ClusterNode, :events, [buffer, [:cluster, :heal]]) != [] end)

    assert [{%{duration: _}, %{node: ^node}}] =
             on(a, ClusterNode, :events, [buffer, [:cluster, :heal]])

    assert [{_, %{node: ^node, reason: :lost}}] =
             on(a, ClusterNode, :events, [buffer, [:cluster, :leave]])

    assert length(on(c, ClusterNode, :events, [buffer, [:cluster, :heal]])) == 2
  end
end
