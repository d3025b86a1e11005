defmodule PartitionedBuffer.GenBuffer.Dist.Receiver do
  @moduledoc false
  # What other nodes ask this one for. All functions return `{:ok, answer}` or `{:error, reason}`, so that what
  # a handler does is told from what the network does.

  alias PartitionedBuffer.GenBuffer

  @type answer :: {:ok, term()} | {:error, term()}

  @spec send(atom(), term(), pid()) :: answer()
  def send(buffer, message, reply_to),
    do: running(buffer, fn -> ok(GenBuffer.send(buffer, message, reply_to)) end)

  @spec send_recv(atom(), term(), timeout()) :: answer()
  def send_recv(buffer, message, timeout),
    do: running(buffer, fn -> {:ok, GenBuffer.send_recv(buffer, message, timeout)} end)

  # What the caller is to exit with is an error, what it is to get a reply.
  @spec eval(atom(), term(), non_neg_integer() | :infinity) :: answer()
  def eval(buffer, message, retries) do
    running(buffer, fn ->
      try do
        {:ok, {:reply, GenBuffer.eval(buffer, message, retries)}}
      catch
        :exit, reason -> {:error, reason}
      end
    end)
  end

  @spec get_workers(atom()) :: answer()
  def get_workers(buffer), do: GenBuffer.get_workers(buffer)

  @spec set_workers(atom(), non_neg_integer(), GenBuffer.opts()) :: answer()
  def set_workers(buffer, count, opts), do: GenBuffer.set_workers(buffer, count, opts)

  @spec size(atom()) :: answer()
  def size(buffer), do: buffer |> GenBuffer.size() |> defined()

  @spec info(atom()) :: answer()
  def info(buffer), do: buffer |> GenBuffer.info() |> defined()

  @spec info_of([atom()]) :: {:ok, map()}
  def info_of(buffers) do
    {:ok,
     for(
       buffer <- buffers,
       info = GenBuffer.info(buffer),
       info != :undefined,
       into: %{},
       do: {buffer, info}
     )}
  end

  defp ok(ref) when is_reference(ref), do: {:ok, ref}
  defp ok({:error, reason}), do: {:error, reason}

  defp defined(:undefined), do: {:error, :no_available_buffer}
  defp defined(answer), do: {:ok, answer}

  # It may have ended: here, or between two looks of `GenBuffer`.
  defp running(buffer, fun) do
    if GenBuffer.size(buffer) == :undefined, do: {:error, :no_available_buffer}, else: fun.()
  rescue
    error in ArgumentError ->
      if GenBuffer.size(buffer) == :undefined,
        do: {:error, :no_available_buffer},
        else: reraise(error, __STACKTRACE__)
  end
end
