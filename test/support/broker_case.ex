defmodule PartitionedBuffer.BrokerCase do
  @moduledoc false
  # A broker whose drops are told to the test, and workers that do what the test tells them: no test has
  # to wait for time to pass.

  use ExUnit.CaseTemplate

  alias PartitionedBuffer.{Broker, BufferCase}

  using do
    quote do
      import PartitionedBuffer.BrokerCase
      alias PartitionedBuffer.Broker
      require Broker
    end
  end

  defmodule Listener do
    @moduledoc false
    @behaviour PartitionedBuffer.Broker.Keeper

    @impl true
    def dropped(reply, reason, test), do: send(test, {:dropped, reply, reason})

    @impl true
    def counted(counts, test), do: send(test, {:counted, counts})
  end

  @doc "A broker with its keeper; both end with the test."
  def start_broker(config \\ %{}, partitions \\ 1) do
    name = Atom.to_string(BufferCase.unique_name("broker"))
    {:created, broker} = Broker.open(name, partitions, config)
    ExUnit.Callbacks.on_exit(fn -> Broker.release(broker) end)
    {broker, start_keeper(broker)}
  end

  @doc "A keeper that ends with the test."
  def start_keeper(broker) do
    spec = Broker.Keeper.child_spec({broker, nil, {Listener, self()}})
    opts = [id: make_ref(), restart: :temporary]
    ExUnit.Callbacks.start_supervised!(Supervisor.child_spec(spec, opts))
  end

  @doc """
  A worker that takes when it is told to. It tells the test `{:taken, pid, what}`, and `{:woken, pid}` when
  it is woken.
  """
  def start_worker(broker) do
    test = self()

    pid =
      spawn(fn ->
        worker = Broker.join(broker)
        send(test, {:joined, self()})
        work(worker, test)
      end)

    ExUnit.Assertions.assert_receive({:joined, ^pid})
    ExUnit.Callbacks.on_exit(fn -> Process.exit(pid, :kill) end)
    pid
  end

  defp work(worker, test) do
    receive do
      :take -> send(test, {:taken, self(), Broker.take(worker)})
      :"$broker_wake" -> send(test, {:woken, self()})
      {:run, fun} -> send(test, {:ran, self(), fun.(worker)})
    end

    work(worker, test)
  end

  @doc "Has a worker take and returns what it took: `:idle` or `{message, reply}`."
  def take(pid) do
    send(pid, :take)

    receive do
      {:taken, ^pid, {message, reply, waited, _id}} when is_integer(waited) and waited >= 0 ->
        {message, reply}

      {:taken, ^pid, other} ->
        other
    after
      5_000 -> ExUnit.Assertions.flunk("nothing was taken")
    end
  end

  @doc "Runs `fun.(worker)` in a worker."
  def run(pid, fun) do
    send(pid, {:run, fun})

    receive do
      {:ran, ^pid, result} -> result
    after
      5_000 -> ExUnit.Assertions.flunk("nothing was run")
    end
  end

  @doc "Kills a process and waits for its end."
  def kill(pid) do
    monitor = Process.monitor(pid)
    Process.exit(pid, :kill)
    ExUnit.Assertions.assert_receive({:DOWN, ^monitor, :process, ^pid, _reason}, 5_000)
  end

  @doc "The figures, in which nothing is missing."
  def figures(broker) do
    info = Broker.info(broker)
    dropped = info.dropped |> Map.values() |> Enum.sum()
    ended = info.done + info.failed + info.cancelled + dropped
    ExUnit.Assertions.assert(info.accepted == ended + info.waiting + info.in_flight)
    info
  end
end
