defmodule Demo.ThroughQueue do
  # The way of the records through a `PartitionedBuffer.Queue` into the database.

  alias Demo.{Producers, Progress, Store, Tally}
  alias PartitionedBuffer.Queue

  @buffer :demo_queue

  @doc "Writes the records. Returns the times, and the accounts of the queue."
  def run(records, table) do
    # `{batch, committed_at, [pushed_at]}`
    commits = :ets.new(:commits, [:public])
    tally = Tally.attach(@buffer)
    start(&process(&1, table, commits))

    {pushes, info} =
      Progress.show(length(records), fn -> Tally.read(tally).processed end, fn ->
        pushes = Producers.run(records, &push/1)
        info = PartitionedBuffer.info(@buffer)
        :ok = Queue.stop(@buffer)
        {pushes, info}
      end)

    Tally.detach(@buffer)
    {times(pushes, :ets.tab2list(commits)), %{info: info, tally: Tally.read(tally)}}
  end

  defp start(processor) do
    {:ok, _pid} =
      Queue.start_link(
        name: @buffer,
        processor: processor,
        processing_interval_ms: 20,
        processing_batch_size: 500,
        # This is also the time for stopping, and a slow disk is no reason to discard anything.
        processing_timeout_ms: :infinity
      )
  end

  defp push(share) do
    for {id, value} <- share do
      pushed_at = now()
      :ok = Queue.push(@buffer, {id, value, pushed_at})
      {pushed_at, now()}
    end
  end

  # If this raises, the queue discards the batch and goes on with the next. The demo then finds that
  # records are missing.
  defp process(batch, table, commits) do
    Store.insert_all(table, batch)
    Store.sync()
    committed_at = now()
    pushed_at = for {_id, _value, pushed_at} <- batch, do: pushed_at
    :ets.insert(commits, {make_ref(), committed_at, pushed_at})
  end

  defp times(pushes, commits) do
    spans =
      for {_, committed_at, batch} <- commits, pushed_at <- batch, do: {pushed_at, committed_at}

    %{waits: pushes, commits: spans, transactions: length(commits)}
  end

  defp now, do: System.monotonic_time()
end
