defmodule PartitionedBuffer.BoundsCase do
  @moduledoc false
  # What tests of bounds, delivery and what is done on demand share: they are about queues and maps alike,
  # so here both take numbers. Number `i` is the item `i` of a queue, or the key `i` of a map.

  use ExUnit.CaseTemplate

  import ExUnit.Assertions

  alias PartitionedBuffer.Map, as: Buffer
  alias PartitionedBuffer.{FaultHelpers, Names, Queue}

  using do
    quote do
      import PartitionedBuffer.BoundsCase
      import PartitionedBuffer.BufferCase
      import PartitionedBuffer.MapCase, only: [start_map!: 1, start_map!: 2, await_idle: 1]

      import PartitionedBuffer.FaultHelpers,
        only: [wait_until: 1, kill: 1, await_successor: 2, await_down: 1, pause: 1]

      import PartitionedBuffer.TelemetryCase
      alias PartitionedBuffer.{BoundsCase, GatedProcessor, Names, Queue}
      alias PartitionedBuffer.Map, as: Buffer
    end
  end

  @doc "Starts a buffer of this kind, which ends with the test, and listens to all of its events."
  def start!(kind, opts \\ [], child_opts \\ []) do
    opts = PartitionedBuffer.BufferCase.queue_options(opts)
    PartitionedBuffer.TelemetryCase.listen(opts[:name], PartitionedBuffer.Telemetry.events())
    child = Supervisor.child_spec({module(kind), opts}, [restart: :temporary] ++ child_opts)
    ExUnit.Callbacks.start_supervised!(child)
    opts[:name]
  end

  defp module(:queue), do: Queue
  defp module(:map), do: Buffer

  @doc "Writes a number, or a list of them."
  def write(kind, name, number, opts \\ [])
  def write(:queue, name, number, opts), do: Queue.push(name, number, opts)

  def write(:map, name, numbers, opts) when is_list(numbers),
    do: Buffer.put_all(name, Enum.map(numbers, &{&1, &1}), opts)

  def write(:map, name, number, opts), do: Buffer.put(name, number, number, opts)

  @doc "Writes a number and waits for it."
  def write_await(kind, name, number, opts \\ [])
  def write_await(:queue, name, number, opts), do: Queue.push_await(name, number, opts)
  def write_await(:map, name, number, opts), do: Buffer.put_await(name, number, number, opts)

  @doc "The numbers of a batch."
  def numbers(batch) do
    Enum.map(batch, fn
      {key, _value, _version, _updates} -> key
      number -> number
    end)
  end

  @doc "Writes in a process of its own, whose result comes as with `Task.await/2`, once it is blocked."
  def blocked(kind, name, number, opts \\ [timeout: :infinity]) do
    before = PartitionedBuffer.info(name).blocked
    task = Task.async(fn -> write(kind, name, number, opts) end)
    FaultHelpers.wait_until(fn -> PartitionedBuffer.info(name).blocked == before + 1 end)
    task
  end

  @doc "What was given up, by reason, as `on_discard` of `tell/3` has told it."
  def tell(batch, reason, test), do: send(test, {:given_up, self(), reason, batch})

  @doc "All that `tell/3` has told."
  def told do
    receive do
      {:given_up, _pid, reason, batch} -> [{reason, batch} | told()]
    after
      0 -> []
    end
  end

  @doc "The process of the only partition."
  def partition(name), do: Process.whereis(Names.partition(name, 0))

  @doc "The figures are right, and room is what is held."
  def assert_room(name) do
    info = PartitionedBuffer.BufferCase.assert_accounted(PartitionedBuffer.info(name))
    assert info.room == %{entries: info.queued + info.in_flight, bytes: info.bytes}
    info
  end

  @doc "All is gone, in every figure."
  def assert_nothing_held(name) do
    info = PartitionedBuffer.BufferCase.assert_accounted(PartitionedBuffer.info(name))
    assert %{queued: 0, in_flight: 0, bytes: 0, blocked: 0} = info
    assert info.room in [nil, %{entries: 0, bytes: 0}]
    info
  end
end
