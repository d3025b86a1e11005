defmodule PartitionedBuffer.GenPool.DefaultBroker do
  @moduledoc """
  The broker of a pool that names none: first come, first served, as many as there are, for as long as it
  takes. What bounds a call then is its own timeout.
  """

  use PartitionedBuffer.GenPool.Broker, timeout: :infinity
end
