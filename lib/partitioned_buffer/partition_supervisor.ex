defmodule PartitionedBuffer.PartitionSupervisor do
  @moduledoc false
  # The partitions of one buffer, each restarted alone.

  use Supervisor

  alias PartitionedBuffer.{Handle, Names, Native, Partition}

  @spec start_link({atom(), Native.handle(), module()}) :: Supervisor.on_start()
  def start_link({buffer, ref, module}) do
    name = Names.partition_supervisor(buffer)

    # The buffer's supervisor calls this. Its name may be that of another one by the time a partition starts.
    Supervisor.start_link(__MODULE__, {buffer, ref, module, {:supervisor, self()}}, name: name)
  end

  @doc "For the end of a buffer whose own one is gone; its partitions have no names, and this owner."
  @spec start_unnamed(atom(), Native.handle(), module()) :: Supervisor.on_start()
  def start_unnamed(buffer, ref, module) do
    Supervisor.start_link(__MODULE__, {buffer, ref, module, {:owner, self()}})
  end

  @impl true
  def init({buffer, ref, module, ender}) do
    children =
      for index <- Handle.indexes(ref) do
        arg = {buffer, ref, module, index, ender}
        Supervisor.child_spec({Partition, arg}, id: {Partition, index})
      end

    Supervisor.init(children, [strategy: :one_for_one] ++ PartitionedBuffer.Supervisor.restarts())
  end
end
