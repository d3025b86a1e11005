defmodule PartitionedBuffer.GenPoolContractTest do
  # One contract, two implementations: the same callbacks under a `GenServer` and under pools of every kind, with
  # every value that a callback may return. Where a pool differs on purpose, the test says how.
  use ExUnit.Case, async: true

  import PartitionedBuffer.GenPoolCase, except: [call: 2, call: 3]

  alias PartitionedBuffer.GenPool
  alias PartitionedBuffer.GenPoolCase.Scripted

  @moduletag capture_log: true

  @kinds [
    gen_server: nil,
    exclusive: [pool_size: 1],
    exclusive_of_three: [pool_size: 3],
    optimistic: [pool_size: 1, isolation: :optimistic],
    optimistic_of_three: [pool_size: 3, isolation: :optimistic],
    ets: [pool_size: 2, backend: GenPool.Backend.ETS],
    own_state: [pool_size: 1, shared_state?: false]
  ]

  setup context do
    Process.flag(:trap_exit, true)
    {:ok, kind: context[:kind]}
  end

  # --- how each is used -------------------------------------------------------------------------------

  defp start(kind, init) do
    name = unique_name("contract")

    started =
      case @kinds[kind] do
        nil -> GenServer.start_link(Scripted, init, name: name)
        opts -> GenPool.start_link(Scripted, init, [name: name] ++ opts)
      end

    with {:ok, pid} <- started, do: {:ok, name, pid}
  end

  defp start!(kind, state) do
    {:ok, name, pid} = start(kind, fn -> {:ok, state} end)
    {name, pid}
  end

  defp call(:gen_server, name, fun), do: caught(fn -> GenServer.call(name, fun) end)
  defp call(_pool, name, fun), do: caught(fn -> GenPool.call(name, fun) end)

  defp caught(fun) do
    fun.()
  catch
    :exit, {reason, {_module, :call, _args}} -> {:exit, reason}
  end

  defp cast(:gen_server, name, fun), do: GenServer.cast(name, fun)
  defp cast(_pool, name, fun), do: GenPool.cast(name, fun)

  defp stop(:gen_server, name), do: GenServer.stop(name)
  defp stop(_pool, name), do: GenPool.stop(name)

  defp state(:gen_server, name), do: :sys.get_state(name)

  defp state(:own_state, name) do
    # The one that was answered for may not have ended yet.
    eventually(fn -> GenPool.get_state(name) != [] end)
    [state] = GenPool.get_state(name)
    state
  end

  defp state(_pool, name), do: GenPool.get_state(name)

  # In a pool whose workers have a state each, a worker ends, not the pool.
  defp assert_ended(:own_state, name, _pid, _reason), do: assert(GenPool.get_children(name) != [])
  defp assert_ended(_kind, _name, pid, reason), do: assert_receive({:EXIT, ^pid, ^reason}, 5_000)

  for {kind, _opts} <- @kinds do
    describe "#{kind}:" do
      @describetag kind: kind
      @kind kind

      # --- init/1 ------------------------------------------------------------------------------------

      test "init {:ok, state}" do
        {name, _pid} = start!(@kind, :state)
        assert state(@kind, name) == :state
      end

      test "init {:ok, state, timeout}" do
        test = self()
        assert {:ok, _name, _pid} = start(@kind, fn -> {:ok, %{test: test}, 10} end)
        assert_receive {:info, :timeout, _worker}, 5_000
      end

      test "init {:ok, state, :infinity}" do
        test = self()
        assert {:ok, name, _pid} = start(@kind, fn -> {:ok, %{test: test}, :infinity} end)
        assert state(@kind, name) == %{test: test}
      end

      test "init {:ok, state, :hibernate}" do
        assert {:ok, name, _pid} = start(@kind, fn -> {:ok, 1, :hibernate} end)
        assert call(@kind, name, &{:reply, &1, &1 + 1}) == 1
        assert call(@kind, name, &{:reply, &1, &1}) == 2
      end

      test "init {:ok, state, {:continue, arg}}, before any request" do
        continue = fn state ->
          {:noreply, [:first | state], {:continue, fn state -> {:noreply, [:second | state]} end}}
        end

        assert {:ok, name, _pid} = start(@kind, fn -> {:ok, [], {:continue, continue}} end)
        assert call(@kind, name, &{:reply, &1, &1}) == [:second, :first]
      end

      test "init {:ok, state, {:continue, arg}} that stops" do
        test = self()
        continue = fn state -> {:stop, :shutdown, Map.put(state, :last, true)} end

        if @kind == :own_state do
          # Whose workers would end again and again.
          assert {:ok, _name, pid} =
                   start(@kind, fn -> {:ok, %{test: test}, {:continue, continue}} end)

          assert_receive {:terminated, :shutdown, %{last: true}}, 5_000
          assert_receive {:EXIT, ^pid, :reached_max_restart_intensity}, 5_000
        else
          assert {:ok, _name, pid} =
                   start(@kind, fn -> {:ok, %{test: test}, {:continue, continue}} end)

          assert_receive {:terminated, :shutdown, %{last: true}}, 5_000
          assert_receive {:EXIT, ^pid, :shutdown}, 5_000
        end
      end

      test "init :ignore" do
        assert start(@kind, fn -> :ignore end) == :ignore
      end

      test "init {:stop, reason}" do
        assert start(@kind, fn -> {:stop, :because} end) == {:error, :because}
      end

      # A `GenServer` knows it since OTP 26.
      if kind != :gen_server or System.otp_release() >= "26" do
        test "init {:error, reason}" do
          assert start(@kind, fn -> {:error, :because} end) == {:error, :because}
        end
      end

      test "init that raises, throws, exits or returns nonsense" do
        assert {:error, {%RuntimeError{message: "oops"}, [_ | _]}} =
                 start(@kind, fn -> raise "oops" end)

        assert {:ok, name, _pid} = start(@kind, fn -> throw({:ok, :thrown}) end)
        assert state(@kind, name) == :thrown
        assert start(@kind, fn -> exit(:because) end) == {:error, :because}

        assert start(@kind, fn -> :nonsense end) ==
                 {:error, {:bad_return_value, :nonsense}}
      end

      # --- handle_call/3 -----------------------------------------------------------------------------

      test "handle_call {:reply, reply, state}" do
        {name, _pid} = start!(@kind, 1)
        assert call(@kind, name, &{:reply, {:was, &1}, &1 + 1}) == {:was, 1}
        assert state(@kind, name) == 2
      end

      test "handle_call {:reply, reply, state, timeout}" do
        {name, _pid} = start!(@kind, %{test: self()})
        assert call(@kind, name, &{:reply, :ok, &1, 10}) == :ok
        assert_receive {:info, :timeout, _worker}, 5_000
      end

      test "a timeout is void when something comes before" do
        {name, _pid} = start!(@kind, %{test: self()})
        assert call(@kind, name, &{:reply, :ok, &1, 300}) == :ok
        assert call(@kind, name, &{:reply, :ok, &1}) == :ok
        refute_receive {:info, :timeout, _worker}, 400
      end

      test "a timeout of 0" do
        {name, _pid} = start!(@kind, %{test: self()})
        assert call(@kind, name, &{:reply, :ok, &1, 0}) == :ok
        assert_receive {:info, :timeout, _worker}, 5_000
      end

      test "handle_call {:reply, reply, state, :hibernate}" do
        {name, _pid} = start!(@kind, 1)
        assert call(@kind, name, &{:reply, &1, &1 + 1, :hibernate}) == 1
        assert call(@kind, name, &{:reply, &1, &1 + 1, :hibernate}) == 2
        assert state(@kind, name) == 3
      end

      test "handle_call {:reply, reply, state, {:continue, arg}}" do
        {name, _pid} = start!(@kind, [])
        continue = fn state -> {:noreply, [:continued | state]} end
        assert call(@kind, name, &{:reply, :ok, [:called | &1], {:continue, continue}}) == :ok
        # In the same worker it is next; another worker may be faster.
        eventually(fn -> state(@kind, name) == [:continued, :called] end)
      end

      test "handle_call {:noreply, state}, answered by another process" do
        {name, _pid} = start!(@kind, 1)

        assert call(@kind, name, fn from, state ->
                 spawn(fn -> GenPool.reply(from, {:later, state}) end)
                 {:noreply, state + 1}
               end) == {:later, 1}

        assert state(@kind, name) == 2
      end

      test "handle_call {:noreply, state}, answered by a later handler" do
        {name, _pid} = start!(@kind, nil)
        test = self()

        waiter =
          Task.async(fn ->
            call(@kind, name, fn from, _state ->
              send(test, :deferred)
              {:noreply, from}
            end)
          end)

        assert_receive :deferred, 5_000

        # Its state may not be written yet when it says so.
        eventually(fn -> state(@kind, name) != nil end)

        assert call(@kind, name, fn from ->
                 GenPool.reply(from, :deferred_answer)
                 {:reply, :done, nil}
               end) == :done

        assert Task.await(waiter) == :deferred_answer
      end

      test "handle_call answers by itself before it returns" do
        {name, _pid} = start!(@kind, 1)

        assert call(@kind, name, fn from, state ->
                 GenPool.reply(from, :early)
                 {:noreply, state + 1}
               end) == :early

        eventually(fn -> state(@kind, name) == 2 end)
      end

      test "handle_call {:noreply, state, timeout | :hibernate | {:continue, arg}}" do
        {name, _pid} = start!(@kind, %{test: self()})

        assert call(@kind, name, fn from, state ->
                 {:noreply, state, {:continue, &continue_with(&1, from, :continued)}}
               end) == :continued

        assert call(@kind, name, fn from, state ->
                 GenPool.reply(from, :asleep)
                 {:noreply, state, :hibernate}
               end) == :asleep

        assert call(@kind, name, fn from, state ->
                 GenPool.reply(from, :waiting)
                 {:noreply, state, 10}
               end) == :waiting

        assert_receive {:info, :timeout, _worker}, 5_000
      end

      test "handle_call {:stop, reason, reply, state}" do
        {name, pid} = start!(@kind, %{test: self()})

        assert call(@kind, name, &{:stop, :shutdown, :bye, Map.put(&1, :last, true)}) == :bye
        assert_receive {:terminated, :shutdown, %{last: true}}, 5_000
        assert_ended(@kind, name, pid, :shutdown)
      end

      test "handle_call {:stop, reason, state}" do
        {name, pid} = start!(@kind, %{test: self()})
        result = call(@kind, name, &{:stop, :because, Map.put(&1, :last, true)})

        # A worker's caller is answered, since the pool is still there.
        if @kind == :own_state,
          do: assert(result == {:error, :because}),
          else: assert(result == {:exit, :because})

        assert_receive {:terminated, :because, %{last: true}}, 5_000
        assert_ended(@kind, name, pid, :because)
      end

      test "a handler that raises" do
        {name, pid} = start!(@kind, %{test: self()})
        result = call(@kind, name, fn _state -> raise "oops" end)

        if @kind == :gen_server do
          assert {:exit, {%RuntimeError{message: "oops"}, [_ | _]}} = result
          assert_receive {:EXIT, ^pid, {%RuntimeError{message: "oops"}, [_ | _]}}, 5_000
        else
          # The caller is told the same, and the pool lives.
          assert {:error, {%RuntimeError{message: "oops"}, [_ | _]}} = result
          assert call(@kind, name, &{:reply, :alive, &1}) == :alive
        end
      end

      test "a handler that exits, or returns nonsense" do
        for {fun, reason} <- [
              {fn _state -> exit(:because) end, :because},
              {fn _state -> :nonsense end, {:bad_return_value, :nonsense}}
            ] do
          {name, _pid} = start!(@kind, :state)
          result = call(@kind, name, fun)

          if @kind == :gen_server do
            assert result == {:exit, reason}
          else
            assert result == {:error, reason}
            assert state(@kind, name) == :state
          end
        end
      end

      test "a handler that throws what it means to return" do
        {name, _pid} = start!(@kind, 1)
        assert call(@kind, name, &throw({:reply, &1, &1 + 1})) == 1
        assert state(@kind, name) == 2
      end

      # --- handle_cast/2 and handle_info/2 -----------------------------------------------------------

      for {callback, how} <- [cast: :cast, info: :send] do
        @how how

        test "handle_#{callback} {:noreply, state}" do
          {name, _pid} = start!(@kind, 1)
          give(@kind, @how, name, &{:noreply, &1 + 1})
          eventually(fn -> state(@kind, name) == 2 end)
        end

        test "handle_#{callback} {:noreply, state, timeout}" do
          {name, _pid} = start!(@kind, %{test: self()})
          give(@kind, @how, name, &{:noreply, &1, 10})
          assert_receive {:info, :timeout, _worker}, 5_000
        end

        test "handle_#{callback} {:noreply, state, :hibernate}" do
          {name, _pid} = start!(@kind, 1)
          give(@kind, @how, name, &{:noreply, &1 + 1, :hibernate})
          eventually(fn -> state(@kind, name) == 2 end)
          assert call(@kind, name, &{:reply, &1, &1}) == 2
        end

        test "handle_#{callback} {:noreply, state, {:continue, arg}}" do
          {name, _pid} = start!(@kind, [])
          continue = fn state -> {:noreply, [:continued | state]} end
          give(@kind, @how, name, &{:noreply, [:given | &1], {:continue, continue}})
          eventually(fn -> state(@kind, name) == [:continued, :given] end)
        end

        test "handle_#{callback} {:stop, reason, state}" do
          {name, pid} = start!(@kind, %{test: self()})
          give(@kind, @how, name, &{:stop, :shutdown, Map.put(&1, :last, true)})
          assert_receive {:terminated, :shutdown, %{last: true}}, 5_000
          assert_ended(@kind, name, pid, :shutdown)
        end
      end

      test "messages to the name, of any kind" do
        {name, _pid} = start!(@kind, %{test: self()})
        messages = [:atom, {:tuple, 1}, {:EXIT, self(), :normal}, {:DOWN, make_ref(), 1, 2, 3}]

        for message <- messages -- [{:EXIT, self(), :normal}] do
          send(name, message)
          assert_receive {:info, ^message, _worker}, 5_000
        end
      end

      test "messages from one process are handled in order by one worker" do
        {name, _pid} = start!(@kind, %{test: self()})
        for i <- 1..50, do: send(name, {:number, i})

        got =
          for _ <- 1..50 do
            assert_receive {:info, {:number, i}, _w}, 5_000
            i
          end

        assert_order(@kind, got)
      end

      # --- handle_continue/2 -------------------------------------------------------------------------

      test "handle_continue {:noreply, state, timeout | :hibernate}" do
        {name, _pid} = start!(@kind, %{test: self()})
        asleep = fn state -> {:noreply, state, :hibernate} end
        waiting = fn state -> {:noreply, state, 10} end
        assert call(@kind, name, &{:reply, :ok, &1, {:continue, asleep}}) == :ok
        assert call(@kind, name, &{:reply, :ok, &1, {:continue, waiting}}) == :ok
        assert_receive {:info, :timeout, _worker}, 5_000
      end

      test "handle_continue {:stop, reason, state}" do
        {name, pid} = start!(@kind, %{test: self()})
        stop = fn state -> {:stop, :shutdown, Map.put(state, :last, true)} end
        assert call(@kind, name, &{:reply, :ok, &1, {:continue, stop}}) == :ok
        assert_receive {:terminated, :shutdown, %{last: true}}, 5_000
        assert_ended(@kind, name, pid, :shutdown)
      end

      # --- calls and the end -------------------------------------------------------------------------

      test "GenServer.call/3, cast/2 and reply/2 on its pid" do
        {_name, pid} = start!(@kind, 1)
        assert GenServer.call(pid, &{:reply, &1, &1 + 1}) == 1
        :ok = GenServer.cast(pid, &{:noreply, &1 + 10})

        eventually(fn -> GenServer.call(pid, &{:reply, &1, &1}) == 12 end)

        assert GenServer.call(pid, fn from, state ->
                 spawn(fn -> GenServer.reply(from, {:later, state}) end)
                 {:noreply, state}
               end) == {:later, 12}
      end

      test "a call that takes too long exits, and leaves nothing behind" do
        {name, pid} = start!(@kind, 1)
        gate = make_ref()
        test = self()

        slow = fn _from, state ->
          send(test, {:begun, self()})

          receive do
            ^gate -> {:reply, :too_late, state + 1}
          end
        end

        timed_out = fn
          :gen_server -> caught(fn -> GenServer.call(name, slow, 20) end)
          _pool -> caught(fn -> GenPool.call(name, slow, 20) end)
        end

        assert timed_out.(@kind) == {:exit, :timeout}
        assert_receive {:begun, worker}, 5_000
        send(worker, gate)
        eventually(fn -> state(@kind, name) == 2 end)
        assert Process.info(self(), :monitors) == {:monitors, []}
        assert Process.alive?(pid)
        refute_receive _anything, 20
      end

      test "a call of one that is not there exits" do
        assert call(@kind, unique_name(), &{:reply, &1, &1}) == {:exit, :noproc}
      end

      test "what was sent before a stop is handled before it" do
        {name, pid} = start!(@kind, %{test: self(), sum: 0})
        for i <- 1..100, do: cast(@kind, name, &{:noreply, %{&1 | sum: &1.sum + i}})
        assert stop(@kind, name) == :ok

        if @kind == :own_state,
          do: assert_receive({:EXIT, ^pid, :normal}, 5_000),
          else: assert_receive({:terminated, :normal, %{sum: 5_050}}, 5_000)
      end
    end
  end

  defp continue_with(state, from, reply) do
    GenPool.reply(from, reply)
    {:noreply, state}
  end

  defp give(kind, :cast, name, fun), do: cast(kind, name, fun)
  defp give(_kind, :send, name, fun), do: send(name, fun)

  # Where one worker handles all, and where several do.
  defp assert_order(kind, got) when kind in [:gen_server, :exclusive, :optimistic, :own_state],
    do: assert(got == Enum.to_list(1..50))

  defp assert_order(_kind, got), do: assert(Enum.sort(got) == Enum.to_list(1..50))
end
