defmodule PartitionedBuffer.Cluster.Handover do
  @moduledoc false
  # What a node that stops could not process goes to the new owners: through the buffer's `on_discard`, which
  # gets the entries of each partition in their order, batch by batch, while the node is no member any more.
  #
  # Invariants:
  #
  #   * What can't be handed over gets to the `on_discard` that the user gave, and is reported.
  #   * Of a map, an entry never takes the place of one whose version is not lower.

  alias PartitionedBuffer.Cluster.{Delivery, Telemetry, View}
  alias PartitionedBuffer.{Handle, Router}

  @doc "The buffer's options, with `on_discard` led through here."
  @spec options(keyword(), map()) :: keyword()
  def options(opts, %{handover: false}), do: opts

  def options(opts, own) do
    users = opts[:on_discard]

    Keyword.put(
      opts,
      :on_discard,
      {__MODULE__, :discarded, [own.name, own.handover_timeout_ms, users]}
    )
  end

  @doc "Whether an `on_discard` is this."
  @spec on_discard?(term()) :: boolean()
  def on_discard?({__MODULE__, :discarded, _args}), do: true
  def on_discard?(_other), do: false

  @doc false
  @spec discarded([term()], atom(), atom(), pos_integer(), term()) :: term()
  def discarded(entries, :shutdown, buffer, timeout, users) do
    left = with {:ok, view} <- View.fetch(buffer), do: give(view, entries, timeout)
    left = if left == :error, do: entries, else: left
    if left != [], do: call(users, left, :shutdown)
  end

  def discarded(entries, reason, _buffer, _timeout, users), do: call(users, entries, reason)

  defp call(nil, _entries, _reason), do: :ok
  defp call(fun, entries, reason) when is_function(fun, 2), do: fun.(entries, reason)

  defp call({module, fun, args}, entries, reason),
    do: apply(module, fun, [entries, reason | args])

  # What could not be handed over.
  defp give(view, entries, timeout) do
    # Never back to this node, whatever the view says.
    opts = %{
      timeout: within(view, timeout),
      on_lost: :next,
      on_full: :next,
      request_id: nil,
      exclude: [node()]
    }

    {operation, hashed, hashed?} = hashed(view, entries)
    failures = Delivery.write(view, operation, hashed, hashed?, opts)
    failed = failures |> Enum.flat_map(&elem(&1, 1)) |> MapSet.new()

    for {reason, entries} <- failures, do: told(view, length(entries), {:error, reason})
    given = length(entries) - Enum.sum(for {_reason, entries} <- failures, do: length(entries))

    if given > 0 do
      View.count(view, :handed_over, given)
      told(view, given, :ok)
    end

    if failures == [], do: [], else: Enum.filter(entries, &(sent(view, &1) in failed))
  end

  defp told(view, count, result) do
    Telemetry.execute([:handover], %{count: count}, %{buffer: view.buffer, result: result})
  end

  # A call of `on_discard` that takes too long is killed.
  defp within(view, timeout) do
    with {:ok, %{ref: ref}} <- Handle.fetch(view.buffer),
         %{processing_timeout_ms: ms} when is_integer(ms) <- Handle.settings(ref) do
      min(timeout, max(div(ms * 4, 5), 1))
    else
      _no_bound -> timeout
    end
  end

  # Without a key that all writes go by, an item's own one is not known: so all go the same way, in their order.
  defp hashed(%{module: PartitionedBuffer.Queue, defaults: %{partition_key: nil}}, items) do
    hash = Router.hash({:handover, node()}, nil)
    {:push, for(item <- items, do: {hash, item}), true}
  end

  defp hashed(%{module: PartitionedBuffer.Queue, defaults: %{partition_key: key}}, items),
    do: {:push, for(item <- items, do: {Router.hash(key, item), item}), true}

  defp hashed(%{defaults: %{partition_key: option}} = view, entries) do
    hashed = for entry <- entries, do: {Router.hash(option, elem(entry, 0)), sent(view, entry)}
    {:put_all_newer, hashed, option != nil}
  end

  defp sent(%{module: PartitionedBuffer.Map}, {key, value, version, _updates}),
    do: {key, value, version}

  defp sent(_queue, item), do: item
end
