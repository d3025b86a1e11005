defmodule PartitionedBuffer.Cluster.RendezvousTest do
  use ExUnit.Case, async: true

  alias PartitionedBuffer.Cluster.Rendezvous
  alias PartitionedBuffer.Router

  defp members(numbers), do: for(n <- numbers, do: {:"node#{n}@host", 1})
  defp owners(members), do: members |> Rendezvous.owners() |> Tuple.to_list()

  test "no members own nothing, one owns all" do
    assert Rendezvous.owners([]) == {}
    assert [{:node1@host, 1}] |> owners() |> Enum.uniq() == [:node1@host]
  end

  test "owners do not depend on the order in which members are known" do
    members = members(1..5)
    assert Rendezvous.owners(members) == Rendezvous.owners(Enum.reverse(members))
  end

  test "when a node leaves, only its slots move; when it joins, it takes only from others what it gets" do
    five = owners(members(1..5))
    four = owners(members(1..4))

    for {before, now} <- Enum.zip(five, four), before != now do
      assert before == :node5@host
    end

    refute :node5@host in four
  end

  test "shares are even, or go by the weights" do
    for {_node, count} <- members(1..4) |> owners() |> Enum.frequencies() do
      assert_in_delta count, 1024, 150
    end

    weighted = Enum.frequencies(owners([{:a@h, 1}, {:b@h, 3}]))
    assert_in_delta weighted[:b@h], 3072, 150
  end

  test "the next best is the owner once the best is gone" do
    members = members(1..5)

    for slot <- 0..10 do
      owner = elem(Rendezvous.owners(members), slot)
      left = List.keydelete(members, owner, 0)
      assert Rendezvous.best(slot, left) == elem(Rendezvous.owners(left), slot)
    end
  end

  test "another node finds the partition of an entry by its hash alone" do
    for key <- [nil, :same, &elem(&1, 1), {__MODULE__, :key, [7]}], n <- [1, 2, 3, 7, 32] do
      entries = for i <- 1..50, do: {:item, i}
      hashes = Enum.map(entries, &Router.hash(key, &1))

      assert Router.indexes(%Router.Hashes{hashes: hashes}, entries, n) ==
               Enum.map(entries, &Router.index(key, &1, n))
    end
  end

  def key({:item, i}, add), do: i + add

  test "keys of one slot are in all partitions" do
    partitions =
      for i <- 1..100_000,
          hash = Router.hash(nil, i),
          Rendezvous.slot(hash) == 17,
          uniq: true,
          do: rem(hash, 4)

    assert Enum.sort(partitions) == [0, 1, 2, 3]
  end
end
