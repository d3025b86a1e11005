defmodule DocHandler do
  @moduledoc false
  # The handler of a GenBuffer for the examples of the documentation: answers with the message.

  use PartitionedBuffer.GenBuffer

  @impl PartitionedBuffer.GenBuffer
  def handle_message(_buffer, message, state), do: {:ok, message, state}
end
