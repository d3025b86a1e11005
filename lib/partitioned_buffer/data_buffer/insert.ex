defmodule PartitionedBuffer.DataBuffer.Insert do
  @moduledoc false
  # What a write does that is not written at once: somebody listens, it is large, or it has to wait.
  #
  # Invariant: a write that has not returned `:ok` has written nothing and never will.

  alias PartitionedBuffer.{Awaited, Handle, Native, Refused, Room, Telemetry}
  alias PartitionedBuffer.DataBuffer.Options

  @typedoc "What is written: one item, or all items of a list."
  @type what :: {:one, term()} | {:all, [term()]}

  @doc "Goes on after the native side's answer."
  @spec go_on(term(), atom(), Handle.t(), what(), timeout() | keyword()) :: :ok | {:error, :full}
  def go_on(:who_listens, buffer, handle, what, opts) do
    listening? = Telemetry.handled?(handle.extra.event_prefix ++ [:insert])
    :ok = Native.data_buffer_looked(handle.ref, listening?)
    if listening?, do: told(buffer, handle, what, opts), else: untold(buffer, handle, what, opts)
  end

  # It is there now.
  def go_on(:unknown, buffer, handle, what, opts), do: untold(buffer, handle, what, opts)
  def go_on(:listening, buffer, handle, what, opts), do: told(buffer, handle, what, opts)

  def go_on(answer, buffer, handle, what, opts) do
    opts = Options.insert!(opts)
    finish(answer, buffer, handle, what, opts)
  end

  defp untold(buffer, handle, what, opts) do
    opts = Options.insert!(opts)
    to(Native.data_buffer_next(handle.ref), buffer, handle, what, opts)
  end

  defp told(buffer, handle, what, opts) do
    opts = Options.insert!(opts)

    :telemetry.span(handle.extra.event_prefix ++ [:insert], %{buffer: buffer}, fn ->
      index = Native.data_buffer_next(handle.ref)
      result = to(index, buffer, handle, what, opts)
      {result, %{buffer: buffer, partition: elem(handle.partitions, index)}}
    end)
  end

  defp to(index, buffer, %{ref: ref} = handle, what, opts) do
    answer =
      case what do
        {:one, item} -> Native.data_buffer_insert_to(ref, item, index)
        {:all, items} -> Native.data_buffer_insert_all_to(ref, items, index)
      end

    finish(answer, buffer, handle, what, opts)
  end

  defp finish(:ok, _buffer, _handle, _what, _opts), do: :ok

  defp finish({:heavy, index}, buffer, %{ref: ref} = handle, what, opts) do
    answer =
      case what do
        {:one, item} -> Native.data_buffer_insert_to_dirty(ref, item, index)
        {:all, items} -> Native.data_buffer_insert_all_to_dirty(ref, items, index)
      end

    case answer do
      {:heavy, _index} -> Refused.go_on(:heavy, buffer, ref, fn -> :heavy end, fn -> :ok end)
      answer -> finish(answer, buffer, handle, what, opts)
    end
  end

  defp finish({:wait, index}, buffer, handle, what, {timeout, _on_timeout} = opts) do
    started = System.monotonic_time()
    result = wait(handle.ref, items(what), index, timeout)
    duration = System.monotonic_time() - started
    Telemetry.write([:blocked], %{duration: duration}, %{buffer: buffer, result: result})
    waited(result, buffer, handle, what, opts)
  end

  # Another buffer has taken over the name that has fewer of them.
  defp finish(:no_partitions, buffer, _handle, what, opts), do: again(buffer, what, opts)

  # The buffer has been stopped, or another one has taken over its name: it keeps the partition.
  defp finish(refused, buffer, %{ref: ref}, what, opts) do
    again = fn -> again(buffer, what, opts) end
    Refused.go_on(refused, buffer, ref, again, again)
  end

  defp again(buffer, what, opts) do
    handle = Handle.fetch!(buffer)
    to(Native.data_buffer_next(handle.ref), buffer, handle, what, opts)
  end

  defp items({:one, item}), do: [item]
  defp items({:all, items}), do: items

  defp waited(:ok, _buffer, _handle, _what, _opts), do: :ok

  defp waited(:timeout, buffer, %{ref: ref}, what, {timeout, on_timeout}) do
    _ = Room.rejected(buffer, ref, :timeout)

    case {on_timeout, what} do
      {:error, _what} -> {:error, :full}
      {:exit, {:one, item}} -> exit({:timeout, call(:insert, [buffer, item, timeout])})
      {:exit, {:all, items}} -> exit({:timeout, call(:insert_batch, [buffer, items, timeout])})
    end
  end

  defp waited(refused, buffer, handle, what, opts),
    do: finish(refused, buffer, handle, what, opts)

  defp call(function, args), do: {PartitionedBuffer.DataBuffer, function, args}

  # In line, in the order of arrival: `:ok`, `:timeout`, or why it never will be written.
  defp wait(ref, items, index, timeout) do
    token = Awaited.token()

    case Native.data_buffer_stand(ref, items, index, token) do
      :wait -> await(ref, index, token, timeout)
      at_once -> at_once
    end
  end

  defp await(ref, index, token, timeout) do
    receive do
      {:partitioned_buffer, ^token, outcome} -> written(outcome)
    after
      timeout ->
        if Native.data_buffer_step_out(ref, index, token) do
          :timeout
        else
          # It is being served: the answer comes.
          receive do
            {:partitioned_buffer, ^token, outcome} -> written(outcome)
          end
        end
    end
  end

  defp written({:ok, nil}), do: :ok
  defp written({:error, :shutdown}), do: :closed
end
