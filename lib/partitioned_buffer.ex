defmodule PartitionedBuffer do
  alias PartitionedBuffer.{Handle, Names, Native, OnDemand, Options, Owner, Router, Telemetry}

  @moduledoc """
  Buffers for writes that come faster than the thing behind them can take.

  A buffer takes entries from any number of processes at little more than the cost of a function call,
  holds them in partitioned native memory, and hands them in batches to a processor: a function of
  yours. `PartitionedBuffer.Queue` keeps order, `PartitionedBuffer.Map` keeps the newest entry of each
  key. This module has what both share.

      children = [
        {PartitionedBuffer.Queue,
         name: :events,
         processor: &MyApp.Events.insert_all/1,
         processing_interval_ms: 1_000,
         processing_batch_size: 500}
      ]

      PartitionedBuffer.Queue.push(:events, %{type: :click, user: 42})

  ## Architecture

                      buffer supervisor
                              │
          ┌──────────────┬────┴─────────┬─────────────┐
          │              │              │             │
      Registry   Task.Supervisor   partition       owner
                         │         supervisor    (options,
                         │              │       orderly end)
                    processor      ┌────┴───┐
                    calls     partition 0  …  partition N-1
                                   │               │
      ─────────────────────────────┼───────────────┼──────────  native
                              live generation  live generation
                              draining one     draining one

  A write is copied once, into the live generation of one partition, under that partition's lock. At
  the end of an interval, or when a write or a call wants it, that generation becomes the draining one, in constant
  time and under the same lock, and a process is woken or started that takes it out batch by batch and calls the
  processor. Everything that counts is native: when a process of the buffer dies, the one that takes
  its place goes on where it was.

  ## Start options

  #{Options.start_docs()}

  Other options are ignored.

  ## Runtime options

  Options of a single write:

  #{Options.runtime_docs()}

  ## What is guaranteed

    * What a write has returned `:ok` for is handed to the processor, across crashes of any process of the
      buffer and across an orderly stop: once, or with `:max_retries` or `:split_on_failure` at least once. (With
      `overflow: :drop_newest` or `:drop_oldest` it may be dropped, and is reported, instead.) If the buffer's own
      supervisor is killed and started again under its name, it goes on with what it held.
    * Where a capacity is set, no more than that is ever held, those entries included that a processor
      has.
    * Items of one partition of a queue are handed over in the order in which they were written. Entries
      of a map come in no particular order.
    * A batch whose processing fails for the last time is discarded and reported by an event, and
      `:on_discard` is called with it; no other batch is.
    * No write is lost silently: `accepted == processed + discarded + queued + in_flight` in every
      reading of `info/1` (and for a map, `+ superseded + deleted`).
    * The end of the VM is the end of what is buffered. Nothing is written to disk.

  ## Telemetry

  #{Telemetry.docs()}
  """

  @typedoc "The name of a buffer."
  @type buffer :: atom()

  @typedoc "What is called with each batch: a function, or `{module, function, args}`."
  @type processor ::
          (batch :: [term()] | :ets.table() -> term())
          | (batch :: [term()] | :ets.table(), batch_info() -> term())
          | {module(), atom(), [term()]}

  @typedoc """
  Names a batch, the same each time that it is tried: the buffer, the partition, when the buffer was opened,
  and the places of its first and last entry in the partition. No other batch has it; use it as an
  idempotency token. The halves of a batch (`:split_on_failure`) have ids of their own.
  """
  @type batch_id ::
          {buffer(), partition :: atom(), since :: non_neg_integer(), first :: pos_integer(),
           last :: pos_integer()}

  @typedoc "What a processor gets to know of its batch: `attempt` is 1 the first time."
  @type batch_info :: %{batch: batch_id(), attempt: pos_integer(), size: pos_integer()}

  @typedoc "What is called with entries that were given up: a function, or `{module, function, args}`."
  @type on_discard :: ([term()], reason() -> term()) | {module(), atom(), [term()]}

  @typedoc "What happens to a write for which there is no room."
  @type overflow :: :block | :reject | :drop_newest | :drop_oldest

  @typedoc """
  Why entries were discarded: the processor has raised, thrown or exited (`:exception`), its process was
  `:killed`, it took too long (`:timeout`), it said so (`:failed`); they were too old (`:expired`), there was
  no room for them (`:overflow`), or the time for stopping was up (`:shutdown`).
  """
  @type reason ::
          :exception | :killed | :timeout | :failed | :expired | :overflow | :shutdown

  @typedoc """
  The figures of a partition, or of all together, at one moment.

    * `queued` - entries that no processor has been given yet
    * `in_flight` - entries of batches that a processor has now
    * `accepted`, `processed`, `discarded` - entries since the buffer was started
    * `superseded`, `deleted` - entries of a map that a newer one has taken the place of, or that were
      older than the one that was there, and entries that were deleted, since the buffer was started
    * `bytes` - the memory of queued entries and those in flight: a word for each, their words on the
      heap, and the binaries that they refer to. Of a part of a binary, only the part is counted, but where it
      has more than 64 bytes the whole binary is kept, as in a message or an ETS table: `:binary.copy/1` such
      parts of large binaries before they are written
    * `oldest_age_ms` - how long the oldest entry has been held, or `nil` if there is none. It is kept
      for 256 entries together, so it is never too small and may be too large by the time that the
      partition took to accept those
    * `retries` - how often a batch was to be tried again
    * `high_water` - the most entries that were held at once, queued and in flight; of all partitions
      together: the sum of their marks
  """
  @type figures :: %{
          queued: non_neg_integer(),
          in_flight: non_neg_integer(),
          accepted: non_neg_integer(),
          processed: non_neg_integer(),
          superseded: non_neg_integer(),
          deleted: non_neg_integer(),
          discarded: %{reason() => non_neg_integer()},
          bytes: non_neg_integer(),
          oldest_age_ms: non_neg_integer() | nil,
          high_water: non_neg_integer(),
          retries: non_neg_integer()
        }

  @doc "The type of the ETS table that a processor gets with `processing_batch_size: :table`."
  @callback ets_type() :: :ordered_set | :set | :bag | :duplicate_bag

  # How the native side stores it.
  @doc false
  @callback kind() :: Native.kind()

  # The row of an entry in that table; `position` is its place in the generation.
  @doc false
  @callback row(entry :: term(), position :: pos_integer()) :: tuple()

  @doc """
  Starts a buffer of the kind that `:module` names and links it to the calling process.

  `PartitionedBuffer.Queue.start_link/1` and `PartitionedBuffer.Map.start_link/1` are this with the
  module set. Takes the start options above.

  Returns `{:ok, pid}`, `{:error, {:already_started, pid}}` if a buffer of this name is running, or
  another `{:error, reason}` of `Supervisor.start_link/3`. Raises `NimbleOptions.ValidationError` if an
  option is missing or wrong.

      iex> {:ok, pid} =
      ...>   PartitionedBuffer.start_link(
      ...>     module: PartitionedBuffer.Queue,
      ...>     name: :start_example,
      ...>     processor: fn _batch -> :ok end
      ...>   )
      iex> PartitionedBuffer.stop(pid, :normal, :infinity)
      :ok
  """
  @spec start_link(keyword()) :: Supervisor.on_start()
  def start_link(opts) do
    opts |> Options.start!() |> PartitionedBuffer.Supervisor.start_link()
  end

  @doc """
  Stops a buffer after everything that it holds has been processed.

  Writes that returned before are processed; later ones raise. All partitions process what is left at
  the same time, for up to `:processing_timeout_ms` together; what is left then is discarded and
  reported. `timeout` (milliseconds) is how long this call waits for all that; when it is over the call
  exits with `:timeout`, and the buffer goes on ending.

  While a buffer ends, partitions are closed one after the other: a write that was refused may be
  followed by one to another partition that is accepted. What was accepted is processed.

  The call exits with `{:noproc, _}` if no such buffer is running. It raises `ArgumentError` if the
  timeout is neither `:infinity` nor a number of milliseconds that a timer can wait. A processor that stops its own
  buffer waits for itself, until its time is up: have another process do it.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Queue.start_link(name: :stop_example, processor: fn _ -> :ok end)
      iex> PartitionedBuffer.stop(:stop_example)
      :ok
  """
  @spec stop(buffer() | pid(), reason :: term(), timeout()) :: :ok
  def stop(buffer, reason \\ :normal, timeout \\ :infinity)

  def stop(pid, reason, timeout) when is_pid(pid) do
    Supervisor.stop(pid, reason, Options.timeout!(timeout))
  end

  def stop(buffer, reason, timeout) when is_atom(buffer) do
    timeout = Options.timeout!(timeout)
    buffer |> Names.supervisor() |> Supervisor.stop(reason, timeout)
  end

  @doc """
  How many entries the live generations of all partitions hold, that is: were written and are not yet
  being drained.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Queue.start_link(name: :size_example, processor: fn _ -> :ok end)
      iex> PartitionedBuffer.Queue.push(:size_example, Enum.to_list(1..10))
      iex> PartitionedBuffer.buffer_size(:size_example)
      10
      iex> PartitionedBuffer.Queue.stop(:size_example)
      :ok

  Raises `ArgumentError` if no buffer of this name is running.
  """
  @spec buffer_size(buffer()) :: non_neg_integer()
  def buffer_size(buffer), do: Native.buffer_len(Handle.fetch!(buffer).ref)

  @doc """
  The partition that an entry goes to when it is written with this `:partition_key` (`nil` for none).
  `object` is what the key is made from: the item of a queue, the key of a map.

  The answer stays the same for as long as the buffer lives. Partitions are named after the buffer, as
  in the metadata of events: `:"Elixir.my_buffer.0"` and so on.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Queue.start_link(
      ...>     name: :route_example,
      ...>     partitions: 4,
      ...>     processor: fn _ -> :ok end
      ...>   )
      iex> one = PartitionedBuffer.get_partition(:route_example, :some_user, %{any: :event})
      iex> one == PartitionedBuffer.get_partition(:route_example, :some_user, %{other: :event})
      true
      iex> PartitionedBuffer.Queue.stop(:route_example)
      :ok

  Raises `ArgumentError` if no buffer of this name is running, and `RuntimeError` if it has no
  partitions.
  """
  @spec get_partition(buffer(), partition_key :: term(), object :: term()) :: atom()
  def get_partition(buffer, partition_key, object) do
    case Handle.fetch!(buffer).partitions do
      {} -> no_partitions!(buffer)
      names -> elem(names, Router.index(partition_key, object, tuple_size(names)))
    end
  end

  @doc """
  Changes options of a running buffer: those that are given, and no others. A new size of
  batches holds from the next batch on, a new time for the processor from the call that is running, and a
  new interval begins at once.

  ## Options

  #{Options.updatable_docs()}

  (The defaults are those of starting: an option that is not given here stays as it is.)

  ## Errors

    * `NimbleOptions.ValidationError`: an unknown option or a wrong value; nothing was changed.
    * `ArgumentError`: no buffer of this name is running; or a capacity is given to a
      `PartitionedBuffer.DataBuffer`, whose bound is `:max_size`.

  ## Examples

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Queue.start_link(name: :update_example, processor: fn _ -> :ok end)
      iex> PartitionedBuffer.update_options(:update_example, processing_interval_ms: 1000)
      :ok
      iex> PartitionedBuffer.Queue.stop(:update_example)
      :ok

  """
  @spec update_options(buffer(), keyword()) :: :ok
  def update_options(buffer, opts) do
    changes = Options.update!(opts)
    :ok = check_capacity(Handle.fetch!(buffer), changes)
    Owner.update_options(buffer, Map.new(changes))
  end

  # Its writes take no room: a capacity would be a promise that nobody keeps.
  defp check_capacity(%{module: PartitionedBuffer.DataBuffer}, changes) do
    bounded? = &(Keyword.get(changes, &1, :infinity) != :infinity)

    if option = Enum.find([:capacity, :capacity_bytes], bounded?),
      do: raise(ArgumentError, "a DataBuffer has no #{inspect(option)}: its bound is :max_size")

    :ok
  end

  defp check_capacity(_handle, _changes), do: :ok

  @doc """
  Starts to process what the buffer holds, without waiting for the interval. Returns at once.

  A partition that is processing already starts again when it is done.

  ## Options

    * `:partition` - only this one: its name (as `get_partition/3` returns it) or its index.

  Raises `ArgumentError` if no such buffer or partition is there, and `NimbleOptions.ValidationError` if an option is
  unknown.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Queue.start_link(name: :flush_example, processor: fn _ -> :ok end)
      iex> PartitionedBuffer.Queue.push(:flush_example, :item)
      iex> PartitionedBuffer.flush(:flush_example)
      :ok
      iex> PartitionedBuffer.await_empty(:flush_example)
      :ok
      iex> PartitionedBuffer.Queue.stop(:flush_example)
      :ok

  """
  @spec flush(buffer(), keyword()) :: :ok
  def flush(buffer, opts \\ []) do
    opts = Options.partition!(opts)
    handle = Handle.fetch!(buffer)
    OnDemand.flush(handle, OnDemand.indexes!(buffer, handle, opts[:partition]))
  end

  @doc """
  Processes what was written before the call, and waits for it. Writers are not held up.

  Returns a list of `{partition, outcome}`. An outcome is `{:ok, result}` with what the processor returned
  for the last batch (`nil` if the partition held nothing), or `{:error, reason}`: `:timeout` if it took
  longer than the `:timeout`, otherwise why entries of this partition were discarded meanwhile (a `t:reason/0`, or
  `:processing_timeout` if the processor took too long). What has not been processed in time stays in the buffer. That
  of a paused partition is not processed before it is resumed.

  ## Options

    * `:timeout` - in milliseconds, 60000 by default; or `:infinity`.
    * `:partition` - only this one: its name or its index.

  Raises `ArgumentError` if no such buffer or partition is there, and `NimbleOptions.ValidationError` if an option is
  unknown.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Queue.start_link(
      ...>     name: :sync_example,
      ...>     partitions: 1,
      ...>     processor: &length/1
      ...>   )
      iex> PartitionedBuffer.Queue.push(:sync_example, [1, 2, 3])
      iex> PartitionedBuffer.sync_flush(:sync_example)
      [{:"Elixir.sync_example.0", {:ok, 3}}]
      iex> PartitionedBuffer.Queue.stop(:sync_example)
      :ok

  """
  @spec sync_flush(buffer(), keyword()) :: [
          {partition :: atom(),
           {:ok, result :: term()} | {:error, :timeout | :processing_timeout | reason()}}
        ]
  def sync_flush(buffer, opts \\ []) do
    opts = Options.sync!(opts)
    handle = Handle.fetch!(buffer)
    timeout = Options.timeout!(Keyword.get(opts, :timeout, 60_000))
    indexes = OnDemand.indexes!(buffer, handle, opts[:partition])
    outcomes = OnDemand.sync_flush(handle, indexes, timeout)
    Enum.zip(Enum.map(indexes, &elem(handle.partitions, &1)), outcomes)
  end

  @doc """
  Waits until the buffer holds nothing, neither waiting nor with a processor. Nothing is started for it: see
  `flush/2`.

  Returns `:ok`, or `{:error, :timeout}` after `timeout` milliseconds. Raises `ArgumentError` if no such
  buffer is running.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Queue.start_link(name: :empty_example, processor: fn _ -> :ok end)
      iex> PartitionedBuffer.Queue.push(:empty_example, :item)
      iex> PartitionedBuffer.await_empty(:empty_example, 0)
      {:error, :timeout}
      iex> PartitionedBuffer.flush(:empty_example)
      iex> PartitionedBuffer.await_empty(:empty_example, 5_000)
      :ok
      iex> PartitionedBuffer.Queue.stop(:empty_example)
      :ok

  """
  @spec await_empty(buffer(), timeout()) :: :ok | {:error, :timeout}
  def await_empty(buffer, timeout \\ 5_000) do
    buffer |> Handle.fetch!() |> OnDemand.await_empty(Options.timeout!(timeout))
  end

  @doc """
  Copies of all entries that are queued, as a processor would get them: those that are to be tried again, and
  those that no processor has been given yet. They stay in the buffer.

  The entries of a queue's partition come in their order, those of the first partition first. The list is
  read in pieces while writes and processing go on, so it is not of one moment: an entry that is queued
  before and after the call is in it.

  ## Options

    * `:partition` - only this one: its name or its index.

  Raises `ArgumentError` if no such buffer or partition is there, and `NimbleOptions.ValidationError` if an option is
  unknown.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Queue.start_link(name: :dump_example, processor: fn _ -> :ok end)
      iex> PartitionedBuffer.Queue.push(:dump_example, [:a, :b], partition_key: :same)
      iex> PartitionedBuffer.dump(:dump_example)
      [:a, :b]
      iex> PartitionedBuffer.Queue.stop(:dump_example)
      :ok

  """
  @spec dump(buffer(), keyword()) :: [term()]
  def dump(buffer, opts \\ []) do
    opts = Options.partition!(opts)
    %{ref: ref} = handle = Handle.fetch!(buffer)
    Enum.flat_map(OnDemand.indexes!(buffer, handle, opts[:partition]), &OnDemand.dump(ref, &1))
  end

  @doc """
  Processes nothing any more, until `resume/1`. Batches that a processor has are finished; writes go on.

  It holds for a buffer whose processes are started again, too. A buffer that is stopped processes what it
  holds all the same. Raises `ArgumentError` if no such buffer is running.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Queue.start_link(name: :pause_example, processor: fn _ -> :ok end)
      iex> PartitionedBuffer.pause(:pause_example)
      :ok
      iex> PartitionedBuffer.resume(:pause_example)
      :ok
      iex> PartitionedBuffer.Queue.stop(:pause_example)
      :ok

  """
  @spec pause(buffer()) :: :ok
  def pause(buffer), do: Owner.update_options(buffer, %{paused: true})

  @doc "Processes again, what is there at once. See `pause/1`."
  @spec resume(buffer()) :: :ok
  def resume(buffer), do: Owner.update_options(buffer, %{paused: false})

  @doc """
  Tells how things stand: `t:figures/0` of each partition and of all together.

  Besides, for each partition: `next_flush_ms`, in how many milliseconds it processes by itself the next time
  (`nil`: never), and `trigger`, what started its last cycle (`nil`: nothing yet; see the events). And for the
  whole buffer: `blocked`, how many callers wait for room, `rejected`, how many writes have returned
  `{:error, reason}` because there was none, and `room`, `nil` or the `entries` and `bytes` that are taken of the capacity.

  Each partition's figures are of one moment: `accepted` is `processed`, `superseded`, `deleted`,
  `discarded` (all reasons), `queued` and `in_flight` together, always.

      iex> {:ok, _pid} =
      ...>   PartitionedBuffer.Queue.start_link(name: :info_example, processor: fn _ -> :ok end)
      iex> PartitionedBuffer.Queue.push(:info_example, [1, 2, 3])
      iex> info = PartitionedBuffer.info(:info_example)
      iex> {info.accepted, info.queued, info.in_flight, info.processed}
      {3, 3, 0, 0}
      iex> length(info.partitions) == System.schedulers_online()
      true
      iex> PartitionedBuffer.Queue.stop(:info_example)
      :ok

  Raises `ArgumentError` if no buffer of this name is running.
  """
  @spec info(buffer()) :: map()
  def info(buffer) do
    %{ref: ref, partitions: names, module: module} = Handle.fetch!(buffer)

    partitions =
      for index <- Handle.indexes(ref) do
        {next_flush, trigger} = Native.info_mark(ref, index)

        ref
        |> Native.info_partition(index)
        |> figures()
        |> Map.merge(%{
          partition: elem(names, index),
          next_flush_ms: next_flush,
          trigger: trigger
        })
      end

    {used, blocked, rejected} = Native.info_room(ref)
    room = with {entries, bytes} <- used, do: %{entries: entries, bytes: bytes}

    partitions
    |> total()
    |> Map.merge(%{buffer: buffer, module: module, partitions: partitions})
    |> Map.merge(%{blocked: blocked, rejected: rejected, room: room})
  end

  @doc false
  @spec no_partitions!(buffer()) :: no_return()
  def no_partitions!(buffer) do
    raise RuntimeError, "no partitions available for buffer #{inspect(buffer)}"
  end

  defp figures(stats) do
    {age, figures} = stats |> Map.from_struct() |> Map.pop!(:oldest_age_ns)

    figures
    |> Map.update!(:discarded, &Map.from_struct/1)
    |> Map.put(:oldest_age_ms, age && div(age, 1_000_000))
  end

  defp total(partitions) do
    none =
      Map.new([:exception, :killed, :timeout, :shutdown, :failed, :expired, :overflow], &{&1, 0})

    sum = fn key -> partitions |> Enum.map(& &1[key]) |> Enum.sum() end
    ages = for %{oldest_age_ms: age} when age != nil <- partitions, do: age

    for(
      key <- [
        :queued,
        :in_flight,
        :accepted,
        :processed,
        :superseded,
        :deleted,
        :bytes,
        :high_water,
        :retries
      ],
      into: %{},
      do: {key, sum.(key)}
    )
    |> Map.put(:oldest_age_ms, Enum.max(ages, fn -> nil end))
    |> Map.put(
      :discarded,
      Enum.reduce(partitions, none, fn partition, sums ->
        Map.merge(sums, partition.discarded, fn _reason, one, other -> one + other end)
      end)
    )
  end
end
