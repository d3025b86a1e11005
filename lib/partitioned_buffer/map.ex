defmodule PartitionedBuffer.Map do
  @moduledoc """
  A buffer that keeps one entry for each key: the newest wins.

  Entries reach the processor as `{key, value, version, updates}`.

      iex> test = self()
      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Map.start_link(
      ...>     name: :map_example,
      ...>     processor: fn batch -> send(test, {:batch, batch}) end
      ...>   )
      iex> PartitionedBuffer.Map.put(:map_example, :color, "red")
      :ok
      iex> PartitionedBuffer.Map.put(:map_example, :color, "blue")
      :ok
      iex> PartitionedBuffer.Map.get(:map_example, :color)
      "blue"
      iex> PartitionedBuffer.Map.stop(:map_example)
      :ok
      iex> receive do: ({:batch, batch} -> batch)
      [{:color, "blue", 0, 0}]

  ## Keys, values, versions

  Any term is a key or a value. Keys are compared as by `===`: `1` and `1.0` are two keys.

  `put/4` writes whatever is there and starts again with version 0 and 0 updates. `put_newer/5` writes
  only if the key is not there or the version is higher than the one that is there, and counts the
  `updates` that it made. Versions are integers of any size.

  A key is in one partition for as long as the buffer lives, so writes to one key never overtake each
  other. Reads see what has not begun to be processed: when a cycle starts, its entries can't be read
  any more.

  ## Versions

  By default a version lives as long as its entry is in the buffer, that is, for one cycle. An older
  version that comes in a later cycle is written and processed like any other.

  With the option `version_memory: n` each partition remembers the highest version of the last `n` keys
  that it has handed over, so that `put_newer/5` and `put_all_newer/3` ignore versions that are not higher,
  and count them as `superseded`:

      iex> test = self()
      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Map.start_link(
      ...>     name: :remembering,
      ...>     version_memory: 10_000,
      ...>     processing_interval_ms: 1,
      ...>     processor: fn batch -> send(test, {:batch, batch}) end
      ...>   )
      iex> PartitionedBuffer.Map.put_newer(:remembering, :key, "new", 10)
      iex> receive do: ({:batch, batch} -> batch)
      [{:key, "new", 10, 0}]
      iex> PartitionedBuffer.Map.put_newer(:remembering, :key, "old", 9)
      iex> PartitionedBuffer.Map.get(:remembering, :key)
      nil
      iex> PartitionedBuffer.Map.stop(:remembering)
      :ok

  An entry counts as handed over from the moment that its cycle starts, whatever the processor makes of it.
  So:

    * `delete/3` and `take/3` remove an entry that has not been handed over, and its version with it. A
      version that was handed over before stays remembered.
    * `put/4`, `put_all/3` and the default of `update/5` write in any case. They have no version, and
      leave what is remembered as it is: after them too, an older version is ignored.

  What is remembered is native: it outlasts every process of the buffer, and ends when the buffer is stopped.
  If the buffer's supervisor is killed and started again with another number of partitions, keys with a
  `:partition_key` of their own are forgotten. It takes the memory of the keys and of their versions, and
  about 100 bytes for each; of up to twice `n` keys, since those of a new cycle are recorded before those
  that they take the place of are forgotten. (`info/1` does not count it.) With the default of `0` there
  is nothing to be done.

  ## Partition key

  By default the key decides which partition an entry goes to. A function or `{module, function, args}`
  as `:partition_key` is called with the **key** (not with the entry). Whoever writes a key with a
  `:partition_key` must read and delete it with the same one.

  See `PartitionedBuffer` for the options, the events and what is guaranteed.
  """

  @behaviour PartitionedBuffer

  alias PartitionedBuffer.{Awaited, Handle, Native, Operation, Options, Refused, Room}

  # Calls find the buffer natively by its name. One that is refused there is made again by the handle.
  @by_handle [partition_key: nil]

  @type buffer :: PartitionedBuffer.buffer()
  @type key :: term()
  @type value :: term()
  @type version :: integer()
  @typedoc "What a write returns: `{:error, reason}` only where the buffer is bounded, see `put/4`."
  @type written :: :ok | {:error, :full | :timeout | :too_large}
  @type operation ::
          {:add, number()}
          | {:max, term()}
          | {:min, term()}
          | {:append, term()}
          | {:put_new, term()}

  @doc """
  The type of the table that a processor gets with `processing_batch_size: :table`.

      iex> PartitionedBuffer.Map.ets_type()
      :set
  """
  @impl PartitionedBuffer
  def ets_type, do: :set

  @doc false
  @impl PartitionedBuffer
  def kind, do: :map

  @doc false
  @impl PartitionedBuffer
  def row({key, value, version, updates}, _position), do: {:entry, key, value, version, updates}

  @doc """
  Starts a map and links it to the calling process.

  Takes the options of `PartitionedBuffer` ("Start options"). Returns `{:ok, pid}`,
  `{:error, {:already_started, pid}}` if a buffer of this name is running, or another
  `{:error, reason}` of `Supervisor.start_link/3`. Raises `NimbleOptions.ValidationError` if an option
  is missing or wrong.

      iex> test = self()
      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Map.start_link(
      ...>     name: :map_start,
      ...>     processor: fn batch -> send(test, {:batch, batch}) end
      ...>   )
      iex> PartitionedBuffer.Map.put(:map_start, :key, "old")
      iex> PartitionedBuffer.Map.put(:map_start, :key, "new")
      iex> PartitionedBuffer.Map.stop(:map_start)
      :ok
      iex> receive do: ({:batch, [{key, value, _version, updates}]} -> {key, value, updates})
      {:key, "new", 0}
  """
  @spec start_link(keyword()) :: Supervisor.on_start()
  def start_link(opts \\ []) do
    PartitionedBuffer.start_link(module_option(opts))
  end

  @doc """
  A child specification; its id is the buffer's name.

      iex> PartitionedBuffer.Map.child_spec(name: :states).id
      :states
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
  Stops a map after everything that it holds has been processed, for up to `:processing_timeout_ms`. See
  `PartitionedBuffer.stop/3`.

  Returns `:ok`. Exits with `{:noproc, _}` if there is none, and with `{:timeout, _}` when it takes longer than
  `timeout` milliseconds; it goes on ending then. Raises `ArgumentError` if the timeout is none.

      iex> test = self()
      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Map.start_link(name: :map_stop, processor: &send(test, {:last, &1}))
      iex> PartitionedBuffer.Map.put(:map_stop, :key, 1)
      iex> PartitionedBuffer.Map.stop(:map_stop, :normal, 60_000)
      :ok
      iex> receive do: ({:last, batch} -> batch)
      [{:key, 1, 0, 0}]
  """
  @spec stop(buffer() | pid(), reason :: term(), timeout()) :: :ok
  def stop(buffer, reason \\ :normal, timeout \\ :infinity) do
    PartitionedBuffer.stop(buffer, reason, timeout)
  end

  @doc """
  Puts a value, whatever was there.

  Returns `:ok`. Where the buffer is bounded (`:capacity`, `:capacity_bytes`) and there is no room, nothing
  was put and it returns

    * `{:error, :timeout}`: there was none within the `:timeout` (`overflow: :block`),
    * `{:error, :full}`: there is none now (`overflow: :reject`, and `:drop_oldest` if nothing waits that
      could be dropped),
    * `{:error, :too_large}`: there never will be, since this is more than the capacity.

  A value in place of one that is there takes only the room by which it is larger. A list
  (`put_all/3`, `put_all_newer/3`) takes room as if all its keys were new, and gives back what it did not
  need. `update/5` waits in no order: it tries again until there is room; and where the newest entries are dropped it
  returns `{:error, :full}` instead, since what it would have written depends on what is there.

  ## Options

  #{Options.runtime_docs()}

  ## Errors

  Of this and of all functions below:

    * `ArgumentError`: no buffer of this name is running ("unknown registry: …"), it is a queue, a term
      takes 4 GB or more, or the options are not a keyword list.
    * `RuntimeError`: the buffer was started with `partitions: 0`. (An empty list or map is `:ok` all
      the same: nothing is written.)
    * `NimbleOptions.ValidationError`: an unknown option.
    * What the function of a `:partition_key` raises; nothing was written then.

  ## Examples

      iex> {:ok, _pid} = PartitionedBuffer.Map.start_link(name: :put_example, processor: fn _ -> :ok end)
      iex> PartitionedBuffer.Map.put(:put_example, {:user, 1}, %{name: "Ada"})
      :ok
      iex> PartitionedBuffer.Map.stop(:put_example)
      :ok

  """
  @spec put(buffer(), key(), value(), keyword()) :: written()
  def put(buffer, key, value, opts \\ [])

  def put(buffer, key, value, []) do
    case Native.map_put(buffer, key, value, nil) do
      :ok -> :ok
      _refused -> put(buffer, key, value, @by_handle)
    end
  end

  def put(buffer, key, value, opts) do
    {ref, index} = place(buffer, key, opts)

    with refused when refused != :ok <- Native.map_put(ref, key, value, index) do
      dirty = fn -> Native.map_put_dirty(ref, key, value, index) end
      again = fn -> put(buffer, key, value, opts) end
      wait = wait(ref, [{key, value}], index, false, opts)
      Refused.go_on(refused, buffer, ref, dirty, again, wait)
    end
  end

  @doc """
  Puts a value, and waits until the cycle of its entry has processed it.

  Returns `{:ok, result}` with what the processor has returned for the batch of the entry, whatever value it
  had by then, or `{:error, reason}`: why the entry was discarded (`:processing_timeout` if the processor took too
  long), `:timeout` if it has not been processed
  within the `:timeout` of the call or there was no room (what is in the buffer stays there), `:full` or
  `:too_large` as for `put/4`.

  It takes the options of `put/4`, and

    * `:flush` (`t:boolean/0`) - Whether processing starts at once, instead of at the next interval or
      when there is enough. The default value is `true`.

  Raises what `put/4` raises.

      iex> {:ok, _pid} = PartitionedBuffer.Map.start_link(name: :await_map, processor: &length/1)
      iex> PartitionedBuffer.Map.put_await(:await_map, :key, "value")
      {:ok, 1}
      iex> PartitionedBuffer.Map.stop(:await_map)
      :ok

  """
  @spec put_await(buffer(), key(), value(), keyword()) ::
          {:ok, result :: term()} | {:error, reason :: term()}
  def put_await(buffer, key, value, opts \\ [])

  # What the native side refuses here, it says there again what is to be done.
  def put_await(buffer, key, value, []) do
    %{ref: ref} = Handle.fetch!(buffer)
    token = Awaited.token()

    case Native.map_put_await(ref, key, value, nil, token) do
      :ok -> Awaited.await(ref, token, Options.write_timeout())
      _refused -> put_awaited(buffer, key, value, [])
    end
  end

  def put_await(buffer, key, value, opts), do: put_awaited(buffer, key, value, opts)

  defp put_awaited(buffer, key, value, opts) do
    {flush?, write_opts} = Options.await!(opts)
    timeout = Options.timeout_of!(write_opts)
    deadline = Awaited.deadline(timeout)
    {ref, index} = place(buffer, key, write_opts)
    {entries, indexes} = {[{key, value}], List.wrap(index)}

    written =
      with refused when is_atom(refused) <-
             Native.map_put_awaited(ref, entries, indexes, Awaited.token(), flush?) do
        dirty = fn ->
          Native.map_put_awaited_dirty(ref, entries, indexes, Awaited.token(), flush?)
        end

        again = fn -> {:again, put_await(buffer, key, value, opts)} end
        wait = &Native.map_wait_dirty(ref, entries, indexes, false, &1, Awaited.token())

        refused
        |> Refused.go_on(buffer, ref, dirty, again, {timeout, wait})
        |> waited(buffer, flush?)
      end

    case written do
      # Dropped, because there was no room.
      {:ok, []} ->
        {:error, :overflow}

      {:ok, tokens} ->
        ref |> Awaited.collect(tokens, Awaited.left(deadline)) |> Awaited.outcome(false)

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
  Puts many values: of a map, or of a list of `{key, value}`.

  Keys that are there several times in a list are put one after the other: the last one stays. A list
  is accepted as a whole: if the call raises, nothing of it was.

  Raises `ArgumentError` ("invalid entry: …") if something in the list is no pair, or the map is a struct, and what
  `put/4` raises.

      iex> {:ok, _pid} = PartitionedBuffer.Map.start_link(name: :all_example, processor: fn _ -> :ok end)
      iex> PartitionedBuffer.Map.put_all(:all_example, %{a: 1, b: 2})
      :ok
      iex> PartitionedBuffer.Map.put_all(:all_example, [{:b, 3}, {:c, 4}])
      :ok
      iex> PartitionedBuffer.Map.size(:all_example)
      3
      iex> PartitionedBuffer.Map.stop(:all_example)
      :ok

  """
  @spec put_all(buffer(), %{key() => value()} | [{key(), value()}], keyword()) :: written()
  def put_all(buffer, entries, opts \\ [])

  # A struct is one thing, and not its fields.
  def put_all(buffer, entries, opts) when is_map(entries) and not is_struct(entries) do
    write_all(buffer, :maps.to_list(entries), opts, false)
  end

  def put_all(buffer, entries, opts), do: write_all(buffer, entries, opts, false)

  @doc """
  Puts a value if the key is not there or has a lower version.

  Raises `ArgumentError` ("invalid entry: …") if the version is not an integer, and what `put/4`
  raises.

      iex> {:ok, _pid} = PartitionedBuffer.Map.start_link(name: :newer_example, processor: fn _ -> :ok end)
      iex> PartitionedBuffer.Map.put_newer(:newer_example, :key, "v2", 200)
      :ok
      iex> PartitionedBuffer.Map.put_newer(:newer_example, :key, "v1", 100)
      :ok
      iex> PartitionedBuffer.Map.get(:newer_example, :key)
      "v2"
      iex> PartitionedBuffer.Map.stop(:newer_example)
      :ok

  """
  @spec put_newer(buffer(), key(), value(), version(), keyword()) :: written()
  def put_newer(buffer, key, value, version, opts \\ [])

  def put_newer(buffer, key, value, version, []) when is_integer(version) do
    case Native.map_put_newer(buffer, key, value, version, nil) do
      :ok -> :ok
      _refused -> put_newer(buffer, key, value, version, @by_handle)
    end
  end

  def put_newer(buffer, key, value, version, opts) when is_integer(version) do
    {ref, index} = place(buffer, key, opts)

    with refused when refused != :ok <- Native.map_put_newer(ref, key, value, version, index) do
      dirty = fn -> Native.map_put_newer_dirty(ref, key, value, version, index) end
      again = fn -> put_newer(buffer, key, value, version, opts) end
      wait = wait(ref, [{key, value, version}], index, true, opts)
      Refused.go_on(refused, buffer, ref, dirty, again, wait)
    end
  end

  def put_newer(_buffer, key, value, version, _opts), do: invalid!({key, value, version})

  @doc """
  Puts many values that are newer: a list of `{key, value, version}`. See `put_newer/5`.

  A list is accepted as a whole, also when a cycle starts meanwhile. Raises `ArgumentError` ("invalid
  entry: …") if something in the list is no such tuple or a version is not an integer; nothing was
  written then.

      iex> {:ok, _pid} = PartitionedBuffer.Map.start_link(name: :all_newer, processor: fn _ -> :ok end)
      iex> PartitionedBuffer.Map.put_all_newer(:all_newer, [{:a, "new", 2}, {:a, "old", 1}])
      :ok
      iex> PartitionedBuffer.Map.get(:all_newer, :a)
      "new"
      iex> PartitionedBuffer.Map.stop(:all_newer)
      :ok

  """
  @spec put_all_newer(buffer(), [{key(), value(), version()}], keyword()) :: written()
  def put_all_newer(buffer, entries, opts \\ []) do
    write_all(buffer, entries, opts, true)
  end

  @doc """
  The value of a key, or `default`.

      iex> {:ok, _pid} = PartitionedBuffer.Map.start_link(name: :get_example, processor: fn _ -> :ok end)
      iex> PartitionedBuffer.Map.get(:get_example, :nothing, :default)
      :default
      iex> PartitionedBuffer.Map.stop(:get_example)
      :ok

  """
  @spec get(buffer(), key(), default :: term(), keyword()) :: value() | term()
  def get(buffer, key, default \\ nil, opts \\ []) do
    case fetch(buffer, key, opts) do
      {:ok, value} -> value
      :error -> default
    end
  end

  @doc """
  `{:ok, value}` of a key, or `:error`.

      iex> {:ok, _pid} = PartitionedBuffer.Map.start_link(name: :fetch_example, processor: fn _ -> :ok end)
      iex> PartitionedBuffer.Map.put(:fetch_example, :key, nil)
      iex> PartitionedBuffer.Map.fetch(:fetch_example, :key)
      {:ok, nil}
      iex> PartitionedBuffer.Map.fetch(:fetch_example, :other)
      :error
      iex> PartitionedBuffer.Map.stop(:fetch_example)
      :ok

  """
  @spec fetch(buffer(), key(), keyword()) :: {:ok, value()} | :error
  def fetch(buffer, key, opts \\ [])

  def fetch(buffer, key, []) do
    case Native.map_fetch(buffer, key, nil) do
      {:ok, _value} = found -> found
      :error -> :error
      _refused -> fetch(buffer, key, @by_handle)
    end
  end

  def fetch(buffer, key, opts) do
    {ref, index} = place(buffer, key, opts)

    case Native.map_fetch(ref, key, index) do
      {:ok, _value} = found ->
        found

      :error ->
        :error

      refused ->
        dirty = fn -> Native.map_fetch_dirty(ref, key, index) end
        Refused.go_on(refused, buffer, ref, dirty, fn -> fetch(buffer, key, opts) end)
    end
  end

  @doc """
  Removes a key. It is `:ok` if it was not there.

      iex> {:ok, _pid} = PartitionedBuffer.Map.start_link(name: :delete_example, processor: fn _ -> :ok end)
      iex> PartitionedBuffer.Map.put(:delete_example, :key, 1)
      iex> PartitionedBuffer.Map.delete(:delete_example, :key)
      :ok
      iex> PartitionedBuffer.Map.size(:delete_example)
      0
      iex> PartitionedBuffer.Map.stop(:delete_example)
      :ok

  """
  @spec delete(buffer(), key(), keyword()) :: :ok
  def delete(buffer, key, opts \\ [])

  def delete(buffer, key, []) do
    case Native.map_delete(buffer, key, nil) do
      :ok -> :ok
      _refused -> delete(buffer, key, @by_handle)
    end
  end

  def delete(buffer, key, opts) do
    {ref, index} = place(buffer, key, opts)

    with refused when refused != :ok <- Native.map_delete(ref, key, index) do
      dirty = fn -> Native.map_delete_dirty(ref, key, index) end
      Refused.go_on(refused, buffer, ref, dirty, fn -> delete(buffer, key, opts) end)
    end
  end

  @doc """
  Removes a key and returns `{:ok, value}`, or `:error` if it was not there.

      iex> {:ok, _pid} = PartitionedBuffer.Map.start_link(name: :take_example, processor: fn _ -> :ok end)
      iex> PartitionedBuffer.Map.put(:take_example, :key, 1)
      iex> PartitionedBuffer.Map.take(:take_example, :key)
      {:ok, 1}
      iex> PartitionedBuffer.Map.take(:take_example, :key)
      :error
      iex> PartitionedBuffer.Map.stop(:take_example)
      :ok

  """
  @spec take(buffer(), key(), keyword()) :: {:ok, value()} | :error
  def take(buffer, key, opts \\ [])

  def take(buffer, key, []) do
    case Native.map_take(buffer, key, nil) do
      {:ok, _value} = found -> found
      :error -> :error
      _refused -> take(buffer, key, @by_handle)
    end
  end

  def take(buffer, key, opts) do
    {ref, index} = place(buffer, key, opts)

    case Native.map_take(ref, key, index) do
      {:ok, _value} = found ->
        found

      :error ->
        :error

      refused ->
        dirty = fn -> Native.map_take_dirty(ref, key, index) end
        Refused.go_on(refused, buffer, ref, dirty, fn -> take(buffer, key, opts) end)
    end
  end

  @doc """
  Whether a key is there.

      iex> {:ok, _pid} = PartitionedBuffer.Map.start_link(name: :has_example, processor: fn _ -> :ok end)
      iex> PartitionedBuffer.Map.has_key?(:has_example, :key)
      false
      iex> PartitionedBuffer.Map.stop(:has_example)
      :ok

  """
  @spec has_key?(buffer(), key(), keyword()) :: boolean()
  def has_key?(buffer, key, opts \\ [])

  def has_key?(buffer, key, []) do
    case Native.map_has_key(buffer, key, nil) do
      :ok -> true
      :error -> false
      _refused -> has_key?(buffer, key, @by_handle)
    end
  end

  def has_key?(buffer, key, opts) do
    {ref, index} = place(buffer, key, opts)

    case Native.map_has_key(ref, key, index) do
      :ok ->
        true

      :error ->
        false

      refused ->
        dirty = fn -> Native.map_has_key_dirty(ref, key, index) end
        again = fn -> if has_key?(buffer, key, opts), do: :ok, else: :error end
        Refused.go_on(refused, buffer, ref, dirty, again) == :ok
    end
  end

  @doc """
  Changes the value of a key, or puts `default` if the key is not there.

  An operation is applied to the value in the buffer, under the partition's lock:

    * `{:add, number}` - adds to a number
    * `{:max, term}`, `{:min, term}` - keeps the larger or the smaller one, in Erlang's order of terms
    * `{:append, term}` - adds to the end of a list
    * `{:put_new, term}` - puts the term if the key is not there; `default` is not used

  A function of arity 1 is called with the value, in the calling process, and returns the new one. If
  another process has changed the value meanwhile, it is called again with that. One that writes the key itself is never
  through.

  Each update of a value that is there counts in the entry's `updates`; the version stays.

  Raises `ArithmeticError` or `ArgumentError` if the value is not of the type that the operation
  takes, and nothing is changed; `ArgumentError` if there is no such operation; what the function
  raises; and what `put/4` raises.

      iex> {:ok, _pid} = PartitionedBuffer.Map.start_link(name: :update_map, processor: fn _ -> :ok end)
      iex> PartitionedBuffer.Map.update(:update_map, :clicks, 1, {:add, 1})
      :ok
      iex> PartitionedBuffer.Map.update(:update_map, :clicks, 1, {:add, 1})
      :ok
      iex> PartitionedBuffer.Map.update(:update_map, :clicks, 1, &(&1 * 10))
      :ok
      iex> PartitionedBuffer.Map.get(:update_map, :clicks)
      20
      iex> PartitionedBuffer.Map.stop(:update_map)
      :ok

  """
  @spec update(buffer(), key(), default :: value(), operation() | (value() -> value()), keyword()) ::
          written()
  def update(buffer, key, default, operation, opts \\ [])

  def update(buffer, key, default, {name, operand} = operation, [])
      when name in [:max, :min, :append] or (name == :add and is_number(operand)) do
    case Native.map_update(buffer, key, name, operand, nil) do
      :ok -> :ok
      _more_to_do -> update(buffer, key, default, operation, @by_handle)
    end
  end

  def update(buffer, key, default, operation, opts) do
    with :wait <- try_update(buffer, key, default, operation, opts) do
      again = fn -> try_update(buffer, key, default, operation, opts) end
      Room.retry(buffer, Handle.fetch!(buffer).ref, Options.timeout_of!(opts), again)
    end
  end

  @doc """
  All `{key, value}` that `get/4` would find, in no particular order.

  The entries of one partition are those of one moment: a snapshot, taken while writes go on. Partitions
  are read one after the other, so an entry of one may be older than one of another. With `partitions: 1`,
  or of keys with the same `:partition_key`, the list is of one moment as a whole.

  Nobody waits for it for long: it is read a few entries at a time, on a dirty scheduler, and what is
  overwritten or deleted meanwhile is kept until it has been read. That takes the memory of a second
  copy of those entries. A list begins anew when a cycle starts in between.

  Raises what `put/4` raises, but with `partitions: 0` the list is empty.

      iex> {:ok, _pid} = PartitionedBuffer.Map.start_link(name: :list_example, processor: fn _ -> :ok end)
      iex> PartitionedBuffer.Map.put_all(:list_example, %{a: 1, b: 2})
      iex> :list_example |> PartitionedBuffer.Map.to_list() |> Enum.sort()
      [a: 1, b: 2]
      iex> PartitionedBuffer.Map.stop(:list_example)
      :ok

  """
  @spec to_list(buffer()) :: [{key(), value()}]
  def to_list(buffer), do: snapshot(buffer, &Native.map_to_list_dirty/2)

  @doc """
  All keys that `get/4` would find, in no particular order: of each partition those of one moment, as
  with `to_list/1`.

      iex> {:ok, _pid} = PartitionedBuffer.Map.start_link(name: :keys_example, processor: fn _ -> :ok end)
      iex> PartitionedBuffer.Map.put_all(:keys_example, %{a: 1, b: 2})
      iex> :keys_example |> PartitionedBuffer.Map.keys() |> Enum.sort()
      [:a, :b]
      iex> PartitionedBuffer.Map.stop(:keys_example)
      :ok

  """
  @spec keys(buffer()) :: [key()]
  def keys(buffer), do: snapshot(buffer, &Native.map_keys_dirty/2)

  @doc """
  How many keys the live generations of all partitions hold. See `PartitionedBuffer.buffer_size/1`.

  Raises `ArgumentError` if no buffer of this name is running.

      iex> {:ok, _pid} = PartitionedBuffer.Map.start_link(name: :map_size, processor: fn _ -> :ok end)
      iex> PartitionedBuffer.Map.put_all(:map_size, a: 1, b: 2, a: 3)
      iex> PartitionedBuffer.Map.size(:map_size)
      2
      iex> PartitionedBuffer.Map.stop(:map_size)
      :ok
  """
  @spec size(buffer()) :: non_neg_integer()
  def size(buffer), do: PartitionedBuffer.buffer_size(buffer)

  @doc """
  Changes options of a running map: those that are given. Returns `:ok`. See `PartitionedBuffer.update_options/2`.

  Raises `NimbleOptions.ValidationError` if an option is unknown, wrong, or can't be changed, and `ArgumentError` if
  no buffer of this name is running; nothing was changed then.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Map.start_link(name: :map_update, partitions: 1, processor: &length/1)
      iex> PartitionedBuffer.Map.update_options(:map_update, processing_batch_size: 100, max_retries: 3)
      :ok
      iex> PartitionedBuffer.Map.stop(:map_update)
      :ok
  """
  @spec update_options(buffer(), keyword()) :: :ok
  def update_options(buffer, opts), do: PartitionedBuffer.update_options(buffer, opts)

  @doc """
  Starts to process now, and returns `:ok` without waiting for it. With `partition: index_or_name` only that one. See
  `PartitionedBuffer.flush/2`.

  Raises `ArgumentError` if no buffer of this name is running.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Map.start_link(name: :map_flush, partitions: 1, processor: &length/1)
      iex> PartitionedBuffer.Map.put(:map_flush, :key, 1)
      iex> PartitionedBuffer.Map.flush(:map_flush)
      :ok
      iex> PartitionedBuffer.Map.await_empty(:map_flush)
      :ok
      iex> PartitionedBuffer.Map.stop(:map_flush)
      :ok
  """
  @spec flush(buffer(), keyword()) :: :ok
  def flush(buffer, opts \\ []), do: PartitionedBuffer.flush(buffer, opts)

  @doc """
  Processes what was written before, and waits for it. Returns what became of it in each partition. Takes `:timeout`
  (60000 by default) and `:partition`. See `PartitionedBuffer.sync_flush/2`.

  Raises `ArgumentError` if no buffer of this name is running.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Map.start_link(name: :map_sync, partitions: 1, processor: &length/1)
      iex> PartitionedBuffer.Map.put(:map_sync, :key, 1)
      iex> PartitionedBuffer.Map.sync_flush(:map_sync, timeout: 5_000)
      [{:"Elixir.map_sync.0", {:ok, 1}}]
      iex> PartitionedBuffer.Map.stop(:map_sync)
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
      ...>   PartitionedBuffer.Map.start_link(name: :map_empty, partitions: 1, processor: &length/1)
      iex> PartitionedBuffer.Map.put(:map_empty, :key, 1)
      iex> PartitionedBuffer.Map.await_empty(:map_empty, 0)
      {:error, :timeout}
      iex> PartitionedBuffer.Map.flush(:map_empty)
      iex> PartitionedBuffer.Map.await_empty(:map_empty)
      :ok
      iex> PartitionedBuffer.Map.stop(:map_empty)
      :ok
  """
  @spec await_empty(buffer(), timeout()) :: :ok | {:error, :timeout}
  def await_empty(buffer, timeout \\ 5_000), do: PartitionedBuffer.await_empty(buffer, timeout)

  @doc """
  Copies of what waits, as a processor would get it; it stays in the buffer. With `partition: index_or_name` only of that
  one. See `PartitionedBuffer.dump/2`.

  Raises `ArgumentError` if no buffer of this name is running.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Map.start_link(name: :map_dump, partitions: 1, processor: &length/1)
      iex> PartitionedBuffer.Map.put(:map_dump, :key, 1)
      iex> PartitionedBuffer.Map.dump(:map_dump)
      [{:key, 1, 0, 0}]
      iex> PartitionedBuffer.Map.stop(:map_dump)
      :ok
  """
  @spec dump(buffer(), keyword()) :: [term()]
  def dump(buffer, opts \\ []), do: PartitionedBuffer.dump(buffer, opts)

  @doc """
  Processes nothing until `resume/1`; writes go on. Returns `:ok`. See `PartitionedBuffer.pause/1`.

  Raises `ArgumentError` if no buffer of this name is running.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Map.start_link(name: :map_pause, partitions: 1, processor: &length/1)
      iex> PartitionedBuffer.Map.pause(:map_pause)
      :ok
      iex> PartitionedBuffer.Map.put(:map_pause, :key, 1)
      iex> PartitionedBuffer.Map.flush(:map_pause)
      iex> PartitionedBuffer.Map.size(:map_pause)
      1
      iex> PartitionedBuffer.Map.resume(:map_pause)
      :ok
      iex> PartitionedBuffer.Map.await_empty(:map_pause)
      :ok
      iex> PartitionedBuffer.Map.stop(:map_pause)
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
      ...>   PartitionedBuffer.Map.start_link(name: :map_info, partitions: 1, processor: &length/1)
      iex> PartitionedBuffer.Map.put(:map_info, :key, 1)
      iex> info = PartitionedBuffer.Map.info(:map_info)
      iex> {info.accepted, info.queued, info.in_flight, info.processed}
      {1, 1, 0, 0}
      iex> PartitionedBuffer.Map.stop(:map_info)
      :ok
  """
  @spec info(buffer()) :: map()
  def info(buffer), do: PartitionedBuffer.info(buffer)

  # The storage and, if it is not the key that says it, the partition.
  defp place(buffer, key, opts) do
    handle = Handle.fetch!(buffer)

    case Options.partition_key!(opts) do
      nil -> {handle.ref, nil}
      partition_key -> {handle.ref, Handle.index!(handle, buffer, partition_key, key)}
    end
  end

  # `:wait`: there is no room now.
  defp try_update(buffer, key, _default, {:put_new, value}, opts) do
    with :changed <- put_new(buffer, key, value, opts), do: :ok
  end

  defp try_update(buffer, key, default, {name, operand} = operation, opts)
       when name in [:add, :max, :min, :append] do
    if name == :add and not is_number(operand), do: no_operation!(operation)
    {ref, index} = place(buffer, key, opts)

    case Native.map_update(ref, key, name, operand, index) do
      done when done in [:ok, :wait] ->
        done

      # Between the two another process may have put one.
      :error ->
        with :changed <- put_new(buffer, key, default, opts),
             do: try_update(buffer, key, default, operation, opts)

      too_much when too_much in [:unsuited, :heavy, :wrong_type] ->
        try_update(buffer, key, default, Operation.function(operation), opts)

      refused ->
        again = fn -> update(buffer, key, default, operation, opts) end
        Refused.go_on(refused, buffer, ref, again, again)
    end
  end

  defp try_update(buffer, key, default, fun, opts) when is_function(fun, 1) do
    case fetch(buffer, key, opts) do
      :error ->
        with :changed <- put_new(buffer, key, default, opts),
             do: try_update(buffer, key, default, fun, opts)

      {:ok, value} ->
        {ref, index} = place(buffer, key, opts)
        again = fn -> update(buffer, key, default, fun, opts) end

        case Native.map_compare_put_dirty(ref, key, value, fun.(value), index) do
          done when done in [:ok, :wait] -> done
          not_there_any_more when not_there_any_more in [:error, :changed] -> again.()
          refused -> Refused.go_on(refused, buffer, ref, fn -> :heavy end, again)
        end
    end
  end

  defp try_update(_buffer, _key, _default, other, _opts), do: no_operation!(other)

  # How a write waits for room.
  defp wait(ref, entries, index, versioned?, opts) do
    queue = &Native.map_wait_dirty(ref, entries, List.wrap(index), versioned?, &1, nil)
    {Options.timeout_of!(opts), queue}
  end

  defp put_new(buffer, key, value, opts) do
    {ref, index} = place(buffer, key, opts)

    case Native.map_put_new(ref, key, value, index) do
      done when done in [:ok, :changed, :wait] ->
        done

      refused ->
        dirty = fn -> Native.map_put_new_dirty(ref, key, value, index) end
        again = fn -> put_new(buffer, key, value, opts) end
        # To wait in turn would be to put it whatever is there then.
        Refused.go_on(refused, buffer, ref, dirty, again, {Options.timeout_of!(opts), nil})
    end
  end

  # Of a buffer that was opened again under its name meanwhile, all is read again.
  defp snapshot(buffer, read) do
    %{ref: ref} = Handle.fetch!(buffer)

    ref
    |> Handle.indexes()
    |> Enum.reduce_while([], fn index, lists ->
      case read.(ref, index) do
        list when is_list(list) -> {:cont, [list | lists]}
        refused -> {:halt, refused}
      end
    end)
    |> case do
      lists when is_list(lists) ->
        Enum.concat(lists)

      refused ->
        Refused.go_on(refused, buffer, ref, fn -> :heavy end, fn -> snapshot(buffer, read) end)
    end
  end

  @spec no_operation!(term()) :: no_return()
  defp no_operation!(other) do
    raise ArgumentError,
          "expected an operation ({:add, number}, {:max, term}, {:min, term}, {:append, term}, " <>
            "{:put_new, term}) or a function of arity 1, got: #{inspect(other)}"
  end

  # The native side finds out whether all entries are in order. Which one is not is only asked for the error.
  defp write_all(buffer, entries, [], versioned?) when is_list(entries) do
    case Native.map_put_all(buffer, entries, nil, versioned?) do
      :ok -> :ok
      _refused -> write_all(buffer, entries, @by_handle, versioned?)
    end
  end

  defp write_all(buffer, entries, opts, versioned?) when is_list(entries) do
    {partition_key, timeout} = Options.write!(opts)
    if partition_key != nil, do: validate!(entries, versioned?)
    handle = Handle.fetch!(buffer)

    indexes =
      if partition_key != nil do
        Handle.indexes!(handle, buffer, partition_key, Enum.map(entries, &elem(&1, 0)))
      end

    with refused when refused != :ok <-
           Native.map_put_all(handle.ref, entries, indexes, versioned?) do
      validate!(entries, versioned?)
      dirty = fn -> Native.map_put_all_dirty(handle.ref, entries, indexes, versioned?) end
      again = fn -> write_all(buffer, entries, opts, versioned?) end
      queue = &Native.map_wait_dirty(handle.ref, entries, indexes || [], versioned?, &1, nil)
      Refused.go_on(refused, buffer, handle.ref, dirty, again, {timeout, queue})
    end
  end

  defp write_all(_buffer, entries, _opts, _versioned?), do: invalid!(entries)

  defp validate!(entries, versioned?) do
    if List.improper?(entries), do: invalid!(entries)
    Enum.each(entries, &(valid?(&1, versioned?) || invalid!(&1)))
  end

  defp valid?({_key, _value}, false), do: true
  defp valid?({_key, _value, version}, true), do: is_integer(version)
  defp valid?(_other, _versioned?), do: false

  @spec invalid!(term()) :: no_return()
  defp invalid!(entry), do: raise(ArgumentError, "invalid entry: #{inspect(entry)}")

  defp module_option(opts) do
    if Keyword.keyword?(opts), do: Keyword.put(opts, :module, __MODULE__), else: opts
  end
end
