defmodule PartitionedBuffer.GenPool.Crew do
  @moduledoc false
  # The workers of a pool, as its process sees them: how many there are, who takes the place of whom.
  #
  # Works on the state of `PartitionedBuffer.GenPool.Owner`, in its process, and changes what is about workers:
  # `:workers` and `:leaving` (each with its monitor), `:size`, `:restarts`.
  #
  # Invariant: whoever is among `:workers` was started and is monitored; `complete/1` leaves none of them dead.

  alias PartitionedBuffer.Broker
  alias PartitionedBuffer.GenPool.{Telemetry, Worker}

  # Still ends what fails at every start, which is no matter of how many requests crash their handlers.
  @restarts 1_000
  @restarts_ms 1_000

  @type state :: map()
  @type result :: {:ok, state()} | {:error, reason :: term(), state()}

  @doc "Starts those that are missing."
  @spec grow(state()) :: result()
  def grow(%{workers: workers, size: size} = state) when map_size(workers) >= size,
    do: {:ok, state}

  def grow(state) do
    case start_worker(state) do
      {:ok, worker} ->
        started(state, worker)
        grow(put_in(state.workers[worker], Process.monitor(worker)))

      :ignore ->
        {:error, :ignore, state}

      {:error, reason} ->
        {:error, reason, state}
    end
  end

  defp start_worker(state) do
    DynamicSupervisor.start_child(state.supervisor, {Worker, setup(state)})
  catch
    # It was killed, which ends the pool as soon as its process hears of it.
    :exit, _not_there -> {:error, :no_supervisor}
  end

  defp setup(state) do
    %{
      pool: state.pool,
      module: state.module,
      owner: self(),
      broker: state.broker.broker,
      keeper: state.broker.keeper,
      answers: state.broker.answers,
      signals: state.signals,
      idle_ms: state.broker.idle_ms,
      shared: state.shared,
      init_arg: state.arg,
      trap_exit: state.traps?,
      external?: state.opts.external_broker?
    }
  end

  defp started(state, worker) do
    Telemetry.execute([:worker, :start], %{system_time: System.system_time()}, %{
      pool: state.pool,
      worker: worker
    })
  end

  @doc "One has ended, and nobody takes its place."
  @spec ended(state(), pid(), term()) :: :ok
  def ended(state, worker, reason) do
    Telemetry.execute([:worker, :stop], %{system_time: System.system_time()}, %{
      pool: state.pool,
      worker: worker,
      reason: reason
    })
  end

  @doc "Another one takes the place of a worker that has ended, unless it was to leave."
  @spec replace(state(), pid(), term()) :: result()
  def replace(state, worker, reason) do
    ended(state, worker, reason)

    case state do
      %{leaving: %{^worker => _monitor}} ->
        {:ok, %{state | leaving: Map.delete(state.leaving, worker)}}

      %{stopped?: true} ->
        {:ok, %{state | workers: Map.delete(state.workers, worker)}}

      _state ->
        refill(%{state | workers: Map.delete(state.workers, worker)})
    end
  end

  # With a shared state a worker does nothing when it starts: whatever has ended it was sent to it.
  defp refill(%{shared: %{}} = state), do: fill(state)
  defp refill(state), do: refill_again(state)

  defp refill_again(state) do
    with {:ok, state} <- restarted(state), do: fill(state)
  end

  defp fill(state) do
    case grow(state) do
      {:ok, state} -> {:ok, state}
      # One that does not want to be there.
      {:error, :ignore, state} -> {:ok, %{state | size: state.size - 1}}
      {:error, :no_supervisor, state} -> {:ok, state}
      {:error, _reason, state} -> refill_again(state)
    end
  end

  @doc "Whether one more may be started in place of another one."
  @spec restarted(state()) :: result()
  def restarted(%{restarts: {since, count, before}} = state) do
    now = System.monotonic_time(:millisecond)

    cond do
      now - since > @restarts_ms -> {:ok, restarts_from(state, now)}
      count < @restarts -> {:ok, %{state | restarts: {since, count + 1, before}}}
      # They had requests, most of them at least.
      through(state) - before > div(count, 2) -> {:ok, restarts_from(state, now)}
      true -> {:error, :reached_max_restart_intensity, state}
    end
  end

  defp restarts_from(state, now), do: %{state | restarts: {now, 1, through(state)}}

  defp through(state) do
    %{done: done, failed: failed} = Broker.info(state.broker.broker)
    done + failed
  end

  @doc "Sees to those that have ended and of which nobody has been told yet."
  @spec complete(state()) :: result()
  def complete(state) do
    case Enum.find(state.workers, fn {worker, _monitor} -> not Process.alive?(worker) end) do
      nil ->
        {:ok, state}

      {worker, monitor} ->
        reason =
          receive do
            {:DOWN, ^monitor, :process, ^worker, reason} -> reason
          end

        with {:ok, state} <- replace(state, worker, reason), do: complete(state)
    end
  end

  @doc "Has those leave that are too many, idle ones first."
  @spec shrink(state()) :: state()
  def shrink(%{workers: workers, size: size} = state) when map_size(workers) <= size, do: state

  def shrink(%{workers: workers, size: size} = state) do
    idle = for %{pid: pid, state: :idle} <- Broker.crew(state.broker.broker), do: {pid, 0}
    idle = Map.new(idle)
    order = workers |> Map.keys() |> Enum.sort_by(&Map.get(idle, &1, 1))
    leaving = Enum.take(order, map_size(workers) - size)
    Enum.each(leaving, &Worker.leave/1)
    {left, stay} = Map.split(workers, leaving)
    %{state | workers: stay, leaving: Map.merge(state.leaving, left)}
  end
end
