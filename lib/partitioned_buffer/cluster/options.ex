defmodule PartitionedBuffer.Cluster.Options do
  @moduledoc false
  # The options of a cluster and of its calls. Those of the buffer are left to `PartitionedBuffer.Options`.

  alias PartitionedBuffer.Options

  @max_ms 4_294_967_295

  refusals = [
    on_lost: [
      type: {:in, [:error, :block, :next]},
      type_doc: "`:error`, `:block` or `:next`",
      default: :error,
      doc: """
      What follows when a node was sent entries and its answer did not come: the connection was lost, or the
      time is up. They may have been accepted there or not.

        * `:error` - the call returns the error `{:lost, node}`.
        * `:block` - the same node is asked again until the call's time is up, with the same id of the
          request: it accepts it once.
        * `:next` - the next owner gets them. If the first one had accepted them after all, they are
          processed by both: at least once. An attempt takes up to half of the time that is left.
      """
    ],
    on_full: [
      type: {:in, [:block, :next, :error]},
      type_doc: "`:block`, `:next` or `:error`",
      default: :block,
      doc: """
      What follows when the owner's buffer has no room.

        * `:block` - the call waits until there is, up to its `:timeout`.
        * `:next` - the next owner gets the entries.
        * `:error` - the call returns the error `:full`.
      """
    ]
  ]

  partition_key = [
    partition_key: [
      type: :any,
      default: nil,
      doc: """
      What decides which node an entry goes to, and which partition there: as `:partition_key` of a write,
      see `PartitionedBuffer`. It is called where the write is made. Entries that are handed over follow it,
      too: so set it here, rather than with each write.
      """
    ]
  ]

  start =
    [
      module: [
        type: {:in, [PartitionedBuffer.Queue, PartitionedBuffer.Map]},
        type_doc: "`PartitionedBuffer.Queue` or `PartitionedBuffer.Map`",
        required: true,
        doc: "What runs on each node."
      ],
      name: [
        type: {:custom, Options, :name, []},
        type_doc: "`t:atom/0`",
        required: true,
        doc: "The name of the buffer, the same on all nodes."
      ],
      member: [
        type: :boolean,
        default: true,
        doc: """
        Whether this node has a buffer of its own. One that has none only writes and reads; it takes none of
        the buffer's options.
        """
      ],
      weight: [
        type: {:custom, __MODULE__, :weight, []},
        type_doc: "a positive number",
        default: 1,
        doc: "This node's share of the keys, in proportion to the other nodes' weights."
      ],
      handover: [
        type: :boolean,
        default: false,
        doc: """
        Whether a node that stops gives what it could not process in time to the new owners. `:on_discard` is
        called with what can't be handed over. See "Join and leave".
        """
      ],
      handover_timeout_ms: [
        type: {:custom, __MODULE__, :ms, []},
        type_doc: "`t:pos_integer/0`",
        default: 5_000,
        doc: """
        How long (in milliseconds) to try so for each batch. (It never gets more than four fifths of
        `:processing_timeout_ms`, which bounds calls of `:on_discard`.)
        """
      ],
      request_memory: [
        type: {:custom, __MODULE__, :memory, []},
        type_doc: "`t:pos_integer/0`",
        default: 10_000,
        doc: """
        How many accepted requests of other nodes this node remembers, to know one that is made again. Each
        takes some 200 bytes.
        """
      ]
    ] ++ partition_key ++ refusals

  write =
    partition_key ++
      [
        timeout: [
          type: {:custom, Options, :deadline, []},
          type_doc: "`t:timeout/0`",
          default: 5_000,
          doc: "How long (in milliseconds) the whole call may take, over all its attempts."
        ]
      ] ++
      refusals ++
      [
        request_id: [
          type: :any,
          default: nil,
          doc: """
          Names the write: one that is made again with the same id and the same entries is accepted once by a
          node that still remembers it. By default each call has an id of its own.
          """
        ]
      ]

  all_nodes = [
    timeout: [
      type: {:custom, Options, :deadline, []},
      type_doc: "`t:timeout/0`",
      default: 5_000,
      doc: "How long (in milliseconds) to wait for all nodes together."
    ]
  ]

  @start NimbleOptions.new!(start)
  @start_keys Keyword.keys(start)
  # What is not given is as it was when the cluster was started.
  @write NimbleOptions.new!(for {key, spec} <- write, do: {key, Keyword.delete(spec, :default)})
  @write_docs NimbleOptions.new!(write)
  @all_nodes NimbleOptions.new!(all_nodes)

  @doc "Validates what a cluster is started with; and the options of its buffer, which are not looked at."
  @spec start!(keyword()) :: {map(), keyword()}
  def start!(opts) do
    {own, buffer} = opts |> keyword!() |> Keyword.split(@start_keys)
    {own |> NimbleOptions.validate!(@start) |> Map.new(), buffer}
  end

  @doc "The options of a write, those not given filled in from `defaults`."
  @spec write!(keyword(), map()) :: map()
  def write!([], defaults), do: Map.merge(defaults, %{timeout: 5_000, request_id: nil})

  def write!(opts, defaults) do
    given = opts |> keyword!() |> NimbleOptions.validate!(@write) |> Map.new()
    Map.merge(write!([], defaults), given)
  end

  @doc "The options of a call of all nodes, and those that go on to each node."
  @spec all_nodes!(keyword(), [atom()]) :: {timeout(), keyword()}
  def all_nodes!(opts, passed \\ []) do
    {passed, opts} = opts |> keyword!() |> Keyword.split(passed)
    {NimbleOptions.validate!(opts, @all_nodes)[:timeout], passed}
  end

  @doc false
  def start_docs, do: NimbleOptions.docs(@start)
  @doc false
  def write_docs, do: NimbleOptions.docs(@write_docs)
  @doc false
  def all_nodes_docs, do: NimbleOptions.docs(@all_nodes)

  @doc false
  def weight(weight) when is_number(weight) and weight > 0 and weight <= 1_000_000,
    do: {:ok, weight}

  def weight(other),
    do: {:error, "expected a positive number up to a million, got: #{inspect(other)}"}

  @doc false
  def ms(ms) when is_integer(ms) and ms in 1..@max_ms, do: {:ok, ms}
  def ms(other), do: {:error, "expected positive integer, got: #{inspect(other)}"}

  @doc false
  def memory(n) when is_integer(n) and n in 1..10_000_000, do: {:ok, n}

  def memory(other),
    do: {:error, "expected positive integer of at most 10000000, got: #{inspect(other)}"}

  defp keyword!(opts) do
    if Keyword.keyword?(opts) do
      opts
    else
      raise ArgumentError, "expected options to be a keyword list, got: #{inspect(opts)}"
    end
  end
end
