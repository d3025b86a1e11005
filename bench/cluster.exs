# What does an item cost that another node owns: pushed one by one, in lists, against a plain `:erpc.cast` for each
# item? And what does it cost when it is spread over one to five nodes?
#
# The nodes are on this machine and share its cores, so times are those of both sides together. All are measured
# until the last item has been accepted.

Code.require_file("support/bench.ex", __DIR__)

{:module, peer_module, peer_binary, _} =
  defmodule Bench.ClusterPeer do
    @moduledoc false
    # Runs on the other nodes.
    alias PartitionedBuffer.Cluster

    def start(buffer) do
      {:ok, _apps} = Application.ensure_all_started(:partitioned_buffer)
      caller = self()

      spawn(fn ->
        {:ok, _pid} = Cluster.start_link(options(buffer))
        send(caller, :started)
        Process.sleep(:infinity)
      end)

      receive(do: (:started -> :ok))
    end

    def options(buffer) do
      [
        module: PartitionedBuffer.Queue,
        name: buffer,
        processing_interval_ms: 50,
        processing_batch_size: 1_000,
        processor: {__MODULE__, :drop, []}
      ]
    end

    def drop(_batch), do: :ok

    def accepted(buffer), do: PartitionedBuffer.info(buffer).accepted
  end

defmodule Bench.Cluster do
  alias Bench.ClusterPeer
  alias PartitionedBuffer.{Cluster, Queue}

  @rounds 7
  @callers [1, 8]
  @singles 8_000
  @lists 200_000
  @sizes [10, 100, 1_000]

  def run(module, binary) do
    System.cmd("epmd", ["-daemon"])
    {:ok, _pid} = Node.start(:"bench_#{System.pid()}@127.0.0.1", :longnames)
    nodes = for _ <- 1..4, do: start_node(module, binary)
    Bench.title("cluster: nanoseconds for an item that another node owns")

    # One that owns everything, and this node only writes.
    remote = :bench_cluster_remote
    [owner | _] = nodes
    :ok = :erpc.call(owner, ClusterPeer, :start, [remote])
    {:ok, _pid} = Cluster.start_link(module: Queue, name: remote, member: false)
    :ok = Cluster.await_nodes(remote, 1)
    :ok = Cluster.push(remote, :first)
    remote(remote, owner)

    IO.puts("nanoseconds for an item, spread over so many nodes (this one is among them)\n")
    spread(nodes)
  end

  defp start_node(module, binary) do
    {:ok, _pid, node} =
      :peer.start_link(%{
        name: :peer.random_name(),
        host: ~c"127.0.0.1",
        longnames: true,
        args: Enum.flat_map(:code.get_path(), &[~c"-pa", &1])
      })

    {:module, ^module} = :erpc.call(node, :code, :load_binary, [module, ~c"bench", binary])
    node
  end

  # --- to another node ---

  defp remote(buffer, owner) do
    singles =
      for callers <- @callers do
        samples =
          Bench.rounds(
            [
              ours: fn -> each(buffer, [owner], callers, &Cluster.push(buffer, &1)) end,
              cast: fn -> each(buffer, [owner], callers, &cast(owner, buffer, &1)) end,
              call: fn -> each(buffer, [owner], callers, &call(owner, buffer, &1)) end
            ],
            @rounds
          )

        {"one by one, #{callers} callers", samples}
      end

    lists =
      for size <- @sizes do
        samples =
          Bench.rounds(
            [
              ours: fn -> lists(buffer, [owner], size) end,
              cast: fn -> each(buffer, [owner], 1, &cast(owner, buffer, &1)) end,
              call: fn -> each(buffer, [owner], 1, &call(owner, buffer, &1)) end
            ],
            @rounds
          )

        {"lists of #{size}, 1 caller", samples}
      end

    rows =
      for {what, samples} <- singles ++ lists,
          {key, other} <- [cast: "erpc.cast each", call: "erpc.call each"],
          do: {what, samples.ours, {other, samples[key]}, nil}

    Bench.comparison("an item", rows, "Cluster")
  end

  # Nobody is told whether it was accepted.
  defp cast(owner, buffer, item), do: :erpc.cast(owner, Queue, :push, [buffer, item])
  defp call(owner, buffer, item), do: :ok = :erpc.call(owner, Queue, :push, [buffer, item])

  defp each(buffer, owners, callers, push) do
    until_accepted(buffer, owners, @singles, fn ->
      Bench.run(callers, @singles, fn caller -> times(div(@singles, callers), caller, push) end)
    end)
  end

  defp times(0, _caller, _push), do: :ok

  defp times(n, caller, push) do
    push.({caller, n})
    times(n - 1, caller, push)
  end

  defp lists(buffer, owners, size) do
    lists = for l <- 1..div(@lists, size), do: for(n <- 1..size, do: {l, n})

    until_accepted(buffer, owners, @lists, fn ->
      Bench.run(1, @lists, fn _caller -> Enum.each(lists, &(:ok = Cluster.push(buffer, &1))) end)
    end)
  end

  # Nanoseconds of wall time for an item.
  defp until_accepted(buffer, owners, items, work) do
    before = accepted(buffer, owners)
    started = System.monotonic_time()
    work.()
    await(buffer, owners, before + items)
    ns = System.convert_time_unit(System.monotonic_time() - started, :native, :nanosecond)
    ns / items
  end

  defp await(buffer, owners, expected) do
    if accepted(buffer, owners) < expected, do: await(buffer, owners, expected)
  end

  defp accepted(buffer, owners) do
    Enum.sum(for owner <- owners, do: :erpc.call(owner, ClusterPeer, :accepted, [buffer]))
  end

  # --- over several ---

  defp spread(peers) do
    buffers =
      for count <- 1..5 do
        buffer = :"bench_cluster_#{count}"
        others = Enum.take(peers, count - 1)
        for peer <- others, do: :ok = :erpc.call(peer, ClusterPeer, :start, [buffer])
        {:ok, _pid} = Cluster.start_link(ClusterPeer.options(buffer))
        :ok = Cluster.await_nodes(buffer, count)
        {count, buffer, [node() | others]}
      end

    rows =
      for {what, take} <- [
            {"one by one", &each(&1, &2, 1, fn item -> :ok = Cluster.push(&1, item) end)},
            {"lists of 100", &lists(&1, &2, 100)},
            {"lists of 1000", &lists(&1, &2, 1_000)}
          ] do
        samples =
          for {count, buffer, nodes} <- buffers, do: {count, fn -> take.(buffer, nodes) end}

        taken = Bench.rounds(samples, @rounds)
        [what | for(count <- 1..5, do: Bench.spread(taken[count]))]
      end

    Bench.table(["", "1 node", "2", "3", "4", "5"], rows)
  end
end

Bench.Cluster.run(peer_module, peer_binary)
