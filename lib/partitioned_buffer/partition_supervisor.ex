defmodule PartitionedBuffer.PartitionSupervisor do
  @moduledoc false
  # The partitions of one buffer, each restarted alone.

  use Supervisor

  alias PartitionedBuffer.{Handle, Names, Partition}

  @spec start_link(atom()) :: Supervisor.on_start()
  def start_link(buffer) do
    Supervisor.start_link(__MODULE__, buffer, name: Names.partition_supervisor(buffer))
  end

  @impl true
  def init(buffer) do
    children =
      for index <- Handle.indexes(Handle.fetch!(buffer).ref) do
        Supervisor.child_spec({Partition, {buffer, index}}, id: {Partition, index})
      end

    Supervisor.init(children, [strategy: :one_for_one] ++ PartitionedBuffer.Supervisor.restarts())
  end
end
