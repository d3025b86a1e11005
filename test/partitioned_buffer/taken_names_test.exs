defmodule PartitionedBuffer.TakenNamesTest do
  # A name that something else has already: who starts is told at once, and nothing is left open; who asks for a
  # pool of that name is told that there is none, and what has the name does not notice.
  use ExUnit.Case, async: true

  import PartitionedBuffer.GenPoolCase, only: [eventually: 1]

  alias PartitionedBuffer.{BufferCase, Cluster, GenBuffer, GenPool, Map, Names, Native, Queue}

  defmodule Pool do
    use PartitionedBuffer.GenPool

    @impl true
    def init(arg), do: {:ok, arg}
  end

  # What waited for a name to become free took this long.
  @waited_ms 5_000

  setup do
    %{name: BufferCase.unique_name()}
  end

  defp at_once(fun) do
    started = System.monotonic_time(:millisecond)
    result = fun.()
    assert System.monotonic_time(:millisecond) - started < @waited_ms
    result
  end

  # Linked, so that the test would notice if the caller was taken along.
  defp stranger!(name) do
    {:ok, pid} = Agent.start_link(fn -> nil end, name: name)
    pid
  end

  defp queue(name), do: [name: name, partitions: 2, processor: fn _ -> :ok end]

  describe "the name of something that is no pool" do
    setup %{name: name} do
      start_supervised!({Map, name: name, processor: fn _ -> :ok end})
      :ok
    end

    test "is that of no pool", %{name: name} do
      registry = Process.whereis(name)

      for pool <- [name, {name, node()}],
          {function, args} <- [
            info: [pool],
            get_state: [pool],
            get_children: [pool],
            set_pool_size: [pool, 1],
            stop: [pool],
            call: [name, :message]
          ] do
        assert {:noproc, {GenPool, ^function, _args}} = catch_exit(apply(GenPool, function, args))
      end

      assert GenPool.cast(name, :message) == {:error, :noproc}
      assert Process.whereis(name) == registry
      assert Map.put(name, :key, :value) == :ok
    end

    test "does not become that of a pool by one that was killed", %{name: other} do
      name = BufferCase.unique_name()
      pid = start_supervised!({GenPool, {Pool, nil, name: name}}, restart: :temporary)
      monitor = Process.monitor(pid)
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^monitor, :process, ^pid, :killed}
      stranger = stranger!(name)

      assert {:noproc, _call} = catch_exit(GenPool.info(name))
      assert {:noproc, _call} = catch_exit(GenPool.stop(name))
      assert Process.alive?(stranger)
      assert Process.whereis(other)
    end
  end

  test "the process of a pool is asked as such", %{name: name} do
    pid = start_supervised!({GenPool, {Pool, :state, name: name}})

    for pool <- [name, pid, {name, node()}] do
      assert %{module: Pool} = GenPool.info(pool)
      assert GenPool.get_state(pool) == :state
    end
  end

  describe "a GenBuffer under the name of a pool" do
    test "is refused at once, and opens nothing", %{name: name} do
      start_supervised!({GenPool, {Pool, :state, name: name}})
      workers = Process.whereis(Names.worker_supervisor(name))

      assert at_once(fn -> GenBuffer.start_link(name, message_handler: DocHandler) end) ==
               {:error, {:already_started, workers}}

      assert GenBuffer.info(name) == :undefined
      refute "gen_buffer:#{name}" in Native.broker_names()
      assert GenPool.get_state(name) == :state
    end

    test "and the other way around", %{name: name} do
      start_supervised!({GenBuffer, buffer: name, message_handler: DocHandler, workers: 1})
      workers = Process.whereis(Names.worker_supervisor(name))

      assert at_once(fn -> GenPool.start_link(Pool, nil, name: name) end) ==
               {:error, {:already_started, workers}}

      assert GenPool.cast(name, :message) == {:error, :noproc}
      refute "gen_pool:#{Names.broker(name)}" in Native.broker_names()
      assert GenBuffer.send_recv(name, :hello) == {:ok, :hello}
    end
  end

  describe "a process of another one's" do
    test "that has a name of a buffer's", %{name: name} do
      for {start, taken} <- [
            {&Queue.start_link(queue(&1)),
             [& &1, &Names.owner/1, &Names.task_supervisor/1, &Names.registry_partition/1] ++
               [&Names.partition_supervisor/1, &Names.partition(&1, 1)]},
            {&DocBuffer.start_link(name: &1), [& &1, &Names.owner/1]},
            {&GenBuffer.start_link(&1, message_handler: DocHandler),
             [&GenBuffer.Handle.keeper/1, &GenBuffer.Handle.manager/1]},
            {&GenPool.start_link(Pool, nil, name: &1),
             [& &1, &Names.broker/1, &Names.worker_supervisor/1, &Names.keeper(Names.broker(&1))]},
            {&GenPool.Broker.start_link(GenPool.DefaultBroker, name: &1), [&Names.keeper/1]},
            {&Cluster.start_link([module: Queue] ++ queue(&1)), [&Names.cluster_scope/1]}
          ],
          taken <- taken do
        stranger = stranger!(taken.(name))
        assert at_once(fn -> start.(name) end) == {:error, {:already_started, stranger}}
        Agent.stop(stranger)
      end

      assert_raise ArgumentError, ~r/unknown registry/, fn -> Queue.push(name, :item) end
      # It can be started as soon as the name is free.
      assert {:ok, _pid} = Queue.start_link(queue(name))
      :ok = Queue.stop(name)
    end

    test "that no supervisor has started", %{name: name} do
      test = self()

      stranger =
        spawn_link(fn ->
          Process.register(self(), name)
          send(test, :registered)
          receive do: (:never -> :ok)
        end)

      assert_receive :registered

      assert at_once(fn -> Queue.start_link(queue(name)) end) ==
               {:error, {:already_started, stranger}}
    end
  end

  test "an orphan is waited for", %{name: name} do
    test = self()

    # What its supervisor has left behind when it was killed.
    supervisor =
      spawn(fn ->
        Process.register(self(), Names.supervisor(name))

        {:ok, pid} = Agent.start(fn -> Process.register(self(), Names.task_supervisor(name)) end)

        send(test, {:orphan, pid})
      end)

    monitor = Process.monitor(supervisor)
    assert_receive {:orphan, orphan}
    assert_receive {:DOWN, ^monitor, :process, ^supervisor, _reason}

    starting =
      Task.async(fn ->
        {:ok, pid} = Queue.start_link(queue(name))
        Queue.stop(pid)
      end)

    eventually(fn -> Process.info(orphan, :monitored_by) != {:monitored_by, []} end)
    Agent.stop(orphan)
    assert Task.await(starting) == :ok
  end
end
