defmodule PartitionedBuffer.Cluster.Requests do
  @moduledoc false
  # Which requests of other nodes this node has accepted: so that one that is made again, because its answer
  # was lost, is not written again.
  #
  # A set of ids, and a ring of places with the ids in the order in which they were accepted: who takes a place
  # forgets the id that had it.
  #
  # Invariant: of all requests with one id that are remembered, one has written. The last `limit` accepted
  # ones are remembered (those that are being written are, besides).

  @enforce_keys [:ids, :ring, :limit, :places]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          ids: :ets.tid(),
          ring: :ets.tid(),
          limit: pos_integer(),
          places: :atomics.atomics_ref()
        }

  @type result :: :ok | {:refused, term()}

  @doc "An empty memory, owned by the calling process."
  @spec new(pos_integer()) :: t()
  def new(limit) do
    opts = [:public, write_concurrency: true, read_concurrency: true]

    %__MODULE__{
      ids: :ets.new(__MODULE__, [:set | opts]),
      ring: :ets.new(__MODULE__, [:set | opts]),
      limit: limit,
      places: :atomics.new(1, signed: false)
    }
  end

  @doc "Writes, unless that has been done for this id: `:repeated`, once it has been accepted."
  @spec once(t(), term(), (() -> result())) :: result() | :repeated
  def once(%{ids: ids} = requests, id, write) do
    if :ets.insert_new(ids, {id, self()}) do
      write(requests, id, write)
    else
      case :ets.lookup(ids, id) do
        [{^id, :accepted}] -> :repeated
        [{^id, pid}] -> await(requests, id, write, pid)
        # It was refused in between.
        [] -> once(requests, id, write)
      end
    end
  end

  defp write(requests, id, write) do
    result = write.()
    if result == :ok, do: accepted(requests, id), else: :ets.delete(requests.ids, id)
    result
  catch
    # It raised before anything was written.
    kind, reason ->
      :ets.delete(requests.ids, id)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  # The request that is made again has overtaken the first one.
  defp await(%{ids: ids} = requests, id, write, pid) do
    monitor = Process.monitor(pid)

    receive do
      {:DOWN, ^monitor, :process, ^pid, _reason} -> :ok
    end

    case :ets.lookup(ids, id) do
      # Killed while it was writing: it can't be told whether it has.
      [{^id, ^pid}] -> exit({:unknown, id})
      _written_or_refused -> once(requests, id, write)
    end
  end

  defp accepted(%{ids: ids, ring: ring, limit: limit, places: places}, id) do
    :ets.insert(ids, {id, :accepted})
    place = rem(:atomics.add_get(places, 1, 1), limit)

    case :ets.lookup(ring, place) do
      [{^place, old}] -> :ets.delete(ids, old)
      [] -> true
    end

    :ets.insert(ring, {place, id})
  end

  @doc "How many accepted ones are remembered."
  @spec size(t()) :: non_neg_integer()
  def size(%{ring: ring}), do: :ets.info(ring, :size)
end
