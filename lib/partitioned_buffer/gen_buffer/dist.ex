defmodule PartitionedBuffer.GenBuffer.Dist do
  @moduledoc """
  A `PartitionedBuffer.GenBuffer` over several nodes: each message goes to one of them, at random or by a key.

  Each node that is to handle messages starts the buffer, under the same name:

      children = [
        {PartitionedBuffer.GenBuffer.Dist,
         buffer: :reports, message_handler: MyApp.Reports, workers: 8}
      ]

      PartitionedBuffer.GenBuffer.Dist.send_recv(:reports, {:month, 7}, timeout: 5_000)

  Nodes find each other by `:pg`, in a scope of the buffer's own, once they are connected by Erlang's distribution;
  a node that only sends starts it with `member: false`. It needs OTP 25.1 or later. On each node it is a buffer
  like any other, which `PartitionedBuffer.GenBuffer` can be used with: that stays on this node.

  By default a message goes to a random node. With `key: term` it goes to the node that owns the key: by
  rendezvous hashing, so that when a node joins or leaves only its share of the keys moves.

  ## Options of the start

  Those of `PartitionedBuffer.GenBuffer`, and

    * `:member` (`t:boolean/0`) - Whether messages are handled on this node. The default value is `true`.
    * `:weight` - This node's share of keys and of random messages, in proportion to the other nodes' weights: a
      positive number. The default value is `1`.

  ## Errors

    * No node runs the buffer, as far as this node knows, or it has not been started on this node: all functions
      but `stop/1` and `info/0` raise `ErlangError` with `:no_available_nodes`.
    * Functions that ask all nodes return one row for each, in the order of the nodes. One that can't be asked or
      has no workers has `{node, {:error, reason}}` in its own row: `:no_available_buffer`,
      `:no_available_workers`, `:timeout`, `:noconnection`. They wait for 5 seconds at the most.
    * A message that was sent to a node that does not answer: `{:error, {:lost, node}}`. It may be handled there
      or not. It is not sent to another one.

  ## Telemetry

  `[:partitioned_buffer, :cluster, :join]`, `:leave` and `:heal`: see `PartitionedBuffer.Cluster.Telemetry`. And on
  each node the events of its buffer: `PartitionedBuffer.GenBuffer.Telemetry`.

  ## Different from gen_buffer_dist 0.1

    * It starts. (gen_buffer needs `pg2`, which OTP 24 removed.)
    * A node that fails is told in its own row; it never shifts another's answer, or raises.
    * `info/0` has one row for each node.
    * What was `{:badrpc, reason}` is `{:error, {:lost, node}}`.
    * New: `key:`, `weight:`, `member:`, and `send/3`.
  """

  import Kernel, except: [send: 2]

  alias PartitionedBuffer.Cluster
  alias PartitionedBuffer.Cluster.{Call, Everywhere, View}
  alias PartitionedBuffer.{GenBuffer, Names, Options}
  alias PartitionedBuffer.GenBuffer.Dist.Receiver

  @type buffer :: GenBuffer.buffer()
  @type rows(answer) :: [{node(), answer | {:error, term()}}]

  # Of calls of all nodes.
  @timeout 5_000

  @schema NimbleOptions.new!(
            member: [type: :boolean, default: true],
            weight: [type: {:custom, Cluster.Options, :weight, []}, default: 1]
          )
  @own [:member, :weight]

  @call NimbleOptions.new!(
          key: [type: :any],
          timeout: [type: {:custom, Options, :deadline, []}, default: :infinity],
          retries: [type: {:or, [:non_neg_integer, {:in, [:infinity]}]}, default: 1]
        )

  @doc """
  Starts this node's part of a buffer and links it to the calling process.

  Returns and exits as `PartitionedBuffer.GenBuffer.start_link/2`.

      iex> defmodule Echo do
      ...>   use PartitionedBuffer.GenBuffer
      ...>   @impl true
      ...>   def handle_message(_buffer, message, state), do: {:ok, message, state}
      ...> end
      iex> alias PartitionedBuffer.GenBuffer.Dist
      iex> {:ok, _pid} = Dist.start_link(:dist_example, message_handler: Echo, workers: 2)
      iex> Dist.send_recv(:dist_example, :hello)
      {:ok, :hello}
      iex> Dist.get_nodes(:dist_example) == [node()]
      true
      iex> Dist.size(:dist_example) == [{node(), 0}]
      true
      iex> Dist.stop(:dist_example)
      :ok

  """
  @spec start_link(buffer(), GenBuffer.opts()) :: Supervisor.on_start()
  def start_link(buffer, opts) do
    {own, opts} = opts |> GenBuffer.Options.keyword!() |> Keyword.split(@own)
    own = NimbleOptions.validate!(own, @schema)

    with {:error, message} <- Options.name(buffer), do: raise(ArgumentError, message)

    child = if own[:member], do: GenBuffer.child_spec(Keyword.put(opts, :buffer, buffer))

    # (Its calls are not made again, so no requests have to be remembered.)
    own = %{name: buffer, module: GenBuffer, weight: own[:weight], request_memory: 1}

    case Cluster.Supervisor.start_link(own, %{}, child) do
      {:error, {:shutdown, {:failed_to_start_child, ^buffer, {:EXIT, reason}}}} -> exit(reason)
      {:error, {:shutdown, {:failed_to_start_child, ^buffer, reason}}} -> {:error, reason}
      other -> other
    end
  end

  @doc false
  @spec start_link(GenBuffer.opts()) :: Supervisor.on_start()
  def start_link(opts) do
    {buffer, opts} = opts |> GenBuffer.Options.keyword!() |> Keyword.pop!(:buffer)
    start_link(buffer, opts)
  end

  @doc """
  A child specification. The option `:buffer` is the buffer's name and the id.

      iex> PartitionedBuffer.GenBuffer.Dist.child_spec(buffer: :reports, message_handler: Reports).id
      :reports

  Raises `KeyError` without `:buffer`.
  """
  @spec child_spec(GenBuffer.opts()) :: Supervisor.child_spec()
  def child_spec(opts) do
    opts
    |> GenBuffer.child_spec()
    |> Map.put(:start, {__MODULE__, :start_link, [opts]})
  end

  @doc """
  Stops this node's part: it leaves, and its buffer ends as by `PartitionedBuffer.GenBuffer.stop/1`. `:ok`, also if
  there is none.

      iex> alias PartitionedBuffer.GenBuffer.Dist
      iex> {:ok, _pid} = Dist.start_link(:dist_stop, message_handler: DocHandler, workers: 2)
      iex> Dist.stop(:dist_stop)
      :ok
      iex> Dist.stop(:dist_stop)
      :ok
  """
  @spec stop(buffer()) :: :ok
  def stop(buffer) when is_atom(buffer) do
    case Process.whereis(Names.cluster(buffer)) do
      nil -> :ok
      pid -> stop_supervisor(pid)
    end
  end

  defp stop_supervisor(pid) do
    Supervisor.stop(pid, :normal, :infinity)
  catch
    # Somebody else has stopped it, or it was killed.
    :exit, _reason -> :ok
  end

  ## Nodes

  @doc """
  The nodes that handle messages of this buffer, as far as this node knows, in the order of their names.

      iex> alias PartitionedBuffer.GenBuffer.Dist
      iex> {:ok, _pid} = Dist.start_link(:dist_nodes, message_handler: DocHandler, workers: 2)
      iex> Dist.get_nodes(:dist_nodes) == [node()]
      true
      iex> Dist.pick_node(:dist_nodes) == node()
      true
      iex> Dist.stop(:dist_nodes)
      :ok

  Raises `ErlangError` with `:no_available_nodes` if there are none, as all functions that need one.
  """
  @spec get_nodes(buffer()) :: [node(), ...]
  def get_nodes(buffer), do: for({node, _weight} <- view!(buffer).members, do: node)

  @doc "One of `get_nodes/1`, at random, by their weights."
  @spec pick_node(buffer()) :: node()
  def pick_node(buffer), do: random(view!(buffer))

  @doc """
  The node that owns a key: the one that a message with this `:key` goes to.

      iex> alias PartitionedBuffer.GenBuffer.Dist
      iex> {:ok, _pid} = Dist.start_link(:dist_owner, message_handler: DocHandler, workers: 2)
      iex> Dist.pick_node(:dist_owner, {:user, 7}) == node()
      true
      iex> Dist.stop(:dist_owner)
      :ok
  """
  @spec pick_node(buffer(), key :: term()) :: node()
  def pick_node(buffer, key), do: owner(view!(buffer), :erlang.phash2(key, 4_294_967_296))

  # A random slot's owner is random by the weights.
  defp random(view), do: owner(view, :rand.uniform(4_294_967_296) - 1)

  defp owner(view, hash), do: elem(view.owners, Cluster.Rendezvous.slot(hash))

  defp call!(opts), do: opts |> GenBuffer.Options.keyword!() |> NimbleOptions.validate!(@call)

  defp pick(buffer, opts) do
    case Keyword.fetch(opts, :key) do
      {:ok, key} -> pick_node(buffer, key)
      :error -> pick_node(buffer)
    end
  end

  ## Messages

  @doc """
  Sends a message, and returns a reference once a node has accepted it. The answer comes to the calling process, as
  with `PartitionedBuffer.GenBuffer.send/2`.

  ## Options

    * `:key` - to the node that owns this key. Without it: to a random one.
    * `:timeout` - how long (in milliseconds) to wait for the node to accept it. The default value is
      `:infinity`.

  Returns `{:error, reason}` if it was not accepted: `:full`, `:no_available_buffer` (the node has just left),
  or `{:lost, node}`, when it may have been.

  ## Examples

      iex> alias PartitionedBuffer.GenBuffer.Dist
      iex> {:ok, _pid} = Dist.start_link(:dist_send, message_handler: DocHandler, send_replies: true)
      iex> ref = Dist.send(:dist_send, :hello, key: {:user, 7}, timeout: 5_000)
      iex> Dist.recv(:dist_send, ref, 5_000)
      {:ok, :hello}
      iex> Dist.stop(:dist_send)
      :ok
  """
  @spec send(buffer(), message :: term(), keyword()) :: reference() | {:error, term()}
  def send(buffer, message, opts \\ []) do
    opts = call!(opts)
    node = pick(buffer, opts)

    if node == node(),
      do: answer(node, Receiver.send(buffer, message, self())),
      else: ask(node, :send, [buffer, message, self()], opts[:timeout])
  end

  @doc "Waits for the answer to a message that was sent with `send/2,3`: `PartitionedBuffer.GenBuffer.recv/3`."
  @spec recv(buffer(), reference(), timeout()) :: GenBuffer.received()
  def recv(buffer, ref, timeout \\ :infinity), do: GenBuffer.recv(buffer, ref, timeout)

  @doc """
  Sends a message and waits for its answer: `{:ok, reply}` or `{:error, reason}`, as
  `PartitionedBuffer.GenBuffer.send_recv/3`, or `{:error, {:lost, node}}` or `{:error, :no_available_buffer}`.

  The third argument is a timeout in milliseconds, or options: `:timeout` (`:infinity` by default) and `:key`. After
  `{:error, :timeout}` a message that still waits is not handled.

      iex> alias PartitionedBuffer.GenBuffer.Dist
      iex> {:ok, _pid} = Dist.start_link(:dist_call, message_handler: DocHandler, workers: 2)
      iex> Dist.send_recv(:dist_call, :hello, 5_000)
      {:ok, :hello}
      iex> Dist.send_recv(:dist_call, :hello, key: {:user, 7}, timeout: 5_000)
      {:ok, :hello}
      iex> Dist.stop(:dist_call)
      :ok
  """
  @spec send_recv(buffer(), message :: term(), timeout() | keyword()) :: GenBuffer.received()
  def send_recv(buffer, message, timeout_or_opts \\ [])

  def send_recv(buffer, message, opts) when is_list(opts) do
    opts = call!(opts)
    {node, timeout} = {pick(buffer, opts), opts[:timeout]}
    args = [buffer, message, timeout]

    answer =
      if node == node(),
        do: answer(node, apply(Receiver, :send_recv, args)),
        else: ask(node, :send_recv, args, timeout)

    # The node itself takes back what still waits there.
    if answer == {:error, {:lost, node}} and node in [node() | Node.list()] and
         timeout != :infinity,
       do: {:error, :timeout},
       else: answer
  end

  def send_recv(buffer, message, timeout), do: send_recv(buffer, message, timeout: timeout)

  @doc """
  Has an idle worker of a node handle a message, and returns what the handler replies, or
  `:no_available_workers`: as `PartitionedBuffer.GenBuffer.eval/3`, of which it is also said what the caller exits with.
  It exits with `{:lost, node}` if the node does not answer, and with `:no_available_buffer` if it has just left.

  The third argument is the number of retries, or options: `:retries` (1 by default), `:key` and `:timeout`.

      iex> alias PartitionedBuffer.GenBuffer.Dist
      iex> {:ok, _pid} = Dist.start_link(:dist_eval, message_handler: DocHandler, workers: 2)
      iex> Dist.eval(:dist_eval, :hello, retries: :infinity, key: {:user, 7})
      :hello
      iex> Dist.stop(:dist_eval)
      :ok
  """
  @spec eval(buffer(), message :: term(), non_neg_integer() | :infinity | keyword()) ::
          term() | :no_available_workers
  def eval(buffer, message, retries_or_opts \\ [])

  def eval(buffer, message, opts) when is_list(opts) do
    opts = call!(opts)
    node = pick(buffer, opts)
    args = [buffer, message, opts[:retries]]

    evaluated =
      if node == node(),
        do: answer(node, apply(Receiver, :eval, args)),
        else: ask(node, :eval, args, opts[:timeout])

    case evaluated do
      {:reply, reply} -> reply
      {:error, reason} -> exit(reason)
    end
  end

  def eval(buffer, message, retries), do: eval(buffer, message, retries: retries)

  @doc """
  Asks a random node whether it has workers: `:ok` or `{:error, reason}`. As with
  `PartitionedBuffer.GenBuffer.poll/1`, there is nothing else to do.
  """
  @spec poll(buffer()) :: :ok | {:error, term()}
  def poll(buffer) do
    with {:ok, _pid} <- get_worker(buffer), do: :ok
  end

  defp ask(node, function, args, timeout),
    do: answer(node, Call.call(node, Receiver, function, args, timeout))

  defp answer(_node, {:ok, answer}), do: answer
  defp answer(_node, {:error, reason}), do: {:error, reason}
  defp answer(_node, {:refused, :closed}), do: {:error, :no_available_buffer}
  defp answer(node, {:lost, _reason}), do: {:error, {:lost, node}}

  ## Workers and figures

  @doc "The pid of a random worker of a random node: `{:ok, pid}` or `{:error, reason}`."
  @spec get_worker(buffer()) :: {:ok, pid()} | {:error, term()}
  def get_worker(buffer) do
    with pids when is_list(pids) <- ask(pick_node(buffer), :get_workers, [buffer], @timeout),
         do: {:ok, Enum.random(pids)}
  end

  @doc """
  The pids of the workers of each node: `[{node, pids}]`, or `{node, {:error, reason}}` for one that can't be asked or
  has none.

      iex> alias PartitionedBuffer.GenBuffer.Dist
      iex> {:ok, _pid} = Dist.start_link(:dist_workers, message_handler: DocHandler, workers: 2)
      iex> [{_this, pids}] = Dist.get_workers(:dist_workers)
      iex> length(pids)
      2
      iex> Dist.stop(:dist_workers)
      :ok
  """
  @spec get_workers(buffer()) :: rows([pid()])
  def get_workers(buffer), do: everywhere(get_nodes(buffer), :get_workers, [buffer])

  @doc """
  Sets how many workers each node has: `[{node, pids}]`. `opts` as of `PartitionedBuffer.GenBuffer.set_workers/3`.

      iex> alias PartitionedBuffer.GenBuffer.Dist
      iex> {:ok, _pid} = Dist.start_link(:dist_set, message_handler: DocHandler, workers: 2)
      iex> [{_this, pids}] = Dist.set_workers(:dist_set, 3)
      iex> length(pids)
      3
      iex> Dist.stop(:dist_set)
      :ok
  """
  @spec set_workers(buffer(), non_neg_integer()) :: rows([pid()])
  def set_workers(buffer, count), do: set_workers(buffer, count, [])

  @doc "See `set_workers/2`."
  @spec set_workers(buffer(), non_neg_integer(), GenBuffer.opts()) :: rows([pid()])
  def set_workers(buffer, count, opts), do: set_workers(get_nodes(buffer), buffer, count, opts)

  @doc "The same on these nodes."
  @spec set_workers([node()], buffer(), non_neg_integer(), GenBuffer.opts()) :: rows([pid()])
  def set_workers(nodes, buffer, count, opts) when is_integer(count) and count >= 0,
    do: everywhere(nodes, :set_workers, [buffer, count, opts])

  @doc """
  How many messages wait on each node: `[{node, size}]`.

      iex> alias PartitionedBuffer.GenBuffer.Dist
      iex> {:ok, _pid} = Dist.start_link(:dist_size, message_handler: DocHandler, workers: 0, drain_timeout_ms: 0)
      iex> Dist.send(:dist_size, :hello)
      iex> Dist.size(:dist_size) == [{node(), 1}]
      true
      iex> Dist.stop(:dist_size)
      :ok
  """
  @spec size(buffer()) :: rows(non_neg_integer())
  def size(buffer), do: size(get_nodes(buffer), buffer)

  @doc "The same of these nodes."
  @spec size([node()], buffer()) :: rows(non_neg_integer())
  def size(nodes, buffer), do: everywhere(nodes, :size, [buffer])

  @doc """
  `PartitionedBuffer.GenBuffer.info/1` of each of all buffers that are running on this node as a `Dist`:
  `[{node, %{buffer => info}}]`.
  """
  @spec info() :: rows(%{buffer() => map()})
  def info do
    buffers =
      for view <- View.all(GenBuffer), {node, _weight} <- view.members, do: {node, view.buffer}

    for {node, buffers} <- Enum.group_by(buffers, &elem(&1, 0), &elem(&1, 1)) do
      {node, Call.start(node, Receiver, :info_of, [buffers], @timeout)}
    end
    |> Enum.sort()
    |> Enum.map(fn {node, call} ->
      {node, row(Call.await(call, PartitionedBuffer.Awaited.deadline(@timeout)))}
    end)
  end

  defp row({:ok, answer}), do: answer
  defp row({_refused_or_lost, reason}), do: {:error, reason}

  @doc """
  `PartitionedBuffer.GenBuffer.info/1` of each node: `[{node, info}]`.

      iex> alias PartitionedBuffer.GenBuffer.Dist
      iex> {:ok, _pid} = Dist.start_link(:dist_info, message_handler: DocHandler, workers: 2)
      iex> [{_this, info}] = Dist.info(:dist_info)
      iex> {info.workers, info.accepted}
      {2, 0}
      iex> Dist.stop(:dist_info)
      :ok
  """
  @spec info(buffer()) :: rows(map())
  def info(buffer), do: info(get_nodes(buffer), buffer)

  @doc "The same of these nodes."
  @spec info([node()], buffer()) :: rows(map())
  def info(nodes, buffer), do: everywhere(nodes, :info, [buffer])

  defp everywhere(nodes, function, args),
    do: Everywhere.call(nodes, Receiver, function, args, @timeout)

  defp view!(buffer) do
    case View.fetch(buffer) do
      {:ok, %{module: GenBuffer, members: [_ | _]} = view} -> view
      _none -> :erlang.error(:no_available_nodes)
    end
  end
end
