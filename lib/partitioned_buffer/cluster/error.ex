defmodule PartitionedBuffer.Cluster.Error do
  @moduledoc """
  Raised by `PartitionedBuffer.Cluster.get/4` when the owner of a key can't be asked. `reason` is as in
  `PartitionedBuffer.Cluster.fetch/3`.
  """

  defexception [:buffer, :reason]

  @type t :: %__MODULE__{buffer: atom(), reason: term()}

  @impl true
  def message(%{buffer: buffer, reason: reason}),
    do: "the owner of a key of #{inspect(buffer)} can't be asked: #{inspect(reason)}"
end
