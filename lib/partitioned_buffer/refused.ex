defmodule PartitionedBuffer.Refused do
  @moduledoc false
  # What follows when the native side has refused a call. Nothing was written then, so the call may be
  # made again.

  alias PartitionedBuffer.{Handle, Native}

  @doc """
  Goes on after `refused`: with `dirty` when the call was too much for a normal scheduler, with `again`
  when the storage was closed and another one has taken over its name. Raises in all other cases.
  """
  @spec go_on(Native.refused(), atom(), Native.handle(), dirty, again) :: result
        when dirty: (() -> result | Native.refused()), again: (() -> result), result: term()
  def go_on(:heavy, buffer, ref, dirty, again) do
    case dirty.() do
      :heavy ->
        raise ArgumentError, "a term of 4 GB or more can't be buffered"

      refused when refused in [:closed, :no_partitions, :other_kind, :improper] ->
        go_on(refused, buffer, ref, dirty, again)

      result ->
        result
    end
  end

  def go_on(:closed, buffer, ref, _dirty, again) do
    Handle.reopened!(buffer, ref)
    again.()
  end

  def go_on(:no_partitions, buffer, _ref, _dirty, _again) do
    PartitionedBuffer.no_partitions!(buffer)
  end

  def go_on(:other_kind, buffer, _ref, _dirty, _again) do
    raise ArgumentError, "#{inspect(buffer)} is a buffer of another kind"
  end

  def go_on(:improper, _buffer, _ref, _dirty, _again) do
    raise ArgumentError, "expected a proper list"
  end
end
