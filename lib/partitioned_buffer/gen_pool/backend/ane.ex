defmodule PartitionedBuffer.GenPool.Backend.Ane do
  @moduledoc """
  The name that the backend of gen_pool has, so that a module that comes from there can stay as it is.

  `%PartitionedBuffer.GenPool.Backend.Ane{}` is understood as `PartitionedBuffer.GenPool.Backend.Native`.
  """

  defstruct []

  @typedoc "A configuration of nothing."
  @type t :: %__MODULE__{}
end
