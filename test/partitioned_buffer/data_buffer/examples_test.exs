defmodule PartitionedBuffer.DataBuffer.ExamplesTest do
  # What the documentation of DataBuffer 0.7 shows, in an application of our own.
  use PartitionedBuffer.DataBufferCase, async: true

  alias PartitionedBuffer.DataBuffer.ExamplesTest.{Clicks, Readings}

  defmodule Clicks do
    use PartitionedBuffer.DataBuffer

    def start_link(opts), do: DataBuffer.start_link(__MODULE__, opts)

    @impl DataBuffer
    def handle_flush(clicks, opts) do
      # Where a repository would insert them.
      {target, test} = Keyword.get(opts, :meta)
      send(test, {target, Enum.to_list(clicks), Keyword.get(opts, :size)})
      :ok
    end
  end

  defmodule Readings do
    use PartitionedBuffer.DataBuffer

    def start_link(opts), do: DataBuffer.start_link(__MODULE__, opts)

    @impl DataBuffer
    def handle_flush(readings, opts) do
      %{to: to, test: test} = opts[:meta]

      case to do
        "archive" -> send(test, {:archived, Enum.sum(readings)})
        "dashboard" -> send(test, {:shown, Enum.max(readings)})
      end
    end
  end

  test "buffers of several modules in a supervision tree, each with its options" do
    children = [
      {Clicks,
       name: Clicks,
       partitions: 4,
       max_size: 1_000,
       flush_interval: 5_000,
       flush_meta: {:clicks, self()}},
      {Readings, name: Readings, max_size: 5_000, flush_meta: %{to: "archive", test: self()}}
    ]

    {:ok, supervisor} = Supervisor.start_link(children, strategy: :one_for_one)

    # Items, and many of them at once.
    assert DataBuffer.insert(Clicks, %{on: "sign up", by: 1}) == :ok
    assert DataBuffer.insert_batch(Clicks, for(by <- 2..4, do: %{on: "buy", by: by})) == :ok
    assert DataBuffer.insert_batch(Readings, [20.5, 21.5]) == :ok

    # How it stands.
    assert DataBuffer.size(Clicks) == 4
    assert [%{flush_size: 1_000, flush_interval: 5_000} | _] = info = DataBuffer.info(Clicks)
    assert length(info) == 4

    # By hand.
    assert DataBuffer.flush(Clicks) == :ok
    assert_receive {:clicks, [%{on: "sign up", by: 1}], 1}, 5_000
    assert_receive {:clicks, [%{by: 2}, %{by: 3}, %{by: 4}], 3}, 5_000
    await(fn -> PartitionedBuffer.info(Clicks).in_flight == 0 end)
    assert DataBuffer.size(Clicks) == 0

    # At the end, what is left.
    assert Supervisor.stop(supervisor) == :ok
    assert_received {:archived, 42.0}
  end

  test "a flush that goes by its meta" do
    for {to, expected} <- [{"archive", {:archived, 6}}, {"dashboard", {:shown, 3}}] do
      name = unique_name()
      {:ok, _pid} = Readings.start_link(name: name, flush_meta: %{to: to, test: self()})
      DataBuffer.insert_batch(name, [1, 2, 3])
      DataBuffer.flush(name)
      assert_receive ^expected, 5_000
      DataBuffer.stop(name)
    end
  end

  test "small buffers for tests: flushed at once, looked at without a flush" do
    {:ok, _pid} =
      Clicks.start_link(
        name: :clicks_of_a_test,
        max_size: 10,
        flush_interval: 100,
        flush_meta: {:c, self()}
      )

    DataBuffer.insert(:clicks_of_a_test, %{id: 1})
    DataBuffer.insert(:clicks_of_a_test, %{id: 2})
    results = DataBuffer.sync_flush(:clicks_of_a_test)
    assert length(results) == 1
    assert_received {:c, [%{id: 1}, %{id: 2}], 2}
    assert DataBuffer.dump(:clicks_of_a_test) == []
    DataBuffer.stop(:clicks_of_a_test)
  end

  test "a handler of the events finds the size of a flush" do
    name = unique_name()
    listen(name)
    {:ok, _pid} = Clicks.start_link(name: name, flush_meta: {:c, self()})
    DataBuffer.insert_batch(name, 1..3)
    DataBuffer.sync_flush(name)

    assert_received {:event, [:data_buffer, :flush, :stop], %{duration: _},
                     %{size: 3, buffer: ^name}}

    DataBuffer.stop(name)
  end

  test "nothing by itself, for tests of an application" do
    alias PartitionedBuffer.Testing
    name = unique_name()
    start_supervised!({Clicks, name: name, manual: true, max_size: 1, flush_meta: {:c, self()}})
    for item <- 1..5, do: DataBuffer.insert(name, item)
    assert DataBuffer.size(name) == 5
    assert Testing.assert_buffered(name, 3)
    assert Testing.drain(name) == 5
    assert_received {:c, [1, 2, 3, 4, 5], 5}
  end
end
