defmodule PartitionedBuffer.GenBuffer.Options do
  @moduledoc false
  # The options of a GenBuffer: what they are called, what they may be, what they are by default, and
  # their documentation.

  alias PartitionedBuffer.Options

  @max_ms 4_294_967_295
  @max_partitions 1_024
  @max_workers 1_000_000
  # Of a ring, for each partition.
  @ring_size 100

  worker = [
    message_handler: [
      type: :atom,
      required: true,
      doc: "The module that implements the behaviour."
    ],
    init_args: [
      type: :any,
      default: :undefined,
      doc:
        "What `c:init/1` is called with, and the state of workers whose module has no `c:init/1`."
    ]
  ]

  start =
    worker ++
      [
        workers: [
          type: {:custom, __MODULE__, :workers, []},
          type_doc: "`t:non_neg_integer/0`",
          doc: """
          How many workers to start with. The default is `System.schedulers_online()`. With `0`, messages
          wait until there are workers.
          """
        ],
        send_replies: [
          type: :boolean,
          default: false,
          doc: """
          Whether senders that use `send/2,3` are told how their message ended. `send_recv/2,3` and
          `eval/2,3` are answered in any case.
          """
        ],
        buffer_type: [
          type: {:in, [:fifo, :lifo, :ring]},
          default: :fifo,
          doc: """
          In which order messages are taken that wait: the oldest first (`:fifo`), the newest first
          (`:lifo`), or the oldest first of the last `:buffer_size` (`:ring`).
          """
        ],
        buffer_size: [
          type: {:custom, __MODULE__, :positive, []},
          type_doc: "`t:pos_integer/0`",
          default: @ring_size,
          doc: """
          How many messages wait in each partition of a ring; one more takes the place of the oldest,
          whose sender is told `:full` if it waits for an answer.
          """
        ],
        n_partitions: [
          type: {:custom, __MODULE__, :partitions, []},
          type_doc: "`t:pos_integer/0`",
          default: 1,
          doc: """
          In how many partitions messages wait. Each has a lock of its own, and an order of its own.
          Workers take from all of them. At most #{@max_partitions}. One is enough, unless there is a bound (`:max`,
          `:queue_timeout_ms`, a ring) or `buffer_type: :lifo`: without those, senders on different cores share no lock anyway.
          """
        ],
        max: [
          type: {:custom, __MODULE__, :max, []},
          type_doc: "`t:pos_integer/0` or `:infinity`",
          default: :infinity,
          doc: "How many messages may wait, in all partitions together. Not for a ring."
        ],
        overflow: [
          type: {:in, [:reject, :block, :drop_oldest, :drop_newest]},
          default: :reject,
          doc: """
          What happens to one more than `:max`.

            * `:reject`: `{:error, :full}` is returned, and the message is not taken.
            * `:block`: the sender waits until there is room.
            * `:drop_oldest`: it takes the place of the one that has waited longest.
            * `:drop_newest`: it is dropped.

          Who waits for the answer to a dropped message is told `{:error, :full}`.
          """
        ],
        queue_timeout_ms: [
          type: {:custom, Options, :deadline, []},
          type_doc: "`t:timeout/0`",
          default: :infinity,
          doc: """
          How long (in milliseconds) a message may wait for a worker. One that has waited longer is dropped
          and never handled; its sender is told `:queue_timeout`.
          """
        ],
        drain_timeout_ms: [
          type: {:custom, Options, :deadline, []},
          type_doc: "`t:timeout/0`",
          default: 5_000,
          doc: """
          For how long (in milliseconds) workers go on when the buffer is stopped, until nothing waits. What
          is left then is discarded, counted, and reported as `:shutdown`. At most #{@max_ms}.
          """
        ]
      ]

  @worker NimbleOptions.new!(worker)
  @start NimbleOptions.new!(start)
  @start_keys Keyword.keys(start)
  @worker_keys Keyword.keys(worker)

  @doc "Validates what a buffer is started with: a keyword list or a map."
  @spec start!(keyword() | map()) :: map()
  def start!(opts) do
    opts
    |> keyword!()
    |> Keyword.take(@start_keys)
    |> NimbleOptions.validate!(@start)
    |> Keyword.put_new_lazy(:workers, &System.schedulers_online/0)
    |> Map.new()
  end

  @doc "Validates the options of workers that are added: those of the start, with these in their place."
  @spec worker!(keyword() | map(), map()) :: map()
  def worker!(opts, start) do
    start
    |> Map.take(@worker_keys)
    |> Map.merge(opts |> keyword!() |> Enum.reverse() |> Map.new())
    |> Map.to_list()
    |> NimbleOptions.validate!(@worker)
    |> Map.new()
  end

  @doc "Whether they name a module that handles messages."
  @spec handler(keyword()) ::
          :ok
          | {:error, {:missing_option, :message_handler}}
          | {:error, {:invalid_message_handler, term()}}
          | {:error, {:missing_callback, :handle_message}}
  def handler(opts) do
    case Keyword.fetch(opts, :message_handler) do
      :error ->
        {:error, {:missing_option, :message_handler}}

      {:ok, module} ->
        cond do
          not is_atom(module) or match?({:error, _}, Code.ensure_loaded(module)) ->
            {:error, {:invalid_message_handler, module}}

          not function_exported?(module, :handle_message, 3) ->
            {:error, {:missing_callback, :handle_message}}

          true ->
            :ok
        end
    end
  end

  @doc "In how many partitions: what one of them holds in one order need not be in one place."
  @spec places(map()) :: pos_integer() | :lanes
  def places(%{
        n_partitions: 1,
        buffer_type: :fifo,
        max: :infinity,
        queue_timeout_ms: :infinity
      }),
      do: :lanes

  def places(%{n_partitions: partitions}), do: partitions

  @doc "How messages wait."
  @spec broker(map()) :: PartitionedBuffer.Broker.config()
  def broker(%{buffer_type: :ring} = opts) do
    %{
      max: opts.buffer_size * opts.n_partitions,
      overflow: :oldest,
      timeout: opts.queue_timeout_ms
    }
  end

  def broker(opts) do
    %{
      order: opts.buffer_type,
      max: opts.max,
      overflow: if(opts.overflow == :drop_oldest, do: :oldest, else: :newest),
      timeout: opts.queue_timeout_ms
    }
  end

  @doc "The options as a keyword list; a map is as good."
  @spec keyword!(term()) :: keyword()
  def keyword!(opts) when is_map(opts) and not is_struct(opts), do: keyword!(Map.to_list(opts))

  def keyword!(opts) do
    if Keyword.keyword?(opts) do
      opts
    else
      raise ArgumentError, "expected options to be a keyword list or a map, got: #{inspect(opts)}"
    end
  end

  @doc false
  def docs, do: NimbleOptions.docs(@start)

  @doc false
  def workers(n) when is_integer(n) and n in 0..@max_workers, do: {:ok, n}

  def workers(other) do
    {:error, "expected non negative integer of at most #{@max_workers}, got: #{inspect(other)}"}
  end

  @doc false
  def partitions(n) when is_integer(n) and n in 1..@max_partitions, do: {:ok, n}

  def partitions(other) do
    {:error, "expected positive integer of at most #{@max_partitions}, got: #{inspect(other)}"}
  end

  @doc false
  def positive(n) when is_integer(n) and n > 0, do: {:ok, n}
  def positive(other), do: {:error, "expected positive integer, got: #{inspect(other)}"}

  @doc false
  def max(:infinity), do: {:ok, :infinity}
  def max(n) when is_integer(n) and n > 0, do: {:ok, n}
  def max(other), do: {:error, "expected positive integer or :infinity, got: #{inspect(other)}"}
end
