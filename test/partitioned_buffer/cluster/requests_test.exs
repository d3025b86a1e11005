defmodule PartitionedBuffer.Cluster.RequestsTest do
  use ExUnit.Case, async: true

  alias PartitionedBuffer.Cluster.Requests

  test "a request is written once, and one that was refused again" do
    requests = Requests.new(10)
    assert Requests.once(requests, :a, fn -> :ok end) == :ok
    assert Requests.once(requests, :a, fn -> flunk("written again") end) == :repeated
    assert Requests.once(requests, :b, fn -> {:refused, :full} end) == {:refused, :full}
    assert Requests.once(requests, :b, fn -> :ok end) == :ok
    assert_raise RuntimeError, fn -> Requests.once(requests, :c, fn -> raise "no" end) end
    assert Requests.once(requests, :c, fn -> :ok end) == :ok
  end

  test "the last ones are remembered, and no more" do
    requests = Requests.new(3)
    for id <- 1..10, do: :ok = Requests.once(requests, id, fn -> :ok end)
    assert Requests.size(requests) == 3
    assert :ets.info(requests.ids, :size) == 3
    for id <- 8..10, do: assert(Requests.once(requests, id, fn -> :ok end) == :repeated)
    assert Requests.once(requests, 7, fn -> :ok end) == :ok
  end

  test "one that is made again while the first is being written waits for it" do
    requests = Requests.new(3)
    test = self()

    slow = fn ->
      send(test, {:writing, self()})

      receive do
        {:go, result} -> result
      end
    end

    first = spawn(fn -> Requests.once(requests, :a, slow) end)
    assert_receive {:writing, ^first}
    second = Task.async(fn -> Requests.once(requests, :a, fn -> flunk("written again") end) end)
    third = Task.async(fn -> Requests.once(requests, :a, fn -> flunk("written again") end) end)
    send(first, {:go, :ok})
    assert Task.await_many([second, third]) == [:repeated, :repeated]
  end

  test "of one that was killed while it was writing nothing is claimed" do
    requests = Requests.new(3)
    test = self()

    first =
      spawn(fn ->
        Requests.once(requests, :a, fn ->
          send(test, :writing)

          receive do
            :never -> :ok
          end
        end)
      end)

    assert_receive :writing
    Process.exit(first, :kill)
    assert catch_exit(Requests.once(requests, :a, fn -> :ok end)) == {:unknown, :a}
  end
end
