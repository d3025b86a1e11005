defmodule PartitionedBuffer.DataBuffer.Flush do
  @moduledoc false
  # A flush: what calls `handle_flush/2`, and what is done to have it called at once.
  #
  # Invariant: the calls for a partition come one after the other, each with all that the partition held.

  alias PartitionedBuffer.{Awaited, Handle, Native, OnDemand, Partition}

  require Logger

  @type outcome :: {:ok, result :: term()} | {:error, :timeout | {:flush_failed, atom()}}

  @doc "The processor of a module buffer."
  @spec run(Enumerable.t(), map(), module(), map()) :: term()
  def run(items, %{size: size} = info, module, %{flush_meta: meta, event_prefix: prefix}) do
    metadata = %{buffer: info.buffer, partition: info.partition, size: size}

    :telemetry.span(prefix ++ [:flush], metadata, fn ->
      {module.handle_flush(items, size: size, meta: meta), metadata}
    end)
  end

  @doc """
  Has it in the log that a flush was killed. One that raises, throws or exits is there by a report of OTP's; the death of
  one that is killed is nobody's report.
  """
  @spec log_timeout(map(), timeout()) :: :ok
  def log_timeout(%{buffer: buffer, partition: partition}, timeout) do
    Logger.error(
      "DataBuffer: flush timeout error for #{inspect(buffer)}: a flush of #{inspect(partition)} took more than " <>
        "#{timeout} ms, and was killed"
    )
  end

  @doc "Flushes all partitions and waits for it: what came of each, in their order."
  @spec sync(atom(), timeout()) :: [outcome()]
  def sync(buffer, timeout) do
    %{ref: ref, extra: %{flush_empty: empty?}} = handle = Handle.fetch!(buffer)
    deadline = Awaited.deadline(timeout)
    first = Awaited.token()

    flushes = for index <- Handle.indexes(ref), do: flush(handle, index, first, empty?)
    tokens = for token when is_integer(token) <- flushes, do: token
    outcomes = merge(flushes, Awaited.collect(ref, tokens, Awaited.left(deadline)), deadline)
    Enum.map(outcomes, &failure/1)
  end

  # The caller has waited for too long, or a flush has failed, maybe because it took too long.
  defp failure({:error, :timeout}), do: {:error, :timeout}
  defp failure({:error, :processing_timeout}), do: {:error, {:flush_failed, :timeout}}
  defp failure({:error, reason}), do: {:error, {:flush_failed, reason}}
  defp failure(ok), do: ok

  # A token, a request, or nil.
  defp flush(%{ref: ref, partitions: names} = handle, index, first, empty?) do
    cond do
      # Its items' own flush: one that is running may fail for reasons of its own.
      Native.partition_await_newest(ref, index, first + index) ->
        :ok = OnDemand.flush(handle, [index])
        first + index

      empty? ->
        Partition.flush_nothing(elem(names, index))

      true ->
        nil
    end
  end

  defp merge([nil | flushes], outcomes, deadline),
    do: [{:ok, nil} | merge(flushes, outcomes, deadline)]

  defp merge([token | flushes], [outcome | outcomes], deadline) when is_integer(token),
    do: [outcome | merge(flushes, outcomes, deadline)]

  defp merge([request | flushes], outcomes, deadline),
    do: [nothing(request, Awaited.left(deadline)) | merge(flushes, outcomes, deadline)]

  defp merge([], [], _deadline), do: []

  defp nothing(request, timeout) do
    case :gen_server.receive_response(request, timeout) do
      {:reply, {:error, :timeout}} -> {:error, :processing_timeout}
      {:reply, outcome} -> outcome
      :timeout -> {:error, :timeout}
      # The partition's process was killed meanwhile: there was nothing that it could have lost.
      {:error, {_reason, _partition}} -> {:error, :killed}
    end
  end
end
