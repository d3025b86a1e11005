defmodule PartitionedBuffer.GenBuffer.Listener do
  @moduledoc false
  # How a sender is told what became of its message, whoever tells it: the worker, or the keeper when it
  # was dropped or its worker has died.
  #
  # A reply is `{destination, reference}`. For who waits in a call the destination is the reference, an
  # alias that takes one message only: a second one, or one that comes too late, is nowhere.

  @behaviour PartitionedBuffer.Broker.Keeper

  alias PartitionedBuffer.Broker
  alias PartitionedBuffer.GenBuffer.Telemetry

  @impl true
  def dropped({destination, ref}, reason, buffer) do
    Broker.send_answer(destination, {:error, ref, buffer, reason(reason)})
  end

  @impl true
  def counted(counts, buffer) do
    Enum.each(counts, fn {reason, count} ->
      Telemetry.execute([:dropped], %{count: count}, %{buffer: buffer, reason: reason(reason)})
    end)
  end

  defp reason(:queue_full), do: :full
  defp reason(other), do: other
end
