defmodule PartitionedBuffer.Netns do
  @moduledoc false
  # Network namespaces on this machine, connected by a bridge, each by a link that can be cut: packets are
  # then dropped without a word, as when a cable is pulled. Needs Linux, `ip`, and root.

  @doc "Why there can be none, or `nil`."
  def impossible do
    name = "pbtry#{System.pid()}"

    cond do
      System.find_executable("ip") == nil ->
        "needs `ip` of iproute2"

      ip(["netns", "add", name]) != :ok ->
        "needs to be root, and allowed to add network namespaces"

      ip(["netns", "del", name]) != :ok ->
        "could not remove a network namespace"

      true ->
        nil
    end
  end

  @doc "So many namespaces: `[%{name, host, link}]`. They are removed by `remove/1`."
  def create(count) do
    # Names of links are short. A namespace's own goes a moment after it.
    tag =
      "#{rem(String.to_integer(System.pid()), 10_000)}n#{rem(System.unique_integer([:positive]), 100)}"

    bridge = "pbbr#{tag}"
    subnet = "10.213.#{:erlang.phash2(tag, 250)}"
    :ok = ip(["link", "add", bridge, "type", "bridge"])
    :ok = ip(["link", "set", bridge, "up"])

    for n <- 1..count do
      {name, link} = {"pbns#{tag}x#{n}", "pbv#{tag}x#{n}"}
      host = "#{subnet}.#{n}"
      :ok = ip(["netns", "add", name])
      :ok = ip(["link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name])
      :ok = ip(["link", "set", link, "master", bridge])
      :ok = ip(["link", "set", link, "up"])
      :ok = ip(["-n", name, "addr", "add", host <> "/24", "dev", "eth0"])
      :ok = ip(["-n", name, "link", "set", "eth0", "up"])
      :ok = ip(["-n", name, "link", "set", "lo", "up"])
      %{name: name, host: host, link: link, bridge: bridge}
    end
  end

  @doc "Takes the link out of the bridge: nothing comes or goes any more, and nobody is told."
  def cut(%{link: link}), do: :ok = ip(["link", "set", link, "nomaster"])

  def heal(%{link: link, bridge: bridge}), do: :ok = ip(["link", "set", link, "master", bridge])

  @doc "What makes a program run in there."
  def exec(%{name: name}), do: ["ip", "netns", "exec", name]

  def remove(namespaces) do
    for %{name: name} <- namespaces do
      # `epmd` stays behind.
      {pids, 0} = System.cmd("ip", ["netns", "pids", name])
      for pid <- String.split(pids), do: System.cmd("kill", ["-9", pid], stderr_to_stdout: true)
      :ok = ip(["netns", "del", name])
    end

    for %{link: link} <- namespaces, do: ip(["link", "del", link])

    for bridge <- namespaces |> Enum.map(& &1.bridge) |> Enum.uniq(),
        do: ip(["link", "del", bridge])

    :ok
  end

  defp ip(args) do
    case System.cmd("ip", args, stderr_to_stdout: true) do
      {_out, 0} -> :ok
      {out, _status} -> {:error, out}
    end
  end
end
