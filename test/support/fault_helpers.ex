defmodule PartitionedBuffer.FaultHelpers do
  @moduledoc """
  What the tests of faults share: gated processors, kills that are awaited, events as messages.
  """

  import ExUnit.Assertions
  import ExUnit.Callbacks, only: [on_exit: 1, start_supervised!: 2]

  alias PartitionedBuffer.{Names, Queue, Telemetry}

  # For what has to happen: never reached unless a test fails.
  @patience_ms 10_000
  # An interval after which no test is still running.
  @never_ms 3_600_000

  ## Buffers

  @doc "A name that no other buffer has had."
  @spec unique_name() :: atom()
  def unique_name, do: :"faults_#{System.unique_integer([:positive])}"

  @doc """
  Starts a queue under the test's supervisor, which starts it again when it is killed. Unless the
  options say otherwise it has one partition, batches of ten, and no cycle before `cycle/1`.
  """
  @spec start_queue(keyword(), keyword()) :: atom()
  def start_queue(opts, child_opts \\ []) do
    opts = queue_options(opts)
    start_supervised!(Supervisor.child_spec({Queue, opts}, child_opts), [])
    opts[:name]
  end

  @doc "What `start_queue/2` starts a queue with."
  @spec queue_options(keyword()) :: keyword()
  def queue_options(opts) do
    Keyword.merge(
      [
        name: unique_name(),
        partitions: 1,
        processing_interval_ms: @never_ms,
        processing_timeout_ms: 30_000,
        processing_batch_size: 10
      ],
      opts
    )
  end

  @doc "Makes all partitions start a cycle, and no other one after it."
  @spec cycle(atom()) :: :ok
  def cycle(buffer) do
    :ok = PartitionedBuffer.update_options(buffer, processing_interval_ms: 1)
    wait_until(fn -> PartitionedBuffer.buffer_size(buffer) == 0 end)
    :ok = PartitionedBuffer.update_options(buffer, processing_interval_ms: @never_ms)
  end

  @doc "The process of a partition, as soon as there is one."
  @spec partition(atom(), non_neg_integer()) :: pid()
  def partition(buffer, index \\ 0), do: buffer |> Names.partition(index) |> await_successor(nil)

  @doc "Waits until nothing is queued or in flight; answers the figures."
  @spec await_empty(atom()) :: map()
  def await_empty(buffer) do
    wait_until(fn ->
      info = PartitionedBuffer.info(buffer)
      assert_identity(info)
      info.queued == 0 and info.in_flight == 0 and info
    end)
  end

  @doc "Nothing is unaccounted for, in each partition and in all."
  @spec assert_identity(map()) :: map()
  def assert_identity(info) do
    for figures <- [info | info.partitions] do
      held = figures.queued + figures.in_flight
      gone = figures.processed + discarded(figures)
      assert figures.accepted == held + gone, "lost without a trace: #{inspect(figures)}"
    end

    info
  end

  @doc "Entries discarded, for all reasons."
  @spec discarded(map()) :: non_neg_integer()
  def discarded(figures), do: figures.discarded |> Map.values() |> Enum.sum()

  ## Processors

  @doc """
  A processor that sends `{:batch, pid, batch}` to the calling process and then does what `go/2` says.
  """
  @spec gated() :: ([term()] -> term())
  def gated do
    test = self()

    fn batch ->
      monitor = Process.monitor(test)
      send(test, {:batch, self(), batch})

      receive do
        {:go, action} -> action.(batch)
        {:DOWN, ^monitor, :process, _test, _reason} -> :ok
      end

      Process.demonitor(monitor, [:flush])
    end
  end

  @doc "A processor that sends `{:batch, pid, batch}` to the calling process."
  @spec reporting() :: ([term()] -> term())
  def reporting do
    test = self()
    fn batch -> send(test, {:batch, self(), batch}) end
  end

  @doc "Lets a gated processor go on."
  @spec go(pid(), ([term()] -> term())) :: :ok
  def go(pid, action \\ fn _batch -> :ok end) do
    send(pid, {:go, action})
    :ok
  end

  @doc "Waits for the next batch of a gated or reporting processor."
  @spec await_batch() :: {pid(), [term()]}
  def await_batch do
    assert_receive {:batch, pid, batch}, @patience_ms
    {pid, batch}
  end

  @doc "All items of batches until there are this many of them."
  @spec await_items(non_neg_integer()) :: [term()]
  def await_items(count) when count <= 0, do: []

  def await_items(count) do
    {_pid, batch} = await_batch()
    batch ++ await_items(count - length(batch))
  end

  @doc "All items of batches that have been reported."
  @spec reported_items() :: [term()]
  def reported_items do
    receive do
      {:batch, _pid, batch} -> batch ++ reported_items()
    after
      0 -> []
    end
  end

  ## Events

  @doc "Sends each event of a buffer to the calling process: `{:event, name, measurements, metadata}`."
  @spec attach(atom()) :: :ok
  def attach(buffer) do
    id = {__MODULE__, buffer, make_ref()}
    # That a cycle has begun comes before whatever else a test is about.
    events = Telemetry.events() -- [[:partitioned_buffer, :partition, :flush]]
    :ok = :telemetry.attach_many(id, events, &__MODULE__.forward/4, {self(), buffer})
    on_exit(fn -> :telemetry.detach(id) end)
    :ok
  end

  @doc false
  def forward([_, _ | name], measurements, %{buffer: buffer} = metadata, {test, buffer}) do
    send(test, {:event, name, measurements, metadata})
  end

  def forward(_name, _measurements, _metadata, _config), do: :ok

  @doc "The events of this name that have come so far: `{measurements, metadata}`."
  @spec events([atom()]) :: [{map(), map()}]
  def events(name) do
    receive do
      {:event, ^name, measurements, metadata} -> [{measurements, metadata} | events(name)]
    after
      0 -> []
    end
  end

  @doc "Waits for an event of this name."
  @spec await_event([atom()]) :: {map(), map()}
  def await_event(name) do
    assert_receive {:event, ^name, measurements, metadata}, @patience_ms
    {measurements, metadata}
  end

  @doc "How many entries the discard events tell of, by reason."
  @spec discard_events() :: %{PartitionedBuffer.reason() => pos_integer()}
  def discard_events do
    Enum.reduce(events([:discarded]), %{}, fn {%{size: size}, %{reason: reason}}, sums ->
      Map.update(sums, reason, size, &(&1 + size))
    end)
  end

  ## Processes

  @doc "Kills a process and waits until it has ended. One that is not there has ended already."
  @spec kill(pid() | atom() | nil) :: :ok
  def kill(nil), do: :ok
  def kill(name) when is_atom(name), do: name |> Process.whereis() |> kill()

  def kill(pid) do
    monitor = Process.monitor(pid)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^monitor, :process, ^pid, _reason}, @patience_ms
    :ok
  end

  @doc "Waits until a name belongs to another process than this one."
  @spec await_successor(atom(), pid() | nil) :: pid()
  def await_successor(name, former) do
    wait_until(fn ->
      pid = Process.whereis(name)
      pid != former and pid
    end)
  end

  @doc "Waits for the end of a process."
  @spec await_down(pid()) :: term()
  def await_down(pid) do
    monitor = Process.monitor(pid)
    assert_receive {:DOWN, ^monitor, :process, ^pid, reason}, @patience_ms
    reason
  end

  @doc "Asks again and again until the answer is true; answers it."
  @spec wait_until((() -> term()), timeout()) :: term()
  def wait_until(condition, patience_ms \\ @patience_ms) do
    ask(condition, System.monotonic_time(:millisecond) + patience_ms)
  end

  defp ask(condition, deadline) do
    cond do
      answer = condition.() -> answer
      System.monotonic_time(:millisecond) > deadline -> flunk("waited in vain")
      true -> ask_again(condition, deadline)
    end
  end

  defp ask_again(condition, deadline) do
    pause(1)
    ask(condition, deadline)
  end

  @doc "Lets time pass: for what happens at random moments, never to wait for something."
  @spec pause(non_neg_integer()) :: :ok
  def pause(ms) do
    receive do
    after
      ms -> :ok
    end
  end
end
