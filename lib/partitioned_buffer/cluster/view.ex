defmodule PartitionedBuffer.Cluster.View do
  @moduledoc false
  # What this node knows of a cluster: its members, and so the owner of each slot. Whoever writes or reads gets
  # it from `:persistent_term`, where this process renews it when the members change.
  #
  # `:pg` is the only source: each member is in the group `{:member, weight}` of the buffer's own scope.
  #
  # Invariants:
  #
  #   * A view is there from before the buffer of this node starts until after it has ended: what is handed over
  #     at the end goes by it.
  #   * Members that a node has told of are seen in the order of `:pg`; a view is always what `:pg` says as a
  #     whole, never a change of the one before.

  use GenServer

  alias PartitionedBuffer.{Names, Owner}
  alias PartitionedBuffer.Cluster.{Rendezvous, Requests, Telemetry}

  @enforce_keys [:buffer, :module, :defaults, :requests, :counters, :member?]
  defstruct @enforce_keys ++ [members: [], owners: {}]

  @type t :: %__MODULE__{
          buffer: atom(),
          module: module(),
          defaults: map(),
          requests: Requests.t(),
          counters: :counters.counters_ref(),
          member?: boolean(),
          members: Rendezvous.members(),
          owners: tuple()
        }

  @counters [:local, :remote, :retried, :failed, :repeated, :handed_over]
  @places @counters |> Enum.with_index(1) |> Map.new()

  # Nodes that were lost are remembered for a while, to tell when they are back.
  @lost 1_000

  @doc "What counts the entries of a node's calls."
  @spec counters() :: :counters.counters_ref()
  def counters, do: :counters.new(length(@counters), [:write_concurrency])

  @doc "Counts."
  @spec count(t(), atom(), non_neg_integer()) :: :ok
  def count(%{counters: counters}, what, n), do: :counters.add(counters, @places[what], n)

  @doc "What has been counted."
  @spec counted(t()) :: %{atom() => non_neg_integer()}
  def counted(%{counters: counters}),
    do: Map.new(@places, fn {what, place} -> {what, :counters.get(counters, place)} end)

  @spec fetch(atom()) :: {:ok, t()} | :error
  def fetch(buffer) do
    case :persistent_term.get(key(buffer), nil) do
      nil -> :error
      view -> {:ok, view}
    end
  end

  @spec fetch!(atom()) :: t()
  def fetch!(buffer) do
    with nil <- :persistent_term.get(key(buffer), nil) do
      raise ArgumentError,
            "unknown cluster: #{inspect(buffer)} (no PartitionedBuffer.Cluster is running under this name " <>
              "on this node)"
    end
  end

  @doc "All views of this kind of buffer."
  @spec all(module()) :: [t()]
  def all(module),
    do:
      for({{__MODULE__, _buffer}, %{module: ^module} = view} <- :persistent_term.get(), do: view)

  @doc "Makes the view that of this moment."
  @spec refresh(atom()) :: :ok
  def refresh(buffer), do: GenServer.call(Names.cluster_view(buffer), :refresh, :infinity)

  @spec start_link(t()) :: GenServer.on_start()
  def start_link(view) do
    GenServer.start_link(__MODULE__, view, name: Names.cluster_view(view.buffer))
  end

  @impl true
  def init(%{buffer: buffer} = view) do
    Process.flag(:trap_exit, true)
    scope = Names.cluster_scope(buffer)
    {ref, _groups} = :pg.monitor_scope(scope)
    # When the scope's process is killed, this one ends too, and starts with the next one.
    monitor = Process.monitor(scope)
    state = %{view: view, ref: ref, monitor: monitor, pids: %{}, lost: %{}}
    {:ok, state |> known() |> refresh_now()}
  end

  @impl true
  def handle_call(:refresh, _from, state), do: {:reply, :ok, refresh_now(state)}
  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast(_stray, state), do: {:noreply, state}

  @impl true
  def handle_info({ref, what, _group, _pids}, %{ref: ref} = state) when what in [:join, :leave],
    do: {:noreply, refresh_now(state)}

  def handle_info({:DOWN, monitor, :process, _scope, _reason}, %{monitor: monitor} = state),
    do: {:stop, {:shutdown, :scope}, state}

  def handle_info(_stray, state), do: {:noreply, state}

  @impl true
  def terminate(reason, %{view: %{buffer: buffer}}) do
    # Unless it is started again.
    if Owner.ordered?(reason) and reason != {:shutdown, :scope},
      do: :persistent_term.erase(key(buffer))

    :ok
  end

  # A process that takes the place of another one tells only what is new.
  defp known(%{view: %{buffer: buffer}} = state) do
    case fetch(buffer) do
      {:ok, %{members: members}} ->
        %{state | pids: Map.new(members, fn member -> {{:former, member}, member} end)}

      :error ->
        state
    end
  end

  defp refresh_now(%{view: view, pids: former} = state) do
    pids = pids(Names.cluster_scope(view.buffer))
    members = pids |> Map.values() |> Map.new() |> Enum.sort()

    if members != view.members or fetch(view.buffer) == :error do
      view = %{view | members: members, owners: Rendezvous.owners(members)}
      :persistent_term.put(key(view.buffer), view)
    end

    tell(%{state | view: %{view | members: members}, pids: pids}, former)
  end

  defp pids(scope) do
    for {:member, weight} = group <- :pg.which_groups(scope),
        pid <- :pg.get_members(scope, group),
        into: %{},
        do: {pid, {node(pid), weight}}
  end

  defp tell(%{view: %{buffer: buffer}, pids: pids} = state, former) do
    nodes = fn pids -> pids |> Map.values() |> Map.new() end
    {before, now} = {nodes.(former), nodes.(pids)}
    connected = [node() | Node.list()]

    gone =
      for {node, _weight} <- before, not is_map_key(now, node) do
        reason = if node in connected, do: :left, else: :lost

        Telemetry.execute([:leave], Telemetry.now(), %{buffer: buffer, node: node, reason: reason})

        {node, reason}
      end

    lost_nodes = for {node, :lost} <- gone, do: node

    lost =
      for {pid, {node, _weight}} <- former, node in lost_nodes, into: state.lost do
        {pid, System.monotonic_time()}
      end

    back = for {pid, {node, _weight}} <- pids, since = lost[pid], do: {node, since}

    for {node, since} <- back do
      measurements = Telemetry.now(%{duration: System.monotonic_time() - since})
      Telemetry.execute([:heal], measurements, %{buffer: buffer, node: node})
    end

    for {node, weight} <- now, not is_map_key(before, node) do
      Telemetry.execute([:join], Telemetry.now(), %{buffer: buffer, node: node, weight: weight})
    end

    %{state | lost: lost |> Map.drop(Map.keys(pids)) |> newest()}
  end

  defp newest(lost) when map_size(lost) <= @lost, do: lost

  defp newest(lost),
    do: lost |> Enum.sort_by(fn {_pid, since} -> -since end) |> Enum.take(@lost) |> Map.new()

  defp key(buffer), do: {__MODULE__, buffer}
end
