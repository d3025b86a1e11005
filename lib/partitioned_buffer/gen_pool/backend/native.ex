defmodule PartitionedBuffer.GenPool.Backend.Native do
  @moduledoc """
  The shared state of a pool in a native cell. This is the default backend.

    * Reading a state whose version is known costs an empty native call, whatever its size: nothing is
      copied and no lock is taken.
    * Readers of a changed state copy it at the same time; a lock is held only to find out where it is.
    * A state of more than 128 KB is copied on a dirty scheduler. Integers, atoms and the like take no
      memory of their own, and small tuples, lists and maps are kept as a few bytes.

  It has no configuration. `%PartitionedBuffer.GenPool.Backend.Native{}` is the same as the module.
  """

  @behaviour PartitionedBuffer.GenPool.Backend

  alias PartitionedBuffer.Native

  defstruct []

  @typedoc "A configuration of nothing."
  @type t :: %__MODULE__{}

  @impl true
  def new(_config, state) do
    case with_dirty(Native.cell_new(state), fn -> Native.cell_new_dirty(state) end) do
      :heavy -> {:error, :state_too_large}
      {version, cell} -> {:ok, cell, version}
    end
  end

  @impl true
  def get(cell, known) do
    with :heavy <- Native.cell_get(cell, known), do: Native.cell_get_dirty(cell, known)
  end

  @impl true
  def update(cell, version, state) do
    case with_dirty(Native.cell_update(cell, version, state), fn ->
           Native.cell_update_dirty(cell, version, state)
         end) do
      :changed -> :changed
      :heavy -> too_large!()
      version -> {:ok, version}
    end
  end

  @doc false
  @spec too_large!() :: no_return()
  def too_large!, do: raise(ArgumentError, "a state of 4 GB or more can't be shared")

  defp with_dirty(:heavy, dirty), do: dirty.()
  defp with_dirty(result, _dirty), do: result
end
