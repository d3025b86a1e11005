defmodule PartitionedBuffer.GenBuffer.DistTest do
  # Three nodes that stay; what is killed is a node of its own.
  use PartitionedBuffer.ClusterCase, async: false

  alias PartitionedBuffer.ClusterNode.Handler
  alias PartitionedBuffer.GenBuffer
  alias PartitionedBuffer.GenBuffer.Dist

  setup_all do
    %{peers: start_nodes(3)}
  end

  setup %{peers: [a, b, c]}, do: %{a: a, b: b, c: c}

  defp start_dist(peers, opts \\ []) do
    buffer = :"dist_#{System.unique_integer([:positive])}"
    defaults = [message_handler: Handler, workers: 2, send_replies: true, drain_timeout_ms: 0]

    for peer <- peers,
        do: :ok = on(peer, ClusterNode, :start_dist, [buffer, Keyword.merge(defaults, opts)])

    nodes = peers |> Enum.map(& &1.node) |> Enum.sort()
    for peer <- peers, do: wait_until(fn -> on(peer, Dist, :get_nodes, [buffer]) == nodes end)
    {buffer, nodes}
  end

  defp close(peer, buffer) do
    gate = :"#{buffer}_gate"
    true = on(peer, ClusterNode, :close, [gate])
    gate
  end

  test "messages go to all nodes, and answers come back", %{peers: peers, a: a} do
    {buffer, nodes} = start_dist(peers)
    messages = Enum.to_list(1..200)

    answers = on(a, ClusterNode, :send_and_recv, [buffer, messages, []])
    assert for({:ok, {_node, message}} <- answers, do: message) == messages

    assert answers
           |> Enum.map(fn {:ok, {node, _message}} -> node end)
           |> Enum.uniq()
           |> Enum.sort() == nodes

    answers = for n <- 1..60, do: on(a, Dist, :send_recv, [buffer, n])
    assert Enum.sort(Enum.uniq(for {:ok, {node, _n}} <- answers, do: node)) == nodes
    assert {:ok, {_node, :message}} = on(a, Dist, :send_recv, [buffer, :message, 5_000])

    evaluated = for n <- 1..60, do: on(a, Dist, :eval, [buffer, n])
    assert Enum.sort(Enum.uniq(for {node, n} when is_integer(n) <- evaluated, do: node)) == nodes
    assert on(a, Dist, :poll, [buffer]) == :ok
  end

  test "a key always goes to its owner, as all nodes see it", %{peers: peers, a: a, b: b} do
    {buffer, nodes} = start_dist(peers)
    owners = for key <- 1..100, do: on(a, Dist, :pick_node, [buffer, key])
    assert owners == for(key <- 1..100, do: on(b, Dist, :pick_node, [buffer, key]))
    assert Enum.sort(Enum.uniq(owners)) == nodes

    for {key, owner} <- Enum.zip(1..20, owners) do
      assert {:ok, {^owner, :x}} =
               on(b, Dist, :send_recv, [buffer, :x, [key: key, timeout: 5_000]])

      assert [{:ok, {^owner, :y}}] =
               on(b, ClusterNode, :send_and_recv, [buffer, [:y], [key: key]])

      assert {^owner, :z} = on(b, Dist, :eval, [buffer, :z, [key: key]])
    end

    for _ <- 1..20, do: assert(on(a, Dist, :pick_node, [buffer]) in nodes)
  end

  test "when a node leaves, only its keys move", %{peers: peers, a: a, c: c} do
    {buffer, nodes} = start_dist(peers)
    before = for key <- 1..200, do: on(a, Dist, :pick_node, [buffer, key])
    :ok = on(c, Dist, :stop, [buffer])
    wait_until(fn -> on(a, Dist, :get_nodes, [buffer]) == nodes -- [c.node] end)

    for {key, owner} <- Enum.zip(1..200, before), owner != c.node do
      assert on(a, Dist, :pick_node, [buffer, key]) == owner
    end

    assert on(c, Dist, :stop, [buffer]) == :ok
  end

  test "workers, sizes and figures: a row for each node", %{peers: peers, a: a, b: b} do
    {buffer, nodes} = start_dist(peers)
    rows = on(a, Dist, :get_workers, [buffer])
    assert Keyword.keys(rows) == nodes
    for {node, pids} <- rows, pid <- pids, do: assert(node(pid) == node)
    assert Enum.all?(rows, fn {_node, pids} -> length(pids) == 2 end)

    assert {:ok, pid} = on(a, Dist, :get_worker, [buffer])
    assert pid in Enum.flat_map(rows, &elem(&1, 1))

    assert [_, _, _] = rows = on(a, Dist, :set_workers, [buffer, 4])
    assert for({node, [_, _, _, _]} <- rows, do: node) == nodes
    assert [{node, [_]}] = on(a, Dist, :set_workers, [[b.node], buffer, 1, []])
    assert node == b.node

    assert on(a, Dist, :size, [buffer]) == for(node <- nodes, do: {node, 0})
    assert on(a, Dist, :size, [[b.node], buffer]) == [{b.node, 0}]
    assert [%{}, %{}, %{}] = Keyword.values(on(a, Dist, :info, [buffer]))

    {other, _nodes} = start_dist([a, b])
    rows = on(a, Dist, :info, [])
    assert length(Enum.uniq_by(rows, &elem(&1, 0))) == length(rows)

    assert rows |> Keyword.fetch!(b.node) |> Elixir.Map.take([buffer, other]) |> Elixir.Map.keys() ==
             Enum.sort([buffer, other])

    refute is_map_key(Keyword.fetch!(rows, List.last(peers).node), other)
  end

  test "a node that fails has its own row, whatever the others have", %{a: a, b: b, c: c} do
    {buffer, nodes} = start_dist([a, b, c])
    # One has no workers, of another the buffer has ended without the node having left.
    {:ok, []} = on(b, GenBuffer, :set_workers, [buffer, 0])
    :ok = on(c, ClusterNode, :kill_buffer, [buffer])

    errors = %{
      a.node => nil,
      b.node => :no_available_workers,
      c.node => :no_available_buffer
    }

    assert for({node, row} <- on(a, Dist, :get_workers, [buffer]), do: {node, error(row)}) ==
             for(node <- nodes, do: {node, errors[node]})

    assert [{_, {:error, :noconnection}}, {_, 0}] =
             on(a, Dist, :size, [[:nobody@nowhere, a.node], buffer])

    assert {_node, {:error, :no_available_buffer}} =
             List.keyfind(on(a, Dist, :size, [buffer]), c.node, 0)

    key = Enum.find(1..1000, &(on(a, Dist, :pick_node, [buffer, &1]) == c.node))
    assert on(a, Dist, :send, [buffer, :x, [key: key]]) == {:error, :no_available_buffer}
    assert on(a, Dist, :send_recv, [buffer, :x, [key: key]]) == {:error, :no_available_buffer}

    assert on(a, ClusterNode, :exited, [Dist, :eval, [buffer, :x, [key: key]]]) ==
             :no_available_buffer

    none = Enum.find(1..1000, &(on(a, Dist, :pick_node, [buffer, &1]) == b.node))
    assert on(a, Dist, :eval, [buffer, :x, [key: none, retries: 2]]) == :no_available_workers
  end

  defp error({:error, reason}), do: reason
  defp error(_row), do: nil

  test "what a handler fails with, and times that are up", %{a: a, b: b} do
    {buffer, _nodes} = start_dist([a, b], workers: 1)
    there = Enum.find(1..1000, &(on(a, Dist, :pick_node, [buffer, &1]) == b.node))

    assert {:error, %RuntimeError{message: "no"}} =
             on(a, Dist, :send_recv, [buffer, {:raise, "no"}, [key: there]])

    assert on(a, ClusterNode, :exited, [
             Dist,
             :eval,
             [buffer, {:exit, :bad}, [key: there, retries: 100]]
           ]) == :bad

    gate = close(b, buffer)

    {ms, result} =
      on(a, ClusterNode, :timed, [
        Dist,
        :send_recv,
        [buffer, {:gate, gate}, [key: there, timeout: 200]]
      ])

    assert result == {:error, :timeout}
    assert ms < 4_000
    # Behind it, one waits that nobody waits for any more.
    assert on(a, Dist, :send_recv, [buffer, :late, [key: there, timeout: 100]]) ==
             {:error, :timeout}

    wait_until(fn -> on(b, GenBuffer, :size, [buffer]) == 0 end)
    on(b, ClusterNode, :open, [gate])
    assert on(a, Dist, :send_recv, [buffer, :next, [key: there]]) == {:ok, {b.node, :next}}
  end

  test "without a node there is an error", %{a: a, b: b} do
    no_nodes = %ErlangError{original: :no_available_nodes}
    {buffer, _nodes} = start_dist([a])

    for {function, args} <- [
          send: [:x],
          send_recv: [:x],
          eval: [:x],
          poll: [],
          get_workers: [],
          size: [],
          info: [],
          get_nodes: [],
          pick_node: []
        ] do
      assert on(b, ClusterNode, :raised, [Dist, function, [buffer | args]]) == no_nodes
    end

    :ok = on(b, ClusterNode, :start_dist, [buffer, [member: false]])
    wait_until(fn -> on(b, Cluster, :nodes, [buffer]) == [{a.node, 1}] end)
    assert on(b, Dist, :send_recv, [buffer, :x]) == {:ok, {a.node, :x}}
    :ok = on(a, Dist, :stop, [buffer])
    wait_until(fn -> on(b, ClusterNode, :raised, [Dist, :get_nodes, [buffer]]) == no_nodes end)
  end

  test "a node that is killed: its callers are told, the others go on", %{a: a, b: b} do
    killed = start_node(number: 9)
    on_exit(fn -> stop_node(killed) end)
    connect([a, b, killed])
    {buffer, nodes} = start_dist([a, b, killed])
    gate = close(killed, buffer)
    key = Enum.find(1..1000, &(on(a, Dist, :pick_node, [buffer, &1]) == killed.node))
    waiting = Task.async(fn -> on(a, Dist, :send_recv, [buffer, {:gate, gate}, [key: key]]) end)
    wait_until(fn -> on(killed, GenBuffer, :info, [buffer]).in_flight == 1 end)
    signal(killed, "KILL")
    assert Task.await(waiting) == {:error, {:lost, killed.node}}
    wait_until(fn -> on(a, Dist, :get_nodes, [buffer]) == nodes -- [killed.node] end)
    for n <- 1..20, do: assert({:ok, {_node, ^n}} = on(a, Dist, :send_recv, [buffer, n]))
  end

  test "wrong options" do
    assert_raise NimbleOptions.ValidationError, fn -> Dist.start_link(:wrong_dist, weight: 0) end
    assert_raise ArgumentError, fn -> Dist.start_link("name", message_handler: Handler) end
    Process.flag(:trap_exit, true)

    assert {{:missing_option, :message_handler}, _call} =
             catch_exit(Dist.start_link(:wrong_dist, []))
  end
end
