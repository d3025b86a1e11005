defmodule PartitionedBuffer.OnDemand do
  @moduledoc false
  # What is done to the partitions of a buffer when somebody asks for it, rather than when it is time.
  #
  # Invariant: none of it holds writers up, and none of it waits for a partition's process to answer.

  alias PartitionedBuffer.{Awaited, Handle, Native, Partition}

  # Entries that are copied at once, under the lock of the generation that they are in.
  @rows 64

  @doc "The indexes that a `:partition` option means: all, that of a partition's name, or an index."
  @spec indexes!(atom(), Handle.t(), term()) :: [Native.index()]
  def indexes!(_buffer, %{partitions: names}, nil),
    do: Enum.to_list(0..(tuple_size(names) - 1)//1)

  def indexes!(_buffer, %{partitions: names}, index)
      when is_integer(index) and index in 0..(tuple_size(names) - 1)//1,
      do: [index]

  def indexes!(buffer, %{partitions: names}, name) do
    case names |> Tuple.to_list() |> Enum.find_index(&(&1 == name)) do
      nil -> raise ArgumentError, "#{inspect(buffer)} has no partition #{inspect(name)}"
      index -> [index]
    end
  end

  @doc "Starts cycles, now or as soon as can be, whatever becomes of the partitions' processes meanwhile."
  @spec flush(Handle.t(), [Native.index()]) :: :ok
  def flush(%{ref: ref} = handle, indexes) do
    for index <- indexes do
      if Native.partition_begin(ref, index, :flush) == :nothing, do: nothing(handle, index)
    end

    :ok
  end

  defp nothing(%{extra: %{flush_empty: true}, partitions: names}, index),
    do: Partition.flush(elem(names, index))

  defp nothing(_handle, _index), do: :ok

  @doc "Processes what the partitions hold now; the outcome of each."
  @spec sync_flush(Handle.t(), [Native.index()], timeout()) :: [Awaited.outcome()]
  def sync_flush(%{ref: ref} = handle, indexes, timeout) do
    deadline = Awaited.deadline(timeout)
    awaited = await(ref, indexes)
    flush(handle, for({index, token} <- awaited, token != nil, do: index))

    outcomes =
      Awaited.collect(
        ref,
        for({_, token} <- awaited, token != nil, do: token),
        Awaited.left(deadline)
      )

    merge(awaited, outcomes)
  end

  # A token for each partition that holds something.
  defp await(ref, indexes) do
    first = Awaited.token()

    for index <- indexes do
      token = first + index
      {index, if(Native.partition_await(ref, index, token), do: token)}
    end
  end

  defp merge([{_index, nil} | awaited], outcomes), do: [{:ok, nil} | merge(awaited, outcomes)]
  defp merge([_awaited | awaited], [outcome | rest]), do: [outcome | merge(awaited, rest)]
  defp merge([], []), do: []

  @doc "Waits until nothing is held. Nothing is started for it."
  @spec await_empty(Handle.t(), timeout()) :: :ok | {:error, :timeout}
  def await_empty(%{ref: ref} = handle, timeout) do
    deadline = Awaited.deadline(timeout)

    tokens =
      for {_index, token} <- await(ref, Enum.to_list(Handle.indexes(ref))), token, do: token

    cond do
      tokens == [] ->
        :ok

      {:error, :timeout} in Awaited.collect(ref, tokens, Awaited.left(deadline)) ->
        {:error, :timeout}

      # Something may have been written meanwhile.
      true ->
        await_empty(handle, Awaited.left(deadline))
    end
  end

  @doc "Copies of the entries of a partition that no processor has been given yet."
  @spec dump(Native.handle(), Native.index()) :: [term()]
  def dump(ref, index), do: dump(ref, index, 0, [])

  # An entry keeps its place, wherever it is meanwhile.
  defp dump(ref, index, place, dumped) do
    case Native.partition_dump_dirty(ref, index, place, @rows) do
      {[], ^place} -> dumped |> Enum.reverse() |> Enum.concat()
      {entries, place} -> dump(ref, index, place, [entries | dumped])
    end
  end
end
