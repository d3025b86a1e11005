defmodule PartitionedBuffer.Cluster do
  alias PartitionedBuffer.Cluster.{Call, Delivery, Error, Everywhere, Handover, Options, Receiver}
  alias PartitionedBuffer.Cluster.{Rendezvous, Supervisor, View}
  alias PartitionedBuffer.{Awaited, Router}

  @moduledoc """
  One queue or map over several nodes: each entry goes to the node that owns its key.

  Every node starts the same buffer, under the same name. The library has no processes of its own: put the
  cluster where the buffer would be in your supervision tree.

      children = [
        {PartitionedBuffer.Cluster,
         module: PartitionedBuffer.Queue,
         name: :events,
         partition_key: & &1.user,
         handover: true,
         processor: &MyApp.Events.insert_all/1,
         processing_interval_ms: 1_000}
      ]

      PartitionedBuffer.Cluster.push(:events, %{user: 42, type: :click})

  The nodes have to be connected by Erlang's distribution; who connects them (a list of hosts, libcluster) is not
  this library's business. Membership is that of `:pg`, in a scope of the buffer's own (one process on each
  node), and calls are those of `:erpc`. It needs OTP 25.1 or later.

  On each node there is a buffer like any other: `PartitionedBuffer.info(:events)` tells of this node's
  part, and so do the events. What is written with `PartitionedBuffer.Queue.push(:events, item)` stays on
  this node, whoever owns it.

  ## Start options

  #{Options.start_docs()}

  All other options are those of the buffer on this node: see `PartitionedBuffer`. They, and the weight, may
  be different on each node. `:module`, `:partition_key` have to be the same.

  ## Owners

  Each key has one owner at a time: by rendezvous hashing over the members and their weights. When a node joins or
  leaves, only the keys that it gets or had change their owner. Keys are taken together in 4,096 slots for that. On
  its node, the key decides the partition, as ever.

  A list is grouped by owner: one message goes to each node, all at the same time. Entries that this node owns
  never leave it: they cost a write and the look for the owner.

  ## What is guaranteed

    * `:ok` means that each entry was accepted by the buffer of a node, and holds what
      `PartitionedBuffer` guarantees there. If that node ends without stopping in order, what it holds is lost.
    * An error names the entries that it is about. All others were accepted. Those with `{:lost, node}` may have
      been; all others have not. So in any case, what the nodes have accepted is what callers were told, and at
      the most what they were told to be lost. (With `on_lost: :next` an entry may be accepted twice, see there.)
    * What one process writes to one partition keeps its order while the owner is the same.
    * No call takes longer than its `:timeout`: neither for a node that hangs, nor for a network that is
      cut. (Erlang notices that one only after a minute, by default: see `net_ticktime` of `:kernel`.)
    * A full buffer holds writers on other nodes back as it does those on its own.
    * Not guaranteed: that nodes know of the same members in the moment of a change. While they don't, entries
      of a key may go to two nodes. If the network is cut in two, both sides go on, with the nodes that
      they see. Nor is an order kept for a key whose owner changes, nor that each version of a key in a map
      meets the others: let the processor write versions, as with
      `PartitionedBuffer.Map.put_newer/5`.

  ## Join and leave

  A node that joins owns its share from then on. What was written before stays where it is, and is
  processed there. (`get/4` does not find it any more.)

  A node that stops in order (`stop/3`, the end of the application) first leaves, so that others own its keys. Then its
  buffer processes what it has, for up to `:processing_timeout_ms`. With `handover: true`, what is left then is
  given to the new owners:

    * of a map, with its version, and only if that is higher than what is there, as with `put_all_newer/3`.
      So if a newer one is written there before or after, that stays, in any order. (`updates` begins
      anew. An entry without a version, that is of `put/4`, has version 0, and yields to whatever is there.)
    * of a queue, in order: by the `:partition_key` that the cluster was started with. If it has none, all
      of it goes to one partition of one node.
    * The batches that processors have when the time is up are among it. They may have had an effect.
    * All that may take `:processing_timeout_ms` once more (and at least five seconds). What is left even then
      is discarded and reported.
    * On this node these entries count as discarded (`shutdown`), and as `handed_over` in `info/2`.

  Last, its supervisor ends, and with it what its processes know of the cluster.

  ## Telemetry

  See `PartitionedBuffer.Cluster.Telemetry`.
  """

  @type buffer :: PartitionedBuffer.buffer()
  @typedoc """
  Why a write was not accepted, or may not have been.

    * `:full` - the owner has no room, and `:on_full` is not `:block`; with `:next`, nor has any other one.
    * `:timeout` - there was no room in time.
    * `:too_large` - it is more than the owner's whole capacity.
    * `:no_nodes` - no node is a member, or none that was asked took it.
    * `{:lost, node}` - the node did not answer, in time or at all: it may have accepted it. See `:on_lost`.
    * `{:invalid, message}` - the owner's buffer raised this: it is of another kind, or has no partitions.
  """
  @type reason ::
          :full | :timeout | :too_large | :no_nodes | {:lost, node()} | {:invalid, String.t()}
  @typedoc "What a write of one entry returns."
  @type written :: :ok | {:error, reason()}
  @typedoc """
  What a write of a list returns. `failures` are all entries that were not accepted, with the reasons, in the
  form in which they were written; each part in the order of the list.
  """
  @type all_written :: :ok | {:error, {:partial, failures :: [{reason(), entries :: [term()]}]}}
  @typedoc "An answer for each member, in the order of their names; one that has failed has its error."
  @type rows(answer) :: [{node(), answer | {:error, term()}}]

  @doc """
  Starts this node's part of a buffer and links it to the calling process.

  When it returns, this node is a member, and knows of those nodes that `:pg` has told it of. Other
  nodes get to know of it in a moment: `await_nodes/3` waits.

  Returns `{:ok, pid}`, `{:error, {:already_started, pid}}` if it is running on this node, or another
  `{:error, reason}` of `Supervisor.start_link/3`: among them the `NimbleOptions.ValidationError` of
  a wrong option of the buffer. Raises `NimbleOptions.ValidationError` if an option of the cluster is missing or wrong.

      iex> alias PartitionedBuffer.Cluster
      iex> {:ok, _pid} =
      ...>   Cluster.start_link(
      ...>     module: PartitionedBuffer.Queue,
      ...>     name: :cluster_example,
      ...>     processor: fn _batch -> :ok end
      ...>   )
      iex> Cluster.push(:cluster_example, [1, 2, 3])
      :ok
      iex> Cluster.size(:cluster_example) == [{node(), 3}]
      true
      iex> Cluster.stop(:cluster_example)
      :ok

  """
  @spec start_link(keyword()) :: Elixir.Supervisor.on_start()
  def start_link(opts) do
    {own, buffer_opts} = Options.start!(opts)
    defaults = Map.take(own, [:partition_key, :on_lost, :on_full])
    buffer_opts = buffer_opts |> Handover.options(own) |> Keyword.put(:name, own.name)
    child = if own.member, do: {own.module, buffer_opts}
    Supervisor.start_link(own, defaults, child)
  end

  @doc """
  A child specification; its id is the buffer's name.

      iex> PartitionedBuffer.Cluster.child_spec(name: :events).id
      :events
  """
  @spec child_spec(keyword()) :: Elixir.Supervisor.child_spec()
  def child_spec(opts) do
    %{
      id: Keyword.get(PartitionedBuffer.Options.keyword!(opts), :name) || __MODULE__,
      start: {__MODULE__, :start_link, [opts]},
      type: :supervisor
    }
  end

  @doc """
  Stops this node's part: it leaves, processes what it has, and hands over what is left, if it is to. See
  "Join and leave".

  Returns `:ok`. `timeout` (milliseconds) is how long this call waits; when it is over the call exits with `:timeout`,
  and the buffer goes on ending. It exits with `{:noproc, _}` if no such cluster is running on this node, and raises
  `ArgumentError` if the timeout is none.

      iex> alias PartitionedBuffer.Cluster
      iex> {:ok, _pid} =
      ...>   Cluster.start_link(
      ...>     module: PartitionedBuffer.Queue,
      ...>     name: :stop_cluster,
      ...>     partitions: 1,
      ...>     processor: &length/1
      ...>   )
      iex> Cluster.stop(:stop_cluster, :normal, 60_000)
      :ok
  """
  @spec stop(buffer(), reason :: term(), timeout()) :: :ok
  def stop(buffer, reason \\ :normal, timeout \\ :infinity) do
    timeout = PartitionedBuffer.Options.timeout!(timeout)

    buffer
    |> PartitionedBuffer.Names.cluster()
    |> Elixir.Supervisor.stop(reason, timeout)
  end

  ## Members

  @doc """
  The members that this node knows of, and their weights, in the order of their names.

  Raises `ArgumentError` if the cluster is not running on this node, as do all functions below.

      iex> alias PartitionedBuffer.Cluster
      iex> {:ok, _pid} =
      ...>   Cluster.start_link(
      ...>     module: PartitionedBuffer.Queue,
      ...>     name: :nodes_cluster,
      ...>     partitions: 1,
      ...>     processor: &length/1
      ...>   )
      iex> Cluster.nodes(:nodes_cluster) == [{node(), 1}]
      true
      iex> Cluster.stop(:nodes_cluster)
      :ok
  """
  @spec nodes(buffer()) :: [{node(), weight :: number()}]
  def nodes(buffer), do: View.fetch!(buffer).members

  @doc """
  Waits until this node knows of so many members. Returns `:ok`, or `{:error, :timeout}` after `timeout`
  milliseconds.

      iex> alias PartitionedBuffer.Cluster
      iex> {:ok, _pid} =
      ...>   Cluster.start_link(
      ...>     module: PartitionedBuffer.Map,
      ...>     name: :await_nodes_example,
      ...>     processor: fn _batch -> :ok end
      ...>   )
      iex> Cluster.await_nodes(:await_nodes_example, 1, 1_000)
      :ok
      iex> Cluster.await_nodes(:await_nodes_example, 2, 10)
      {:error, :timeout}
      iex> Cluster.stop(:await_nodes_example)
      :ok

  """
  @spec await_nodes(buffer(), pos_integer(), timeout()) :: :ok | {:error, :timeout}
  def await_nodes(buffer, count, timeout \\ 5_000) do
    await_nodes_until(
      buffer,
      count,
      Awaited.deadline(PartitionedBuffer.Options.timeout!(timeout))
    )
  end

  defp await_nodes_until(buffer, count, deadline) do
    cond do
      length(nodes(buffer)) >= count ->
        :ok

      Awaited.left(deadline) == 0 ->
        {:error, :timeout}

      true ->
        receive do
        after
          5 -> await_nodes_until(buffer, count, deadline)
        end
    end
  end

  @doc """
  The node that owns what has this routing key, as this node sees it, or `nil` if there are no members. The key
  is that of a map's entry, or what `:partition_key` returns.

      iex> alias PartitionedBuffer.Cluster
      iex> {:ok, _pid} =
      ...>   Cluster.start_link(
      ...>     module: PartitionedBuffer.Map,
      ...>     name: :owner_example,
      ...>     processor: fn _batch -> :ok end
      ...>   )
      iex> Cluster.owner(:owner_example, {:user, 42}) == node()
      true
      iex> Cluster.stop(:owner_example)
      :ok

  """
  @spec owner(buffer(), key :: term()) :: node() | nil
  def owner(buffer, key) do
    case View.fetch!(buffer) do
      %{module: PartitionedBuffer.Map, defaults: %{partition_key: nil}} = view ->
        owner_of(view, Router.hash(nil, key))

      view ->
        owner_of(view, :erlang.phash2(key, 4_294_967_296))
    end
  end

  defp owner_of(%{owners: {}}, _hash), do: nil
  defp owner_of(%{owners: owners}, hash), do: elem(owners, Rendezvous.slot(hash))

  ## Writes

  @doc """
  Pushes an item, or each item of a list, to the nodes that own them.

  A list is always many items, as with `PartitionedBuffer.Queue.push/3`. It is accepted as a whole by each node.

  ## Options

  #{Options.write_docs()}

  (The defaults of `:partition_key`, `:on_lost` and `:on_full` are what the cluster was started with on this node.)

  ## Returns

    * `:ok` - everything was accepted.
    * `{:error, reason}` - of one item, see `t:reason/0`.
    * `{:error, {:partial, failures}}` - of a list: see `t:all_written/0`.

  Raises `ArgumentError` if the cluster is not running on this node or holds no queue, or the list is improper;
  `NimbleOptions.ValidationError` for a wrong option; what the function of a `:partition_key` raises. Nothing
  was pushed then.

      iex> alias PartitionedBuffer.Cluster
      iex> {:ok, _pid} =
      ...>   Cluster.start_link(
      ...>     module: PartitionedBuffer.Queue,
      ...>     name: :push_cluster,
      ...>     processor: fn _batch -> :ok end
      ...>   )
      iex> Cluster.push(:push_cluster, %{user: 1}, partition_key: 1)
      :ok
      iex> Cluster.push(:push_cluster, [%{user: 1}, %{user: 2}], partition_key: & &1.user)
      :ok
      iex> Cluster.stop(:push_cluster)
      :ok

  """
  @spec push(buffer(), item_or_items :: term() | [term()], keyword()) :: written() | all_written()
  def push(buffer, item_or_items, opts \\ [])

  def push(buffer, items, opts) when is_list(items) do
    if List.improper?(items) do
      raise ArgumentError, "expected an item or a proper list of items, got: #{inspect(items)}"
    end

    buffer |> view!(PartitionedBuffer.Queue) |> write_all(:push, items, & &1, opts)
  end

  def push(buffer, item, opts),
    do: buffer |> view!(PartitionedBuffer.Queue) |> write_one(:push, item, item, opts)

  @doc """
  Puts a value, whatever was there. See `PartitionedBuffer.Map.put/4`; options and returns are those of `push/3`.

  A function as `:partition_key` is called with the key. Raises `ArgumentError` if the cluster is not running on this
  node or holds no map.

      iex> alias PartitionedBuffer.Cluster
      iex> {:ok, _pid} =
      ...>   Cluster.start_link(
      ...>     module: PartitionedBuffer.Map,
      ...>     name: :put_cluster,
      ...>     partitions: 1,
      ...>     processor: &length/1
      ...>   )
      iex> Cluster.put(:put_cluster, {:user, 1}, "Ada", timeout: 1_000)
      :ok
      iex> Cluster.get(:put_cluster, {:user, 1})
      "Ada"
      iex> Cluster.stop(:put_cluster)
      :ok
  """
  @spec put(buffer(), key :: term(), value :: term(), keyword()) :: written()
  def put(buffer, key, value, opts \\ []),
    do: buffer |> view!(PartitionedBuffer.Map) |> write_one(:put_all, key, {key, value}, opts)

  @doc """
  Puts many values: of a map, or of a list of `{key, value}`. See `put/4`.

  Raises `ArgumentError` ("invalid entry: …") if something in the list is no pair; nothing was written then.

      iex> alias PartitionedBuffer.Cluster
      iex> {:ok, _pid} =
      ...>   Cluster.start_link(
      ...>     module: PartitionedBuffer.Map,
      ...>     name: :put_all_cluster,
      ...>     partitions: 1,
      ...>     processor: &length/1
      ...>   )
      iex> Cluster.put_all(:put_all_cluster, %{a: 1, b: 2})
      :ok
      iex> Cluster.size(:put_all_cluster) == [{node(), 2}]
      true
      iex> Cluster.stop(:put_all_cluster)
      :ok
  """
  @spec put_all(buffer(), map() | [{term(), term()}], keyword()) :: all_written()
  def put_all(buffer, entries, opts \\ [])

  def put_all(buffer, map, opts) when is_map(map) and not is_struct(map),
    do: put_all(buffer, :maps.to_list(map), opts)

  def put_all(buffer, entries, opts) do
    :ok = valid!(entries, &match?({_key, _value}, &1))
    buffer |> view!(PartitionedBuffer.Map) |> write_all(:put_all, entries, &elem(&1, 0), opts)
  end

  @doc """
  Puts a value if the key is not there or has a lower version. See `PartitionedBuffer.Map.put_newer/5` and
  `put/4`.

      iex> alias PartitionedBuffer.Cluster
      iex> {:ok, _pid} =
      ...>   Cluster.start_link(
      ...>     module: PartitionedBuffer.Map,
      ...>     name: :newer_cluster,
      ...>     processor: fn _batch -> :ok end
      ...>   )
      iex> Cluster.put_newer(:newer_cluster, :key, "v2", 200)
      :ok
      iex> Cluster.put_newer(:newer_cluster, :key, "v1", 100)
      :ok
      iex> Cluster.get(:newer_cluster, :key)
      "v2"
      iex> Cluster.stop(:newer_cluster)
      :ok

  """
  @spec put_newer(buffer(), key :: term(), value :: term(), version :: integer(), keyword()) ::
          written()
  def put_newer(buffer, key, value, version, opts \\ []) do
    entry = {key, value, version}
    :ok = valid!([entry], &versioned?/1)
    buffer |> view!(PartitionedBuffer.Map) |> write_one(:put_all_newer, key, entry, opts)
  end

  @doc """
  Puts many values that are newer: a list of `{key, value, version}`. See `put_newer/5` and `put_all/3`, of which it
  has the options, returns and errors.

      iex> alias PartitionedBuffer.Cluster
      iex> {:ok, _pid} =
      ...>   Cluster.start_link(
      ...>     module: PartitionedBuffer.Map,
      ...>     name: :all_newer_cluster,
      ...>     partitions: 1,
      ...>     processor: &length/1
      ...>   )
      iex> Cluster.put_all_newer(:all_newer_cluster, [{:key, "v2", 2}, {:key, "v1", 1}])
      :ok
      iex> Cluster.get(:all_newer_cluster, :key)
      "v2"
      iex> Cluster.stop(:all_newer_cluster)
      :ok
  """
  @spec put_all_newer(buffer(), [{term(), term(), integer()}], keyword()) :: all_written()
  def put_all_newer(buffer, entries, opts \\ []) do
    :ok = valid!(entries, &versioned?/1)

    buffer
    |> view!(PartitionedBuffer.Map)
    |> write_all(:put_all_newer, entries, &elem(&1, 0), opts)
  end

  @doc """
  Removes a key from its owner's buffer. It is `:ok` if it was not there. Options and returns are those of
  `push/3`; with `on_lost: :next` too, a lost node is an error, since no other one has the key.

      iex> alias PartitionedBuffer.Cluster
      iex> {:ok, _pid} =
      ...>   Cluster.start_link(
      ...>     module: PartitionedBuffer.Map,
      ...>     name: :delete_cluster,
      ...>     partitions: 1,
      ...>     processor: &length/1
      ...>   )
      iex> Cluster.put(:delete_cluster, :key, 1)
      iex> Cluster.delete(:delete_cluster, :key)
      :ok
      iex> Cluster.fetch(:delete_cluster, :key)
      :error
      iex> Cluster.stop(:delete_cluster)
      :ok
  """
  @spec delete(buffer(), key :: term(), keyword()) :: written()
  def delete(buffer, key, opts \\ []) do
    view = view!(buffer, PartitionedBuffer.Map)
    opts = Options.write!(opts, view.defaults)
    opts = if opts.on_lost == :next, do: %{opts | on_lost: :error}, else: opts
    write_validated(view, :delete, key, key, opts)
  end

  defp write_one(view, operation, routed, entry, opts),
    do: write_validated(view, operation, routed, entry, Options.write!(opts, view.defaults))

  # What this node owns goes the short way; if it is refused here, the long one with the time that is left.
  defp write_validated(view, operation, routed, entry, %{partition_key: key} = opts) do
    hash = Router.hash(key, routed)
    deadline = Awaited.deadline(opts.timeout)

    if owner_of(view, hash) == node() and
         here(view, operation, entry, if(key != nil, do: hash), opts) == :ok do
      :ok
    else
      opts = %{opts | timeout: Awaited.left(deadline)}

      case Delivery.write(view, operation, [{hash, entry}], key != nil, opts) do
        [] -> :ok
        [{reason, [_entry]}] -> {:error, reason}
      end
    end
  end

  defp here(view, operation, entry, hash, opts) do
    room_ms = if opts.on_full == :block, do: opts.timeout, else: 0
    request = {operation, [entry], if(hash, do: [hash])}

    with :ok <- Receiver.write(view.buffer, request, room_ms), do: View.count(view, :local, 1)
  end

  defp write_all(_view, _operation, [], _routed, opts) do
    _valid = Options.write!(opts, %{})
    :ok
  end

  defp write_all(view, operation, entries, routed, opts) do
    %{partition_key: key} = opts = Options.write!(opts, view.defaults)
    hashed = for entry <- entries, do: {Router.hash(key, routed.(entry)), entry}

    case Delivery.write(view, operation, hashed, key != nil, opts) do
      [] -> :ok
      failures -> {:error, {:partial, failures}}
    end
  end

  ## Reads

  @doc """
  The value of a key in its owner's buffer, or `default`.

  Takes `:partition_key` and `:timeout`, as `push/3`. Raises `PartitionedBuffer.Cluster.Error` if the owner
  can't be asked: see `fetch/3`.

      iex> alias PartitionedBuffer.Cluster
      iex> {:ok, _pid} =
      ...>   Cluster.start_link(
      ...>     module: PartitionedBuffer.Map,
      ...>     name: :get_cluster,
      ...>     partitions: 1,
      ...>     processor: &length/1
      ...>   )
      iex> Cluster.get(:get_cluster, :nothing, :default)
      :default
      iex> Cluster.stop(:get_cluster)
      :ok
  """
  @spec get(buffer(), key :: term(), default :: term(), keyword()) :: term()
  def get(buffer, key, default \\ nil, opts \\ []) do
    case fetch(buffer, key, opts) do
      {:ok, value} -> value
      :error -> default
      {:error, reason} -> raise Error, buffer: buffer, reason: reason
    end
  end

  @doc """
  `{:ok, value}` of a key in its owner's buffer, or `:error` if it is not there; or `{:error, reason}` if the owner
  can't be asked: `{:lost, node}`, `:no_nodes`, `:closed` (its buffer is just ending), or `{:invalid, message}`.

  Takes the options of `get/4`.

      iex> alias PartitionedBuffer.Cluster
      iex> {:ok, _pid} =
      ...>   Cluster.start_link(
      ...>     module: PartitionedBuffer.Map,
      ...>     name: :fetch_cluster,
      ...>     partitions: 1,
      ...>     processor: &length/1
      ...>   )
      iex> Cluster.put(:fetch_cluster, :key, nil)
      iex> Cluster.fetch(:fetch_cluster, :key, timeout: 1_000)
      {:ok, nil}
      iex> Cluster.stop(:fetch_cluster)
      :ok
  """
  @spec fetch(buffer(), key :: term(), keyword()) :: {:ok, term()} | :error | {:error, term()}
  def fetch(buffer, key, opts \\ []) do
    view = view!(buffer, PartitionedBuffer.Map)
    %{partition_key: option, timeout: timeout} = Options.write!(opts, view.defaults)
    hash = Router.hash(option, key)
    node = owner_of(view, hash)
    args = [buffer, key, if(option != nil, do: hash)]

    answer =
      cond do
        node == nil -> {:refused, :no_nodes}
        node == node() -> apply(Receiver, :read, args)
        true -> Call.call(node, Receiver, :read, args, timeout)
      end

    case answer do
      {:found, found} -> found
      {:refused, reason} -> {:error, reason}
      {:lost, _reason} -> {:error, {:lost, node}}
    end
  end

  ## All nodes

  @doc """
  How many entries wait on each node, as `PartitionedBuffer.buffer_size/1`: `[{node, size}]`.

  A node that can't be asked has `{:error, reason}` in its row: `:timeout`, `:noconnection`, `:closed`,
  `{:invalid, message}`, or why the call has ended there. That goes for all functions below.

  ## Options

  #{Options.all_nodes_docs()}

  ## Examples

      iex> alias PartitionedBuffer.Cluster
      iex> {:ok, _pid} =
      ...>   Cluster.start_link(
      ...>     module: PartitionedBuffer.Queue,
      ...>     name: :size_cluster,
      ...>     partitions: 1,
      ...>     processor: &length/1
      ...>   )
      iex> Cluster.push(:size_cluster, [:a, :b])
      iex> Cluster.size(:size_cluster, timeout: 1_000) == [{node(), 2}]
      true
      iex> Cluster.stop(:size_cluster)
      :ok
  """
  @spec size(buffer(), keyword()) :: rows(non_neg_integer())
  def size(buffer, opts \\ []) do
    {timeout, []} = Options.all_nodes!(opts)
    everywhere(View.fetch!(buffer), :buffer_size, [], timeout)
  end

  @doc """
  `PartitionedBuffer.info/1` of each node, and what this node has counted of its own calls.

    * `nodes` - `[{node, info}]`, see `size/2`.
    * `calls` - entries, since the cluster was started on this node: `local` and `remote` were accepted by
      this and by other nodes, `failed` have had an error, `retried` were tried again; and of this node as a
      member: `repeated` were asked for again and not written again, `handed_over` were handed over.

  Takes the options of `size/2`.

      iex> alias PartitionedBuffer.Cluster
      iex> {:ok, _pid} =
      ...>   Cluster.start_link(
      ...>     module: PartitionedBuffer.Queue,
      ...>     name: :info_cluster,
      ...>     partitions: 1,
      ...>     processor: &length/1
      ...>   )
      iex> Cluster.push(:info_cluster, [:a, :b])
      iex> %{nodes: [{_this, info}], calls: calls} = Cluster.info(:info_cluster)
      iex> {info.accepted, calls.local, calls.remote}
      {2, 2, 0}
      iex> Cluster.stop(:info_cluster)
      :ok
  """
  @spec info(buffer(), keyword()) :: %{
          nodes: rows(map()),
          calls: %{atom() => non_neg_integer()}
        }
  def info(buffer, opts \\ []) do
    {timeout, []} = Options.all_nodes!(opts)
    view = View.fetch!(buffer)
    %{nodes: everywhere(view, :info, [], timeout), calls: View.counted(view)}
  end

  @doc """
  Starts to process on all nodes, without waiting. `[{node, :ok}]`; takes the options of `size/2`.

      iex> alias PartitionedBuffer.Cluster
      iex> {:ok, _pid} =
      ...>   Cluster.start_link(
      ...>     module: PartitionedBuffer.Queue,
      ...>     name: :flush_cluster,
      ...>     partitions: 1,
      ...>     processor: &length/1
      ...>   )
      iex> Cluster.flush(:flush_cluster) == [{node(), :ok}]
      true
      iex> Cluster.stop(:flush_cluster)
      :ok
  """
  @spec flush(buffer(), keyword()) :: rows(:ok)
  def flush(buffer, opts \\ []) do
    {timeout, []} = Options.all_nodes!(opts)
    everywhere(View.fetch!(buffer), :flush, [[]], timeout)
  end

  @doc """
  Processes on all nodes what was written before the call, and waits for it.

  `[{node, outcomes}]`, with the outcomes of `PartitionedBuffer.sync_flush/2`. Takes the options of `size/2`, with
  a `:timeout` of 60000 by default.

      iex> alias PartitionedBuffer.Cluster
      iex> {:ok, _pid} =
      ...>   Cluster.start_link(
      ...>     module: PartitionedBuffer.Queue,
      ...>     name: :sync_cluster,
      ...>     partitions: 1,
      ...>     processor: &length/1
      ...>   )
      iex> Cluster.push(:sync_cluster, [:a, :b])
      iex> [{_this, outcomes}] = Cluster.sync_flush(:sync_cluster)
      iex> outcomes
      [{:"Elixir.sync_cluster.0", {:ok, 2}}]
      iex> Cluster.stop(:sync_cluster)
      :ok
  """
  @spec sync_flush(buffer(), keyword()) :: rows([{partition :: atom(), term()}])
  def sync_flush(buffer, opts \\ []) do
    {timeout, []} = Options.all_nodes!(Keyword.put_new(opts, :timeout, 60_000))
    # So that nodes have the time to tell what they could not do in time.
    there = if is_integer(timeout), do: max(timeout - min(100, div(timeout, 2)), 0), else: timeout
    everywhere(View.fetch!(buffer), :sync_flush, [[timeout: there]], timeout)
  end

  defp everywhere(%{buffer: buffer, members: members}, function, args, timeout) do
    nodes = for {node, _weight} <- members, do: node
    Everywhere.call(nodes, Receiver, :call, [buffer, function, args], timeout)
  end

  @spec view!(buffer(), module()) :: View.t()
  defp view!(buffer, module) do
    case View.fetch!(buffer) do
      %{module: ^module} = view -> view
      _other -> raise ArgumentError, "#{inspect(buffer)} is a buffer of another kind"
    end
  end

  defp versioned?({_key, _value, version}), do: is_integer(version)
  defp versioned?(_other), do: false

  defp valid!(entries, valid?) do
    if not is_list(entries) or List.improper?(entries), do: invalid!(entries)
    Enum.each(entries, &(valid?.(&1) || invalid!(&1)))
  end

  @spec invalid!(term()) :: no_return()
  defp invalid!(entry), do: raise(ArgumentError, "invalid entry: #{inspect(entry)}")
end
