defmodule PartitionedBuffer.Cluster.Member do
  @moduledoc false
  # Makes this node a member for as long as it lives. It is the last child of the tree, so it leaves before the
  # buffer begins to end.

  use GenServer

  alias PartitionedBuffer.Names
  alias PartitionedBuffer.Cluster.View

  @type arg :: {atom(), weight :: number()}

  @spec start_link(arg()) :: GenServer.on_start()
  def start_link(arg), do: GenServer.start_link(__MODULE__, arg)

  @impl true
  def init({buffer, weight}) do
    Process.flag(:trap_exit, true)
    scope = Names.cluster_scope(buffer)
    monitor = Process.monitor(scope)
    :ok = :pg.join(scope, {:member, weight}, self())
    :ok = View.refresh(buffer)
    {:ok, %{buffer: buffer, scope: scope, weight: weight, monitor: monitor}}
  end

  @impl true
  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast(_stray, state), do: {:noreply, state}

  # What the scope's process knew has gone with it.
  @impl true
  def handle_info({:DOWN, monitor, :process, _scope, _reason}, %{monitor: monitor} = state),
    do: {:stop, {:shutdown, :scope}, state}

  def handle_info(_stray, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, %{buffer: buffer, scope: scope, weight: weight}) do
    _ = :pg.leave(scope, {:member, weight}, self())
    View.refresh(buffer)
  catch
    # Neither is there any more: then nobody takes this node for a member.
    :exit, _reason -> :ok
  end
end
