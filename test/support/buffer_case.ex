defmodule PartitionedBuffer.BufferCase do
  @moduledoc false
  # What every test of a buffer needs: a name that no other test has, and a queue that ends with the
  # test. Together with `PartitionedBuffer.GatedProcessor` (when is a batch processed, and how does it
  # end) and `PartitionedBuffer.TelemetryCase` (what was reported) no test has to wait for time to pass.

  use ExUnit.CaseTemplate

  alias PartitionedBuffer.Queue

  # Longer than any test: such a buffer processes nothing before it is stopped.
  @never_ms 3_600_000

  using do
    quote do
      import PartitionedBuffer.BufferCase
      alias PartitionedBuffer.{GatedProcessor, Queue}
    end
  end

  @doc "The interval of a buffer that processes nothing before it is stopped."
  def never_ms, do: @never_ms

  @doc "A name that nothing else in this VM has."
  def unique_name(prefix \\ "buffer"), do: :"#{prefix}_#{System.unique_integer([:positive])}"

  @doc """
  Starts a queue that ends with the test, and returns its name.

  Without options it has one partition and hands everything to the test as `{:processed, runner, batch}`
  when it is stopped.
  """
  def start_queue!(opts \\ []) do
    opts = queue_options(opts)
    ExUnit.Callbacks.start_supervised!({Queue, opts}, restart: :temporary)
    opts[:name]
  end

  @doc "The options of `start_queue!/1`."
  def queue_options(opts \\ []) do
    defaults = [
      name: unique_name(),
      partitions: 1,
      processing_interval_ms: @never_ms,
      processor: {__MODULE__, :forward, [self()]}
    ]

    Keyword.merge(defaults, opts)
  end

  @doc "A processor that sends its batch to the test and returns."
  def forward(batch, test), do: send(test, {:processed, self(), batch})

  @doc "All batches that have reached the test from `forward/2`, in the order in which they came."
  def forwarded do
    receive do
      {:processed, _runner, batch} -> [batch | forwarded()]
    after
      0 -> []
    end
  end

  @doc "Stops a queue and returns what it then had processed, batch by batch."
  def drain(buffer) do
    :ok = Queue.stop(buffer)
    forwarded()
  end

  @doc """
  The figures of a buffer after the process that works on a batch has ended: what it reports by then
  is settled. `batch` is as from `PartitionedBuffer.GatedProcessor`.
  """
  def info_after(buffer, runner) do
    monitor = Process.monitor(runner)
    ExUnit.Assertions.assert_receive({:DOWN, ^monitor, :process, ^runner, _reason}, 5_000)
    PartitionedBuffer.info(buffer)
  end

  @doc "Fails unless all entries of each partition are accounted for. Returns the reading."
  def assert_accounted(info) do
    counted = [:processed, :superseded, :deleted, :queued, :in_flight]

    for figures <- [info | info.partitions] do
      counts = Map.values(figures.discarded) ++ Enum.map(counted, &Map.fetch!(figures, &1))

      unless figures.accepted == Enum.sum(counts) do
        ExUnit.Assertions.flunk("entries are missing or counted twice: #{inspect(figures)}")
      end
    end

    info
  end
end
