defmodule PartitionedBuffer.Names do
  @moduledoc false
  # Every name that is derived from a buffer's name. The buffer's own name is that of its Registry.

  @type name :: atom()

  # An orphan has nothing to do but to end.
  @orphan_ms 5_000

  @spec supervisor(name()) :: name()
  def supervisor(buffer), do: Module.concat(buffer, Supervisor)

  @spec task_supervisor(name()) :: name()
  def task_supervisor(buffer), do: Module.concat(buffer, TaskSupervisor)

  # Named so by `Registry`.
  @spec registry_partition(name()) :: name()
  def registry_partition(buffer), do: Module.concat(buffer, "PIDPartition0")

  @spec partition_supervisor(name()) :: name()
  def partition_supervisor(buffer), do: Module.concat(buffer, PartitionSupervisor)

  @spec owner(name()) :: name()
  def owner(buffer), do: Module.concat(buffer, Owner)

  # The same on every node: it is how they find each other.
  @spec cluster_scope(name()) :: name()
  def cluster_scope(buffer), do: Module.concat(buffer, ClusterScope)

  @spec cluster(name()) :: name()
  def cluster(buffer), do: Module.concat(buffer, Cluster)

  @spec cluster_view(name()) :: name()
  def cluster_view(buffer), do: Module.concat(buffer, ClusterView)

  @spec partition(name(), non_neg_integer()) :: name()
  def partition(buffer, index), do: Module.concat(buffer, Integer.to_string(index))

  @spec table(name()) :: name()
  def table(partition), do: Module.concat(partition, Table)

  # Of a pool: its broker's process, and the supervisor of its workers.
  @spec broker(name()) :: name()
  def broker(pool), do: Module.concat(pool, Broker)

  @spec worker_supervisor(name()) :: name()
  def worker_supervisor(pool), do: Module.concat(pool, WorkerSupervisor)

  # Of the broker of this name.
  @spec keeper(name()) :: name()
  def keeper(broker), do: Module.concat(broker, Keeper)

  @doc """
  Whether what is called `own` can be started with these names. Not if one of them is that of a process that is
  none of `own`, nor an orphan: that one is not about to end, and who waits for it waits in vain.
  """
  @spec available(name(), [name()]) :: :ok | {:error, {:already_started, pid()}}
  def available(own, names) do
    stranger =
      Enum.find_value(names, fn name ->
        pid = Process.whereis(name)
        if is_pid(pid) and stranger?(pid, own), do: pid
      end)

    if stranger, do: {:error, {:already_started, stranger}}, else: :ok
  end

  defp stranger?(pid, own) do
    case Process.info(pid, :dictionary) do
      {:dictionary, dictionary} ->
        case List.keyfind(dictionary, :"$ancestors", 0) do
          {_key, [parent | _] = ancestors} -> own not in ancestors and there?(parent)
          _none -> true
        end

      # It has ended.
      nil ->
        false
    end
  end

  defp there?(parent) when is_pid(parent),
    do: node(parent) != node() or Process.alive?(parent)

  defp there?(parent), do: Process.whereis(parent) != nil

  @doc """
  Waits until no process has this name: one that was orphaned by the death of its supervisor is about
  to end. Another one that keeps the name is told by an exit.
  """
  @spec await_free(name()) :: :ok
  def await_free(name) do
    case Process.whereis(name) do
      nil ->
        :ok

      pid ->
        monitor = Process.monitor(pid)

        receive do
          {:DOWN, ^monitor, :process, ^pid, _reason} -> await_free(name)
        after
          @orphan_ms -> exit({:already_started, pid})
        end
    end
  end

  @doc "Gives the calling process this name as soon as it is free."
  @spec register(name()) :: :ok
  def register(name) do
    :ok = await_free(name)
    true = Process.register(self(), name)
    :ok
  rescue
    # Somebody was faster.
    ArgumentError -> register(name)
  end
end
