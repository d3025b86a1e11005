defmodule Demo.ThroughMap do
  # The way of changes of states through a `PartitionedBuffer.Map` into the database: of each key, each
  # cycle writes the newest one only.

  alias Demo.{Producers, Progress, Store, Tally}
  alias PartitionedBuffer.Map, as: Buffer

  @buffer :demo_map

  @doc "Writes what is reported of the keys. Returns the times, and the accounts of the map."
  def run(reports, keys, table) do
    # `{batch, committed_at, [put_at]}`
    commits = :ets.new(:commits, [:public])
    tally = Tally.attach(@buffer)
    start(&process(&1, table, commits), keys)
    accepted = :counters.new(1, [:write_concurrency])

    {puts, info} =
      Progress.show(length(reports), fn -> :counters.get(accepted, 1) end, fn ->
        puts = Producers.run(reports, &put(&1, accepted))
        info = PartitionedBuffer.info(@buffer)
        :ok = Buffer.stop(@buffer)
        {puts, info}
      end)

    Tally.detach(@buffer)
    {times(puts, :ets.tab2list(commits)), %{info: info, tally: Tally.read(tally)}}
  end

  defp start(processor, keys) do
    {:ok, _pid} =
      Buffer.start_link(
        name: @buffer,
        processor: processor,
        processing_interval_ms: 1,
        processing_batch_size: 500,
        processing_timeout_ms: :infinity,
        # The database is written to whatever it has. So no version may get there after a newer one, also
        # not in a later cycle.
        version_memory: keys
      )
  end

  defp put(share, accepted) do
    for {key, value, version} <- share do
      put_at = now()
      :ok = Buffer.put_newer(@buffer, key, {value, put_at}, version)
      :counters.add(accepted, 1, 1)
      {put_at, now()}
    end
  end

  defp process(batch, table, commits) do
    rows =
      for {key, {value, put_at}, version, _updates} <- batch, do: {key, version, value, put_at}

    Store.put_all(table, rows)
    Store.sync()
    put_at = for {_key, _version, _value, put_at} <- rows, do: put_at
    :ets.insert(commits, {make_ref(), now(), put_at})
  end

  defp times(puts, commits) do
    spans = for {_, committed_at, batch} <- commits, put_at <- batch, do: {put_at, committed_at}
    %{waits: puts, commits: spans, transactions: length(commits)}
  end

  defp now, do: System.monotonic_time()
end
