defmodule PartitionedBuffer.Entries do
  @moduledoc false
  # The entries of a partition, read piece by piece while they stay where they are.
  #
  # Invariant: what is read is of one generation. Once that has gone, nothing of the next one is taken
  # for it.

  alias PartitionedBuffer.Native

  # Copied out at once.
  @rows 500
  # The same under the lock that writers take.
  @live_rows 64

  @doc """
  The batch in flight, lazily and as often as it is asked for, while it is in flight. Raises `RuntimeError`
  when it is not any more.
  """
  @spec stream(Native.handle(), Native.index()) :: Enumerable.t()
  def stream(ref, index) do
    {first, last, _attempt, size} = Native.partition_batch(ref, index)
    Stream.resource(fn -> 0 end, &next(ref, index, {first, last, size}, &1), fn _read -> :ok end)
  end

  defp next(_ref, _index, {_first, _last, size}, size), do: {:halt, size}

  defp next(ref, index, {first, last, size} = batch, read) do
    {entries, next} = Native.partition_peek_dirty(ref, index, read, min(@rows, size - read))

    case Native.partition_batch(ref, index) do
      {^first, ^last, _attempt, _size} ->
        {entries, next}

      _another ->
        raise "the entries #{inspect(batch)} have been settled, they can't be read any more"
    end
  end

  @doc "A copy of the live generation of a queue's partition. If it is swapped out meanwhile, its beginning."
  @spec live(Native.handle(), Native.index()) :: [term()]
  def live(ref, index) do
    {base, _size, _full, _in_line} = Native.data_buffer_standings(ref, index)
    live(ref, index, base, base, [])
  end

  defp live(ref, index, base, place, read) do
    {entries, next} = Native.partition_dump_dirty(ref, index, place, @live_rows)

    case Native.data_buffer_standings(ref, index) do
      {^base, _size, _full, _in_line} when entries != [] ->
        live(ref, index, base, next, [entries | read])

      _at_the_end ->
        read |> Enum.reverse() |> Enum.concat()
    end
  end
end
