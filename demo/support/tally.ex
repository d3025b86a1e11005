defmodule Demo.Tally do
  # Counts what the telemetry events of one buffer report. It still answers when the buffer is gone,
  # which `PartitionedBuffer.info/1` does not.

  @stop [:partitioned_buffer, :partition, :processing, :stop]
  @discarded [:partitioned_buffer, :partition, :discarded]

  @doc "Starts to count. To be called before the buffer is started, so that nothing is missed."
  def attach(buffer) do
    counters = :counters.new(3, [])
    events = [@stop, @discarded]

    :ok =
      :telemetry.attach_many(
        {__MODULE__, buffer},
        events,
        &__MODULE__.count/4,
        {buffer, counters}
      )

    counters
  end

  def detach(buffer), do: :telemetry.detach({__MODULE__, buffer})

  def read(counters) do
    [batches, processed, discarded] = for index <- 1..3, do: :counters.get(counters, index)
    %{batches: batches, processed: processed, discarded: discarded}
  end

  # The processes of the buffer call this between batches: it only adds, so as not to hold them up.
  @doc false
  def count(@stop, %{size: size}, %{buffer: buffer}, {buffer, counters}) do
    :counters.add(counters, 1, 1)
    :counters.add(counters, 2, size)
  end

  def count(@discarded, %{size: size}, %{buffer: buffer}, {buffer, counters}) do
    :counters.add(counters, 3, size)
  end

  def count(_event, _measurements, _of_another_buffer, _config), do: :ok
end
