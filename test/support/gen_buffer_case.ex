defmodule PartitionedBuffer.GenBufferCase do
  @moduledoc false
  # Handlers that do what their messages say, and a buffer that ends with the test.

  use ExUnit.CaseTemplate

  alias PartitionedBuffer.{BufferCase, GenBuffer}

  defmodule Handler do
    @moduledoc false
    # The state is a list of what was handled, newest first, or what `init/1` was told to make of it.
    use PartitionedBuffer.GenBuffer

    @impl true
    def init({:return, return}), do: return
    def init({:call, fun}), do: fun.()
    def init(args), do: {:ok, args}

    @impl true
    def handle_message(_buffer, {:call, fun}, state), do: {:ok, fun.(), state}
    def handle_message(_buffer, {:return, return}, _state), do: return
    def handle_message(_buffer, :state, state), do: {:ok, state, state}
    def handle_message(_buffer, :self, state), do: {:ok, self(), state}
    def handle_message(buffer, :buffer, state), do: {:ok, buffer, state}
    def handle_message(_buffer, {:put, state}, _state), do: {:ok, :ok, state}

    # Tells the test that it has begun, and goes on when it is told to.
    def handle_message(_buffer, {:gate, test, name}, state) do
      send(test, {:at_gate, name, self()})

      receive do
        {:open, ^name} -> {:ok, name, state}
      end
    end

    def handle_message(_buffer, message, state), do: {:ok, {:handled, message}, state}

    @impl true
    def handle_info(_buffer, {:return, return}, _state), do: return
    def handle_info(_buffer, {:throw, return}, _state), do: throw(return)
    def handle_info(_buffer, {:call, fun}, state), do: {:noreply, fun.(state)}

    def handle_info(_buffer, message, state) do
      if is_map(state) and is_pid(state[:test]), do: send(state.test, {:info, self(), message})
      {:noreply, state}
    end

    @impl true
    def terminate(_buffer, reason, state) do
      if is_map(state) and is_pid(state[:test]) do
        send(state.test, {:terminated, self(), reason})
        if state[:throws], do: throw(:ignored)
      end
    end
  end

  defmodule Bare do
    @moduledoc false
    # The mandatory callback alone.
    def handle_message(_buffer, message, state), do: {:ok, {message, state}, state}
  end

  using do
    quote do
      import PartitionedBuffer.GenBufferCase
      alias PartitionedBuffer.GenBuffer
      alias PartitionedBuffer.GenBufferCase.{Bare, Handler}
    end
  end

  @doc "Starts a buffer that ends with the test, and returns its name."
  def start_buffer(opts \\ []) do
    defaults = [
      buffer: BufferCase.unique_name("gen_buffer"),
      message_handler: Handler,
      workers: 1,
      send_replies: true,
      drain_timeout_ms: 0
    ]

    opts = Keyword.merge(defaults, opts)
    ExUnit.Callbacks.start_supervised!({GenBuffer, opts}, restart: :temporary, id: opts[:buffer])
    opts[:buffer]
  end

  @doc "Has a worker wait at a gate: it is busy until `open/2`."
  def close_gate(buffer, name \\ make_ref()) do
    GenBuffer.send(buffer, {:gate, self(), name})

    receive do
      {:at_gate, ^name, pid} -> {pid, name}
    after
      5_000 -> ExUnit.Assertions.flunk("no worker came to the gate")
    end
  end

  @doc "Lets the worker at a gate go on."
  def open({pid, name}), do: send(pid, {:open, name})

  @doc "Waits until this is so."
  def await(fun, patience \\ 5_000) do
    cond do
      fun.() ->
        :ok

      patience == 0 ->
        ExUnit.Assertions.flunk("it was never so")

      true ->
        receive do
        after
          1 -> await(fun, patience - 1)
        end
    end
  end

  @doc "The figures, in which nothing is missing."
  def figures(buffer) do
    info = GenBuffer.info(buffer)
    discarded = info.discarded |> Map.values() |> Enum.sum()
    sum = info.processed + info.failed + info.cancelled + discarded + info.size + info.in_flight
    ExUnit.Assertions.assert(info.accepted == sum)
    info
  end

  @doc """
  Calls a function while workers are killed at random and the pool is resized, up to `most`. It has half as many in the
  end.
  """
  def with_chaos(buffer, most, fun) do
    chaos = spawn_link(fn -> chaos(buffer, most) end)
    result = fun.()
    send(chaos, {:enough, self()})

    receive do
      :enough -> result
    after
      60_000 -> ExUnit.Assertions.flunk("the pool can't be resized")
    end
  end

  defp chaos(buffer, most) do
    receive do
      {:enough, test} ->
        {:ok, _pids} = GenBuffer.set_workers(buffer, div(most, 2))
        send(test, :enough)
    after
      1 ->
        case :rand.uniform(4) do
          1 -> {:ok, _pids} = GenBuffer.set_workers(buffer, :rand.uniform(most + 1) - 1)
          _ -> kill_one(buffer)
        end

        # Somebody has to go on in the end.
        if GenBuffer.get_workers(buffer) == {:error, :no_available_workers},
          do: {:ok, _pids} = GenBuffer.set_workers(buffer, :rand.uniform(most))

        chaos(buffer, most)
    end
  end

  defp kill_one(buffer) do
    with {:ok, pid} <- GenBuffer.get_worker(buffer), do: Process.exit(pid, :kill)
  end
end
