defmodule PartitionedBuffer.Testing do
  @moduledoc """
  For tests of code that writes to a buffer, or of a processor: nothing by itself, and no waiting.

  Start the buffer with `manual: true`. Nothing is processed then until the test says so, and what would be
  processed can be looked at.

      iex> alias PartitionedBuffer.{Queue, Testing}
      iex> {:ok, _pid} =
      ...>   Queue.start_link(name: :tested, manual: true, processor: fn batch -> Enum.sum(batch) end)
      iex> Queue.push(:tested, [1, 2, 3], partition_key: :all)
      iex> Testing.buffered(:tested)
      [1, 2, 3]
      iex> Testing.drain(:tested)
      3
      iex> Testing.buffered(:tested)
      []
      iex> Queue.stop(:tested)
      :ok
  """

  alias PartitionedBuffer.{Handle, Names, Native, OnDemand, Options, ProcessorRunner}
  alias PartitionedBuffer.Partition.Discards

  @doc """
  Processes all that the buffer holds now, in the calling process, and returns how many entries that were.

  The processor is called as the buffer would call it: partition by partition, in batches of
  `:processing_batch_size`. If it raises, throws or exits, so does this call; if it returns `{:error, reason}`
  or `{:failed, entries}`, this call exits with `{:shutdown, {:failed, reason}}`. The batch is discarded then
  (`:on_discard` is called, in the calling process too), or, as `:max_retries` says, tried again by the next call.

  ## Options

    * `:partition` - only this one: its name or its index.

  Raises `ArgumentError` if no such buffer is running, it was not started with `manual: true`, or it is paused.
  """
  @spec drain(PartitionedBuffer.buffer(), keyword()) :: non_neg_integer()
  def drain(buffer, opts \\ []) do
    %{ref: ref, module: module} = handle = Handle.fetch!(buffer)
    settings = Handle.settings(ref)

    unless settings.manual do
      raise ArgumentError, "#{inspect(buffer)} was not started with manual: true"
    end

    if settings.paused, do: raise(ArgumentError, "#{inspect(buffer)} is paused")

    indexes = OnDemand.indexes!(buffer, handle, Options.partition!(opts)[:partition])
    Enum.reduce(indexes, 0, &drain(buffer, ref, module, settings, &1, &2))
  end

  # What is draining still, and what is live: each may be there.
  defp drain(buffer, ref, module, settings, index, count) do
    case Native.partition_swap(ref, index) do
      0 ->
        count

      entries when is_integer(entries) ->
        metadata = %{buffer: buffer, partition: Names.partition(buffer, index)}

        job = %ProcessorRunner{
          ref: ref,
          index: index,
          metadata: metadata,
          module: module,
          processor: settings.processor,
          info?: settings.processor_info or is_function(settings.processor, 2),
          stream?: settings.in_turn
        }

        try do
          ProcessorRunner.drain(job)
        after
          _settled = Native.partition_settle(ref, index, :exception, true)
          Discards.report(ref, index, metadata)
          Discards.tell_all(ref, index, settings.on_discard)
        end

        drain(buffer, ref, module, settings, index, count + entries)
    end
  end

  @doc """
  All entries that wait to be processed, as a processor would get them: those of the first partition first. Raises
  `ArgumentError` if no such buffer is running, as all functions here.
  """
  @spec buffered(PartitionedBuffer.buffer()) :: [term()]
  def buffered(buffer), do: PartitionedBuffer.dump(buffer)

  @doc """
  Asserts that this entry waits to be processed. Returns `true`.

      iex> alias PartitionedBuffer.{Queue, Testing}
      iex> {:ok, _pid} = Queue.start_link(name: :asserted, manual: true, processor: fn _ -> :ok end)
      iex> Queue.push(:asserted, :item)
      iex> Testing.assert_buffered(:asserted, :item)
      true
      iex> Queue.stop(:asserted)
      :ok
  """
  @spec assert_buffered(PartitionedBuffer.buffer(), entry :: term()) :: true
  def assert_buffered(buffer, entry) do
    buffered = buffered(buffer)

    if entry in buffered do
      true
    else
      fail("expected #{inspect(entry)} to be buffered, but there is: #{inspect(buffered)}")
    end
  end

  @doc """
  Asserts that this entry does not wait to be processed. Returns `true`.

      iex> alias PartitionedBuffer.{Queue, Testing}
      iex> {:ok, _pid} = Queue.start_link(name: :refuted, manual: true, processor: fn _ -> :ok end)
      iex> {Testing.refute_buffered(:refuted, :item), Testing.assert_empty(:refuted)}
      {true, true}
      iex> Queue.stop(:refuted)
      :ok
  """
  @spec refute_buffered(PartitionedBuffer.buffer(), entry :: term()) :: true
  def refute_buffered(buffer, entry) do
    if entry in buffered(buffer) do
      fail("expected #{inspect(entry)} not to be buffered")
    else
      true
    end
  end

  @doc "Asserts that nothing waits to be processed. Returns `true`."
  @spec assert_empty(PartitionedBuffer.buffer()) :: true
  def assert_empty(buffer) do
    case buffered(buffer) do
      [] -> true
      entries -> fail("expected nothing to be buffered, but there is: #{inspect(entries)}")
    end
  end

  # ExUnit is there wherever this is called, but not where the library is compiled.
  @spec fail(String.t()) :: no_return()
  defp fail(message) do
    raise Module.concat(["ExUnit", "AssertionError"]), message: message
  end
end
