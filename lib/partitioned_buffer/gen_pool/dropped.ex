defmodule PartitionedBuffer.GenPool.Dropped do
  @moduledoc false
  # Tells callers that nobody will answer them, and counts what was dropped.

  @behaviour PartitionedBuffer.Broker.Keeper

  alias PartitionedBuffer.GenPool.{Signals, Telemetry}

  @type arg :: %{pool: atom(), signals: Signals.t() | nil}

  @doc "What a caller of `GenPool.call/3` is sent about the request with this reference."
  defmacro message(ref, reason) do
    quote do: {:"$partitioned_buffer_dropped", unquote(ref), unquote(reason)}
  end

  # If the pool ends, so do its calls.
  @impl true
  def dropped(caller, {:worker_down, reason}, %{signals: signals}) do
    unless signals != nil and Signals.ending?(signals), do: worker_down(caller, reason)
  end

  # The pool has ended, or its broker has, and is monitored by its callers.
  def dropped(_caller, :shutdown, _arg), do: :ok
  def dropped({:forwarded, from}, _reason, _arg), do: GenServer.reply(from, refused())

  def dropped(caller, reason, _arg), do: tell(caller, reason)

  defp worker_down({:forwarded, from}, reason), do: GenServer.reply(from, {:error, reason})
  defp worker_down(caller, reason), do: tell(caller, {:worker_down, reason})

  defp tell({pid, ref}, reason) do
    send(pid, message(ref, reason))
    :ok
  end

  @impl true
  def counted(counts, %{pool: pool}) do
    for {reason, count} <- counts, count > 0, do: Telemetry.dropped(pool, count, reason)
    :ok
  end

  @doc "What stands for all reasons."
  @spec refused() :: {:error, :too_many_requests}
  def refused, do: {:error, :too_many_requests}
end
