defmodule PartitionedBuffer.DoctestsTest do
  # The examples of the documentation.
  use ExUnit.Case, async: true

  doctest PartitionedBuffer
  doctest PartitionedBuffer.Cluster
  doctest PartitionedBuffer.Cluster.Telemetry
  doctest PartitionedBuffer.GenBuffer
  doctest PartitionedBuffer.GenBuffer.Dist
  doctest PartitionedBuffer.GenBuffer.Telemetry
  doctest PartitionedBuffer.DataBuffer
  doctest PartitionedBuffer.Map
  doctest PartitionedBuffer.Queue
  doctest PartitionedBuffer.GenPool
  doctest PartitionedBuffer.GenPool.Broker
  doctest PartitionedBuffer.GenPool.Telemetry
  doctest PartitionedBuffer.Telemetry
  doctest PartitionedBuffer.Testing
end
