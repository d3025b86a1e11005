defmodule PartitionedBuffer.ClusterCase do
  @moduledoc false
  # Real nodes: each one is a VM of its own, controlled through its standard input and output, so that the tests'
  # VM need not be a node, and a node can be cut off from all others and still be asked.

  use ExUnit.CaseTemplate

  alias PartitionedBuffer.{Cluster, ClusterNode}

  @patience_ms 15_000
  @never_ms 3_600_000

  using do
    quote do
      import PartitionedBuffer.ClusterCase
      alias PartitionedBuffer.{Cluster, ClusterNode, Map, Queue}
    end
  end

  @type peer :: %{pid: pid(), node: node(), os_pid: String.t()}

  @doc "Starts so many nodes that are connected; they end with the test or the module."
  def start_nodes(count, opts \\ []) do
    peers =
      1..count
      |> Enum.map(&Task.async(fn -> start_node(Keyword.put(opts, :number, &1)) end))
      |> Task.await_many(60_000)

    Enum.each(peers, fn peer ->
      ExUnit.Callbacks.on_exit(fn -> stop_node(peer) end)
    end)

    connect(peers)
    peers
  end

  @doc """
  Starts one node. `host`: its address; `exec`: what comes before `erl`, as a list; `kernel`: parameters of the
  kernel application.
  """
  def start_node(opts) do
    name = :"pb#{opts[:number]}_#{System.pid()}_#{System.unique_integer([:positive])}"
    paths = Enum.flat_map(:code.get_path(), &[~c"-pa", &1])

    kernel =
      Enum.flat_map(opts[:kernel] || [], fn {k, v} -> [~c"-kernel", ~c"#{k}", ~c"#{v}"] end)

    {:ok, pid, node} =
      :peer.start(
        Elixir.Map.merge(
          %{
            name: name,
            host: to_charlist(opts[:host] || "127.0.0.1"),
            longnames: true,
            connection: :standard_io,
            wait_boot: 60_000,
            # A scheduler is enough, and the machine may have few.
            args: [~c"-setcookie", ~c"partitioned_buffer", ~c"+S", ~c"1:1"] ++ kernel ++ paths
          },
          exec(opts[:exec])
        )
      )

    peer = %{pid: pid, node: node, os_pid: nil}
    _result = on(peer, ClusterNode, :prepare, [])
    %{peer | os_pid: peer |> on(:os, :getpid, []) |> to_string()}
  end

  defp exec(nil), do: %{}

  defp exec([program | args]) do
    erl = :os.find_executable(~c"erl")
    program = :os.find_executable(to_charlist(program))
    %{exec: {program, Enum.map(args, &to_charlist/1) ++ [erl]}}
  end

  @doc "Ends a node that may have ended, at once."
  def stop_node(peer) do
    signal(peer, "KILL")
    :peer.stop(peer.pid)
  catch
    :exit, _reason -> :ok
  end

  @doc "Kills a node's operating system process (`KILL`), or stops it (`STOP`) and lets it go on (`CONT`)."
  def signal(%{os_pid: os_pid}, signal) do
    System.cmd("kill", ["-" <> signal, os_pid], stderr_to_stdout: true)
    if signal == "STOP", do: wait_until(fn -> stopped?(os_pid) end)
    :ok
  end

  # All of its threads.
  defp stopped?(os_pid) do
    "/proc/#{os_pid}/task/*/stat"
    |> Path.wildcard()
    |> Enum.all?(
      &(&1
        |> File.read!()
        |> String.split(") ")
        |> List.last()
        |> String.starts_with?("T"))
    )
  end

  def connect(peers) do
    for one <- peers, other <- peers, one.node < other.node do
      wait_until(fn -> on(one, Node, :connect, [other.node]) == true end)
    end
  end

  @doc "Calls a function on a node."
  def on(%{pid: pid}, module, function, args), do: :peer.call(pid, module, function, args, 60_000)

  @doc "Starts a queue (or `module`) on each of these nodes and waits until all know of all."
  def start_cluster(peers, opts) do
    buffer = :"cluster_#{System.unique_integer([:positive])}"
    Enum.each(peers, &start_member(&1, buffer, opts))
    await_members(peers, buffer, Enum.map(peers, & &1.node))
    buffer
  end

  @doc "The same on one node."
  def start_member(peer, buffer, opts) do
    :ok = on(peer, ClusterNode, :start, [member_options(buffer, opts)])
  end

  def member_options(buffer, opts) do
    Keyword.merge(
      [
        module: PartitionedBuffer.Queue,
        name: buffer,
        partitions: 2,
        processing_interval_ms: @never_ms,
        processor: {ClusterNode, :record, [buffer]}
      ],
      opts
    )
  end

  def await_members(peers, buffer, nodes) do
    nodes = Enum.sort(nodes)

    for peer <- peers do
      wait_until(fn -> peer |> on(Cluster, :nodes, [buffer]) |> Keyword.keys() == nodes end)
    end

    :ok
  end

  @doc "Items that this node owns, so many, out of `{tag, n}`."
  def owned_by(peer, buffer, node, count, tag \\ :item) do
    items = for n <- 1..(count * 40 + 200), do: {tag, n}
    owners = on(peer, ClusterNode, :owners, [buffer, items])
    items |> Enum.filter(&(owners[&1] == node)) |> Enum.take(count)
  end

  @doc "All that was processed, on all these nodes."
  def recorded(peers, buffer), do: Enum.flat_map(peers, &on(&1, ClusterNode, :recorded, [buffer]))

  @doc "The figures of each node that has the buffer, every entry of them accounted for."
  def figures(peers, buffer) do
    for peer <- peers do
      info = on(peer, PartitionedBuffer, :info, [buffer])
      PartitionedBuffer.BufferCase.assert_accounted(info)
    end
  end

  def sum(infos, key), do: infos |> Enum.map(& &1[key]) |> Enum.sum()

  @doc "Waits until an answer is true."
  def wait_until(condition),
    do: PartitionedBuffer.FaultHelpers.wait_until(condition, @patience_ms)
end
