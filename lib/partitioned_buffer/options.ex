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
        type: {:or, [{:fun, 1}, :mfa]},
        type_doc: "`t:PartitionedBuffer.processor/0`",
        required: true,
        doc: """
        What is called with each batch, in a process of its own.

          * A function of arity 1: `&MyApp.Events.insert_all/1`.
          * `{module, function, args}`: the batch is put before `args`.

        What it returns is ignored. A batch whose call raises, throws, exits, is killed or takes too
        long is discarded and reported; the batches after it are processed all the same.
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
    ]
  ]

  @start NimbleOptions.new!(start)
  @updatable NimbleOptions.new!(for {key, spec} <- updatable, do: {key, spec})
  @runtime NimbleOptions.new!(runtime)
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

  @doc "Checks how long a call may wait."
  @spec timeout!(timeout()) :: timeout()
  def timeout!(timeout) do
    with {:error, message} <- deadline(timeout),
         do: raise(ArgumentError, message),
         else: ({:ok, t} -> t)
  end

  @doc "What the processes of a buffer share: the processor and the options that can be updated."
  @spec settings(keyword()) :: map()
  def settings(opts), do: opts |> Keyword.take([:processor | @updatable_keys]) |> Map.new()

  @doc "The routing key option of a write."
  @spec partition_key!(keyword()) :: term()
  def partition_key!([]), do: nil
  def partition_key!(partition_key: key), do: key

  def partition_key!(opts) do
    opts |> keyword!() |> NimbleOptions.validate!(@runtime) |> Keyword.fetch!(:partition_key)
  end

  @doc false
  def start_docs, do: NimbleOptions.docs(@start)
  @doc false
  def updatable_docs, do: NimbleOptions.docs(@updatable)
  @doc false
  def runtime_docs, do: NimbleOptions.docs(@runtime)

  @doc false
  def name(name) when is_atom(name) and name not in [nil, true, false, :undefined] do
    if name |> Atom.to_string() |> String.length() > @max_name do
      {:error, "expected an atom of at most #{@max_name} characters"}
    else
      {:ok, name}
    end
  end

  def name(other), do: {:error, "expected an atom other than nil, got: #{inspect(other)}"}

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
  def interval(other), do: {:error, "expected positive integer, got: #{inspect(other)}"}

  # More than any partition can hold is as good as all.
  @doc false
  def batch_size(:table), do: {:ok, :table}
  def batch_size(size) when is_integer(size) and size > 0, do: {:ok, min(size, @max_ms)}

  def batch_size(other) do
    {:error, "expected positive integer or :table, got: #{inspect(other)}"}
  end

  @doc false
  def deadline(:infinity), do: {:ok, :infinity}
  def deadline(ms) when is_integer(ms) and ms in 0..@max_ms, do: {:ok, ms}

  def deadline(other) do
    {:error, "expected non-negative integer or :infinity, got: #{inspect(other)}"}
  end

  defp keyword!(opts) do
    if Keyword.keyword?(opts) do
      opts
    else
      raise ArgumentError, "expected options to be a keyword list, got: #{inspect(opts)}"
    end
  end
end
