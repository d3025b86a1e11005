defmodule PartitionedBuffer.GenPool.Broker do
  alias PartitionedBuffer.GenPool.{BrokerServer, Options}

  @moduledoc """
  How the requests of a `PartitionedBuffer.GenPool` wait for a worker, and how workers wait for requests.

      defmodule MyBroker do
        use PartitionedBuffer.GenPool.Broker

        @impl true
        def client_queue do
          [queue_type: :fifo, timeout: 10_000, min: 0, max: 1_000]
        end

        @impl true
        def process_queue do
          [queue_type: :filo, timeout: :infinity]
        end
      end

      defmodule MyPool do
        use PartitionedBuffer.GenPool, broker: MyBroker
      end

  A module describes a broker; each pool that names it has one of its own. Both callbacks are called when the
  pool is started.

  ## Options of `use`

  Short for a `c:client_queue/0` with the same values, which can still be defined.

  #{Options.use_broker_docs()}

  ## The client queue

  #{Options.client_queue_docs()}

  ## The process queue

  #{Options.process_queue_docs()}

  ## A broker outside of the pool

  A broker can be put into a supervision tree by itself. Requests then wait there, also while the pool is
  being started again:

      children = [MyBroker, MyPool]

      defmodule MyPool do
        use PartitionedBuffer.GenPool, broker: MyBroker, external_broker?: true
      end

  Callers then wait for the broker: a call ends early if the broker does. One that a worker has begun when the pool ends is told
  `{:error, reason}`, if there is no time to answer it. A broker takes one pool at a time;
  another one that is started with it fails with `{:already_joined, pid}`. To have several brokers of one module,
  give each a name, `{MyBroker, name: :one}`, and the pool that name as its `:broker`.
  """

  @doc "How requests wait for a worker."
  @callback client_queue() :: keyword()

  @doc "How workers wait for a request."
  @callback process_queue() :: keyword()

  @doc false
  defmacro __using__(opts) do
    quote location: :keep, bind_quoted: [opts: opts] do
      @behaviour PartitionedBuffer.GenPool.Broker
      @partitioned_buffer_client_queue PartitionedBuffer.GenPool.Options.use_broker!(opts)

      @impl true
      def client_queue, do: @partitioned_buffer_client_queue

      @impl true
      def process_queue, do: []

      @doc false
      def child_spec(opts), do: PartitionedBuffer.GenPool.Broker.child_spec({__MODULE__, opts})

      @doc false
      def start_link(opts \\ []),
        do: PartitionedBuffer.GenPool.Broker.start_link(__MODULE__, opts)

      defoverridable client_queue: 0,
                     process_queue: 0,
                     child_spec: 1,
                     start_link: 0,
                     start_link: 1
    end
  end

  @doc """
  A child specification of a broker outside of its pool: of a module, or `{module, opts}` with the options of
  `start_link/2`.

      iex> PartitionedBuffer.GenPool.Broker.child_spec(PartitionedBuffer.GenPool.DefaultBroker).id
      PartitionedBuffer.GenPool.DefaultBroker
  """
  @spec child_spec(module() | {module(), keyword()}) :: Supervisor.child_spec()
  def child_spec({module, opts}) do
    %{
      id: Options.broker_name!(module, opts),
      start: {__MODULE__, :start_link, [module, opts]},
      type: :worker
    }
  end

  def child_spec(module), do: child_spec({module, []})

  @doc """
  Starts a broker outside of its pool, described by the module, and links it to the calling process.

  The only option is `:name` (default: the module), by which a pool with `external_broker?: true` finds it.
  Returns `{:ok, pid}` or `{:error, {:already_started, pid}}`. Raises `NimbleOptions.ValidationError` or
  `ArgumentError` if an option or what the module describes is wrong.

  When it ends, requests that wait are discarded and reported, and their callers exit.

      iex> {:ok, broker} =
      ...>   PartitionedBuffer.GenPool.Broker.start_link(
      ...>     PartitionedBuffer.GenPool.DefaultBroker,
      ...>     name: :broker_example
      ...>   )
      iex> GenServer.stop(broker)
      :ok
  """
  @spec start_link(module(), keyword()) :: GenServer.on_start()
  def start_link(module, opts \\ []) do
    name = Options.broker_name!(module, opts)
    BrokerServer.start_link(name, module, name, nil)
  end

  @doc false
  # What a module describes.
  @spec describe!(module()) :: {map(), timeout()}
  def describe!(module) do
    :ok = Options.broker_module!(module)

    process =
      if function_exported?(module, :process_queue, 0), do: module.process_queue(), else: []

    Options.queues!(module.client_queue(), process)
  end
end
