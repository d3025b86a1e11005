defmodule PartitionedBuffer.DataBufferCase do
  @moduledoc false
  # What tests of module buffers need: a module whose flushes the test sees, and, where it wants to, ends.
  #
  #     name = start_buffer!(max_size: 3)
  #     DataBuffer.insert(name, :item)
  #     DataBuffer.flush(name)
  #     {flush, [:item], opts} = next_flush()
  #     open(flush, {:raise, "boom"})

  use ExUnit.CaseTemplate

  import ExUnit.Assertions

  alias PartitionedBuffer.DataBufferCase.Watched
  alias PartitionedBuffer.{DataBuffer, GatedProcessor}

  @wait_ms 5_000
  @never_ms 3_600_000

  using do
    quote do
      import PartitionedBuffer.DataBufferCase
      alias PartitionedBuffer.DataBuffer
      alias PartitionedBuffer.DataBufferCase.Watched
    end
  end

  defmodule Watched do
    @moduledoc false
    # Sends what it gets to the test and waits for `open/2`, if the meta is `{:gate, test}`; does not wait if it
    # is `{:tell, test}`; returns what it got.
    use PartitionedBuffer.DataBuffer

    @impl DataBuffer
    def handle_flush(items, opts) do
      items = Enum.to_list(items)

      case opts[:meta] do
        {:gate, test} -> GatedProcessor.process({items, opts}, test, :flush)
        {:tell, test} -> send(test, {GatedProcessor, :flush, self(), {items, opts}})
        _other -> :ok
      end

      {:flushed, items, opts}
    end
  end

  @doc "A name that nothing else in this VM has."
  def unique_name, do: :"data_buffer_#{System.unique_integer([:positive])}"

  @doc """
  Starts a buffer that ends with the test and returns its name. Unless the options say otherwise it has one
  partition, nothing is flushed by time, and each flush waits for `open/2`.
  """
  def start_buffer!(opts \\ []) do
    opts =
      Keyword.merge([name: unique_name(), flush_interval: @never_ms, flush_meta: gate()], opts)

    ExUnit.Callbacks.start_supervised!({Watched, opts}, restart: :temporary)
    opts[:name]
  end

  @doc "The meta of flushes that wait."
  def gate, do: {:gate, self()}

  @doc "The meta of flushes that are told of and don't wait."
  def tell, do: {:tell, self()}

  @doc "Waits for the next flush: its process, the items, and the other argument."
  def next_flush do
    assert_receive {GatedProcessor, :flush, flush, {items, opts}}, @wait_ms
    {flush, items, opts}
  end

  @doc "Fails if there was a flush that nobody has taken notice of."
  def refute_flush, do: refute_received({GatedProcessor, :flush, _flush, _batch})

  @doc "Lets a flush go on; see `PartitionedBuffer.GatedProcessor.open/2`."
  defdelegate open(flush, how \\ :ok), to: GatedProcessor

  @doc "Lets a flush go on and waits until nothing of the buffer is in flight."
  def close(flush, buffer, how \\ :ok) do
    open(flush, how)
    await(fn -> PartitionedBuffer.info(buffer).in_flight == 0 end)
  end

  @doc "Asks until it is true."
  def await(condition, deadline \\ now() + @wait_ms) do
    cond do
      condition.() ->
        :ok

      now() > deadline ->
        flunk("waited in vain")

      true ->
        receive do
        after
          1 -> await(condition, deadline)
        end
    end
  end

  @doc "Runs a call in a process of its own and waits until it stands in line. Answers the task."
  def wait_in_line(buffer, call) do
    before = PartitionedBuffer.info(buffer).blocked
    task = Task.async(call)
    await(fn -> PartitionedBuffer.info(buffer).blocked == before + 1 end)
    task
  end

  @doc "Whether a buffer takes no more writes."
  def closed?(buffer) do
    case PartitionedBuffer.Handle.fetch(buffer) do
      {:ok, %{ref: ref}} -> PartitionedBuffer.Native.partition_closed(ref, 0)
      :error -> true
    end
  end

  @doc "All flushes that have come: their items."
  def flushed do
    receive do
      {GatedProcessor, :flush, _flush, {items, _opts}} -> [items | flushed()]
    after
      0 -> []
    end
  end

  @doc "Sends the events with this prefix to the test, as `{:event, name, measurements, metadata}`."
  def listen(prefix \\ [:data_buffer], buffer) do
    events =
      for what <- [:insert, :flush],
          event <- [:start, :stop, :exception],
          do: prefix ++ [what, event]

    id = {__MODULE__, make_ref()}
    :ok = :telemetry.attach_many(id, events, &__MODULE__.forward/4, {self(), buffer})
    ExUnit.Callbacks.on_exit(fn -> :telemetry.detach(id) end)
  end

  @doc false
  def forward(event, measurements, %{buffer: buffer} = metadata, {test, buffer}),
    do: send(test, {:event, event, measurements, metadata})

  def forward(_event, _measurements, _metadata, _config), do: :ok

  defp now, do: System.monotonic_time(:millisecond)
end
