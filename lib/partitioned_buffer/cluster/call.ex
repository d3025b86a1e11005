defmodule PartitionedBuffer.Cluster.Call do
  @moduledoc false
  # A call of a function on another node, by `:erpc`.
  #
  # It is made by a process of its own: a sender is suspended while a connection takes nothing any more, and
  # that would hold the caller up beyond its time.
  #
  # Invariant: when `await/2` has returned, nothing of the call comes to the caller's process any more.

  alias PartitionedBuffer.Awaited

  @type t :: {pid(), reference()}

  @spec start(node(), module(), atom(), [term()], timeout()) :: t()
  def start(node, module, function, args, ms) do
    spawn_monitor(__MODULE__, :run, [node, module, function, args, ms])
  end

  @doc false
  @spec run(node(), module(), atom(), [term()], timeout()) :: no_return()
  def run(node, module, function, args, ms),
    do: exit({:answer, remote(node, module, function, args, ms)})

  @doc """
  What the function has returned; `{:refused, :closed}` if that node does not have it; `{:lost, reason}` if it
  can't be told whether it was called, or what it has done.
  """
  @spec await(t(), integer() | :infinity) :: term() | {:refused, :closed} | {:lost, term()}
  def await({pid, monitor}, deadline) do
    receive do
      {:DOWN, ^monitor, :process, ^pid, {:answer, answer}} -> answer
      {:DOWN, ^monitor, :process, ^pid, reason} -> {:lost, reason}
    after
      Awaited.left(deadline) ->
        Process.demonitor(monitor, [:flush])
        Process.exit(pid, :kill)
        {:lost, :timeout}
    end
  end

  @doc "Both, at once."
  @spec call(node(), module(), atom(), [term()], timeout()) :: term()
  def call(node, module, function, args, timeout) do
    deadline = Awaited.deadline(timeout)
    node |> start(module, function, args, timeout) |> await(deadline)
  end

  defp remote(node, module, function, args, ms) do
    :erpc.call(node, module, function, args, ms)
  catch
    # It does not have this library, or another version of it.
    :error, {:exception, :undef, [{^module, ^function, _args, _where} | _stack]} ->
      {:refused, :closed}

    :error, {:erpc, reason} ->
      {:lost, reason}

    _kind, reason ->
      {:lost, reason}
  end
end
