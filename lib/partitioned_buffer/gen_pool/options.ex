defmodule PartitionedBuffer.GenPool.Options do
  @moduledoc false
  # The options of a pool and of its broker: names, types, defaults and documentation.

  alias PartitionedBuffer.GenPool.Backend
  alias PartitionedBuffer.Options

  @max_workers 32_768
  @max_ms 4_294_967_295

  pool = [
    name: [
      type: {:custom, Options, :name, []},
      type_doc: "`t:atom/0`",
      doc: "The name that the pool is used by. The default is the callback module."
    ],
    pool_size: [
      type: {:custom, __MODULE__, :pool_size, []},
      type_doc: "`t:non_neg_integer/0`",
      default: 5,
      doc: "How many workers there are. See `set_pool_size/2`. At most #{@max_workers}."
    ],
    shared_state?: [
      type: :boolean,
      default: true,
      doc: "Whether all workers work on one state, or each on its own."
    ],
    isolation: [
      type: {:in, [:exclusive, :optimistic]},
      default: :exclusive,
      doc: """
      How handlers that run at the same time stay out of each other's way when the state is shared.

        * `:exclusive` - handlers that may write take turns. Each runs once.
        * `:optimistic` - handlers run at the same time. One whose state was changed underneath is run again
          with the new state, so what it does besides should bear being done twice.
      """
    ],
    max_attempts: [
      type: :pos_integer,
      default: 5,
      doc: """
      How often an optimistic handler is run, each time with the state of then, before it takes a turn like
      an exclusive one, so that it gets through in the end.
      """
    ],
    broker: [
      type: {:custom, __MODULE__, :broker, []},
      type_doc: "`t:module/0`",
      default: PartitionedBuffer.GenPool.DefaultBroker,
      doc: "The module that describes how requests wait: see `PartitionedBuffer.GenPool.Broker`."
    ],
    external_broker?: [
      type: :boolean,
      default: false,
      doc: """
      Whether the broker is one that runs already, under the name given as `:broker`, instead of one of
      the pool's own.
      """
    ],
    backend: [
      type: {:custom, Backend, :parse, []},
      type_doc: "module, `{module, config}` or struct",
      default: PartitionedBuffer.GenPool.Backend.Native,
      doc: "Where the shared state lives: see `PartitionedBuffer.GenPool.Backend`."
    ],
    shutdown: [
      type: {:custom, Options, :deadline, []},
      type_doc: "`t:timeout/0`",
      default: 5_000,
      doc: """
      How long (in milliseconds) the workers may go on, when the pool is stopped, with what was accepted
      before. What is left then is discarded and reported.
      """
    ]
  ]

  call = [
    timeout: [
      type: {:custom, Options, :deadline, []},
      type_doc: "`t:timeout/0`",
      default: 5_000,
      doc:
        "How long (in milliseconds) the call may take, in the queue and in the handler together."
    ],
    errors: [
      type: {:in, [:plain, :precise]},
      default: :plain,
      doc: """
      With `:precise`, a refused request is told apart: `{:error, :queue_full}`, `{:error, :queue_timeout}`
      or `{:error, :queue_delay}` instead of `{:error, :too_many_requests}`.
      """
    ]
  ]

  cast = Keyword.take(call, [:errors])

  use_broker = [
    timeout: [
      type: {:custom, Options, :deadline, []},
      type_doc: "`t:timeout/0`",
      default: 5_000,
      doc: "How long (in milliseconds) a request may wait."
    ],
    min_requests: [
      type: :non_neg_integer,
      default: 0,
      doc: "As long as no more than this wait, none is dropped for having waited too long."
    ],
    max_requests: [
      type: {:custom, __MODULE__, :max, []},
      type_doc: "`t:non_neg_integer/0` or `:infinity`",
      default: :infinity,
      doc: "How many requests may wait."
    ]
  ]

  client_queue = [
    queue_type: [
      type: {:custom, __MODULE__, :queue_type, []},
      type_doc: "`:fifo` or `:lifo`",
      default: :fifo,
      doc:
        "Whether the oldest request is taken first or the newest. `:filo` is another word for `:lifo`."
    ],
    timeout: [
      type: {:custom, Options, :deadline, []},
      type_doc: "`t:timeout/0`",
      default: :infinity,
      doc: "How long (in milliseconds) a request may wait. One that has waited longer is dropped."
    ],
    min: [
      type: :non_neg_integer,
      default: 0,
      doc: "As long as no more than this wait, none is dropped for having waited too long."
    ],
    max: [
      type: {:custom, __MODULE__, :max, []},
      type_doc: "`t:non_neg_integer/0` or `:infinity`",
      default: :infinity,
      doc:
        "How many requests may wait. A request that a worker is free for does not wait. With `0` every " <>
          "request is refused that would have to."
    ],
    drop: [
      type: {:in, [:newest, :oldest]},
      default: :newest,
      doc: "Which request is given up when one more comes than may wait: that one, or the oldest."
    ],
    codel: [
      type: {:custom, __MODULE__, :codel, []},
      type_doc: "`[target: ms, interval: ms]` or `nil`",
      default: nil,
      doc: """
      Drops requests, more and more often, when the wait has been above `target` for a whole `interval`,
      until it is below again (RFC 8289). Good values: the interval is what a slow request takes (p95 to
      p99), the target a twentieth to a tenth of it.
      """
    ]
  ]

  process_queue = [
    queue_type: [
      type: {:custom, __MODULE__, :queue_type, []},
      type_doc: "`:fifo` or `:lifo`",
      default: :lifo,
      doc:
        "Which free worker gets the next request: the one that has been free for longest (`:fifo`), or " <>
          "that was busy last (`:lifo` or `:filo`), whose memory is still warm."
    ],
    timeout: [
      type: {:custom, Options, :deadline, []},
      type_doc: "`t:timeout/0`",
      default: :infinity,
      doc: "After how long (in milliseconds) without a request a worker hibernates."
    ]
  ]

  broker = [name: [type: {:custom, Options, :name, []}]]

  @pool NimbleOptions.new!(pool)
  @broker NimbleOptions.new!(broker)
  @call NimbleOptions.new!(call)
  @cast NimbleOptions.new!(cast)
  @use_broker NimbleOptions.new!(use_broker)
  @client_queue NimbleOptions.new!(client_queue)
  @process_queue NimbleOptions.new!(process_queue)

  @doc "Validates what a pool is started with: what is given last wins."
  @spec pool!(module(), keyword(), keyword()) :: map()
  def pool!(module, used, given) do
    keyword!(used)
    |> Keyword.merge(keyword!(given))
    |> Keyword.put_new(:name, module)
    |> NimbleOptions.validate!(@pool)
    |> Map.new()
    |> Map.update!(:backend, &backend!/1)
  end

  # The default has not been through the type.
  defp backend!({module, config}), do: {module, config}

  defp backend!(module) do
    {:ok, backend} = Backend.parse(module)
    backend
  end

  @doc "The timeout and the kind of errors of a call."
  @spec call!(timeout() | keyword()) :: {timeout(), :plain | :precise}
  def call!(:infinity), do: {:infinity, :plain}
  def call!(ms) when is_integer(ms) and ms in 0..@max_ms, do: {ms, :plain}

  def call!(opts) when is_list(opts) do
    opts = opts |> keyword!() |> NimbleOptions.validate!(@call)
    {opts[:timeout], opts[:errors]}
  end

  def call!(other), do: {Options.timeout!(other), :plain}

  @doc "The kind of errors of a cast."
  @spec cast!(keyword()) :: :plain | :precise
  def cast!([]), do: :plain
  def cast!(opts), do: (opts |> keyword!() |> NimbleOptions.validate!(@cast))[:errors]

  @doc "Validates the options of `use PartitionedBuffer.GenPool.Broker`; answers a client queue."
  @spec use_broker!(keyword()) :: keyword()
  def use_broker!(opts) do
    opts = opts |> keyword!() |> NimbleOptions.validate!(@use_broker)
    [timeout: opts[:timeout], min: opts[:min_requests], max: opts[:max_requests]]
  end

  @doc "What the broker is configured with, and after how long a free worker hibernates."
  @spec queues!(keyword(), keyword()) :: {map(), timeout()}
  def queues!(client, process) do
    client = client |> keyword!() |> NimbleOptions.validate!(@client_queue)
    process = process |> keyword!() |> NimbleOptions.validate!(@process_queue)

    if client[:max] < client[:min] do
      raise ArgumentError,
            "expected :max of the client queue to be at least :min, got: " <>
              "#{inspect(client[:max])} and #{inspect(client[:min])}"
    end

    config = %{
      order: client[:queue_type],
      max: client[:max],
      overflow: client[:drop],
      min: client[:min],
      timeout: client[:timeout],
      codel: client[:codel],
      workers: process[:queue_type]
    }

    {config, process[:timeout]}
  end

  @doc "The name of a broker outside of its pool."
  @spec broker_name!(module(), keyword()) :: atom()
  def broker_name!(module, opts) do
    :ok = broker_module!(module)

    (opts
     |> keyword!()
     |> Keyword.put_new(:name, module)
     |> NimbleOptions.validate!(@broker))[
      :name
    ]
  end

  @doc "Checks that a module describes a broker."
  @spec broker_module!(term()) :: :ok
  def broker_module!(module) do
    if is_atom(module) and Code.ensure_loaded?(module) and
         function_exported?(module, :client_queue, 0) do
      :ok
    else
      raise ArgumentError,
            "expected a module that implements PartitionedBuffer.GenPool.Broker, got: #{inspect(module)}"
    end
  end

  @doc "Checks a number of workers."
  @spec pool_size!(term()) :: non_neg_integer()
  def pool_size!(size) do
    case pool_size(size) do
      {:ok, size} -> size
      {:error, message} -> raise ArgumentError, message
    end
  end

  @doc false
  def pool_docs, do: NimbleOptions.docs(@pool)
  @doc false
  def call_docs, do: NimbleOptions.docs(@call)
  @doc false
  def cast_docs, do: NimbleOptions.docs(@cast)
  @doc false
  def use_broker_docs, do: NimbleOptions.docs(@use_broker)
  @doc false
  def client_queue_docs, do: NimbleOptions.docs(@client_queue)
  @doc false
  def process_queue_docs, do: NimbleOptions.docs(@process_queue)

  @doc false
  def pool_size(size) when is_integer(size) and size in 0..@max_workers, do: {:ok, size}

  def pool_size(other) do
    {:error,
     "expected non negative integer of at most #{@max_workers} workers, got: #{inspect(other)}"}
  end

  @doc false
  def queue_type(:fifo), do: {:ok, :fifo}
  def queue_type(type) when type in [:lifo, :filo], do: {:ok, :lifo}
  def queue_type(other), do: {:error, "expected :fifo or :lifo, got: #{inspect(other)}"}

  @doc false
  def max(:infinity), do: {:ok, :infinity}
  def max(max) when is_integer(max) and max >= 0, do: {:ok, max}

  def max(other),
    do: {:error, "expected non negative integer or :infinity, got: #{inspect(other)}"}

  @doc false
  def broker(module) when is_atom(module) and module not in [nil, true, false], do: {:ok, module}
  def broker(other), do: {:error, "expected a module or a name, got: #{inspect(other)}"}

  @doc false
  def codel(nil), do: {:ok, nil}

  def codel(opts) do
    with true <- Keyword.keyword?(opts),
         [interval: interval, target: target] <- Enum.sort(opts),
         true <- positive_ms?(target) and positive_ms?(interval) do
      {:ok, {target, interval}}
    else
      _other -> {:error, "expected [target: ms, interval: ms], got: #{inspect(opts)}"}
    end
  end

  defp positive_ms?(ms), do: is_integer(ms) and ms in 1..@max_ms

  defp keyword!(opts) do
    if Keyword.keyword?(opts) do
      opts
    else
      raise ArgumentError, "expected options to be a keyword list, got: #{inspect(opts)}"
    end
  end
end
