defmodule Demo.Store do
  # The database that the records go to: Mnesia, on disk, in a folder that exists only for the demo.

  @tables [:through_queue, :synced, :unsynced]

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

  @doc "Writes one row, in a transaction of its own."
  def insert(table, row), do: transaction(fn -> :mnesia.write(stored(table, row)) end)

  @doc "Waits until what was committed is on the disk: Mnesia's transactions by themselves do not."
  def sync, do: :ok = :mnesia.sync_log()

  @doc "Forgets what is in memory and reads all of it from the disk."
  def reopen do
    :stopped = :mnesia.stop()
    start()
  end

  @doc "All rows of a table, as `{id, value}`."
  def all(table) do
    fold = fn -> :mnesia.foldl(&[row(&1) | &2], [], table) end
    :mnesia.activity(:async_dirty, fold)
  end

  # Each write has a key of its own: a record that is written twice is there twice, and is found out.
  defp stored(table, {id, value, pushed_at}),
    do: {table, :erlang.unique_integer(), id, value, pushed_at}

  defp row({_table, _key, id, value, _pushed_at}), do: {id, value}

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

    for table <- @tables do
      {:atomic, :ok} =
        :mnesia.create_table(table,
          disc_copies: [node()],
          attributes: [:key, :id, :value, :pushed_at]
        )
    end
  end

  defp start do
    :ok = :mnesia.start()
    :ok = :mnesia.wait_for_tables(@tables, :infinity)
  end
end
