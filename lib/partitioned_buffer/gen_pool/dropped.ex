defmodule PartitionedBuffer.GenPool.Dropped do
  @moduledoc false
  # Tells callers that nobody will answer them, and counts what was dropped.
  #
  # Invariant: who is told that its worker has died is one of a pool that goes on, unless the worker was killed by
  # itself, before the pool. What ends with the pool is told by the end of the pool: by nobody else.

  @behaviour PartitionedBuffer.Broker.Keeper

  alias PartitionedBuffer.Broker
  alias PartitionedBuffer.GenPool.{Signals, Telemetry}

  require Broker

  @typedoc """
  Whom events are told of, and the pool that the broker is part of: what says that it ends, its process, and the name of
  the supervisor of its workers. `nil` if it is part of none.
  """
  @type arg :: %{
          pool: atom(),
          of: %{signals: Signals.t(), owner: pid(), supervisor: atom()} | nil
        }

  @doc "What a caller of `GenPool.call/3` is sent about the request with this reference."
  defmacro message(ref, reason) do
    quote do: {:"$partitioned_buffer_dropped", unquote(ref), unquote(reason)}
  end

  @impl true
  def dropped(caller, {:worker_down, reason}, %{of: of}) do
    unless of != nil and over?(of), do: worker_down(caller, reason)
  end

  # The pool has ended, or its broker has, and is monitored by its callers.
  def dropped(_caller, :shutdown, _arg), do: :ok
  def dropped(_caller, Broker.late(:shutdown), _arg), do: :ok
  def dropped({:forwarded, from}, _reason, _arg), do: GenServer.reply(from, refused())

  def dropped(caller, reason, _arg), do: tell(caller, reason)

  # A process that has ended by the end of another one has ended after that: the pool is not alive if its end was
  # the worker's, and the supervisor has lost its name.
  defp over?(%{signals: signals, owner: owner, supervisor: supervisor}) do
    Signals.ending?(signals) or not Process.alive?(owner) or Process.whereis(supervisor) == nil
  end

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
