defmodule PartitionedBuffer.Room do
  @moduledoc false
  # What a write does for which there is no room: it waits natively, in the order of arrival, and its
  # entries are written for it when there is room.
  #
  # Invariant: a call that returns `{:error, :timeout}` has written nothing, and one whose process dies
  # while it waits has not either.

  alias PartitionedBuffer.{Native, Telemetry}

  # Until a call is made again that can't wait natively.
  @again_ms 1

  @type result :: :ok | {:ok, [Native.token()]} | {:error, :timeout} | Native.refused()

  @doc "Waits for room. `wait` queues the write, under a reference that the answer comes with."
  @spec wait(atom(), Native.handle(), timeout(), (reference() -> term())) :: result()
  def wait(buffer, ref, timeout, wait) do
    started = System.monotonic_time()
    reference = make_ref()

    result =
      case wait.(reference) do
        {:wait, ticket} -> await(ref, reference, ticket, timeout)
        at_once -> at_once
      end

    blocked(buffer, ref, started, result)
  end

  @doc "The same for a call that is made again and again, in no order, until it is not told to wait."
  @spec retry(atom(), Native.handle(), timeout(), (() -> term())) :: term()
  def retry(buffer, ref, timeout, call) do
    started = System.monotonic_time()
    result = try_again(started, timeout, call, call.())
    blocked(buffer, ref, started, result)
  end

  defp try_again(started, timeout, call, :wait) do
    if timeout != :infinity and elapsed_ms(started) >= timeout do
      {:error, :timeout}
    else
      receive do
      after
        @again_ms -> try_again(started, timeout, call, call.())
      end
    end
  end

  defp try_again(_started, _timeout, _call, result), do: result

  @doc "Reports a write for which there was no room."
  @spec rejected(atom(), Native.handle(), :full | :too_large | :timeout) :: {:error, atom()}
  def rejected(buffer, ref, reason) do
    :ok = Native.buffer_rejected(ref)
    Telemetry.write([:rejected], %{count: 1}, %{buffer: buffer, reason: reason})
    {:error, reason}
  end

  defp await(ref, reference, ticket, timeout) do
    receive do
      {^reference, result} -> result
    after
      timeout ->
        if Native.buffer_give_up(ref, ticket) do
          {:error, :timeout}
        else
          # It is being served: the answer comes.
          receive do
            {^reference, result} -> result
          end
        end
    end
  end

  defp blocked(buffer, ref, started, result) do
    Telemetry.write(
      [:blocked],
      %{duration: System.monotonic_time() - started},
      %{buffer: buffer, result: result(result)}
    )

    if result == {:error, :timeout}, do: rejected(buffer, ref, :timeout), else: result
  end

  defp result({:error, reason}), do: reason
  defp result(result) when is_atom(result), do: result
  defp result(_written), do: :ok

  defp elapsed_ms(started) do
    System.convert_time_unit(System.monotonic_time() - started, :native, :millisecond)
  end
end
