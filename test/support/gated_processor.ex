defmodule PartitionedBuffer.GatedProcessor do
  @moduledoc false
  # A processor that waits at a gate: it tells the test what it was called with and does what the test
  # answers. So a test knows that a batch is in flight, and decides when and how that ends.
  #
  #     name = start_queue!(processing_interval_ms: 1, processor: GatedProcessor.new())
  #     Queue.push(name, :item)
  #     {runner, [:item]} = GatedProcessor.next_batch()
  #     GatedProcessor.open(runner, {:raise, "boom"})
  #
  # When the test is over, all gates are open.

  import ExUnit.Assertions

  @wait_ms 5_000

  @doc "A processor of the calling test. The tag tells processors of one test apart."
  def new(tag \\ :batch), do: {__MODULE__, :process, [self(), tag]}

  @doc false
  def process(batch, test, tag) do
    monitor = Process.monitor(test)
    send(test, {__MODULE__, tag, self(), batch})

    receive do
      {__MODULE__, :open, how} ->
        Process.demonitor(monitor, [:flush])
        leave(how, batch)

      {:DOWN, ^monitor, :process, ^test, _reason} ->
        :ok
    end
  end

  @doc "Waits for the next call of the processor: `{runner, batch}`."
  def next_batch(tag \\ :batch) do
    assert_receive {__MODULE__, ^tag, runner, batch}, @wait_ms
    {runner, batch}
  end

  @doc """
  Lets a waiting call go on: `:ok` returns, `{:raise, message}`, `{:throw, term}` and `{:exit, reason}`
  do that, `:kill` is a kill from outside, `{:call, fun}` calls the function with the batch.
  """
  def open(runner, how \\ :ok)

  def open(runner, :kill), do: Process.exit(runner, :kill)

  def open(runner, how) do
    send(runner, {__MODULE__, :open, how})
    runner
  end

  @doc "Fails if the processor has been called and nobody has taken notice."
  def refute_batch(tag \\ :batch), do: refute_received({__MODULE__, ^tag, _runner, _batch})

  @doc "Opens the gate for each batch until nothing is left to process. Returns the batches."
  def drain(buffer, tag \\ :batch) do
    stop = Task.async(fn -> PartitionedBuffer.Queue.stop(buffer) end)
    batches = drain_until(stop.ref, tag)
    batches
  end

  defp drain_until(stopped, tag) do
    receive do
      {__MODULE__, ^tag, runner, batch} ->
        open(runner)
        [batch | drain_until(stopped, tag)]

      {^stopped, :ok} ->
        Process.demonitor(stopped, [:flush])
        []
    after
      @wait_ms -> flunk("the buffer did not stop")
    end
  end

  defp leave(:ok, _batch), do: :ok
  defp leave({:raise, message}, _batch), do: raise(message)
  defp leave({:throw, term}, _batch), do: throw(term)
  defp leave({:exit, reason}, _batch), do: exit(reason)
  defp leave({:call, fun}, batch), do: fun.(batch)
end
