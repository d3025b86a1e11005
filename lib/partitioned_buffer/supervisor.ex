defmodule PartitionedBuffer.Supervisor do
  @moduledoc false
  # The tree of one buffer:
  #
  #     buffer supervisor (one_for_one)
  #     ├── Registry              named as the buffer
  #     ├── Task.Supervisor       the processes that run the processor
  #     ├── partition supervisor  (one_for_one)
  #     │   ├── partition 0
  #     │   └── …
  #     └── owner                 options and orderly end; ended first
  #
  # No child needs another one to be started again: what they share is native. So each is restarted
  # alone, and a high intensity of restarts is safe: a restart loses nothing and costs microseconds.

  use Supervisor

  alias PartitionedBuffer.{Handle, Names, Native, Options, Owner, PartitionSupervisor}

  # Still ends what fails at every start, which takes microseconds each.
  @restarts [max_restarts: 1_000, max_seconds: 1]

  @doc "How often children may be restarted; the partition supervisor allows the same."
  @spec restarts() :: keyword()
  def restarts, do: @restarts

  @spec start_link(keyword()) :: Supervisor.on_start()
  def start_link(opts) do
    own = Names.supervisor(opts[:name])

    with :ok <- available(own, opts[:name], opts[:partitions]),
         do: Supervisor.start_link(__MODULE__, opts, name: own)
  end

  # Who takes over what a killed one held has all the patience there is.
  defp available(own, buffer, partitions) do
    case Handle.fetch(buffer) do
      {:ok, _former} -> :ok
      :error -> Names.available(own, names(buffer, partitions))
    end
  end

  defp names(buffer, partitions) do
    partitions = for index <- 0..(partitions - 1)//1, do: Names.partition(buffer, index)

    [
      buffer,
      Names.registry_partition(buffer),
      Names.task_supervisor(buffer),
      Names.partition_supervisor(buffer),
      Names.owner(buffer) | partitions
    ]
  end

  @impl true
  def init(opts) do
    buffer = opts[:name]
    # This process has the supervisor's name now, so it is the only one that starts this buffer.
    Enum.each(
      [buffer, Names.task_supervisor(buffer), Names.partition_supervisor(buffer)],
      fn name ->
        :ok = Names.await_free(name)
      end
    )

    ref = open(buffer, opts[:module].kind(), opts[:partitions])

    if opts[:module].kind() == :map,
      do: :ok = Native.map_remember_dirty(ref, opts[:version_memory])

    :ok = Handle.put_settings(ref, Options.settings(opts))
    :ok = Handle.put(buffer, ref, opts[:module], opts[:extra])

    module = opts[:module]

    children = [
      %{id: Registry, start: {__MODULE__, :start_registry, [buffer]}, type: :supervisor},
      {Task.Supervisor, name: Names.task_supervisor(buffer)},
      {PartitionSupervisor, {buffer, ref, module}},
      {Owner, {buffer, ref, module}}
    ]

    Supervisor.init(children, [strategy: :one_for_one] ++ @restarts)
  end

  # A Registry has a process of its own, which keeps its name for a moment when the Registry is killed.
  # Without waiting for it, trying again and again would use up all restarts.
  @doc false
  @spec start_registry(atom()) :: Supervisor.on_start()
  def start_registry(buffer) do
    :ok = Names.await_free(Names.registry_partition(buffer))
    Registry.start_link(keys: :duplicate, name: buffer)
  end

  # Takes over what a tree of this name held that was killed.
  defp open(buffer, kind, partitions) do
    case Native.buffer_open(Atom.to_string(buffer), kind, partitions) do
      {:mismatch, old} ->
        end_runners(old)

        case partitions > 0 and replace(old, kind, partitions) do
          {:ok, ref} -> ref
          _other_kind_or_none -> raise ArgumentError, held_back(buffer)
        end

      {_created_or_adopted, ref} ->
        ref
    end
  end

  # All entries of a map go through the heap of the process that calls this.
  defp replace(old, kind, partitions) do
    fn -> Native.buffer_replace(old, kind, partitions) end
    |> Task.async()
    |> Task.await(:infinity)
  end

  # What they have in flight is discarded and reported. With the same number of partitions they would be
  # waited for.
  defp end_runners(ref) do
    Enum.each(Handle.indexes(ref), fn index ->
      with {runner, _ms} when is_pid(runner) <- Native.partition_status(ref, index) do
        monitor = Process.monitor(runner)
        Process.exit(runner, :kill)

        receive do
          {:DOWN, ^monitor, :process, ^runner, _reason} -> :ok
        end
      end
    end)
  end

  defp held_back(buffer) do
    "#{inspect(buffer)} was killed and holds entries: it can't be started again without partitions or as " <>
      "a buffer of another kind"
  end
end
