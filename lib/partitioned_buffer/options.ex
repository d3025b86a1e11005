defmodule PartitionedBuffer.Options do
  @moduledoc false
  # The options of a buffer: what they are called, what they may be, what they are by default, and
  # their documentation. Nothing else in the library knows a default.

  # The longest time that a timer of the VM can wait.
  @max_ms 4_294_967_295
  # Each has a process and a name.
  @max_partitions 32_768
  # The longest name for which the names of its processes are atoms.
  @max_name 220

  # More than any batch is ever tried.
  @max_retries 1_000_000_000

  # What is remembered of them takes a gigabyte and more.
  @max_versions 10_000_000

  updatable = [
    processing_interval_ms: [
      type: {:custom, __MODULE__, :interval, []},
      type_doc: "`t:pos_integer/0`",
      default: 5_000,
      doc: """
      How often (in milliseconds) each partition looks for buffered entries and starts to process
      them. An empty partition starts nothing. If a cycle is still running when the interval ends,
      the next one starts as soon as it is done. At most #{@max_ms}.
      """
    ],
    processing_interval_jitter_ms: [
      type: {:custom, __MODULE__, :count, []},
      type_doc: "`t:non_neg_integer/0`",
      default: 0,
      doc: """
      Up to how many milliseconds, drawn at random each time, are added to the interval: so partitions, and
      the nodes of a cluster, do not all process at the same moment.
      """
    ],
    max_size: [
      type: {:custom, __MODULE__, :bound, []},
      type_doc: "`t:pos_integer/0` or `:infinity`",
      default: :infinity,
      doc: """
      At how many waiting entries of a partition its processing starts, without waiting for the interval:
      on the write that reaches it.
      """
    ],
    max_size_jitter: [
      type: {:custom, __MODULE__, :count, []},
      type_doc: "`t:non_neg_integer/0`",
      default: 0,
      doc: "Up to how much is added to `:max_size`, drawn at random for each generation."
    ],
    max_bytes: [
      type: {:custom, __MODULE__, :bound, []},
      type_doc: "`t:pos_integer/0` or `:infinity`",
      default: :infinity,
      doc: "The same as `:max_size` in bytes, counted as `bytes` of `info/1`."
    ],
    processing_timeout_ms: [
      type: {:custom, __MODULE__, :deadline, []},
      type_doc: "`t:timeout/0`",
      default: 60_000,
      doc: """
      How long (in milliseconds) one call of the processor may take. A call that takes longer is
      killed, and its batch is discarded and reported. When the buffer is stopped, it is also the
      budget for everything that is left, all partitions at the same time. At most #{@max_ms}.
      """
    ],
    processing_batch_size: [
      type: {:custom, __MODULE__, :batch_size, []},
      type_doc: "`t:pos_integer/0` or `:table`",
      default: 10,
      doc: """
      How entries are handed to the processor.

        * A positive integer: in lists of up to this many entries, one call each.

        * `:table`: all that a partition holds at once, as the name of an ETS table. The rows are
          `{:entry, key, value, version, updates}` with the key at position 2; the keys of a
          queue are integers in the order of insertion. When the processor returns, the table is
          deleted. To **keep** it, give it another name with `:ets.rename/2` before returning; after
          that it can also be handed to another process with `:ets.give_away/3`. Entries are held
          natively until the processor returns, so this takes twice the memory.
      """
    ],
    max_batch_bytes: [
      type: {:custom, __MODULE__, :bound, []},
      type_doc: "`t:pos_integer/0` or `:infinity`",
      default: :infinity,
      doc: """
      How many bytes a batch may have at the most. An entry that is larger is a batch of its own. With
      batches of `:table` it has no effect.
      """
    ],
    capacity: [
      type: {:custom, __MODULE__, :bound, []},
      type_doc: "`t:pos_integer/0` or `:infinity`",
      default: :infinity,
      doc: """
      How many entries the whole buffer may hold, those that a processor has included. Room is taken before
      an entry is written, so the bound is never exceeded. `:overflow` says what happens to a write for
      which there is no room. If it is set or made smaller while more is held, that stays.
      """
    ],
    capacity_bytes: [
      type: {:custom, __MODULE__, :bound, []},
      type_doc: "`t:pos_integer/0` or `:infinity`",
      default: :infinity,
      doc: "The same in bytes, counted as `bytes` of `info/1`."
    ],
    overflow: [
      type: {:in, [:block, :reject, :drop_newest, :drop_oldest]},
      type_doc: "`t:PartitionedBuffer.overflow/0`",
      default: :block,
      doc: """
      What happens to a write for which there is no room.

        * `:block`: the caller waits, up to the `:timeout` of the call, first come, first served. One that
          gives up or dies has not written anything.

        * `:reject`: the write returns `{:error, :full}`.

        * `:drop_newest`: the write returns `:ok`, and what it wanted to write is discarded.

        * `:drop_oldest`: the oldest waiting entries are discarded: those of the partition that is written
          to, then those of others. Batches are then taken out of the buffer one by one, since what has been
          taken out can't make room; in a map, whose generations are taken out as a whole, that may be all
          there is: then the write returns `{:error, :full}`.

      A list is taken, refused or dropped as a whole. What is larger than the whole capacity is never
      taken: `{:error, :too_large}`. Except with `:drop_oldest`, a write for which there is no room starts
      processing in all partitions, unless the buffer is paused or manual.

      When it is changed from `:block` while callers wait, those wait no more: each write is made again, in no order, as
      the new value says.
      """
    ],
    max_retries: [
      type: {:custom, __MODULE__, :retries, []},
      type_doc: "`t:non_neg_integer/0`",
      default: 0,
      doc: """
      How often a batch is tried again whose processing failed. It keeps its place and its id; what is
      behind it in its partition waits. With `0` an entry is handed over once at the most, with more at
      least once.
      """
    ],
    backoff: [
      type: {:custom, __MODULE__, :backoff, []},
      type_doc: "`{t:pos_integer/0, t:pos_integer/0}`",
      default: {100, 30_000},
      doc: """
      How long (in milliseconds) to wait before a batch is tried again: the first time, and at the most. It
      doubles from time to time; half of it is drawn at random.
      """
    ],
    split_on_failure: [
      type: :boolean,
      default: false,
      doc: """
      Whether a batch that has failed for the last time is halved, and each half tried once more, until the
      entry that can't be processed is alone. Only that is discarded then.
      """
    ],
    max_age_ms: [
      type: {:custom, __MODULE__, :bound, []},
      type_doc: "`t:pos_integer/0` or `:infinity`",
      default: :infinity,
      doc: """
      Entries that are older than this (in milliseconds) when their batch is due, for the first time or
      again, are discarded (a batch that was tried before, as a whole). Ages are known to the precision of 256 entries of a queue, and to that of a
      cycle of a map: an entry is never discarded too early, but may be late by that.
      """
    ],
    on_discard: [
      type: {:custom, __MODULE__, :on_discard, []},
      type_doc: "`t:PartitionedBuffer.on_discard/0`",
      default: nil,
      doc: """
      What is called with entries that are given up, and the reason: a function of arity 2, or
      `{module, function, args}` with both put before `args`. It runs in a process of its own and may take
      `:processing_timeout_ms` for each call. While 100,000 entries of a partition wait for it, others are not
      kept for it, but only counted and reported by events. It is called once for each entry at the most: when it fails,
      that is reported by an event. When the buffer is stopped and the time for processing is up, it has five more
      seconds for all that is left.
      """
    ],
    processor_info: [
      type: :boolean,
      default: false,
      doc: """
      Whether a processor that is `{module, function, args}` gets a `t:PartitionedBuffer.batch_info/0` as
      its second argument, before `args`. A function of arity 2 gets it anyway.
      """
    ]
  ]

  start =
    [
      module: [
        type: {:in, [PartitionedBuffer.Queue, PartitionedBuffer.Map]},
        required: true,
        doc: false
      ],
      name: [
        type: {:custom, __MODULE__, :name, []},
        type_doc: "`t:atom/0`",
        required: true,
        doc: "The name that the buffer is used by. Its processes are named after it."
      ],
      processor: [
        type: {:or, [{:fun, 1}, {:fun, 2}, :mfa]},
        type_doc: "`t:PartitionedBuffer.processor/0`",
        required: true,
        doc: """
        What is called with each batch, in a process that has nothing else to do: one for many batches, so what is left in
        its dictionary, or a name that is registered, is still there with the next one.

          * A function of arity 1: `&MyApp.Events.insert_all/1`.
          * A function of arity 2: it also gets a `t:PartitionedBuffer.batch_info/0`.
          * `{module, function, args}`: the batch is put before `args`.

        A call fails if it raises, throws, exits, is killed, takes too long, or returns `{:error, reason}`; or
        in part, if it returns `{:failed, entries}`, a list of entries of the batch, each as often as it has failed (of
        any other list, and of a batch of `:table`, all has failed). Whatever else it returns, the batch has been
        processed. What has failed is tried again or discarded and
        reported, see `:max_retries`; the batches after it are processed all the same.
        """
      ],
      partitions: [
        type: {:custom, __MODULE__, :partitions, []},
        type_doc: "`t:non_neg_integer/0`",
        doc: """
        The number of partitions. Each has a lock, a process and a cycle of its own, so more of them
        means less waiting between writers and more batches processed at the same time. The default
        is `System.schedulers_online()`. With `0` every write raises. At most #{@max_partitions}.
        """
      ],
      manual: [
        type: :boolean,
        default: false,
        doc: """
        For tests: nothing is processed by itself, neither by time nor by size, until
        `PartitionedBuffer.Testing.drain/2`, a flush or the end.
        """
      ],
      version_memory: [
        type: {:custom, __MODULE__, :version_memory, []},
        type_doc: "`t:non_neg_integer/0`",
        default: 0,
        doc: """
        Of a map: of how many keys each partition remembers the highest version that it has handed to
        a processor, so that `PartitionedBuffer.Map.put_newer/5` ignores older ones that come later.
        See "Versions" in `PartitionedBuffer.Map`. At most #{@max_versions}.
        """
      ]
    ] ++ updatable

  runtime = [
    partition_key: [
      type: :any,
      default: nil,
      doc: """
      What decides which partition an entry goes to. Entries with the same routing key go to the same
      partition, for as long as the buffer lives.

        * `nil` (default): the entry itself (for a map, its key) is the routing key.
        * A function of arity 1: called with the entry (for a map, its key), returns the routing key.
        * `{module, function, args}`: the same, with the entry put before `args`.
        * Any other term: is the routing key of all entries.
      """
    ],
    timeout: [
      type: {:custom, __MODULE__, :deadline, []},
      type_doc: "`t:timeout/0`",
      default: 5_000,
      doc: """
      How long (in milliseconds) the call waits for room where `:overflow` is `:block`. When it is over,
      nothing was written and the call returns `{:error, :timeout}`.
      """
    ]
  ]

  # Of calls that work on partitions. What the values mean is checked where they are used.
  on_demand = [partition: [type: :any], timeout: [type: :any]]

  @partition NimbleOptions.new!(Keyword.take(on_demand, [:partition]))
  @sync NimbleOptions.new!(on_demand)
  @start NimbleOptions.new!(start)
  @updatable NimbleOptions.new!(for {key, spec} <- updatable, do: {key, spec})
  @runtime NimbleOptions.new!(runtime)
  @write_timeout 5_000
  @start_keys Keyword.keys(start)
  @updatable_keys Keyword.keys(updatable)

  @doc "Validates what a buffer is started with. Options that it does not know are dropped."
  @spec start!(keyword()) :: keyword()
  def start!(opts) do
    opts
    |> keyword!()
    |> Keyword.take(@start_keys)
    |> NimbleOptions.validate!(@start)
    |> Keyword.put_new_lazy(:partitions, &System.schedulers_online/0)
  end

  @doc "Validates what a running buffer is given; answers only what was given."
  @spec update!(keyword()) :: keyword()
  def update!(opts) do
    opts |> keyword!() |> NimbleOptions.validate!(@updatable) |> Keyword.take(Keyword.keys(opts))
  end

  @doc "The options of a call that works on partitions."
  @spec partition!(keyword()) :: keyword()
  def partition!([]), do: []
  def partition!(opts), do: validate!(opts, @partition)

  @doc "Those of one that waits for them, too."
  @spec sync!(keyword()) :: keyword()
  def sync!([]), do: []
  def sync!(opts), do: validate!(opts, @sync)

  defp validate!(opts, schema),
    do: opts |> keyword!() |> NimbleOptions.validate!(schema) |> Keyword.new()

  @doc "Checks how long a call may wait."
  @spec timeout!(timeout()) :: timeout()
  def timeout!(timeout) do
    with {:error, message} <- deadline(timeout),
         do: raise(ArgumentError, message),
         else: ({:ok, t} -> t)
  end

  @doc """
  What the processes of a buffer share: the processor and the options that can be updated. And what a
  `PartitionedBuffer.DataBuffer` sets: `in_turn`, whether a generation is full with `:max_size` entries and
  handed over as a stream, and `flush_empty`, whether the processor is called when there is nothing, too.
  """
  @spec settings(keyword()) :: map()
  def settings(opts) do
    opts
    |> Keyword.take([:processor, :manual | @updatable_keys])
    |> Map.new()
    |> Map.merge(%{
      paused: false,
      in_turn: Keyword.get(opts, :in_turn, false),
      flush_empty: Keyword.get(opts, :flush_empty, false)
    })
  end

  @doc "What of them the native side goes by."
  @spec rules(map()) :: map()
  def rules(settings) do
    %{
      batch_size:
        if(settings.processing_batch_size == :table, do: 0, else: settings.processing_batch_size),
      max_batch_bytes: finite(settings.max_batch_bytes),
      capacity: finite(settings.capacity),
      capacity_bytes: finite(settings.capacity_bytes),
      overflow: settings.overflow,
      max_retries: settings.max_retries,
      split_on_failure: settings.split_on_failure,
      max_age_ms: finite(settings.max_age_ms),
      keep_discarded: settings.on_discard != nil
    }
  end

  @doc "A bound as the native side has it."
  @spec finite(pos_integer() | :infinity) :: pos_integer() | nil
  def finite(:infinity), do: nil
  def finite(bound), do: bound

  @doc "How long a write waits for room, or to be processed, that does not say so."
  @spec write_timeout() :: pos_integer()
  def write_timeout, do: @write_timeout

  @doc "The options of a write: the routing key, and how long it may wait for room."
  @spec write!(keyword()) :: {partition_key :: term(), timeout()}
  def write!([]), do: {nil, @write_timeout}
  def write!(partition_key: key), do: {key, @write_timeout}

  def write!(partition_key: key, timeout: ms) when is_integer(ms) and ms in 0..@max_ms,
    do: {key, ms}

  def write!(opts) do
    opts = opts |> keyword!() |> NimbleOptions.validate!(@runtime)
    {opts[:partition_key], opts[:timeout]}
  end

  @doc "How long a write may wait for room."
  @spec timeout_of!(keyword()) :: timeout()
  def timeout_of!(opts), do: opts |> write!() |> elem(1)

  @doc "The routing key option of a call."
  @spec partition_key!(keyword()) :: term()
  def partition_key!(opts), do: opts |> write!() |> elem(0)

  @doc "The options of a write that waits until it has been processed, split off from those of any write."
  @spec await!(keyword()) :: {flush? :: boolean(), keyword()}
  def await!(opts) do
    {flush?, opts} = opts |> keyword!() |> Keyword.pop(:flush, true)

    if is_boolean(flush?) do
      {flush?, opts}
    else
      raise ArgumentError, "expected :flush to be a boolean, got: #{inspect(flush?)}"
    end
  end

  @doc false
  def start_docs, do: NimbleOptions.docs(@start)
  @doc false
  def updatable_docs, do: NimbleOptions.docs(@updatable)
  @doc false
  def runtime_docs, do: NimbleOptions.docs(@runtime)

  @doc false
  def name(name) when is_atom(name) and name not in [nil, true, false, :undefined] do
    case name |> Atom.to_string() |> String.length() do
      length when length > @max_name ->
        {:error, "expected an atom of at most #{@max_name} characters, got one of #{length}"}

      _length ->
        {:ok, name}
    end
  end

  def name(other) do
    {:error,
     "expected an atom other than nil, true, false and :undefined, got: #{inspect(other)}"}
  end

  @doc false
  def partitions(n) when is_integer(n) and n in 0..@max_partitions, do: {:ok, n}

  def partitions(other) do
    {:error,
     "expected non negative integer of at most #{@max_partitions}, got: #{inspect(other)}"}
  end

  @doc false
  def version_memory(n) when is_integer(n) and n in 0..@max_versions, do: {:ok, n}

  def version_memory(other) do
    {:error, "expected non negative integer of at most #{@max_versions}, got: #{inspect(other)}"}
  end

  @doc false
  def interval(ms) when is_integer(ms) and ms in 1..@max_ms, do: {:ok, ms}
  def interval(other), do: wrong("positive integer", @max_ms, other)

  # More than any partition can hold is as good as all.
  @doc false
  def batch_size(:table), do: {:ok, :table}
  def batch_size(size) when is_integer(size) and size > 0, do: {:ok, min(size, @max_ms)}

  def batch_size(other) do
    {:error, "expected positive integer or :table, got: #{inspect(other)}"}
  end

  # Fits into a native integer with room to spare.
  @doc false
  def bound(:infinity), do: {:ok, :infinity}
  def bound(n) when is_integer(n) and n > 0, do: {:ok, min(n, 1_000_000_000_000_000)}
  def bound(other), do: {:error, "expected positive integer or :infinity, got: #{inspect(other)}"}

  @doc false
  def count(n) when is_integer(n) and n in 0..@max_ms, do: {:ok, n}
  def count(other), do: wrong("non-negative integer", @max_ms, other)

  @doc false
  def retries(n) when is_integer(n) and n in 0..@max_retries, do: {:ok, n}
  def retries(other), do: wrong("non-negative integer", @max_retries, other)

  @doc false
  def backoff({first, most} = backoff)
      when is_integer(first) and is_integer(most) and first in 1..@max_ms and
             most >= first and most <= @max_ms,
      do: {:ok, backoff}

  def backoff(other) do
    {:error,
     "expected {first, most} in milliseconds, positive integers of at most #{@max_ms} of which the second is " <>
       "not the smaller one, got: #{inspect(other)}"}
  end

  @doc false
  def on_discard(nil), do: {:ok, nil}
  def on_discard(fun) when is_function(fun, 2), do: {:ok, fun}

  def on_discard({module, function, args} = mfa)
      when is_atom(module) and is_atom(function) and is_list(args),
      do: {:ok, mfa}

  def on_discard(other) do
    {:error,
     "expected nil, a function of arity 2 or {module, function, args}, got: #{inspect(other)}"}
  end

  @doc false
  def deadline(:infinity), do: {:ok, :infinity}
  def deadline(ms) when is_integer(ms) and ms in 0..@max_ms, do: {:ok, ms}

  def deadline(other), do: wrong("non-negative integer or :infinity", @max_ms, other)

  # Where only the size of a number is wrong, the bound is told.
  defp wrong(expected, most, other) when is_integer(other) and other > most,
    do: {:error, "expected #{expected}, at most #{most}, got: #{other}"}

  defp wrong(expected, _most, other), do: {:error, "expected #{expected}, got: #{inspect(other)}"}

  @doc "The options of a call, or of a child specification: a keyword list, whatever is in it."
  @spec keyword!(term()) :: keyword()
  def keyword!(opts) do
    if Keyword.keyword?(opts) do
      opts
    else
      raise ArgumentError, "expected options to be a keyword list, got: #{inspect(opts)}"
    end
  end
end
