defmodule PartitionedBuffer.Cluster.Everywhere do
  @moduledoc false
  # The same call on all members at the same time.
  #
  # Invariant: one row for each member that was known when the call began, in the order of their names, with
  # the answer of that node or why there is none.

  alias PartitionedBuffer.Awaited
  alias PartitionedBuffer.Cluster.{Delivery, View}

  @spec call(View.t(), atom(), [term()], timeout()) :: [{node(), term() | {:error, term()}}]
  def call(%{buffer: buffer, members: members}, function, args, timeout) do
    deadline = Awaited.deadline(timeout)
    args = [buffer, function, args]

    asked =
      for {node, _weight} <- members,
          do: {node, Delivery.spawn_call(node, :call, args, timeout)}

    for {node, asked} <- asked, do: {node, row(Delivery.await_call(asked, deadline))}
  end

  defp row({:ok, answer}), do: answer
  defp row({:error, reason}), do: {:error, reason}
  defp row({:refused, reason}), do: {:error, reason}
  defp row({:lost, reason}), do: {:error, reason}
end
