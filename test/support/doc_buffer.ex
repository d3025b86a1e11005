defmodule DocBuffer do
  @moduledoc false
  # A module buffer for the examples of the documentation: a flush returns what it was called with.

  use PartitionedBuffer.DataBuffer

  @impl PartitionedBuffer.DataBuffer
  def handle_flush(items, opts), do: {Enum.to_list(items), opts}
end
