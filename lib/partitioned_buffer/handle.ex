defmodule PartitionedBuffer.Handle do
  @moduledoc false
  # From a buffer's name to its storage: one read of `:persistent_term`, which takes no lock, copies
  # nothing and scales with the schedulers.
  #
  # Invariant: the handle of a running buffer is there from before its first process starts until
  # after its last batch. It stays when every process of the buffer is killed, so that writes are
  # taken all the same and the tree that is started again finds them.

  alias PartitionedBuffer.{Names, Native, Options, Router}

  @enforce_keys [:ref, :partitions, :module]
  defstruct [:extra | @enforce_keys]

  @typedoc "`extra` is what the module of the buffer keeps with it."
  @type t :: %__MODULE__{
          ref: Native.handle(),
          partitions: tuple(),
          module: module(),
          extra: term()
        }

  @spec put(atom(), Native.handle(), module(), term()) :: :ok
  def put(buffer, ref, module, extra) do
    partitions = for index <- indexes(ref), do: Names.partition(buffer, index)

    alone(buffer, fn ->
      :ok = Native.buffer_put_name(ref, buffer)

      :persistent_term.put(key(buffer), %__MODULE__{
        ref: ref,
        partitions: List.to_tuple(partitions),
        module: module,
        extra: extra
      })
    end)
  end

  @spec fetch!(atom()) :: t()
  def fetch!(buffer) do
    case :persistent_term.get({PartitionedBuffer, buffer}, nil) do
      nil -> unknown!(buffer)
      handle -> handle
    end
  end

  @spec fetch(atom()) :: {:ok, t()} | :error
  def fetch(buffer) do
    case :persistent_term.get(key(buffer), nil) do
      nil -> :error
      handle -> {:ok, handle}
    end
  end

  @doc """
  Returns if the storage that refused a write is no longer the one of this name: the write is to be
  tried again there. Raises if it is, since the buffer has been stopped then.
  """
  @spec reopened!(atom(), Native.handle()) :: :ok
  def reopened!(buffer, closed) do
    case fetch(buffer) do
      {:ok, %{ref: ref}} when ref != closed -> :ok
      _stopped -> unknown!(buffer)
    end
  end

  # Erasing makes the VM look through every process for the old value; that happens once for each
  # stop of a buffer. Another buffer that was started under the name meanwhile keeps it.
  @spec erase(atom(), Native.handle()) :: :ok
  def erase(buffer, ref) do
    alone(buffer, fn ->
      :ok = Native.buffer_erase_name(ref, buffer)
      with {:ok, %{ref: ^ref}} <- fetch(buffer), do: :persistent_term.erase(key(buffer))
      :ok
    end)
  end

  @doc """
  The index of the partition that an entry goes to by a `:partition_key`. Raises if there is none.
  """
  @spec index!(t(), atom(), Router.key_option(), term()) :: Native.index()
  def index!(%{partitions: {}}, buffer, _key, _entry),
    do: PartitionedBuffer.no_partitions!(buffer)

  def index!(handle, _buffer, key, entry),
    do: Router.index(key, entry, tuple_size(handle.partitions))

  @doc "The same for each entry of a list."
  @spec indexes!(t(), atom(), Router.key_option() | Router.Hashes.t(), [term()]) ::
          [Native.index()]
  def indexes!(_handle, _buffer, _key, []), do: []

  def indexes!(%{partitions: {}}, buffer, _key, _entries),
    do: PartitionedBuffer.no_partitions!(buffer)

  def indexes!(handle, _buffer, key, entries),
    do: Router.indexes(key, entries, tuple_size(handle.partitions))

  @doc "Puts options in force."
  @spec put_settings(Native.handle(), map()) :: :ok
  def put_settings(ref, settings) do
    Native.buffer_put_settings(ref, settings, Options.rules(settings))
  end

  @doc "The options in force."
  @spec settings(Native.handle()) :: map()
  def settings(ref) do
    [settings] = Native.buffer_settings(ref)
    settings
  end

  @spec indexes(Native.handle()) :: Range.t()
  def indexes(ref), do: 0..(Native.buffer_partitions(ref) - 1)//1

  @spec unknown!(term()) :: no_return()
  def unknown!(buffer), do: raise(ArgumentError, unknown(buffer))

  @doc "Whether this is what a call raises whose buffer is not running, or has been closed."
  @spec unknown?(Exception.t(), term()) :: boolean()
  def unknown?(error, buffer), do: Exception.message(error) == unknown(buffer)

  defp unknown(buffer),
    do: "unknown registry: #{inspect(buffer)} (no PartitionedBuffer is running under this name)"

  # The owner of a buffer whose supervisor was killed may be ending while another buffer of the name starts:
  # between its look at the handle and its erasing of it, the other one could put its own.
  defp alone(buffer, fun), do: :global.trans({key(buffer), self()}, fun, [node()])

  defp key(buffer), do: {PartitionedBuffer, buffer}
end
