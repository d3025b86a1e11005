defmodule PartitionedBuffer.Cluster.Everywhere do
  @moduledoc false
  # The same call on many nodes at the same time. The function returns `{:ok, answer}` or `{:error, reason}`.
  #
  # Invariant: one row for each node, in their order, with the answer of that node or why there is none.

  alias PartitionedBuffer.Awaited
  alias PartitionedBuffer.Cluster.Call

  @type rows :: [{node(), term() | {:error, term()}}]

  @spec call([node()], module(), atom(), [term()], timeout()) :: rows()
  def call(nodes, module, function, args, timeout) do
    deadline = Awaited.deadline(timeout)
    asked = for node <- nodes, do: {node, Call.start(node, module, function, args, timeout)}
    for {node, asked} <- asked, do: {node, row(Call.await(asked, deadline))}
  end

  defp row({:ok, answer}), do: answer
  defp row({:error, reason}), do: {:error, reason}
  defp row({:refused, reason}), do: {:error, reason}
  defp row({:lost, reason}), do: {:error, reason}
end
