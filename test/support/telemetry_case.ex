defmodule PartitionedBuffer.TelemetryCase do
  @moduledoc false
  # Events as messages. `listen/1` before a buffer of that name is started; then each event of it comes
  # as `{:event, event, measurements, metadata}`, where `event` is without the common prefix (that of a write
  # begins with `:write`). That a cycle
  # has begun is told only to those who ask for it: it comes before whatever else a test is about.

  import ExUnit.Assertions

  alias PartitionedBuffer.Telemetry

  @prefix [:partitioned_buffer, :partition]
  @wait_ms 5_000

  @doc "Has the events of the buffer of this name sent to the calling process until the test ends."
  def listen(buffer, events \\ Telemetry.events() -- [@prefix ++ [:flush]]) do
    id = {__MODULE__, buffer, make_ref()}
    :ok = :telemetry.attach_many(id, events, &__MODULE__.forward/4, {self(), buffer})
    ExUnit.Callbacks.on_exit(fn -> :telemetry.detach(id) end)
    id
  end

  @doc false
  def forward(@prefix ++ event, measurements, %{buffer: buffer} = metadata, {test, buffer}) do
    send(test, {:event, event, measurements, metadata})
  end

  def forward(
        [_ | [:write | _] = event],
        measurements,
        %{buffer: buffer} = metadata,
        {test, buffer}
      ) do
    send(test, {:event, event, measurements, metadata})
  end

  def forward(_event, _measurements, _metadata, _other_buffer), do: :ok

  @doc "Waits for the next event of this name, other events aside: `{measurements, metadata}`."
  def next_event(event) do
    assert_receive {:event, ^event, measurements, metadata}, @wait_ms
    {measurements, metadata}
  end

  @doc "All events that have come and that nobody has taken notice of: `{event, measurements, metadata}`."
  def events do
    receive do
      {:event, event, measurements, metadata} -> [{event, measurements, metadata} | events()]
    after
      0 -> []
    end
  end

  @doc "The names of `events/0`."
  def event_names, do: Enum.map(events(), &elem(&1, 0))

  @doc "Waits until this many entries have been processed or discarded, or fails."
  def await_settled(0), do: :ok

  def await_settled(entries) when entries > 0 do
    receive do
      {:event, event, %{size: size}, _metadata}
      when event in [[:processing, :stop], [:discarded]] ->
        await_settled(entries - size)
    after
      @wait_ms -> flunk("#{entries} entries were neither processed nor discarded")
    end
  end
end
