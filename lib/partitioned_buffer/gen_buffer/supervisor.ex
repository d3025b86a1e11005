defmodule PartitionedBuffer.GenBuffer.Supervisor do
  @moduledoc false
  # The tree of one GenBuffer:
  #
  #     buffer supervisor (one_for_one)
  #     ├── keeper                tells senders what became of dropped messages; ended last
  #     ├── worker supervisor     the workers, none of which it restarts
  #     └── manager               how many workers there are, and the orderly end; ended first
  #
  # Messages are native, and so is what is left to tell. So each process may be killed at any time and is
  # started again alone; a crashing handler costs a worker and the message it had.

  use Supervisor

  alias PartitionedBuffer.{Broker, Names}
  alias PartitionedBuffer.GenBuffer.{Handle, Listener, Manager, Options, Telemetry}

  # Still ends what fails at every start, which takes microseconds each.
  @restarts [max_restarts: 1_000, max_seconds: 1]

  @spec start_link(atom(), map()) :: Supervisor.on_start()
  def start_link(buffer, opts) do
    own = Names.supervisor(buffer)

    with :ok <- available(own, buffer),
         do: started(Supervisor.start_link(__MODULE__, {buffer, opts}, name: own), buffer)
  end

  # Who takes over what a killed one held has all the patience there is.
  defp available(own, buffer) do
    case Handle.fetch(buffer) do
      {:ok, _former} -> :ok
      :error -> Names.available(own, names(buffer))
    end
  end

  defp names(buffer), do: [Handle.keeper(buffer), workers(buffer), Handle.manager(buffer)]

  defp started(result, buffer) do
    case result do
      {:error, {:shutdown, {:failed_to_start_child, Manager, reason}}} ->
        :ok = forget(buffer)
        {:error, reason}

      other ->
        other
    end
  end

  # It never ran. What a former one has left waits for the next.
  defp forget(buffer) do
    with {:ok, %{broker: broker}} <- Handle.fetch(buffer), 0 <- Broker.size(broker) do
      :ok = Broker.release(broker)
      Handle.erase(buffer, broker)
    else
      _none_or_not_empty -> :ok
    end
  end

  @doc "The supervisor of the workers."
  @spec workers(atom()) :: atom()
  def workers(buffer), do: Module.concat(buffer, WorkerSupervisor)

  @impl true
  def init({buffer, opts}) do
    # Before anything is opened.
    Enum.each(names(buffer), fn name -> :ok = Names.await_free(name) end)

    {_how, broker} =
      Broker.open(Handle.native_name(buffer), Options.places(opts), Options.broker(opts))

    handle = Handle.new(buffer, broker, opts)
    handle = Handle.put_observed(buffer, handle, Telemetry.listening?())

    children = [
      Broker.Keeper.child_spec({broker, handle.keeper, {Listener, buffer}}),
      {DynamicSupervisor, name: workers(buffer), strategy: :one_for_one},
      {Manager, {buffer, handle}}
    ]

    Supervisor.init(children, [strategy: :one_for_one] ++ @restarts)
  end
end
