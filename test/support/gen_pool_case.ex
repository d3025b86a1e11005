defmodule PartitionedBuffer.GenPoolCase do
  @moduledoc false
  # What every test of a pool needs. A pool of `Scripted` does what the messages say that it gets: a message
  # is a function, and what it returns is what the callback returns. So a test shows the return value and what
  # follows from it in one place, and the same module runs under a `GenServer`.

  use ExUnit.CaseTemplate

  alias PartitionedBuffer.GenPool

  defmodule Scripted do
    @moduledoc false
    # `init` gets `fn -> {:ok, state} end`. A state that has a `:test` is told of `terminate/2`.

    def init(fun), do: fun.()
    def handle_call(fun, from, state) when is_function(fun, 2), do: fun.(from, state)
    def handle_call(fun, _from, state), do: fun.(state)
    def handle_cast(fun, state), do: fun.(state)
    def handle_info(fun, state) when is_function(fun, 1), do: fun.(state)

    def handle_info(message, %{test: test} = state) do
      send(test, {:info, message, self()})
      {:noreply, state}
    end

    def handle_info(_message, state), do: {:noreply, state}
    def handle_continue(fun, state), do: fun.(state)

    def terminate(reason, %{test: test} = state) do
      send(test, {:terminated, reason, state})
    end

    def terminate(_reason, _state), do: :ok
  end

  defmodule ScriptedReader do
    @moduledoc false
    # The same, with `read_only?/2`, which names nothing. So a worker takes a request before it takes a turn.
    defdelegate init(fun), to: Scripted
    defdelegate handle_call(fun, from, state), to: Scripted
    defdelegate handle_cast(fun, state), to: Scripted
    defdelegate handle_info(fun, state), to: Scripted
    defdelegate handle_continue(fun, state), to: Scripted
    defdelegate terminate(reason, state), to: Scripted
    def read_only?(_callback, _message), do: false
  end

  using do
    quote do
      import PartitionedBuffer.GenPoolCase
      alias PartitionedBuffer.GenPool
      alias PartitionedBuffer.GenPoolCase.{Scripted, ScriptedReader}
    end
  end

  @doc "A name that nothing else in this VM has."
  def unique_name(prefix \\ "pool"), do: :"#{prefix}_#{System.unique_integer([:positive])}"

  @doc "Starts a pool of `Scripted` (or another `:module`) with this state, which ends with the test. Returns its name."
  def start_pool!(state, opts \\ []) do
    {module, opts} =
      opts |> Keyword.put_new_lazy(:name, &unique_name/0) |> Keyword.pop(:module, Scripted)

    arg = fn -> {:ok, state} end

    ExUnit.Callbacks.start_supervised!(
      Supervisor.child_spec({GenPool, {module, arg, opts}}, restart: :temporary)
    )

    opts[:name]
  end

  @doc "A broker's module made of these queues."
  def broker!(client, process \\ []) do
    name = :"Elixir.PartitionedBuffer.TestBroker#{System.unique_integer([:positive])}"

    contents =
      quote do
        use PartitionedBuffer.GenPool.Broker
        def client_queue, do: unquote(Macro.escape(client))
        def process_queue, do: unquote(Macro.escape(process))
      end

    {:module, ^name, _binary, _result} =
      Module.create(name, contents, Macro.Env.location(__ENV__))

    name
  end

  @doc """
  Has a worker run a handler that waits to be let go: `{worker, from}` once it has begun. `release/2` ends it with
  a return value that is made from the state.
  """
  def occupy(pool) do
    test = self()
    ref = make_ref()

    caller =
      spawn(fn ->
        result =
          try do
            GenPool.call(pool, blocker(test, ref), :infinity)
          catch
            :exit, reason -> {:exit, reason}
          end

        send(test, {:returned, ref, result})
      end)

    receive do
      {:busy, ^ref, worker} -> %{ref: ref, worker: worker, caller: caller}
    after
      5_000 -> ExUnit.Assertions.flunk("no worker has begun")
    end
  end

  @doc "A handler that tells the test that it runs, and waits."
  def blocker(test, ref) do
    fn _from, state ->
      send(test, {:busy, ref, self()})

      receive do
        {:release, ^ref, fun} -> fun.(state)
      end
    end
  end

  @doc "A cast whose handler waits, each time that it is run, for `{:release, ref, fun}`: the reference."
  def cast_blocker(pool) do
    {test, ref} = {self(), make_ref()}
    blocker = blocker(test, ref)
    :ok = GenPool.cast(pool, &blocker.(nil, &1))
    ref
  end

  @doc "The worker that runs it."
  def begun(ref) do
    assert_receive {:busy, ^ref, worker}, 5_000
    worker
  end

  @doc "Lets the handler of `occupy/1` return, and waits for what its caller got."
  def release(busy, fun \\ fn state -> {:reply, :released, state} end) do
    send(busy.worker, {:release, busy.ref, fun})
    returned(busy)
  end

  @doc "What the caller of `occupy/1` got."
  def returned(%{ref: ref}) do
    receive do
      {:returned, ^ref, result} -> result
    after
      5_000 -> ExUnit.Assertions.flunk("the caller has no answer")
    end
  end

  @doc """
  A process that calls. `returned/1` of what this returns is what the process got, and what was left to it then: messages in
  its mailbox, and monitors.
  """
  def calling(pool, message, opts \\ :infinity) do
    test = self()
    ref = make_ref()

    caller =
      spawn(fn ->
        result = call(pool, message, opts)
        send(test, {:returned, ref, {result, Process.info(self(), [:messages, :monitors])}})
      end)

    %{ref: ref, caller: caller}
  end

  @doc "Waits until such a process has been told that it has waited for long. It has no monitor before."
  def await_told(%{caller: caller}),
    do: eventually(fn -> Process.info(caller, :monitors) != {:monitors, []} end)

  @doc "Waits for the end of a process: the reason."
  def down(pid) do
    monitor = Process.monitor(pid)

    receive do
      {:DOWN, ^monitor, :process, ^pid, reason} -> reason
    after
      5_000 -> ExUnit.Assertions.flunk("#{inspect(pid)} has not ended")
    end
  end

  @doc "Waits until the function is true. For what is reported by nobody."
  def eventually(fun, tries \\ 2_000) do
    cond do
      fun.() ->
        :ok

      tries == 0 ->
        ExUnit.Assertions.flunk("it did not come true")

      true ->
        receive do
        after
          2 -> eventually(fun, tries - 1)
        end
    end
  end

  @doc "Calls, and catches what the call exits with."
  def call(pool, message, opts \\ 5_000) do
    GenPool.call(pool, message, opts)
  catch
    :exit, reason -> {:exit, reason}
  end

  @doc "Fails unless all requests are accounted for."
  def assert_accounted(pool) do
    info = GenPool.info(pool)
    dropped = info.dropped |> Map.values() |> Enum.sum()
    sum = info.done + info.failed + info.cancelled + dropped + info.waiting + info.in_flight
    unless info.accepted == sum, do: ExUnit.Assertions.flunk("#{inspect(info)}")
    info
  end
end
