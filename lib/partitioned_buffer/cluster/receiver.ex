defmodule PartitionedBuffer.Cluster.Receiver do
  @moduledoc false
  # What other nodes ask this one for, called through `:erpc`. It is answered when this node's buffer has
  # accepted, so an answer of `:ok` means what it means here.
  #
  # Invariants:
  #
  #   * `{:refused, reason}`: nothing was written.
  #   * A request is written once, however often it is made (`Requests`).

  alias PartitionedBuffer.Cluster.{Requests, Telemetry, View}
  alias PartitionedBuffer.{Handle, Router}

  @typedoc "What is written. `hashes` tell the partition of each entry; `nil`: that is the entry itself."
  @type request :: {operation, entries :: [term()], hashes :: nil | [Router.hash()]}
  @type operation :: :push | :put_all | :put_all_newer | :delete
  @type result :: :ok | {:refused, :full | :too_large | :closed | {:invalid, String.t()}}

  @doc "A write of another node. `room_ms`: how long it may wait for room."
  @spec accept(atom(), id :: term(), request(), room_ms :: timeout()) :: result()
  def accept(buffer, id, {_operation, entries, _hashes} = request, room_ms) do
    case View.fetch(buffer) do
      {:ok, %{requests: requests} = view} ->
        with :repeated <- Requests.once(requests, id, fn -> write(buffer, request, room_ms) end) do
          count = length(entries)
          View.count(view, :repeated, count)
          Telemetry.execute([:repeated], %{count: count}, %{buffer: buffer})
        end

      :error ->
        {:refused, :closed}
    end
  end

  @doc "A write into the buffer of this node."
  @spec write(atom(), request(), room_ms :: timeout()) :: result()
  def write(buffer, {operation, entries, hashes}, room_ms) do
    key = if hashes, do: %Router.Hashes{hashes: hashes}

    case write(operation, buffer, entries, partition_key: key, timeout: room_ms) do
      :ok -> :ok
      {:error, :too_large} -> {:refused, :too_large}
      {:error, _full_or_timeout} -> {:refused, :full}
    end
  rescue
    error in [ArgumentError, RuntimeError] -> refused(buffer, error)
  end

  defp write(:push, buffer, items, opts), do: PartitionedBuffer.Queue.push(buffer, items, opts)

  defp write(:put_all, buffer, pairs, opts),
    do: PartitionedBuffer.Map.put_all(buffer, pairs, opts)

  defp write(:put_all_newer, buffer, entries, opts),
    do: PartitionedBuffer.Map.put_all_newer(buffer, entries, opts)

  defp write(:delete, buffer, keys, partition_key: nil, timeout: _ms),
    do: Enum.each(keys, &PartitionedBuffer.Map.delete(buffer, &1))

  defp write(:delete, buffer, keys, partition_key: %{hashes: hashes}, timeout: _ms) do
    for {key, hash} <- Enum.zip(keys, hashes),
        do: PartitionedBuffer.Map.delete(buffer, key, hashed(hash))

    :ok
  end

  defp hashed(nil), do: []
  defp hashed(hash), do: [partition_key: %Router.Hashes{hashes: [hash]}]

  @doc "A read of a map of this node."
  @spec read(atom(), key :: term(), nil | Router.hash()) ::
          {:found, {:ok, term()} | :error} | {:refused, term()}
  def read(buffer, key, hash) do
    {:found, PartitionedBuffer.Map.fetch(buffer, key, hashed(hash))}
  rescue
    error in [ArgumentError, RuntimeError] -> refused(buffer, error)
  end

  @doc "A call of this node's part of a buffer."
  @spec call(atom(), atom(), [term()]) :: {:ok, term()} | {:error, term()}
  def call(buffer, function, args) do
    {:ok, apply(PartitionedBuffer, function, [buffer | args])}
  rescue
    error in [ArgumentError, RuntimeError] ->
      {:refused, reason} = refused(buffer, error)
      {:error, reason}
  end

  defp refused(buffer, error) do
    if Handle.unknown?(error, buffer),
      do: {:refused, :closed},
      else: {:refused, {:invalid, Exception.message(error)}}
  end
end
