defmodule PartitionedBuffer.Cluster.Supervisor do
  @moduledoc false
  # The tree of a cluster's buffer on one node:
  #
  #     cluster supervisor (one_for_one)
  #     ├── :pg scope    who is a member, on all nodes
  #     ├── view         what this node knows of it
  #     ├── buffer       the queue, the map or the GenBuffer: a tree of its own
  #     └── member       makes this node one; ended first
  #
  # Each is started again alone: view and member end by themselves when the scope does, and the buffer needs
  # none of them. At the end the node first leaves, then the buffer processes what it has, then what is
  # left is handed over by the view.

  use Supervisor

  alias PartitionedBuffer.Cluster.{Member, Requests, View}
  alias PartitionedBuffer.Names

  # The scope's name is taken for a moment after its process was killed.
  @restarts [max_restarts: 100, max_seconds: 1]

  @doc "`child`: what runs on a node that is a member."
  @spec start_link(map(), map(), Supervisor.child_spec() | {module(), term()} | nil) ::
          Supervisor.on_start()
  def start_link(own, defaults, child) do
    name = Names.cluster(own.name)

    with :ok <- Names.available(name, [Names.cluster_scope(own.name)]),
         do: Supervisor.start_link(__MODULE__, {own, defaults, child}, name: name)
  end

  @impl true
  def init({%{name: name} = own, defaults, child}) do
    view = %View{
      buffer: name,
      module: own.module,
      defaults: defaults,
      # Owned by this process.
      requests: Requests.new(own.request_memory),
      counters: View.counters(),
      member?: child != nil
    }

    member = if child, do: [child, {Member, {name, own.weight}}], else: []
    scope = %{id: :pg, start: {__MODULE__, :start_scope, [Names.cluster_scope(name)]}}
    Supervisor.init([scope, {View, view}] ++ member, [strategy: :one_for_one] ++ @restarts)
  end

  @doc false
  @spec start_scope(atom()) :: GenServer.on_start()
  def start_scope(scope) do
    :ok = Names.await_free(scope)
    :pg.start_link(scope)
  end
end
