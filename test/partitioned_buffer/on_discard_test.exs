defmodule PartitionedBuffer.OnDiscardTest do
  # Whoever is to be told of what was given up: once for each entry, in a process of its own, in time.
  use PartitionedBuffer.BoundsCase, async: true

  @moduletag :capture_log

  def gated(batch, reason, test) do
    send(test, {:discarding, self(), reason, batch})

    receive do
      {:return, fun} -> fun.()
    end
  end

  defp next_call do
    assert_receive {:discarding, pid, reason, batch}, 5_000
    {pid, reason, numbers(batch)}
  end

  defp return(pid, fun \\ fn -> :ok end), do: send(pid, {:return, fun})

  defp failing!(kind, opts \\ []) do
    defaults = [
      processor: fn _batch -> {:error, :no} end,
      processing_batch_size: 2,
      on_discard: {__MODULE__, :gated, [self()]}
    ]

    start!(kind, Keyword.merge(defaults, opts))
  end

  for kind <- [:queue, :map] do
    @kind kind

    describe "on_discard of a #{kind}" do
      test "is called with each batch, one after the other, beside the processing of others" do
        name = failing!(@kind)
        :ok = write(@kind, name, [1, 2, 3, 4])
        :ok = PartitionedBuffer.flush(name)
        {pid, :failed, one} = next_call()
        :ok = PartitionedBuffer.await_empty(name)
        assert pid not in [Process.whereis(Names.partition(name, 0)), self()]
        refute_received {:discarding, _, _, _}
        assert %{discarded: %{failed: 4}} = assert_nothing_held(name)
        return(pid)
        {pid, :failed, other} = next_call()
        return(pid)
        assert Enum.sort(one ++ other) == [1, 2, 3, 4]
      end

      test "may be a function, and is changed while the buffer runs" do
        test = self()

        name =
          failing!(@kind, on_discard: fn batch, reason -> send(test, {:one, reason, batch}) end)

        :ok = write(@kind, name, [1])
        PartitionedBuffer.sync_flush(name)
        assert_receive {:one, :failed, [_]}, 5_000
        PartitionedBuffer.update_options(name, on_discard: {BoundsCase, :tell, [test]})
        :ok = write(@kind, name, [1])
        PartitionedBuffer.sync_flush(name)
        assert_receive {:given_up, _, :failed, [_]}, 5_000
        PartitionedBuffer.update_options(name, on_discard: nil)
        :ok = write(@kind, name, [1])
        PartitionedBuffer.sync_flush(name)
        assert %{discarded: %{failed: 3}} = assert_nothing_held(name)
        refute_received {:given_up, _, _, _}
      end

      test "that fails is told of, and not called again with the same" do
        name = failing!(@kind)

        for {fun, reason} <- [
              {fn -> raise "no" end, RuntimeError},
              {fn -> throw(:no) end, :nocatch},
              {fn -> exit(:no) end, :no},
              {fn -> Process.exit(self(), :kill) end, :killed}
            ] do
          :ok = write(@kind, name, [1, 2])
          PartitionedBuffer.sync_flush(name)
          {pid, :failed, numbers} = next_call()
          assert Enum.sort(numbers) == [1, 2]
          return(pid, fun)

          assert {%{system_time: _}, %{buffer: ^name, reason: told}} =
                   next_event([:on_discard_failed])

          assert inspect(told) =~ inspect(reason)
        end

        refute_received {:discarding, _, _, _}
      end

      test "that takes too long is killed, and the next one follows" do
        name = failing!(@kind, processing_timeout_ms: 50)
        :ok = write(@kind, name, [1, 2, 3, 4])
        PartitionedBuffer.sync_flush(name)
        {pid, :failed, _} = next_call()
        assert await_down(pid) == :killed
        assert {_, %{reason: :timeout}} = next_event([:on_discard_failed])
        {pid, :failed, _} = next_call()
        return(pid)
      end

      test "goes on when the partition's process is killed, and is bounded all the same" do
        name = failing!(@kind, processing_timeout_ms: 100)
        :ok = write(@kind, name, [1, 2, 3, 4])
        PartitionedBuffer.sync_flush(name)
        {pid, :failed, one} = next_call()
        partition = partition(name)
        kill(partition)
        await_successor(Names.partition(name, 0), partition)
        {other, :failed, two} = next_call()
        assert Enum.sort(one ++ two) == [1, 2, 3, 4]
        return(other)
        assert await_down(pid) == :killed
        refute_received {:discarding, _, _, _}
      end

      test "gets what is left when the time for stopping is up, and all before the end" do
        name =
          failing!(@kind,
            processor: fn _ -> pause(10_000) end,
            processing_timeout_ms: 50,
            on_discard: {BoundsCase, :tell, [self()]}
          )

        :ok = write(@kind, name, Enum.to_list(1..7))
        :ok = PartitionedBuffer.stop(name, :normal, :infinity)
        told = told()
        assert told |> Enum.flat_map(&numbers(elem(&1, 1))) |> Enum.sort() == Enum.to_list(1..7)
        assert Enum.all?(told, &(elem(&1, 0) in [:shutdown, :timeout]))
        assert {%{left: 7}, _} = next_event([:stop])
      end

      test "gets an adopted buffer's, which its former supervisor left" do
        name =
          start!(
            @kind,
            [
              processor: fn _ -> {:error, :no} end,
              on_discard: {__MODULE__, :gated, [self()]},
              processing_batch_size: 2
            ],
            restart: :permanent
          )

        :ok = write(@kind, name, [1, 2, 3, 4])
        PartitionedBuffer.sync_flush(name)
        {_pid, :failed, one} = next_call()
        supervisor = Process.whereis(Names.supervisor(name))
        kill(supervisor)
        await_successor(Names.supervisor(name), supervisor)
        {pid, :failed, two} = next_call()
        return(pid)
        assert Enum.sort(one ++ two) == [1, 2, 3, 4]
      end
    end
  end

  @tag timeout: 60_000
  test "that hangs does not keep a buffer from ending" do
    name = failing!(:queue, processing_timeout_ms: 100, processing_batch_size: 1)
    Queue.push(name, Enum.to_list(1..500))
    # A call takes 100 ms, and there are 500.
    :ok = Queue.stop(name)
    assert {_, %{reason: :shutdown}} = last_event([:on_discard_failed])
    assert Process.whereis(Names.supervisor(name)) == nil
  end

  defp last_event(event, last \\ nil) do
    receive do
      {:event, ^event, measurements, metadata} -> last_event(event, {measurements, metadata})
    after
      0 -> last
    end
  end
end
