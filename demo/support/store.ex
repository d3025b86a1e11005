defmodule Demo.Store do
  # The database that the records go to: Mnesia, on disk, in a folder that exists only for the demo.

  # Of records, each of which is a row of its own, and of states, which have one row each.
  @records [:key, :id, :value, :pushed_at]
  @states [:key, :version, :value, :put_at]
  @tables [through_queue: @records, synced: @records, unsynced: @records, through_map: @states]

  @doc "Runs `work` with an empty database, and leaves nothing of it behind."
  def run(work) do
    folder = Path.join(System.tmp_dir!(), "partitioned_buffer_demo_#{System.pid()}")

    try do
      create(folder)
      work.()
    after
      :mnesia.stop()
      File.rm_rf!(folder)
    end
  end

  @doc "Writes rows of `{id, value, pushed_at}` in one transaction."
  def insert_all(table, rows) do
    transaction(fn ->
      # One lock for all: a lock for each row would take longer than everything else here.
      :mnesia.write_lock_table(table)
      for row <- rows, do: :mnesia.write(stored(table, row))
    end)
  end

  @doc """
  Writes rows of `{key, version, value, put_at}` in one transaction, each in the place of the one that its
  key has, whatever that is.
  """
  def put_all(table, rows) do
    transaction(fn ->
      :mnesia.write_lock_table(table)
      for row <- rows, do: :mnesia.write(Tuple.insert_at(row, 0, table))
    end)
  end

  @doc "Writes one row, in a transaction of its own."
  def insert(table, row), do: transaction(fn -> :mnesia.write(stored(table, row)) end)

  @doc "Waits until what was committed is on the disk: Mnesia's transactions by themselves do not."
  def sync, do: :ok = :mnesia.sync_log()

  @doc "Forgets what is in memory and reads all of it from the disk."
  def reopen do
    :stopped = :mnesia.stop()
    start()
  end

  @doc "All records of a table, as `{id, value}`."
  def all(table) do
    for {_table, _key, id, value, _pushed_at} <- rows(table), do: {id, value}
  end

  @doc "All states of a table, as `{key, {value, version}}`."
  def states(table) do
    for {_table, key, version, value, _put_at} <- rows(table), do: {key, {value, version}}
  end

  defp rows(table) do
    fold = fn -> :mnesia.foldl(&[&1 | &2], [], table) end
    :mnesia.activity(:async_dirty, fold)
  end

  # Each write has a key of its own: a record that is written twice is there twice, and is found out.
  defp stored(table, {id, value, pushed_at}),
    do: {table, :erlang.unique_integer(), id, value, pushed_at}

  defp transaction(work) do
    {:atomic, _result} = :mnesia.transaction(work)
    :ok
  end

  defp create(folder) do
    File.mkdir_p!(folder)

    Application.put_env(:mnesia, :dir, String.to_charlist(folder))
    # The default, 1000, has Mnesia busy with moving its log to its tables all the time.
    Application.put_env(:mnesia, :dump_log_write_threshold, 50_000)
    # If it crashes, no dump in the folder of the project.
    Application.put_env(:mnesia, :core_dir, false)

    :ok = :mnesia.create_schema([node()])
    :ok = :mnesia.start()

    for {table, attributes} <- @tables do
      {:atomic, :ok} = :mnesia.create_table(table, disc_copies: [node()], attributes: attributes)
    end
  end

  defp start do
    :ok = :mnesia.start()
    :ok = :mnesia.wait_for_tables(Keyword.keys(@tables), :infinity)
  end
end
