defmodule PartitionedBuffer.Cluster.Rendezvous do
  @moduledoc false
  # Which node owns what: rendezvous hashing (Thaler and Ravishankar 1998), with weights by the logarithm
  # method (Schindelhauer and Schomaker 2005): the owner is the node with the highest `-weight / ln(h)`, h
  # being a hash of the node and of what is owned, between 0 and 1.
  #
  # What is owned are slots, not keys: the upper bits of a key's hash. So the owners are worked out once for
  # each change of the members, and finding that of a key is the same few instructions for any number of nodes.
  # (The partition on the node is taken from the hash's remainder, so the two don't go together.)
  #
  # Invariant: nodes that know of the same members have the same owners; when a node joins or leaves, only
  # slots that it gets or had change their owner.

  import Bitwise

  alias PartitionedBuffer.Router

  @bits 12
  @slots 1 <<< @bits
  @shift 32 - @bits
  @range 4_294_967_296

  @type members :: [{node(), weight :: number()}]
  @type slot :: non_neg_integer()

  @doc "The owner of each slot; empty if there are no members."
  @spec owners(members()) :: tuple()
  def owners([]), do: {}
  def owners([{node, _weight}]), do: Tuple.duplicate(node, @slots)

  def owners(members) do
    0..(@slots - 1) |> Enum.map(fn slot -> best(slot, members) end) |> List.to_tuple()
  end

  @doc "The slot of what has this hash."
  @spec slot(Router.hash()) :: slot()
  def slot(hash), do: hash >>> @shift

  @doc "The owner among these members, or `nil` if there are none."
  @spec best(slot(), members()) :: node() | nil
  def best(_slot, []), do: nil

  def best(slot, members) do
    # A tie would be that of two nodes' hashes: the name decides.
    members |> Enum.max_by(fn {node, weight} -> {score(slot, node, weight), node} end) |> elem(0)
  end

  defp score(slot, node, weight) do
    hash = (:erlang.phash2({slot, node}, @range) + 0.5) / @range
    -weight / :math.log(hash)
  end
end
