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

  alias PartitionedBuffer.{Handle, Native, Options, Refused}

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
      id: Keyword.get(opts, :name) || __MODULE__,
      start: {__MODULE__, :start_link, [opts]},
      type: :supervisor
    }
  end

  @doc """
  Stops a queue after everything that it holds has been processed. See `PartitionedBuffer.stop/3`.
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
  the calling process or to processes of the buffer.

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
  @spec push(buffer(), item_or_items :: term() | [term()], keyword()) :: :ok
  def push(buffer, item_or_items, opts \\ [])

  def push(buffer, items, []) when is_list(items) do
    %{ref: ref} = Handle.fetch!(buffer)

    case Native.queue_push_list(ref, items) do
      :ok ->
        :ok

      :improper ->
        improper!(items)

      refused ->
        dirty = fn -> Native.queue_push_list_dirty(ref, items) end
        Refused.go_on(refused, buffer, ref, dirty, fn -> push(buffer, items, []) end)
    end
  end

  def push(buffer, item, []) do
    %{ref: ref} = Handle.fetch!(buffer)

    case Native.queue_push(ref, item) do
      :ok ->
        :ok

      refused ->
        dirty = fn -> Native.queue_push_dirty(ref, item) end
        Refused.go_on(refused, buffer, ref, dirty, fn -> push(buffer, item, []) end)
    end
  end

  def push(buffer, item_or_items, opts) do
    case Options.partition_key!(opts) do
      nil -> push(buffer, item_or_items, [])
      key -> push_by_key(buffer, item_or_items, key)
    end
  end

  @doc """
  How many items wait in the live generations of all partitions, that is: were pushed and are not yet
  being drained. `PartitionedBuffer.info/1` tells all of it.

  Raises `ArgumentError` if no buffer of this name is running.
  """
  @spec size(buffer()) :: non_neg_integer()
  def size(buffer), do: PartitionedBuffer.buffer_size(buffer)

  @doc """
  Changes options of a running queue. See `PartitionedBuffer.update_options/2`.
  """
  @spec update_options(buffer(), keyword()) :: :ok
  def update_options(buffer, opts), do: PartitionedBuffer.update_options(buffer, opts)

  defp module_option(opts) do
    if Keyword.keyword?(opts), do: Keyword.put(opts, :module, __MODULE__), else: opts
  end

  defp push_by_key(buffer, items, key) when is_list(items) do
    %{ref: ref} = handle = Handle.fetch!(buffer)
    if List.improper?(items), do: improper!(items)
    indexes = Enum.map(items, &Handle.index!(handle, buffer, key, &1))

    with refused when refused != :ok <- Native.queue_push_routed(ref, items, indexes) do
      dirty = fn -> Native.queue_push_routed_dirty(ref, items, indexes) end
      Refused.go_on(refused, buffer, ref, dirty, fn -> push_by_key(buffer, items, key) end)
    end
  end

  defp push_by_key(buffer, item, key) do
    %{ref: ref} = handle = Handle.fetch!(buffer)
    index = Handle.index!(handle, buffer, key, item)

    with refused when refused != :ok <- Native.queue_push_to(ref, item, index) do
      dirty = fn -> Native.queue_push_to_dirty(ref, item, index) end
      Refused.go_on(refused, buffer, ref, dirty, fn -> push_by_key(buffer, item, key) end)
    end
  end

  @spec improper!(term()) :: no_return()
  defp improper!(items) do
    raise ArgumentError, "expected an item or a proper list of items, got: #{inspect(items)}"
  end
end
