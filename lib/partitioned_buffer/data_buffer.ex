defmodule PartitionedBuffer.DataBuffer do
  alias PartitionedBuffer.DataBuffer.{Flush, Insert, Options}
  alias PartitionedBuffer.{Entries, Handle, Names, Native, OnDemand}

  @moduledoc """
  A buffer that is a module: what it collects goes to the module's `c:handle_flush/2`, a batch at a time.

      defmodule MyApp.EventBuffer do
        use PartitionedBuffer.DataBuffer

        @impl PartitionedBuffer.DataBuffer
        def handle_flush(events, opts) do
          MyApp.Repo.insert_all("events", Enum.to_list(events))
          MyApp.Metrics.count(opts[:size])
        end
      end

      children = [
        {MyApp.EventBuffer, partitions: 4, max_size: 1_000, flush_interval: 5_000}
      ]

      DataBuffer.insert(MyApp.EventBuffer, %{type: :click, user: 42})
      DataBuffer.insert_batch(MyApp.EventBuffer, [%{type: :view}, %{type: :click}])

  It is a `PartitionedBuffer.Queue` with other rules for when what is flushed:

    * Writes go to the partitions in turn. A batch goes to one of them as a whole.
    * A partition is full with `:max_size` items. Nothing happens when it becomes full: the next write to it
      has the items flushed that are there, and is the first of the next batch. So a flush has exactly
      `:max_size` items, or more if the last write was a batch.
    * While a partition is full **and** its former items are still being flushed, writes to it wait, in the
      order in which they came, for up to their `timeout`. A write that gives up has written nothing. Nothing
      else waits: `size/2`, `info/2`, `flush/2` and `stop/3` answer at once.
    * What a partition holds is flushed as a whole, in one call of `c:handle_flush/2`, and one flush of a
      partition comes after the other: when it is full, `:flush_interval` after its last flush, on demand,
      and when the buffer is stopped.

  ## Options

  #{Options.start_docs()}

  Other options are ignored, and so are options of `use`.

  While the buffer runs, `PartitionedBuffer.update_options/2` changes `:max_size`, `:max_size_jitter`, `:max_retries`,
  `:backoff`, `:on_discard`, and, under the names that a queue has for them, `:flush_interval`
  (`:processing_interval_ms`), `:flush_jitter` (`:processing_interval_jitter_ms`) and `:flush_timeout`
  (`:processing_timeout_ms`). What else a queue has should be left as it is; a capacity is refused.

  ## Delivery

  A flush fails when `c:handle_flush/2` raises, throws or exits, when its process is killed, and when it takes
  longer than `:flush_timeout` (it is killed then). What it returns is not looked at. A batch whose flush has
  failed is given up, or flushed again where `:max_retries` says so. What is given up is counted by
  `PartitionedBuffer.info/1`, reported by the event `[:partitioned_buffer, :partition, :discarded]`, and
  handed to `:on_discard`. No other batch goes with it. A flush that raised, threw or exited is in the log as any task that
  does, and one that took too long as `DataBuffer: flush timeout error for …`.

  When a buffer is stopped, by `stop/3` or its supervisor, writers that wait are refused, flushes that are
  running may end, and what is left is flushed, all partitions at the same time: for up to `:flush_timeout`
  altogether. When a process of the buffer is killed, nothing but the batch that it was flushing is lost.

  ## Telemetry

  Each insert and each flush is a span of `:telemetry.span/3`; `[:data_buffer]` is the `:event_prefix`:

    * `[:data_buffer, :insert, :start]` - Metadata: `buffer`
    * `[:data_buffer, :insert, :stop]` - Metadata: `buffer`, `partition`
    * `[:data_buffer, :insert, :exception]` - Metadata: `buffer`, `kind`, `reason`, `stacktrace`
    * `[:data_buffer, :flush, :start]` - Metadata: `buffer`, `partition`, `size`
    * `[:data_buffer, :flush, :stop]` - Metadata: `buffer`, `partition`, `size`
    * `[:data_buffer, :flush, :exception]` - Metadata: `buffer`, `partition`, `size`, `kind`, `reason`,
      `stacktrace`

  Measurements are `system_time` and `monotonic_time`, or `duration` and `monotonic_time`. A batch that is
  inserted is one insert. A flush that is killed has no end: see the events of `PartitionedBuffer`, which are
  emitted too. While nobody listens to inserts, a buffer looks for handlers once a millisecond: a handler that is
  attached is noticed that soon.

  ## Differences from DataBuffer 0.7

  The functions, options and defaults are those of the library [DataBuffer](https://hex.pm/packages/data_buffer)
  0.7 to 1.0; the guide "Moving from DataBuffer" tells how to move. What is different:

    * `:name` works: several buffers may be started with one module. The name without one is the module.
    * `use` defines `start_link/1`, which may be overridden. The id of the child specification is the name.
    * The supervisor is not registered as the module: use `stop/3`.
    * Partitions are named `MyApp.EventBuffer.0` and so on; `:partitions` must be 1 at least, and
      `:flush_interval` 1.
    * A wrong option is `{:error, {:shutdown, {:failed_to_start_child, PartitionedBuffer.DataBuffer, reason}}}`
      with an exception as the reason.
    * `c:handle_flush/2` is not called when there is nothing to flush, unless `flush_empty: true`. In
      `sync_flush/2` the result of a partition that was empty is `nil` then.
    * A partition has one flush at a time: a timer or `flush/2` that comes during one starts the next one after
      it. All partitions of `sync_flush/2` are flushed at the same time; it waits for flushes that were
      running, and is bounded by `:flush_timeout` and reported by events as any other flush.
    * When a flush of `sync_flush/2` fails, the caller exits with `{:flush_failed, reason}`, and the partition
      goes on.
    * A write whose caller gave up is never written, and none that was killed while it waited.
    * An enumerable is walked by the caller of `insert_batch/3`: if it raises, the caller gets that, and
      nothing is written.
    * The timeouts of `flush/2`, `dump/2`, `size/2` and `info/2` have no effect: these don't wait.
    * `flush_timeout: :infinity` works.
    * Flushes that are running when the buffer is stopped end in peace, and the time for stopping is
      `:flush_timeout`, not five seconds.
    * The `:stop` event of a flush has `size`.
    * `items` may be read more than once, but only until `c:handle_flush/2` returns.
  """

  @behaviour PartitionedBuffer

  @type buffer :: PartitionedBuffer.buffer()

  @doc """
  Is called with the items of a partition, in the order in which they were inserted, and
  `[size: size, meta: meta]`: how many they are, and the buffer's `:flush_meta`.

  `items` is lazy: items are copied out of the buffer a few hundred at a time, while they are read. So a
  million of them need not be on the heap at once. They can be read until this function returns, also by other
  processes. The result is what `sync_flush/2` returns.
  """
  @callback handle_flush(items :: Enumerable.t(), opts :: keyword()) :: term()

  @doc false
  defmacro __using__(_opts) do
    quote do
      @behaviour PartitionedBuffer.DataBuffer

      @doc false
      def child_spec(opts) do
        %{
          id: opts |> PartitionedBuffer.Options.keyword!() |> Keyword.get(:name, __MODULE__),
          start: {__MODULE__, :start_link, [opts]},
          type: :supervisor
        }
      end

      @doc false
      def start_link(opts), do: PartitionedBuffer.DataBuffer.start_link(__MODULE__, opts)

      defoverridable child_spec: 1, start_link: 1
    end
  end

  @doc false
  @impl PartitionedBuffer
  def ets_type, do: :ordered_set

  @doc false
  @impl PartitionedBuffer
  def kind, do: :queue

  @doc false
  @impl PartitionedBuffer
  def row(item, position), do: {:entry, position, item, 0, 0}

  @doc """
  Starts a buffer whose flushes go to `module`, and links it to the calling process.

  Takes the options of the module documentation. Returns `{:ok, pid}`, `{:error, {:already_started, pid}}` if a
  buffer of this name is running, or `{:error, {:shutdown, {:failed_to_start_child, module, exception}}}` if an
  option is wrong or the module has no `c:handle_flush/2`.

      iex> {:ok, _pid} = PartitionedBuffer.DataBuffer.start_link(DocBuffer, name: :start_doc)
      iex> {:error, {:shutdown, {:failed_to_start_child, PartitionedBuffer.DataBuffer, error}}} =
      ...>   PartitionedBuffer.DataBuffer.start_link(DocBuffer, name: :other_doc, partitions: 0)
      iex> error.key
      :partitions
      iex> PartitionedBuffer.DataBuffer.stop(:start_doc)
      :ok
  """
  @spec start_link(module(), keyword()) :: Supervisor.on_start()
  def start_link(module, opts) do
    case Options.start(module, opts) do
      {:ok, opts} -> module |> Options.queue(opts) |> PartitionedBuffer.Supervisor.start_link()
      {:error, error} -> {:error, {:shutdown, {:failed_to_start_child, __MODULE__, error}}}
    end
  end

  @doc """
  Stops a buffer after everything that it holds has been flushed. See `PartitionedBuffer.stop/3`.
  """
  @spec stop(buffer() | pid(), reason :: term(), timeout()) :: :ok
  def stop(buffer, reason \\ :normal, timeout \\ :infinity) do
    PartitionedBuffer.stop(buffer, reason, timeout)
  end

  @doc """
  Inserts an item. Returns `:ok` when it is in the buffer: it is flushed then, whatever happens to the calling
  process or to processes of the buffer.

  The third argument is how many milliseconds the call may wait while the partition is full and being flushed,
  or `:infinity`; or options:

  #{Options.insert_docs()}

  When the time is over, nothing was inserted, and the caller exits with
  `{:timeout, {PartitionedBuffer.DataBuffer, :insert, [buffer, item, timeout]}}`.

  Raises `ArgumentError` if no buffer of this name is running, or it was stopped while the call waited, if
  the buffer is of another kind, if the timeout is none, or if the item takes 4 GB or more;
  `NimbleOptions.ValidationError` if an option is wrong.

      iex> {:ok, _pid} = DocBuffer.start_link(name: :insert_doc)
      iex> PartitionedBuffer.DataBuffer.insert(:insert_doc, %{type: :click})
      :ok
      iex> PartitionedBuffer.DataBuffer.insert(:insert_doc, %{type: :view}, on_timeout: :error)
      :ok
      iex> PartitionedBuffer.DataBuffer.sync_flush(:insert_doc)
      [{[%{type: :click}, %{type: :view}], [size: 2, meta: nil]}]
      iex> PartitionedBuffer.DataBuffer.stop(:insert_doc)
      :ok
  """
  @spec insert(buffer(), item :: term(), timeout() | keyword()) :: :ok | {:error, :full}
  def insert(buffer, item, timeout \\ 5_000)

  def insert(buffer, item, timeout)
      when timeout == :infinity or (is_integer(timeout) and timeout >= 0) do
    case Native.data_buffer_insert(buffer, item) do
      :ok -> :ok
      other -> Insert.go_on(other, buffer, fetch!(buffer), {:one, item}, timeout)
    end
  end

  def insert(buffer, item, opts) do
    _valid = Options.insert!(opts)

    case Native.data_buffer_insert(buffer, item) do
      :ok -> :ok
      other -> Insert.go_on(other, buffer, fetch!(buffer), {:one, item}, opts)
    end
  end

  @doc """
  Inserts all items of an enumerable into one partition, as a whole. Otherwise the same as `insert/3`.

  The enumerable is walked by the calling process. The batch may be larger than `:max_size`: it is not split.
  An empty one writes nothing, but has a full partition flushed as any write does.

      iex> {:ok, _pid} = DocBuffer.start_link(name: :batch_doc)
      iex> PartitionedBuffer.DataBuffer.insert_batch(:batch_doc, 1..3)
      :ok
      iex> PartitionedBuffer.DataBuffer.size(:batch_doc)
      3
      iex> PartitionedBuffer.DataBuffer.stop(:batch_doc)
      :ok
  """
  @spec insert_batch(buffer(), Enumerable.t(), timeout() | keyword()) :: :ok | {:error, :full}
  def insert_batch(buffer, items, timeout \\ 5_000) do
    _valid = Options.insert!(timeout)
    items = list(items)

    case Native.data_buffer_insert_all(buffer, items) do
      :ok -> :ok
      other -> Insert.go_on(other, buffer, fetch!(buffer), {:all, items}, timeout)
    end
  end

  @doc """
  Has all partitions flushed, and does not wait for it. One that is being flushed is flushed again after that.

  Nothing is flushed that is empty, unless the buffer was started with `flush_empty: true`.

      iex> {:ok, _pid} = DocBuffer.start_link(name: :flush_doc)
      iex> PartitionedBuffer.DataBuffer.flush(:flush_doc)
      :ok
      iex> PartitionedBuffer.DataBuffer.stop(:flush_doc)
      :ok

  Raises `ArgumentError` if no buffer of this name is running.
  """
  @spec flush(buffer(), timeout()) :: :ok
  def flush(buffer, _timeout \\ 5_000) do
    %{ref: ref} = handle = fetch!(buffer)
    OnDemand.flush(handle, Enum.to_list(Handle.indexes(ref)))
  end

  @doc """
  Flushes what all partitions hold and returns what `c:handle_flush/2` has returned: a list with one element for
  each partition, **that of the last partition first**. For a partition that held nothing it is `nil`, or,
  with `flush_empty: true`, what the call without items has returned.

  A partition that is being flushed is flushed again after that, and its result is that of the second flush. If nothing
  came meanwhile, there is none, and its result is that of the flush that was running.

  When it takes longer than `timeout` milliseconds, the caller exits with
  `{:timeout, {PartitionedBuffer.DataBuffer, :sync_flush, [buffer, timeout]}}`, and the flushes go on. When one
  of them has failed, it exits with `{{:flush_failed, reason}, {…}}` with a `t:PartitionedBuffer.reason/0`. Raises `ArgumentError` if no buffer of this name is running.

      iex> {:ok, _pid} = DocBuffer.start_link(name: :sync_doc, partitions: 2, flush_empty: true)
      iex> PartitionedBuffer.DataBuffer.insert(:sync_doc, "foo")
      iex> PartitionedBuffer.DataBuffer.sync_flush(:sync_doc)
      [{["foo"], [size: 1, meta: nil]}, {[], [size: 0, meta: nil]}]
      iex> PartitionedBuffer.DataBuffer.stop(:sync_doc)
      :ok
  """
  @spec sync_flush(buffer(), timeout()) :: [result :: term()]
  def sync_flush(buffer, timeout \\ 5_000) do
    _of_this_kind = fetch!(buffer)
    outcomes = Flush.sync(buffer, PartitionedBuffer.Options.timeout!(timeout))

    case Enum.find(outcomes, &match?({:error, _reason}, &1)) do
      nil -> outcomes |> Enum.map(fn {:ok, result} -> result end) |> Enum.reverse()
      {:error, reason} -> exit({reason, {__MODULE__, :sync_flush, [buffer, timeout]}})
    end
  end

  @doc """
  Copies of all items that wait to be flushed, each with its place in its partition: `{place, item}`, from 1 on.
  Those of the first partition come first. They stay in the buffer.

  Items that are flushed while they are read may be missing, but only from the end of a partition.

      iex> {:ok, _pid} = DocBuffer.start_link(name: :dump_doc)
      iex> PartitionedBuffer.DataBuffer.insert_batch(:dump_doc, [:a, :b])
      iex> PartitionedBuffer.DataBuffer.dump(:dump_doc)
      [{1, :a}, {2, :b}]
      iex> PartitionedBuffer.DataBuffer.stop(:dump_doc)
      :ok

  Raises `ArgumentError` if no buffer of this name is running.
  """
  @spec dump(buffer(), timeout()) :: [{place :: pos_integer(), item :: term()}]
  def dump(buffer, _timeout \\ 5_000) do
    %{ref: ref} = fetch!(buffer)

    Enum.flat_map(Handle.indexes(ref), fn index ->
      ref |> Entries.live(index) |> Enum.with_index(&{&2 + 1, &1})
    end)
  end

  @doc """
  How many items wait to be flushed, in all partitions. Those of flushes that are running are not among them.

      iex> {:ok, _pid} = DocBuffer.start_link(name: :data_size_doc)
      iex> PartitionedBuffer.DataBuffer.insert(:data_size_doc, :item)
      iex> PartitionedBuffer.DataBuffer.size(:data_size_doc)
      1
      iex> PartitionedBuffer.DataBuffer.stop(:data_size_doc)
      :ok

  Raises `ArgumentError` if no buffer of this name is running.
  """
  @spec size(buffer(), timeout()) :: non_neg_integer()
  def size(buffer, _timeout \\ 5_000), do: Native.buffer_len(fetch!(buffer).ref)

  @doc """
  Tells how the partitions stand, a map for each.

    * `name`, `pid` - the partition's process
    * `size` - how many items wait to be flushed
    * `flush_size` - with how many it is full: `:max_size` and what of the jitter was drawn
    * `flush_interval`, `flush_jitter`, `flush_timeout` - as in the options

  `PartitionedBuffer.info/1` tells what became of all items, and how many writers wait (`blocked`). Raises `ArgumentError` if no buffer of this name is
  running.

      iex> {:ok, _pid} = DocBuffer.start_link(name: :info_doc, max_size: 10)
      iex> [info] = PartitionedBuffer.DataBuffer.info(:info_doc)
      iex> {info.name, info.size, info.flush_size}
      {:"Elixir.info_doc.0", 0, 10}
      iex> PartitionedBuffer.DataBuffer.stop(:info_doc)
      :ok
  """
  @spec info(buffer(), timeout()) :: [map()]
  def info(buffer, _timeout \\ 5_000) do
    %{ref: ref} = fetch!(buffer)
    settings = Handle.settings(ref)

    for index <- Handle.indexes(ref) do
      {_base, size, full, _in_line} = Native.data_buffer_standings(ref, index)
      name = Names.partition(buffer, index)

      %{
        name: name,
        pid: Process.whereis(name),
        size: size,
        flush_size: full || settings.max_size,
        flush_interval: settings.processing_interval_ms,
        flush_jitter: settings.processing_interval_jitter_ms,
        flush_timeout: settings.processing_timeout_ms
      }
    end
  end

  defp list(items) when is_list(items) do
    if List.improper?(items) do
      raise ArgumentError, "expected an enumerable, got: #{inspect(items)}"
    else
      items
    end
  end

  defp list(items), do: Enum.to_list(items)

  defp fetch!(buffer) do
    case Handle.fetch!(buffer) do
      %{module: __MODULE__} = handle -> handle
      _other -> raise ArgumentError, "#{inspect(buffer)} is a buffer of another kind"
    end
  end
end
