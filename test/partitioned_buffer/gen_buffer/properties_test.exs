defmodule PartitionedBuffer.GenBuffer.PropertiesTest do
  # Sequences of calls against a model.
  #
  #   * While there is no worker, messages wait in the order of the buffer's type, up to its bound.
  #   * As soon as there is one, all that wait are handled, and each sender gets its answer.
  #   * Every call returns what the model says, whatever workers were killed in between.
  use ExUnit.Case, async: true
  use PartitionedBuffer.GenBufferCase

  alias PartitionedBuffer.Property

  @moduletag :capture_log

  defp call do
    :proper_types.frequency([
      {6, {:send, :proper_types.any()}},
      {2, {:send_to, :proper_types.oneof([:me, :other])}},
      {2, {:send_recv, :proper_types.any()}},
      {1, :fail},
      {2, :eval},
      {1, :poll},
      {2, :kill},
      {2, :incr},
      {2, :decr},
      {2, {:set, :proper_types.integer(0, 4)}},
      {2, :size},
      {1, :restart}
    ])
  end

  defp options do
    :proper_types.oneof([
      [buffer_type: :fifo],
      [buffer_type: :lifo],
      [buffer_type: :ring, buffer_size: 3],
      [max: 3, overflow: :reject],
      [max: 3, overflow: :drop_oldest],
      [max: 3, overflow: :drop_newest],
      [n_partitions: 3]
    ])
  end

  test "a buffer is its model" do
    Process.flag(:trap_exit, true)
    generator = {options(), :proper_types.list(call()), :proper_types.integer(0, 2)}

    Property.check(generator, [tests: 400, size: 60], fn {opts, calls, workers} ->
      name = PartitionedBuffer.BufferCase.unique_name()

      start = [message_handler: Handler, workers: workers, send_replies: true] ++ opts

      {:ok, pid} = GenBuffer.start_link(name, start)

      state = %{
        buffer: name,
        start: start,
        opts: opts,
        workers: workers,
        waiting: [],
        pid: pid,
        accepted: 0
      }

      state = Enum.reduce(calls, state, &(&1 |> step(&2) |> settle()))
      drained = state.workers > 0 or state.waiting == []
      assert sorted(GenBuffer.stop(name, 0), opts) == if(drained, do: :ok, else: left(state))

      for {ref, _message} <- state.waiting,
          do: assert(GenBuffer.recv(name, ref, 1_000) == {:error, :shutdown})

      assert GenBuffer.size(name) == :undefined
      flush_exits()
    end)
  end

  # What is handed back begins with the oldest, whatever the type; with several partitions the order is open.
  defp left(state), do: sorted({:left, Enum.map(state.waiting, &elem(&1, 1))}, state.opts)

  defp sorted({:left, messages}, n_partitions: _several), do: {:left, Enum.sort(messages)}
  defp sorted(other, _opts), do: other

  defp step({:send, message}, state),
    do: sent(state, {:m, message}, &GenBuffer.send(state.buffer, &1))

  defp step({:send_to, :me}, state),
    do: sent(state, :to_me, &GenBuffer.send(state.buffer, &1, self()))

  defp step({:send_to, :other}, state) do
    test = self()
    other = spawn_link(fn -> receive(do: (answer -> send(test, answer))) end)
    sent(state, :to_other, &GenBuffer.send(state.buffer, &1, other))
  end

  defp step({:send_recv, _message}, %{workers: 0} = state) do
    # A full buffer drops or refuses it, or the time is up.
    case {GenBuffer.send_recv(state.buffer, :in_vain, 0), room?(state)} do
      {{:error, :timeout}, true} -> state
      {{:error, reason}, false} when reason in [:full, :timeout] -> evicted(state)
    end
  end

  defp step({:send_recv, message}, state) do
    assert GenBuffer.send_recv(state.buffer, {:m, message}) == {:ok, {:handled, {:m, message}}}
    state
  end

  defp step(:fail, %{workers: 0} = state), do: state

  defp step(:fail, state) do
    assert GenBuffer.send_recv(state.buffer, {:call, fn -> exit(:no) end}) == {:error, :no}
    state
  end

  defp step(:eval, %{workers: 0} = state) do
    assert GenBuffer.eval(state.buffer, 1, 1) == :no_available_workers
    state
  end

  defp step(:eval, state) do
    assert GenBuffer.eval(state.buffer, 1, :infinity) == {:handled, 1}
    state
  end

  defp step(:poll, state) do
    expected = if state.workers == 0, do: {:error, :no_available_workers}, else: :ok
    await(fn -> GenBuffer.poll(state.buffer) == expected end)
    state
  end

  defp step(:kill, state) do
    with {:ok, pid} <- GenBuffer.get_worker(state.buffer) do
      monitor = Process.monitor(pid)
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^monitor, :process, ^pid, _reason}
    end

    state
  end

  defp step(:incr, state) do
    assert {:ok, _pid} = GenBuffer.incr_worker(state.buffer)
    %{state | workers: state.workers + 1}
  end

  defp step(:decr, %{workers: 0} = state) do
    assert GenBuffer.decr_worker(state.buffer) == {:error, :no_available_workers}
    state
  end

  defp step(:decr, state) do
    assert GenBuffer.decr_worker(state.buffer) == :ok
    %{state | workers: state.workers - 1}
  end

  defp step({:set, count}, state) do
    assert {:ok, pids} = GenBuffer.set_workers(state.buffer, count)
    assert length(pids) == count
    %{state | workers: count}
  end

  defp step(:size, state) do
    if state.workers == 0, do: assert(GenBuffer.size(state.buffer) == length(state.waiting))
    _info = figures(state.buffer)
    state
  end

  # Its supervisor is killed, and started again under the same name.
  defp step(:restart, %{buffer: buffer, pid: pid} = state) do
    monitor = Process.monitor(pid)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^monitor, :process, ^pid, _reason}
    opts = Keyword.put(state.start, :workers, state.workers)
    {:ok, pid} = GenBuffer.start_link(buffer, opts)
    %{state | pid: pid}
  end

  defp sent(state, message, send) do
    case {send.(message), room?(state) or state.workers > 0} do
      {{:error, :full}, false} ->
        assert state.opts[:overflow] == :reject
        state

      {ref, true} when is_reference(ref) ->
        %{state | waiting: state.waiting ++ [{ref, message}]}

      {ref, false} ->
        if state.opts[:overflow] == :drop_newest do
          assert GenBuffer.recv(state.buffer, ref, 1_000) == {:error, :full}
          state
        else
          state = evicted(state)
          %{state | waiting: state.waiting ++ [{ref, message}]}
        end
    end
  end

  # The oldest has made room for a new one.
  defp evicted(state) do
    if drops_oldest?(state) do
      [{ref, _message} | waiting] = state.waiting
      assert GenBuffer.recv(state.buffer, ref, 1_000) == {:error, :full}
      %{state | waiting: waiting}
    else
      state
    end
  end

  defp drops_oldest?(%{opts: opts}),
    do: opts[:buffer_type] == :ring or opts[:overflow] == :drop_oldest

  defp room?(%{opts: opts, waiting: waiting}),
    do: length(waiting) < (opts[:buffer_size] || opts[:max] || :infinity)

  # With workers, nothing waits.
  defp settle(%{workers: 0} = state), do: state

  defp settle(state) do
    for {ref, message} <- state.waiting do
      case GenBuffer.recv(state.buffer, ref, 5_000) do
        {:ok, {:handled, ^message}} -> :ok
        # The worker was killed with it, or it found no room before a worker came.
        {:error, {:worker_down, _reason}} -> :ok
        {:error, :full} -> assert state.opts[:max] || state.opts[:buffer_size]
      end
    end

    %{state | waiting: []}
  end

  defp flush_exits do
    receive do
      {:EXIT, _pid, _reason} -> flush_exits()
    after
      0 -> :ok
    end
  end
end
