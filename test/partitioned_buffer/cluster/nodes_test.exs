defmodule PartitionedBuffer.Cluster.NodesTest do
  # Three nodes that stay, shared by the tests of this module.
  use PartitionedBuffer.ClusterCase, async: false

  setup_all do
    %{peers: start_nodes(3)}
  end

  setup %{peers: peers} do
    [a, b, c] = peers
    %{a: a, b: b, c: c}
  end

  describe "spread" do
    test "a list goes to its owners, one request to each node", %{peers: peers, a: a} do
      buffer = start_cluster(peers, [])
      items = for n <- 1..3_000, do: {:item, n}
      assert on(a, Cluster, :push, [buffer, items]) == :ok

      infos = figures(peers, buffer)
      assert sum(infos, :accepted) == 3_000
      for info <- infos, do: assert_in_delta(info.accepted, 1_000, 250)

      sizes = on(a, Cluster, :size, [buffer])

      assert sizes ==
               for(
                 p <- peers,
                 i = on(p, PartitionedBuffer, :info, [buffer]),
                 do: {p.node, i.queued}
               )
               |> Enum.sort()

      [own | _others] = infos
      assert %{local: local, remote: remote, failed: 0} = on(a, Cluster, :info, [buffer]).calls
      assert {local, local + remote} == {own.accepted, 3_000}

      rows = on(a, Cluster, :sync_flush, [buffer])
      assert Keyword.keys(rows) == Enum.sort(Enum.map(peers, & &1.node))
      for {_node, outcomes} <- rows, do: assert([{_, {:ok, _}}, {_, {:ok, _}}] = outcomes)
      assert peers |> recorded(buffer) |> Enum.sort() == Enum.sort(items)
    end

    test "all nodes agree on the owners", %{peers: peers, a: a, b: b} do
      buffer = start_cluster(peers, [])
      owners = fn peer -> for key <- 1..500, do: on(peer, Cluster, :owner, [buffer, key]) end
      assert owners.(a) == owners.(b)
    end

    test "what a node owns never leaves it", %{peers: peers, a: a} do
      buffer = start_cluster(peers, [])
      items = owned_by(a, buffer, a.node, 20)
      assert on(a, Cluster, :push, [buffer, items]) == :ok
      for item <- items, do: assert(on(a, Cluster, :push, [buffer, item]) == :ok)
      assert %{local: 40, remote: 0} = on(a, Cluster, :info, [buffer]).calls
      assert on(a, PartitionedBuffer, :info, [buffer]).accepted == 40
    end

    test "items of one key keep their order, also with a function as the key", %{peers: peers} do
      buffer = start_cluster(peers, partition_key: &ClusterNode.user/1)

      for {peer, who} <- Enum.zip(peers, [:x, :y, :z]) do
        for n <- 1..10, do: :ok = on(peer, Cluster, :push, [buffer, {{who, rem(n, 2)}, n}])
        :ok = on(peer, Cluster, :push, [buffer, for(n <- 11..40, do: {{who, rem(n, 2)}, n})])
      end

      _rows = on(hd(peers), Cluster, :sync_flush, [buffer])
      recorded = recorded(peers, buffer)
      assert length(recorded) == 120

      for {_user, items} <- Enum.group_by(recorded, &elem(&1, 0)) do
        assert items == Enum.sort(items)
        assert length(items) == 20
      end
    end

    test "weights are shares", %{a: a, b: b} do
      buffer = :"cluster_#{System.unique_integer([:positive])}"
      start_member(a, buffer, weight: 1)
      start_member(b, buffer, weight: 4)
      await_members([a, b], buffer, [a.node, b.node])
      assert on(a, Cluster, :nodes, [buffer]) == Enum.sort([{a.node, 1}, {b.node, 4}])
      :ok = on(a, Cluster, :push, [buffer, Enum.to_list(1..5_000)])
      assert_in_delta on(b, PartitionedBuffer, :buffer_size, [buffer]), 4_000, 250
    end

    test "a node without a buffer of its own writes and reads", %{a: a, b: b} do
      buffer = :"cluster_#{System.unique_integer([:positive])}"
      start_member(a, buffer, module: Map)
      :ok = on(b, ClusterNode, :start, [[module: Map, name: buffer, member: false]])
      await_members([a, b], buffer, [a.node])
      assert on(b, Cluster, :put, [buffer, :key, 1]) == :ok
      assert on(b, Cluster, :get, [buffer, :key]) == 1
      assert on(b, Cluster, :size, [buffer]) == [{a.node, 1}]
    end

    test "without a member there is nobody to write to", %{b: b} do
      buffer = :"cluster_#{System.unique_integer([:positive])}"
      :ok = on(b, ClusterNode, :start, [[module: Map, name: buffer, member: false]])
      assert on(b, Cluster, :put, [buffer, :key, 1]) == {:error, :no_nodes}

      assert on(b, Cluster, :put_all, [buffer, [a: 1]]) ==
               {:error, {:partial, [{:no_nodes, [a: 1]}]}}

      assert on(b, Cluster, :fetch, [buffer, :key]) == {:error, :no_nodes}
      assert {:error, _} = catch_error_on(b, :get, [buffer, :key])
    end
  end

  describe "map" do
    test "is read and written from everywhere", %{peers: peers, a: a, b: b, c: c} do
      buffer = start_cluster(peers, module: Map)
      assert on(a, Cluster, :put_all, [buffer, Elixir.Map.new(1..300, &{&1, &1 * 2})]) == :ok
      for key <- 1..300, do: assert(on(b, Cluster, :get, [buffer, key]) == key * 2)
      assert a |> on(Cluster, :size, [buffer]) |> Keyword.values() |> Enum.sum() == 300

      for key <- 1..100, do: assert(on(c, Cluster, :delete, [buffer, key]) == :ok)
      for key <- 1..100, do: assert(on(a, Cluster, :fetch, [buffer, key]) == :error)

      for key <- 101..150 do
        assert on(a, Cluster, :put_newer, [buffer, key, :new, 10]) == :ok
        assert on(b, Cluster, :put_newer, [buffer, key, :old, 9]) == :ok
        assert on(c, Cluster, :fetch, [buffer, key]) == {:ok, :new}
      end

      assert on(c, Cluster, :put_all_newer, [buffer, for(k <- 101..150, do: {k, :newest, 11})]) ==
               :ok

      assert on(a, Cluster, :get, [buffer, 120]) == :newest
      figures(peers, buffer)
    end

    test "with a partition key of a call", %{peers: peers, a: a, b: b} do
      buffer = start_cluster(peers, module: Map)
      opts = [partition_key: :together]
      for n <- 1..20, do: :ok = on(a, Cluster, :put, [buffer, n, n, opts])
      for n <- 1..20, do: assert(on(b, Cluster, :get, [buffer, n, nil, opts]) == n)
      assert on(b, Cluster, :delete, [buffer, 1, opts]) == :ok
      assert on(b, Cluster, :get, [buffer, 1, :gone, opts]) == :gone
      assert b |> on(Cluster, :size, [buffer]) |> Keyword.values() |> Enum.sort() == [0, 0, 19]
    end
  end

  describe "a full buffer on another node" do
    # The other node is full; nothing is processed.
    defp full(%{a: a, b: b}, opts) do
      buffer = start_cluster([a, b], [capacity: 10, manual: true, partitions: 1] ++ opts)
      items = owned_by(a, buffer, b.node, 20)
      assert on(a, Cluster, :push, [buffer, Enum.take(items, 10)]) == :ok
      {buffer, Enum.at(items, 10)}
    end

    test "holds the writer back until there is room", %{a: a, b: b} = nodes do
      {buffer, item} = full(nodes, [])
      push = Task.async(fn -> on(a, Cluster, :push, [buffer, item, [timeout: 20_000]]) end)
      wait_until(fn -> on(b, PartitionedBuffer, :info, [buffer]).blocked == 1 end)
      _rows = on(b, PartitionedBuffer, :sync_flush, [buffer])
      assert Task.await(push) == :ok
      assert [%{accepted: 11}] = figures([b], buffer)
    end

    test "is an error when the time is up, and nothing was written", %{a: a, b: b} = nodes do
      for overflow <- [:block, :reject] do
        {buffer, item} = full(nodes, overflow: overflow)
        args = [Cluster, :push, [buffer, item, [timeout: 300]]]
        assert {ms, {:error, :timeout}} = on(a, ClusterNode, :timed, args)
        assert ms < 5_000
        assert [%{accepted: 10}] = figures([b], buffer)
      end
    end

    test "is an error at once", %{a: a, b: b} = nodes do
      {buffer, item} = full(nodes, on_full: :error)
      assert on(a, Cluster, :push, [buffer, item]) == {:error, :full}
      assert on(a, Cluster, :push, [buffer, [item]]) == {:error, {:partial, [{:full, [item]}]}}
      assert on(a, Cluster, :info, [buffer]).calls.failed == 2
      assert [%{accepted: 10}] = figures([b], buffer)

      assert [{%{count: 1}, %{reason: :full}}, _] =
               on(a, ClusterNode, :events, [buffer, [:cluster, :failed]])
    end

    test "makes the next owner take it", %{a: a, b: b} = nodes do
      {buffer, item} = full(nodes, on_full: :next)
      assert on(a, Cluster, :push, [buffer, item]) == :ok
      assert [%{accepted: 1}, %{accepted: 10}] = figures([a, b], buffer)
      assert on(a, Cluster, :info, [buffer]).calls.retried == 1
      events = on(a, ClusterNode, :events, [buffer, [:cluster, :retry]])
      {here, there} = {a.node, b.node}
      assert [{%{count: 1}, %{node: ^there, next: ^here, reason: :full}}] = events
    end

    test "never takes what is larger than all of it", %{a: a} = nodes do
      {buffer, _item} = full(nodes, [])
      items = owned_by(a, buffer, nodes.b.node, 11, :large)
      assert on(a, Cluster, :push, [buffer, items]) == {:error, {:partial, [{:too_large, items}]}}
    end
  end

  describe "a request that is made again" do
    test "with its id is accepted once", %{peers: peers, a: a, b: b} do
      buffer = start_cluster(peers, [])
      items = for n <- 1..100, do: {:item, n}

      local =
        length(
          Enum.filter(items, &(on(a, Cluster, :owner, [buffer, :erlang.phash2(&1)]) == a.node))
        )

      opts = [request_id: "import 1"]
      for _again <- 1..3, do: assert(on(a, Cluster, :push, [buffer, items, opts]) == :ok)
      # On its own node a write is not asked for over the network, and has no id.
      assert peers |> figures(buffer) |> sum(:accepted) == 100 + 2 * local
      assert on(b, Cluster, :info, [buffer]).calls.repeated > 0
      assert on(a, Cluster, :push, [buffer, [:other | items], opts]) == :ok
    end
  end

  describe "a node that hangs" do
    test "holds no caller up beyond its time, and accepts once what is asked for again",
         %{a: a} = nodes do
      %{b: b} = nodes
      buffer = start_cluster([a, b], [])
      [one, two, three] = owned_by(a, buffer, b.node, 3)
      signal(b, "STOP")

      timed = fn item, opts ->
        {ms, result} = on(a, ClusterNode, :timed, [Cluster, :push, [buffer, item, opts]])
        assert ms < 5_000
        result
      end

      assert timed.(one, timeout: 200) == {:error, {:lost, b.node}}
      assert timed.(two, timeout: 200, on_lost: :next) == :ok
      assert on(a, PartitionedBuffer, :info, [buffer]).accepted == 1

      assert on(a, Cluster, :size, [buffer, [timeout: 100]])
             |> Enum.sort()
             |> Keyword.fetch!(b.node) == {:error, :timeout}

      blocked = Task.async(fn -> timed.(three, timeout: 3_000, on_lost: :block) end)
      refute Task.yield(blocked, 200)
      signal(b, "CONT")
      assert Task.await(blocked) == :ok

      # What the stopped node was asked for is done by now: `one` and `two` late, `three` once.
      wait_until(fn -> on(b, PartitionedBuffer, :info, [buffer]).accepted == 3 end)
      _rows = on(a, Cluster, :sync_flush, [buffer])
      assert Enum.sort(on(b, ClusterNode, :recorded, [buffer])) == Enum.sort([one, two, three])
    end
  end

  describe "processes of the cluster" do
    test "come back when they are killed, and the node is a member again", %{
      peers: peers,
      a: a,
      b: b
    } do
      buffer = start_cluster(peers, [])

      for name <- [
            PartitionedBuffer.Names.cluster_scope(buffer),
            PartitionedBuffer.Names.cluster_view(buffer)
          ] do
        pid = on(b, Process, :whereis, [name])
        true = on(b, Process, :exit, [pid, :kill])
        wait_until(fn -> on(b, Process, :whereis, [name]) not in [nil, pid] end)
        await_members(peers, buffer, Enum.map(peers, & &1.node))
        assert on(a, Cluster, :push, [buffer, Enum.to_list(1..100)]) == :ok
      end

      assert peers |> figures(buffer) |> sum(:accepted) == 200
    end
  end

  describe "wrong input" do
    test "raises on the caller's side", %{peers: peers, a: a} do
      buffer = start_cluster(peers, [])
      assert {:error, %ArgumentError{}} = catch_error_on(a, :push, [:no_such_cluster, 1])
      assert {:error, %ArgumentError{}} = catch_error_on(a, :put, [buffer, 1, 2])
      assert {:error, %ArgumentError{}} = catch_error_on(a, :push, [buffer, [1 | 2]])
      assert {:error, %ArgumentError{}} = catch_error_on(a, :push, [buffer, 1, :no_list])

      assert {:error, %NimbleOptions.ValidationError{}} =
               catch_error_on(a, :push, [buffer, 1, [wrong: 1]])

      assert {:error, %NimbleOptions.ValidationError{}} =
               catch_error_on(a, :push, [buffer, 1, [on_full: :drop]])

      map = start_cluster(peers, module: Map)
      assert {:error, %ArgumentError{}} = catch_error_on(a, :put_all, [map, [1]])
      assert {:error, %ArgumentError{}} = catch_error_on(a, :put_newer, [map, 1, 2, :three])
      assert on(a, Cluster, :push, [buffer, []]) == :ok
      assert peers |> figures(buffer) |> sum(:accepted) == 0
    end

    test "options of the start" do
      wrong = [
        [],
        [module: Queue],
        [module: Enum, name: :x],
        [module: Queue, name: :x, weight: 0]
      ]

      for opts <- wrong do
        assert_raise NimbleOptions.ValidationError, fn -> Cluster.start_link(opts) end
      end

      assert_raise ArgumentError, fn -> Cluster.start_link(:no_list) end
    end
  end

  defp catch_error_on(peer, function, args) do
    {:error, on(peer, ClusterNode, :raised, [Cluster, function, args])}
  end
end
