defmodule PartitionedBuffer.Refused do
  @moduledoc false
  # What follows when the native side has refused a call. Nothing was written then, so the call may be
  # made again.

  alias PartitionedBuffer.{Handle, Native, Room}

  # How long a call may wait for room, and how its entries are queued for it; `nil`: it is made again.
  @type wait :: {timeout(), (reference() -> term()) | nil}

  @doc """
  Goes on after `refused`: with `dirty` when the call was too much for a normal scheduler, with `again`
  when the storage was closed and another one has taken over its name, with `wait` when there is no room
  now. Raises in all other cases, or returns `{:error, reason}` when there is no room.
  """
  @spec go_on(Native.refused(), atom(), Native.handle(), dirty, again, wait()) :: result
        when dirty: (() -> result | Native.refused()), again: (() -> result), result: term()
  def go_on(refused, buffer, ref, dirty, again, wait \\ {0, nil})

  def go_on(:heavy, buffer, ref, dirty, again, wait) do
    case dirty.() do
      :heavy ->
        raise ArgumentError, "a term of 4 GB or more can't be buffered"

      refused
      when refused in [:closed, :no_partitions, :other_kind, :improper, :wait, :full, :too_large] ->
        go_on(refused, buffer, ref, dirty, again, wait)

      result ->
        result
    end
  end

  def go_on(:wait, buffer, ref, dirty, again, {timeout, nil}) do
    buffer |> Room.retry(ref, timeout, dirty) |> waited(buffer, ref, dirty, again)
  end

  def go_on(:wait, buffer, ref, dirty, again, {timeout, queue}) do
    buffer |> Room.wait(ref, timeout, queue) |> waited(buffer, ref, dirty, again)
  end

  def go_on(refused, buffer, ref, _dirty, _again, _wait) when refused in [:full, :too_large] do
    Room.rejected(buffer, ref, refused)
  end

  def go_on(:closed, buffer, ref, _dirty, again, _wait) do
    Handle.reopened!(buffer, ref)
    again.()
  end

  def go_on(:no_partitions, buffer, _ref, _dirty, _again, _wait) do
    PartitionedBuffer.no_partitions!(buffer)
  end

  def go_on(:other_kind, buffer, _ref, _dirty, _again, _wait) do
    raise ArgumentError, "#{inspect(buffer)} is a buffer of another kind"
  end

  def go_on(:improper, _buffer, _ref, _dirty, _again, _wait) do
    raise ArgumentError, "expected a proper list"
  end

  # The buffer does something else by now with those for whom there is no room.
  defp waited(:again, _buffer, _ref, _dirty, again), do: again.()

  # Refused after all: not because there was no room.
  defp waited(refused, buffer, ref, dirty, again)
       when refused in [:heavy, :closed, :no_partitions, :improper, :full, :too_large],
       do: go_on(refused, buffer, ref, dirty, again)

  defp waited(result, _buffer, _ref, _dirty, _again), do: result
end
