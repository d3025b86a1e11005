defmodule PartitionedBuffer.Queue do
  @moduledoc """
  A buffer that keeps order: items reach the processor in the order in which they were pushed.

      iex> test = self()
      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Queue.start_link(
      ...>     name: :queue_example,
      ...>     partitions: 1,
      ...>     processing_interval_ms: 10,
      ...>     processor: fn batch -> send(test, {:batch, batch}) end
      ...>   )
      iex> PartitionedBuffer.Queue.push(:queue_example, :a)
      :ok
      iex> PartitionedBuffer.Queue.push(:queue_example, [:b, :c])
      :ok
      iex> PartitionedBuffer.Queue.stop(:queue_example)
      :ok
      iex> {:messages, batches} = Process.info(test, :messages)
      iex> Enum.flat_map(batches, fn {:batch, batch} -> batch end)
      [:a, :b, :c]

  The order holds within a partition: items of one process that go to one partition, and items of one
  list that go to one partition, stay in order. Give writes that belong together the same
  `:partition_key`.

  See `PartitionedBuffer` for the options, the events and what is guaranteed.
  """

  @behaviour PartitionedBuffer

  alias PartitionedBuffer.{Awaited, Handle, Native, Options, Refused}

  @type buffer :: PartitionedBuffer.buffer()

  @doc """
  The type of the table that a processor gets with `processing_batch_size: :table`.

      iex> PartitionedBuffer.Queue.ets_type()
      :ordered_set
  """
  @impl PartitionedBuffer
  def ets_type, do: :ordered_set

  @doc false
  @impl PartitionedBuffer
  def kind, do: :queue

  @doc false
  @impl PartitionedBuffer
  def row(item, position), do: {:entry, position, item, 0, 0}

  @doc """
  Starts a queue and links it to the calling process.

  Takes the options of `PartitionedBuffer` ("Start options"). Returns `{:ok, pid}`,
  `{:error, {:already_started, pid}}` if a buffer of this name is running, or another
  `{:error, reason}` of `Supervisor.start_link/3`. Raises `NimbleOptions.ValidationError` if an option
  is missing or wrong.

      iex> {:ok, pid} =
      ...>   PartitionedBuffer.Queue.start_link(name: :queue_start, processor: fn _batch -> :ok end)
      iex> PartitionedBuffer.Queue.start_link(name: :queue_start, processor: fn _batch -> :ok end) ==
      ...>   {:error, {:already_started, pid}}
      true
      iex> PartitionedBuffer.Queue.stop(:queue_start)
      :ok
  """
  @spec start_link(keyword()) :: Supervisor.on_start()
  def start_link(opts \\ []) do
    PartitionedBuffer.start_link(module_option(opts))
  end

  @doc """
  A child specification; its id is the buffer's name.

      iex> PartitionedBuffer.Queue.child_spec(name: :events).id
      :events
  """
  @spec child_spec(keyword()) :: Supervisor.child_spec()
  def child_spec(opts) do
    %{
      id: Keyword.get(Options.keyword!(opts), :name) || __MODULE__,
      start: {__MODULE__, :start_link, [opts]},
      type: :supervisor
    }
  end

  @doc """
  Stops a queue after everything that it holds has been processed, for up to `:processing_timeout_ms`. See
  `PartitionedBuffer.stop/3`.

  Returns `:ok`. Exits with `{:noproc, _}` if there is none, and with `{:timeout, _}` when it takes longer than
  `timeout` milliseconds; it goes on ending then. Raises `ArgumentError` if the timeout is none.

      iex> test = self()
      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Queue.start_link(name: :queue_stop, processor: &send(test, {:last, &1}))
      iex> PartitionedBuffer.Queue.push(:queue_stop, :item)
      iex> PartitionedBuffer.Queue.stop(:queue_stop, :normal, 60_000)
      :ok
      iex> receive do: ({:last, batch} -> batch)
      [:item]
  """
  @spec stop(buffer() | pid(), reason :: term(), timeout()) :: :ok
  def stop(buffer, reason \\ :normal, timeout \\ :infinity) do
    PartitionedBuffer.stop(buffer, reason, timeout)
  end

  @doc """
  Pushes an item, or each item of a list.

  A list is always many items; to push a list as one item, wrap it: `[[1, 2]]`. It is accepted as a
  whole: if the call raises, nothing of it was. An empty list is `:ok`.

  Returns `:ok` when the items are in the buffer: from then on they are processed, whatever happens to
  the calling process or to processes of the buffer. Where the buffer is bounded (`:capacity`,
  `:capacity_bytes`) and there is no room, nothing was pushed and it returns

    * `{:error, :timeout}`: there was none within the `:timeout` (`overflow: :block`),
    * `{:error, :full}`: there is none now (`overflow: :reject`, and `:drop_oldest` if nothing waits that
      could be dropped),
    * `{:error, :too_large}`: there never will be, since this is more than the capacity.

  ## Options

  #{Options.runtime_docs()}

  ## Errors

    * `ArgumentError`: no buffer of this name is running ("unknown registry: …"), the list is
      improper, an item takes 4 GB or more, or the options are not a keyword list.
    * `RuntimeError`: the buffer was started with `partitions: 0`.
    * `NimbleOptions.ValidationError`: an unknown option.
    * What the function of a `:partition_key` raises; nothing was pushed then.

  ## Examples

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Queue.start_link(name: :push_example, processor: fn _ -> :ok end)
      iex> PartitionedBuffer.Queue.push(:push_example, %{user: 1, event: :login})
      :ok
      iex> PartitionedBuffer.Queue.push(:push_example, [%{user: 1}, %{user: 2}],
      ...>   partition_key: fn event -> event.user end
      ...> )
      :ok
      iex> PartitionedBuffer.Queue.size(:push_example)
      3
      iex> PartitionedBuffer.Queue.stop(:push_example)
      :ok

  """
  @spec push(buffer(), item_or_items :: term() | [term()], keyword()) ::
          :ok | {:error, :full | :timeout | :too_large}
  def push(buffer, item_or_items, opts \\ [])

  def push(buffer, items, []) when is_list(items) do
    case Native.queue_push_list(buffer, items) do
      :ok -> :ok
      :improper -> improper!(items)
      refused -> refused(refused, buffer, items)
    end
  end

  def push(buffer, item, []) do
    case Native.queue_push(buffer, item) do
      :ok -> :ok
      refused -> refused(refused, buffer, item)
    end
  end

  def push(buffer, item_or_items, opts) do
    push_with(buffer, item_or_items, Options.write!(opts))
  end

  @doc """
  Pushes an item, or each item of a list, and waits until that has been processed.

  Returns `{:ok, result}` with what the processor has returned for the batch of the item; for a list, the
  results of the batches that had the last item in each partition, in a list. Or `{:error, reason}`:

    * `:exception`, `:killed`, `:failed`, `:expired`, `:overflow`, `:shutdown`: why an item was discarded, or
      `:processing_timeout`: the processor took too long,
    * `:timeout`: there was no room, or it has not been processed within the `:timeout`: what is in the
      buffer stays there and is processed,
    * `:full`, `:too_large`: as for `push/3`; nothing was pushed.

  It takes the options of `push/3`, of which `:timeout` bounds the whole call, and

    * `:flush` (`t:boolean/0`) - Whether processing starts at once, instead of at the next interval or
      when there is enough. The default value is `true`.

  Raises what `push/3` raises.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Queue.start_link(name: :await_example, processor: &length/1)
      iex> PartitionedBuffer.Queue.push_await(:await_example, :item)
      {:ok, 1}
      iex> PartitionedBuffer.Queue.stop(:await_example)
      :ok

  """
  @spec push_await(buffer(), item_or_items :: term() | [term()], keyword()) ::
          {:ok, result :: term()} | {:error, reason :: term()}
  def push_await(buffer, item_or_items, opts \\ [])

  # What the native side refuses here, it says there again what is to be done.
  def push_await(buffer, item, []) when not is_list(item) do
    %{ref: ref} = Handle.fetch!(buffer)
    token = Awaited.token()

    case Native.queue_push_await(ref, item, token) do
      :ok -> Awaited.await(ref, token, Options.write_timeout())
      _refused -> push_awaited(buffer, item, [])
    end
  end

  def push_await(buffer, item_or_items, opts), do: push_awaited(buffer, item_or_items, opts)

  defp push_awaited(buffer, item_or_items, opts) do
    {flush?, opts} = Options.await!(opts)
    {key, timeout} = Options.write!(opts)
    deadline = Awaited.deadline(timeout)
    {ref, items, indexes} = queued(buffer, item_or_items, key)

    written =
      with refused when is_atom(refused) <-
             Native.queue_push_awaited(ref, items, indexes, Awaited.token(), flush?) do
        dirty = fn ->
          Native.queue_push_awaited_dirty(ref, items, indexes, Awaited.token(), flush?)
        end

        again = fn -> {:again, push_await(buffer, item_or_items, [{:flush, flush?} | opts])} end
        wait = &Native.queue_wait_dirty(ref, items, indexes, &1, Awaited.token())

        refused
        |> Refused.go_on(buffer, ref, dirty, again, {timeout, wait})
        |> waited(buffer, flush?)
      end

    case written do
      # Dropped, because there was no room; or there was nothing to push.
      {:ok, []} ->
        if items == [], do: {:ok, []}, else: {:error, :overflow}

      {:ok, tokens} ->
        outcomes = Awaited.collect(ref, tokens, Awaited.left(deadline))
        Awaited.outcome(outcomes, is_list(item_or_items))

      {:again, result} ->
        result

      {:error, _reason} = error ->
        error
    end
  end

  # What has waited for room starts nothing by itself.
  defp waited({:ok, [_ | _]} = written, buffer, true) do
    :ok = PartitionedBuffer.flush(buffer)
    written
  end

  defp waited(written, _buffer, _flush?), do: written

  @doc """
  How many items wait in the live generations of all partitions, that is: were pushed and are not yet
  being drained. `PartitionedBuffer.info/1` tells all of it.

  Raises `ArgumentError` if no buffer of this name is running.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Queue.start_link(name: :queue_size, processor: fn _batch -> :ok end)
      iex> PartitionedBuffer.Queue.push(:queue_size, [1, 2, 3])
      iex> PartitionedBuffer.Queue.size(:queue_size)
      3
      iex> PartitionedBuffer.Queue.stop(:queue_size)
      :ok
  """
  @spec size(buffer()) :: non_neg_integer()
  def size(buffer), do: PartitionedBuffer.buffer_size(buffer)

  @doc """
  Changes options of a running queue: those that are given. Returns `:ok`. See `PartitionedBuffer.update_options/2`.

  Raises `NimbleOptions.ValidationError` if an option is unknown, wrong, or can't be changed, and `ArgumentError` if
  no buffer of this name is running; nothing was changed then.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Queue.start_link(name: :queue_update, partitions: 1, processor: &length/1)
      iex> PartitionedBuffer.Queue.update_options(:queue_update, processing_batch_size: 100, max_retries: 3)
      :ok
      iex> PartitionedBuffer.Queue.stop(:queue_update)
      :ok
  """
  @spec update_options(buffer(), keyword()) :: :ok
  def update_options(buffer, opts), do: PartitionedBuffer.update_options(buffer, opts)

  @doc """
  Starts to process now, and returns `:ok` without waiting for it. With `partition: index_or_name` only that one. See
  `PartitionedBuffer.flush/2`.

  Raises `ArgumentError` if no buffer of this name is running.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Queue.start_link(name: :queue_flush, partitions: 1, processor: &length/1)
      iex> PartitionedBuffer.Queue.push(:queue_flush, :item)
      iex> PartitionedBuffer.Queue.flush(:queue_flush)
      :ok
      iex> PartitionedBuffer.Queue.await_empty(:queue_flush)
      :ok
      iex> PartitionedBuffer.Queue.stop(:queue_flush)
      :ok
  """
  @spec flush(buffer(), keyword()) :: :ok
  def flush(buffer, opts \\ []), do: PartitionedBuffer.flush(buffer, opts)

  @doc """
  Processes what was written before, and waits for it. Returns what became of it in each partition. Takes `:timeout`
  (60000 by default) and `:partition`. See `PartitionedBuffer.sync_flush/2`.

  Raises `ArgumentError` if no buffer of this name is running.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Queue.start_link(name: :queue_sync, partitions: 1, processor: &length/1)
      iex> PartitionedBuffer.Queue.push(:queue_sync, :item)
      iex> PartitionedBuffer.Queue.sync_flush(:queue_sync, timeout: 5_000)
      [{:"Elixir.queue_sync.0", {:ok, 1}}]
      iex> PartitionedBuffer.Queue.stop(:queue_sync)
      :ok
  """
  @spec sync_flush(buffer(), keyword()) :: [
          {partition :: atom(), {:ok, term()} | {:error, term()}}
        ]
  def sync_flush(buffer, opts \\ []), do: PartitionedBuffer.sync_flush(buffer, opts)

  @doc """
  Waits until nothing is held: `:ok`, or `{:error, :timeout}` after `timeout` milliseconds. It starts nothing. See
  `PartitionedBuffer.await_empty/2`.

  Raises `ArgumentError` if no buffer of this name is running.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Queue.start_link(name: :queue_empty, partitions: 1, processor: &length/1)
      iex> PartitionedBuffer.Queue.push(:queue_empty, :item)
      iex> PartitionedBuffer.Queue.await_empty(:queue_empty, 0)
      {:error, :timeout}
      iex> PartitionedBuffer.Queue.flush(:queue_empty)
      iex> PartitionedBuffer.Queue.await_empty(:queue_empty)
      :ok
      iex> PartitionedBuffer.Queue.stop(:queue_empty)
      :ok
  """
  @spec await_empty(buffer(), timeout()) :: :ok | {:error, :timeout}
  def await_empty(buffer, timeout \\ 5_000), do: PartitionedBuffer.await_empty(buffer, timeout)

  @doc """
  Copies of what waits, as a processor would get it; it stays in the buffer. With `partition: index_or_name` only of that
  one. See `PartitionedBuffer.dump/2`.

  Raises `ArgumentError` if no buffer of this name is running.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Queue.start_link(name: :queue_dump, partitions: 1, processor: &length/1)
      iex> PartitionedBuffer.Queue.push(:queue_dump, :item)
      iex> PartitionedBuffer.Queue.dump(:queue_dump)
      [:item]
      iex> PartitionedBuffer.Queue.stop(:queue_dump)
      :ok
  """
  @spec dump(buffer(), keyword()) :: [term()]
  def dump(buffer, opts \\ []), do: PartitionedBuffer.dump(buffer, opts)

  @doc """
  Processes nothing until `resume/1`; writes go on. Returns `:ok`. See `PartitionedBuffer.pause/1`.

  Raises `ArgumentError` if no buffer of this name is running.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Queue.start_link(name: :queue_pause, partitions: 1, processor: &length/1)
      iex> PartitionedBuffer.Queue.pause(:queue_pause)
      :ok
      iex> PartitionedBuffer.Queue.push(:queue_pause, :item)
      iex> PartitionedBuffer.Queue.flush(:queue_pause)
      iex> PartitionedBuffer.Queue.size(:queue_pause)
      1
      iex> PartitionedBuffer.Queue.resume(:queue_pause)
      :ok
      iex> PartitionedBuffer.Queue.await_empty(:queue_pause)
      :ok
      iex> PartitionedBuffer.Queue.stop(:queue_pause)
      :ok
  """
  @spec pause(buffer()) :: :ok
  def pause(buffer), do: PartitionedBuffer.pause(buffer)

  @doc """
  Processes again after `pause/1`, what is there at once. Returns `:ok`, also if it was not paused.

  Raises `ArgumentError` if no buffer of this name is running.
  """
  @spec resume(buffer()) :: :ok
  def resume(buffer), do: PartitionedBuffer.resume(buffer)

  @doc """
  How things stand: a map with what is queued, in flight, accepted, processed and discarded, for each partition and
  altogether. See `PartitionedBuffer.info/1`.

  Raises `ArgumentError` if no buffer of this name is running.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Queue.start_link(name: :queue_info, partitions: 1, processor: &length/1)
      iex> PartitionedBuffer.Queue.push(:queue_info, :item)
      iex> info = PartitionedBuffer.Queue.info(:queue_info)
      iex> {info.accepted, info.queued, info.in_flight, info.processed}
      {1, 1, 0, 0}
      iex> PartitionedBuffer.Queue.stop(:queue_info)
      :ok
  """
  @spec info(buffer()) :: map()
  def info(buffer), do: PartitionedBuffer.info(buffer)

  defp module_option(opts) do
    if Keyword.keyword?(opts), do: Keyword.put(opts, :module, __MODULE__), else: opts
  end

  # What was refused under the name: not to be done again there, since another buffer may have it by now.
  defp refused(:unknown, buffer, _item_or_items), do: Handle.unknown!(buffer)

  defp refused(:closed, buffer, item_or_items),
    do: push_with(buffer, item_or_items, Options.write!([]))

  defp refused(refused, buffer, item_or_items) do
    go_on(refused, buffer, Handle.fetch!(buffer).ref, item_or_items, Options.write!([]))
  end

  # With the options of the call.
  defp push_with(buffer, item_or_items, {key, _timeout} = opts) do
    {ref, items, indexes} = queued(buffer, item_or_items, key)

    with refused when refused != :ok <- native(buffer, ref, item_or_items, items, indexes),
         do: go_on(refused, buffer, ref, item_or_items, opts)
  end

  # Under the name where nothing else is to be said.
  defp native(buffer, _ref, list, list, []), do: known(Native.queue_push_list(buffer, list))
  defp native(_buffer, ref, list, list, indexes), do: Native.queue_push_routed(ref, list, indexes)
  defp native(buffer, _ref, item, _items, []), do: known(Native.queue_push(buffer, item))
  defp native(_buffer, ref, item, _items, [index]), do: Native.queue_push_to(ref, item, index)

  # It was there a moment ago: it has ended meanwhile.
  defp known(:unknown), do: :closed
  defp known(result), do: result

  defp native_dirty(ref, list, list, []), do: Native.queue_push_list_dirty(ref, list)

  defp native_dirty(ref, list, list, indexes),
    do: Native.queue_push_routed_dirty(ref, list, indexes)

  defp native_dirty(ref, item, _items, []), do: Native.queue_push_dirty(ref, item)
  defp native_dirty(ref, item, _items, [index]), do: Native.queue_push_to_dirty(ref, item, index)

  # The storage, what is pushed as a list, and the partitions it goes to; none if it goes by itself.
  defp queued(buffer, item_or_items, key) do
    %{ref: ref} = handle = Handle.fetch!(buffer)
    items = if is_list(item_or_items), do: item_or_items, else: [item_or_items]
    if List.improper?(items), do: improper!(items)

    indexes = if key == nil, do: [], else: Handle.indexes!(handle, buffer, key, items)

    {ref, items, indexes}
  end

  # The native side has refused. Where there is no room, the items wait with the indexes that they have.
  defp go_on(refused, buffer, ref, item_or_items, {key, timeout} = opts) do
    {_ref, items, indexes} = queued(buffer, item_or_items, key)
    dirty = fn -> native_dirty(ref, item_or_items, items, indexes) end
    wait = fn reference -> Native.queue_wait_dirty(ref, items, indexes, reference, nil) end
    again = fn -> push_with(buffer, item_or_items, opts) end
    Refused.go_on(refused, buffer, ref, dirty, again, {timeout, wait})
  end

  @spec improper!(term()) :: no_return()
  defp improper!(items) do
    raise ArgumentError, "expected an item or a proper list of items, got: #{inspect(items)}"
  end
end
