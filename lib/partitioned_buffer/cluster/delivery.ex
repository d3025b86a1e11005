defmodule PartitionedBuffer.Cluster.Delivery do
  @moduledoc false
  # Brings the entries of a call to their owners, one message for each node, and goes on with those that were
  # not accepted until they are or the call's time is up.
  #
  # Invariants:
  #
  #   * A call ends when its time is up, whatever other nodes do.
  #   * An entry is given to a second node only if the first one has said that it did not take it, or was not
  #     connected when it was to be asked, or `on_lost: :next` says so.
  #   * The same entries are given to the same node again with the same id only.
  #   * Of what a call returns an error for, nothing is known to have been accepted; of the rest, all is.

  alias PartitionedBuffer.{Awaited, Router}
  alias PartitionedBuffer.Cluster.{Call, Receiver, Rendezvous, Telemetry, View}

  # Of a request, what the way there and back may take: the rest is for waiting for room there.
  @way_ms 100
  # Until what can't wait natively is tried again.
  @again_ms 10

  @typedoc "Entries that go to one node together; `tried`: nodes that they don't go to any more."
  @type group :: %{
          node: node(),
          entries: [{Router.hash(), term()}],
          id: term(),
          tried: [node()],
          lost?: boolean()
        }

  @type failure :: {reason :: term(), entries :: [term()]}

  @doc "What has failed, and why."
  @spec write(View.t(), Receiver.operation(), [{Router.hash(), term()}], boolean(), map()) ::
          [failure()]
  def write(view, operation, entries, hashed?, opts) do
    call = %{
      view: view,
      operation: operation,
      hashed?: hashed?,
      opts: opts,
      deadline: Awaited.deadline(opts.timeout)
    }

    {groups, failures} = group(call, entries, Map.get(opts, :exclude, []))
    failures = rounds(call, groups, failures)

    for {reason, entries} <- failures do
      View.count(view, :failed, length(entries))
      metadata = %{buffer: view.buffer, reason: reason}
      Telemetry.execute([:failed], %{count: length(entries)}, metadata)
    end

    failures
  end

  defp rounds(_call, [], failures), do: failures

  defp rounds(call, groups, failures) do
    {again, failures} =
      groups
      |> attempt(call)
      |> Enum.reduce({[], failures}, fn {group, result}, {again, failures} ->
        {more, failed} = settle(call, group, result)
        {more ++ again, failed ++ failures}
      end)

    rounds(call, again, failures)
  end

  ## Who gets what

  defp group(%{view: view} = call, entries, tried) do
    members = Enum.reject(view.members, fn {node, _weight} -> node in tried end)

    {unowned, owned} =
      entries |> Enum.group_by(&owner(view, members, tried, &1)) |> Map.pop(nil, [])

    groups =
      for {node, entries} <- owned do
        %{node: node, entries: entries, id: id(call, entries), tried: tried, lost?: false}
      end

    {groups, if(unowned == [], do: [], else: [{:no_nodes, bare(unowned)}])}
  end

  defp owner(%{owners: {}}, _members, _tried, _entry), do: nil

  defp owner(%{owners: owners}, _members, [], {hash, _entry}),
    do: elem(owners, Rendezvous.slot(hash))

  defp owner(_view, members, _tried, {hash, _entry}),
    do: Rendezvous.best(Rendezvous.slot(hash), members)

  # Other entries are never taken for these, even if the members have changed and they are grouped in
  # another way.
  defp id(%{opts: %{request_id: nil}}, _entries), do: make_ref()

  defp id(%{opts: %{request_id: id}, operation: operation}, entries),
    do: {id, operation, length(entries), :erlang.phash2(entries, 4_294_967_296)}

  ## One attempt

  # Others are asked first, so that they write at the same time as this node.
  defp attempt(groups, call) do
    {here, elsewhere} = Enum.split_with(groups, &(&1.node == node()))
    asked = for group <- elsewhere, do: {group, ask(call, group)}
    written = for group <- here, do: {group, write_here(call, group)}
    written ++ for {group, asked} <- asked, do: {group, answer(asked)}
  end

  defp write_here(call, group) do
    result = Receiver.write(call.view.buffer, request(call, group), room_ms(call, left(call), 0))
    if result == :ok, do: View.count(call.view, :local, length(group.entries))
    result
  end

  defp ask(call, group) do
    if group.lost? or group.node in Node.list(:connected) do
      ms = attempt_ms(call, group)
      args = [call.view.buffer, group.id, request(call, group), room_ms(call, ms, @way_ms)]

      {:asked, call, group, Call.start(group.node, Receiver, :accept, args, ms),
       Awaited.deadline(ms)}
    else
      {:refused, :not_connected}
    end
  end

  defp answer({:refused, _reason} = refused), do: refused

  defp answer({:asked, call, group, asked, deadline}) do
    case Call.await(asked, deadline) do
      # That it has been accepted before is as good.
      :ok ->
        View.count(call.view, :remote, length(group.entries))
        :ok

      {:lost, _reason} ->
        :lost

      refused ->
        refused
    end
  end

  defp request(%{operation: operation, hashed?: hashed?}, %{entries: entries}) do
    {operation, bare(entries), if(hashed?, do: for({hash, _entry} <- entries, do: hash))}
  end

  defp bare(entries), do: for({_hash, entry} <- entries, do: entry)

  # With others to go to, one that does not answer must not take all the time.
  defp attempt_ms(%{opts: %{on_lost: :next}} = call, group) do
    left = left(call)

    others? =
      Enum.any?(call.view.members, fn {n, _} -> n != group.node and n not in group.tried end)

    if others? and is_integer(left), do: max(div(left, 2), 1), else: left
  end

  defp attempt_ms(call, _group), do: left(call)

  defp room_ms(%{opts: %{on_full: :block}}, :infinity, _way_ms), do: :infinity

  defp room_ms(%{opts: %{on_full: :block}}, ms, way_ms),
    do: ms - min(way_ms, div(ms, 2))

  defp room_ms(_call, _ms, _way_ms), do: 0

  ## What follows

  defp settle(_call, _group, :ok), do: {[], []}

  defp settle(call, group, {:refused, reason}) when reason in [:closed, :not_connected] do
    # It had been asked before: it may have accepted that.
    if group.lost?, do: settle(call, group, :lost), else: next(call, group, reason, :no_nodes)
  end

  defp settle(%{opts: %{on_full: :block}} = call, group, {:refused, :full}),
    do: same(call, group, :full, if(group.lost?, do: {:lost, group.node}, else: :timeout))

  defp settle(_call, %{lost?: true} = group, {:refused, :full}),
    do: failed(group, {:lost, group.node})

  defp settle(%{opts: %{on_full: :next}} = call, group, {:refused, :full}),
    do: next(call, group, :full, :full)

  defp settle(_call, group, {:refused, reason}), do: failed(group, reason)

  defp settle(call, group, :lost) do
    case call.opts.on_lost do
      :error -> failed(group, {:lost, group.node})
      :block -> same(call, %{group | lost?: true}, :lost, {:lost, group.node})
      :next -> next(call, group, :lost, {:lost, group.node})
    end
  end

  defp failed(group, reason), do: {[], [{reason, bare(group.entries)}]}

  # After a moment, if there is time. An attempt that has too little would only end without an answer, and so
  # in doubt, where it is known now that nothing was accepted.
  defp same(call, group, reason, failure) do
    if left(call) > if(reason == :full, do: @way_ms, else: @again_ms) do
      receive do
      after
        @again_ms -> :ok
      end

      retried(call, group, group.node, reason)
      {[group], []}
    else
      failed(group, failure)
    end
  end

  # The members may have changed since the call began.
  defp next(call, group, reason, failure) do
    call =
      with {:ok, view} <- View.fetch(call.view.buffer),
           do: %{call | view: view},
           else: (_ended -> call)

    tried = [group.node | group.tried]

    if left(call) == 0 do
      failed(group, if(reason == :lost, do: failure, else: :timeout))
    else
      {groups, failures} = group(call, group.entries, tried)
      for next <- groups, do: retried(call, %{next | node: group.node}, next.node, reason)
      {groups, for({:no_nodes, entries} <- failures, do: {failure, entries})}
    end
  end

  defp retried(call, group, next, reason) do
    count = length(group.entries)
    View.count(call.view, :retried, count)
    metadata = %{buffer: call.view.buffer, node: group.node, next: next, reason: reason}
    Telemetry.execute([:retry], %{count: count}, metadata)
  end

  defp left(%{deadline: deadline}), do: Awaited.left(deadline)
end
