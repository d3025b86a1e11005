defmodule PartitionedBuffer.ClusterNode do
  @moduledoc false
  # What tests of several nodes run on these: called through `PartitionedBuffer.ClusterCase.on/4`.

  alias PartitionedBuffer.{Cluster, GenBuffer, Telemetry}

  @records __MODULE__.Records
  @events __MODULE__.Events

  @doc "Gets a node ready: tables of what was processed and of what was told."
  def prepare do
    {:ok, _apps} = Application.ensure_all_started(:partitioned_buffer)
    # What `global` has to say about nodes that end is no news here.
    :ok = :logger.set_primary_config(:level, :critical)

    held(fn ->
      for table <- [@records, @events], do: :ets.new(table, [:ordered_set, :public, :named_table])
      events = Cluster.Telemetry.events() ++ Telemetry.events()
      :ok = :telemetry.attach_many(__MODULE__, events, &__MODULE__.event/4, nil)
    end)
  end

  @doc "Starts a part of a cluster that outlasts the call."
  def start(opts) do
    held(fn ->
      {:ok, _pid} = Cluster.start_link(opts)
      :ok
    end)
  end

  # In a process that never ends by itself: what it has started is linked to it.
  defp held(fun) do
    caller = self()
    ref = make_ref()

    spawn(fn ->
      Process.flag(:trap_exit, true)
      send(caller, {ref, fun.()})

      receive do
        :never -> :ok
      end
    end)

    receive do
      {^ref, result} -> result
    end
  end

  @doc "A processor that keeps what it was called with."
  def record(batch, buffer) do
    true = :ets.insert(@records, {System.unique_integer([:monotonic]), buffer, batch})
    :ok
  end

  @doc "An `:on_discard` that does the same."
  def discarded(entries, _reason, buffer), do: record(entries, buffer)

  @doc "The same behind a gate, which is a process."
  def record_gated(batch, buffer, gate) do
    pass(gate)
    record(batch, buffer)
  end

  defp pass(gate) do
    monitor = Process.monitor(gate)

    receive do
      {:DOWN, ^monitor, :process, _gate, _reason} -> :ok
    end
  end

  @doc "Closes a gate; it is open once `open/1` has been called."
  def close(gate), do: held(fn -> Process.register(self(), gate) end)

  def open(gate), do: Process.exit(Process.whereis(gate), :kill)

  @doc "All entries that a processor has had, in their order."
  def recorded(buffer) do
    for {_at, ^buffer, batch} <- :ets.tab2list(@records), entry <- batch, do: entry
  end

  @doc false
  def event([_, scope | name], measurements, %{buffer: buffer} = metadata, _config) do
    row = {System.unique_integer([:monotonic]), buffer, [scope | name], measurements, metadata}
    :ets.insert(@events, row)
  end

  @doc "The events of this name, and what they told: `{measurements, metadata}`."
  def events(buffer, name) do
    for {_at, ^buffer, ^name, measurements, metadata} <- :ets.tab2list(@events),
        do: {measurements, metadata}
  end

  @doc "Pushes items one by one; what each call has returned, and how long the longest took in milliseconds."
  def push_each(buffer, items, opts) do
    results = for item <- items, do: timed(fn -> push(buffer, item, opts) end)

    {Enum.zip(items, Enum.map(results, &elem(&1, 1))),
     results |> Enum.map(&elem(&1, 0)) |> Enum.max()}
  end

  @doc "The same with `{who, 1}`, `{who, 2}`, … until `tell/1` is called with this name."
  def push_until(buffer, who, name, opts) do
    Process.register(self(), name)
    push_until(buffer, who, 1, opts, [], 0)
  end

  defp push_until(buffer, who, n, opts, results, longest) do
    receive do
      :stop -> {Enum.reverse(results), longest}
    after
      0 ->
        {ms, result} = timed(fn -> push(buffer, {who, n}, opts) end)
        results = [{{who, n}, result} | results]
        push_until(buffer, who, n + 1, opts, results, max(ms, longest))
    end
  end

  def tell(name), do: send(name, :stop)

  defp push(buffer, item, opts) do
    Cluster.push(buffer, item, opts)
  rescue
    # The cluster has ended on this node.
    ArgumentError -> :raised
  end

  @doc "What a call has returned, and how long it took in milliseconds."
  def timed(fun) do
    {us, result} = :timer.tc(fun)
    {div(us, 1000), result}
  end

  def timed(module, function, args), do: timed(fn -> apply(module, function, args) end)

  @doc "The owner of each item that is its own key's hash, as with no `:partition_key`."
  def owners(buffer, items),
    do: Map.new(items, &{&1, Cluster.owner(buffer, :erlang.phash2(&1))})

  @doc "Starts a part of a distributed GenBuffer that outlasts the call."
  def start_dist(buffer, opts) do
    held(fn ->
      {:ok, _pid} = GenBuffer.Dist.start_link(buffer, opts)
      :ok
    end)
  end

  @doc "Ends the buffer of a part of a cluster, and lets nothing take its place."
  def kill_buffer(buffer) do
    cluster = PartitionedBuffer.Names.cluster(buffer)
    Supervisor.terminate_child(cluster, buffer)
  end

  @doc "Sends each message, and waits for all answers."
  def send_and_recv(buffer, messages, opts) do
    for(message <- messages, do: GenBuffer.Dist.send(buffer, message, opts))
    |> Enum.map(&GenBuffer.Dist.recv(buffer, &1, 5_000))
  end

  @doc "What a call exits with."
  def exited(module, function, args) do
    {:returned, apply(module, function, args)}
  catch
    :exit, reason -> reason
  end

  @doc "A routing key."
  def user({user, _n}), do: user

  @doc "The exception that a call raises."
  def raised(module, function, args) do
    {:returned, apply(module, function, args)}
  rescue
    error -> error
  end
end

defmodule PartitionedBuffer.ClusterNode.Handler do
  @moduledoc false
  # Of a `GenBuffer`: tells where it was handled, or does what the message says.
  use PartitionedBuffer.GenBuffer

  @impl true
  def handle_message(_buffer, {:raise, what}, _state), do: raise(what)
  def handle_message(_buffer, {:exit, reason}, _state), do: exit(reason)

  def handle_message(_buffer, {:gate, gate}, state) do
    monitor = Process.monitor(gate)

    receive do
      {:DOWN, ^monitor, :process, _gate, _reason} -> {:ok, :passed, state}
    end
  end

  def handle_message(_buffer, message, state), do: {:ok, {node(), message}, state}
end
