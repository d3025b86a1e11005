defmodule PartitionedBuffer.DataBuffer.Options do
  @moduledoc false
  # The options of a module buffer, and what they are in terms of the queue that it is.

  alias PartitionedBuffer.DataBuffer.Flush
  alias PartitionedBuffer.Options

  start = [
    name: [
      type: {:custom, Options, :name, []},
      type_doc: "`t:atom/0`",
      doc:
        "The name that the buffer is used by. The default is the module that it is started with."
    ],
    partitions: [
      type: {:custom, __MODULE__, :partitions, []},
      type_doc: "`t:pos_integer/0`",
      default: 1,
      doc: "The number of partitions. Writes go to one after the other."
    ],
    max_size: [
      type: {:custom, Options, :count, []},
      type_doc: "`t:non_neg_integer/0`",
      default: 5_000,
      doc: """
      With how many items a partition is full. The write that finds it full has it flushed and goes to the
      next batch. `0` is the same as `1`.
      """
    ],
    max_size_jitter: [
      type: {:custom, Options, :count, []},
      type_doc: "`t:non_neg_integer/0`",
      default: 0,
      doc:
        "Up to how much is added to `:max_size`, drawn at random for each batch of a partition."
    ],
    flush_interval: [
      type: {:custom, Options, :interval, []},
      type_doc: "`t:pos_integer/0`",
      default: 10_000,
      doc: "After how many milliseconds without a flush a partition is flushed that is not empty."
    ],
    flush_jitter: [
      type: {:custom, Options, :count, []},
      type_doc: "`t:non_neg_integer/0`",
      default: 2_000,
      doc:
        "Up to how many milliseconds are added to `:flush_interval`, drawn at random each time."
    ],
    flush_timeout: [
      type: {:custom, Options, :deadline, []},
      type_doc: "`t:timeout/0`",
      default: 60_000,
      doc: """
      How many milliseconds a call of `c:PartitionedBuffer.DataBuffer.handle_flush/2` may take. One that takes
      longer is killed. When the buffer is stopped it is also the time for all that is left.
      """
    ],
    flush_meta: [
      type: :any,
      default: nil,
      doc: "What each call gets as `opts[:meta]`."
    ],
    flush_empty: [
      type: :boolean,
      default: false,
      doc: """
      Whether a flush of an empty partition calls `c:PartitionedBuffer.DataBuffer.handle_flush/2` as well: by
      time, on demand, and at the end if nothing is left.
      """
    ],
    event_prefix: [
      type: {:custom, __MODULE__, :event_prefix, []},
      type_doc: "list of `t:atom/0`",
      default: [:data_buffer],
      doc: "What the names of the events begin with that are named in \"Telemetry\"."
    ],
    max_retries: [
      type: {:custom, Options, :retries, []},
      type_doc: "`t:non_neg_integer/0`",
      default: 0,
      doc: """
      How often a batch is flushed again whose flush has failed; what comes after it in its partition waits.
      With `0` an item is handed over once at the most, with more at least once.
      """
    ],
    backoff: [
      type: {:custom, Options, :backoff, []},
      type_doc: "`{t:pos_integer/0, t:pos_integer/0}`",
      default: {100, 30_000},
      doc: "How many milliseconds to wait before that, the first time and at the most."
    ],
    on_discard: [
      type: {:custom, Options, :on_discard, []},
      type_doc: "`t:PartitionedBuffer.on_discard/0`",
      default: nil,
      doc: "What is called with the items of a batch that was given up, and the reason."
    ],
    manual: [
      type: :boolean,
      default: false,
      doc: """
      For tests: nothing is flushed by itself, neither by time nor by size; see `PartitionedBuffer.Testing`.
      """
    ]
  ]

  insert = [
    timeout: [
      type: {:custom, Options, :deadline, []},
      type_doc: "`t:timeout/0`",
      default: 5_000,
      doc: "How many milliseconds the call waits while the partition is full and being flushed."
    ],
    on_timeout: [
      type: {:in, [:exit, :error]},
      type_doc: "`:exit` or `:error`",
      default: :exit,
      doc: "What happens then: the caller exits, or the call returns `{:error, :full}`."
    ]
  ]

  @start NimbleOptions.new!(start)
  @insert NimbleOptions.new!(insert)
  @start_keys Keyword.keys(start)

  @doc "Validates what a buffer of this module is started with. Options that it does not know are dropped."
  @spec start(module(), keyword()) :: {:ok, keyword()} | {:error, Exception.t()}
  def start(module, opts) do
    cond do
      not Keyword.keyword?(opts) ->
        wrong("expected a keyword list, got: #{inspect(opts)}")

      # What it would be given were lost, flush by flush.
      not (is_atom(module) and Code.ensure_loaded?(module) and
               function_exported?(module, :handle_flush, 2)) ->
        wrong("expected a module with handle_flush/2, got: #{inspect(module)}")

      true ->
        opts
        |> Keyword.take(@start_keys)
        |> Keyword.put_new(:name, module)
        |> NimbleOptions.validate(@start)
    end
  end

  defp wrong(message), do: {:error, %ArgumentError{message: message}}

  @doc "What the queue is started with that holds the items."
  @spec queue(module(), keyword()) :: keyword()
  def queue(module, opts) do
    flush = Map.new(Keyword.take(opts, [:flush_meta, :event_prefix]))

    [
      module: PartitionedBuffer.Queue,
      name: opts[:name],
      processor: {Flush, :run, [module, flush]},
      processor_info: true,
      partitions: opts[:partitions],
      manual: opts[:manual],
      max_size: max(opts[:max_size], 1),
      max_size_jitter: opts[:max_size_jitter],
      processing_interval_ms: opts[:flush_interval],
      processing_interval_jitter_ms: opts[:flush_jitter],
      processing_timeout_ms: opts[:flush_timeout],
      processing_batch_size: :table,
      max_retries: opts[:max_retries],
      backoff: opts[:backoff],
      on_discard: opts[:on_discard]
    ]
    |> Options.start!()
    |> Keyword.merge(
      module: PartitionedBuffer.DataBuffer,
      # The jitter may make more of nothing.
      max_size: opts[:max_size],
      in_turn: true,
      flush_empty: opts[:flush_empty],
      extra: Map.new(Keyword.take(opts, [:event_prefix, :flush_empty]))
    )
  end

  @doc "The options of a write: how long it may wait, and what happens then."
  @spec insert!(timeout() | keyword()) :: {timeout(), :exit | :error}
  def insert!(opts) when is_list(opts) do
    unless Keyword.keyword?(opts) do
      raise ArgumentError, "expected a timeout or a keyword list, got: #{inspect(opts)}"
    end

    opts = NimbleOptions.validate!(opts, @insert)
    {opts[:timeout], opts[:on_timeout]}
  end

  def insert!(timeout), do: {Options.timeout!(timeout), :exit}

  @doc false
  def start_docs, do: NimbleOptions.docs(@start)
  @doc false
  def insert_docs, do: NimbleOptions.docs(@insert)

  @doc false
  def partitions(n) when is_integer(n) and n > 0, do: Options.partitions(n)
  def partitions(other), do: {:error, "expected positive integer, got: #{inspect(other)}"}

  @doc false
  def event_prefix([_ | _] = prefix) do
    if Enum.all?(prefix, &is_atom/1), do: {:ok, prefix}, else: not_a_prefix(prefix)
  end

  def event_prefix(other), do: not_a_prefix(other)

  defp not_a_prefix(other),
    do: {:error, "expected a list of atoms that is not empty, got: #{inspect(other)}"}
end
