defmodule PartitionedBuffer.GenPool.Backend do
  alias PartitionedBuffer.GenPool.Backend.{Ane, Native}

  @moduledoc """
  Where the shared state of a `PartitionedBuffer.GenPool` lives.

  A backend keeps one term with a version and replaces it only for somebody who names the version that is
  there. That is all it takes to lose no update, whatever number of handlers run at the same time.

  Two come with the library:

    * `PartitionedBuffer.GenPool.Backend.Native` (default) - a native cell: reading an unchanged state
      copies nothing, and readers don't wait for each other
    * `PartitionedBuffer.GenPool.Backend.ETS` - a row of an ETS table

  To bring your own, implement this behaviour and name it, in one of three ways:

      use PartitionedBuffer.GenPool, backend: MyBackend
      use PartitionedBuffer.GenPool, backend: {MyBackend, some: :config}
      use PartitionedBuffer.GenPool, backend: %MyBackend{some: :config}

  `c:new/2` gets the configuration: `[]`, what stands in the tuple, or the struct.

  ## Example

  A backend that keeps the state in an agent:

      defmodule MyBackend do
        @behaviour PartitionedBuffer.GenPool.Backend

        @impl true
        def new(_config, state) do
          {:ok, agent} = Agent.start_link(fn -> {1, state} end)
          {:ok, agent, 1}
        end

        @impl true
        def get(agent, known) do
          case Agent.get(agent, & &1) do
            {^known, _state} -> :unchanged
            versioned -> versioned
          end
        end

        @impl true
        def update(agent, version, state) do
          Agent.get_and_update(agent, fn
            {^version, _old} -> {{:ok, version + 1}, {version + 1, state}}
            newer -> {:changed, newer}
          end)
        end

        @impl true
        def delete(agent), do: Agent.stop(agent)
      end
  """

  @typedoc "Refers to the place of one pool's state. It is handed to all workers."
  @type ref :: term()

  @typedoc "Stands for one state, ever: a version that was given to one state is given to no other one."
  @type version :: term()

  @doc """
  Makes a place for a state and puts the first one in. Called once for each start of a pool, in the pool's
  own process.
  """
  @callback new(config :: term(), state :: term()) ::
              {:ok, ref(), version()} | {:error, reason :: term()}

  @doc """
  The state and its version, or `:unchanged` if that is the `known` one (`nil`: none is). The two belong
  together. Called by the workers and by `PartitionedBuffer.GenPool.get_state/1`, at the same time.
  """
  @callback get(ref(), known :: version() | nil) :: {version(), state :: term()} | :unchanged

  @doc """
  Replaces the state if `version` is that of the one that is there, in one step; otherwise changes nothing.
  Answers the new version, or `:changed`.
  """
  @callback update(ref(), version(), state :: term()) :: {:ok, version()} | :changed

  @doc "The pool has ended. Not called when the pool was killed."
  @callback delete(ref()) :: term()

  @optional_callbacks delete: 1

  @doc false
  @spec parse(term()) :: {:ok, {module(), config :: term()}} | {:error, String.t()}
  def parse(%Ane{}), do: parse(Native)
  def parse(Ane), do: parse(Native)
  def parse(%module{} = config), do: parse(module, config)
  def parse({module, config}) when is_atom(module), do: parse(module, config)
  def parse(module) when is_atom(module), do: parse(module, [])

  def parse(other) do
    {:error,
     "expected a backend's module, {module, config} or its struct, got: #{inspect(other)}"}
  end

  defp parse(module, config) do
    callbacks = [new: 2, get: 2, update: 3]

    if Code.ensure_loaded?(module) and
         Enum.all?(callbacks, fn {name, arity} -> function_exported?(module, name, arity) end) do
      {:ok, {module, config}}
    else
      {:error,
       "expected a module that implements #{inspect(__MODULE__)}, got: #{inspect(module)}"}
    end
  end
end
