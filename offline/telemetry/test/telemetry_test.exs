defmodule TelemetryTest do
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog

  @event [:some, :event]

  def send_event(event, measurements, metadata, config),
    do: send(config.pid, {config.id, event, measurements, metadata})

  def fail(_event, _measurements, _metadata, _config), do: raise("oops")

  setup %{test: test} do
    on_exit(fn ->
      for %{id: id} <- :telemetry.list_handlers([]), do: :telemetry.detach(id)
    end)

    %{id: test, config: %{pid: self(), id: test}}
  end

  describe "attach and detach" do
    test "a handler gets all of the event and its config", %{id: id, config: config} do
      assert :ok = :telemetry.attach(id, @event, &__MODULE__.send_event/4, config)
      assert :ok = :telemetry.execute(@event, %{count: 1}, %{some: :metadata})

      assert_received {^id, @event, %{count: 1}, %{some: :metadata}}
    end

    test "an id can be attached once", %{id: id, config: config} do
      assert :ok = :telemetry.attach(id, @event, &__MODULE__.send_event/4, config)

      assert {:error, :already_exists} =
               :telemetry.attach(id, [:other], &__MODULE__.send_event/4, config)
    end

    test "attach_many attaches one id to many events; detach takes it off all of them",
         %{id: id, config: config} do
      other = [:some, :other, :event]
      assert :ok = :telemetry.attach_many(id, [@event, other], &__MODULE__.send_event/4, config)

      :telemetry.execute(@event, %{})
      :telemetry.execute(other, %{})
      assert_received {^id, @event, %{}, %{}}
      assert_received {^id, ^other, %{}, %{}}

      assert :ok = :telemetry.detach(id)
      :telemetry.execute(@event, %{})
      :telemetry.execute(other, %{})
      refute_received {^id, _, _, _}
    end

    test "detaching an unknown id is an error" do
      assert {:error, :not_found} = :telemetry.detach(:unknown)
    end

    test "an event name is a list of atoms", %{id: id, config: config} do
      for name <- [[], ["event"], :event] do
        assert_raise ArgumentError, fn ->
          :telemetry.attach(id, name, &__MODULE__.send_event/4, config)
        end
      end
    end

    test "a local function is attached with a hint", %{id: id} do
      log =
        capture_log(fn ->
          assert :ok = :telemetry.attach(id, @event, fn _, _, _, _ -> :ok end, nil)
        end)

      assert log =~ "local function"
    end

    test "handlers are listed by prefix", %{id: id, config: config} do
      function = &__MODULE__.send_event/4
      :telemetry.attach_many(id, [@event, [:unrelated]], function, config)

      assert [%{id: ^id, event_name: @event, function: ^function, config: ^config}] =
               :telemetry.list_handlers([:some])

      assert length(:telemetry.list_handlers([])) == 2
      assert :telemetry.list_handlers([:some, :event, :more]) == []
    end
  end

  describe "execute" do
    test "an event without handlers is fine" do
      assert :ok = :telemetry.execute([:nobody, :listens], %{count: 1}, %{})
    end

    test "metadata is optional, a number is the measurement :value", %{id: id, config: config} do
      :telemetry.attach(id, @event, &__MODULE__.send_event/4, config)

      :telemetry.execute(@event, %{count: 1})
      :telemetry.execute(@event, 42)
      assert_received {^id, @event, %{count: 1}, %{}}
      assert_received {^id, @event, %{value: 42}, %{}}
    end

    test "only the very event matches, not a prefix of it", %{id: id, config: config} do
      :telemetry.attach(id, @event, &__MODULE__.send_event/4, config)

      :telemetry.execute(@event ++ [:more], %{})
      :telemetry.execute([:some], %{})
      refute_received {^id, _, _, _}
    end

    test "a failing handler is detached and reported, the others still run",
         %{id: id, config: config} do
      failure = :telemetry_test.attach_event_handlers(self(), [[:telemetry, :handler, :failure]])
      :telemetry.attach(:failing, @event, &__MODULE__.fail/4, :some_config)
      :telemetry.attach(id, @event, &__MODULE__.send_event/4, config)

      log = capture_log(fn -> :telemetry.execute(@event, %{count: 1}, %{}) end)

      assert log =~ "Handler :failing has failed and has been detached"
      assert_received {^id, @event, %{count: 1}, %{}}

      assert_received {[:telemetry, :handler, :failure], ^failure, measurements, metadata}
      assert %{monotonic_time: _, system_time: _} = measurements

      assert %{
               event_name: @event,
               handler_id: :failing,
               handler_config: :some_config,
               kind: :error,
               reason: %RuntimeError{message: "oops"},
               stacktrace: [_ | _]
             } = metadata

      assert [%{id: ^id}] = :telemetry.list_handlers(@event)
    end
  end

  describe "span" do
    setup do
      events = for suffix <- [:start, :stop, :exception], do: @event ++ [suffix]
      %{ref: :telemetry_test.attach_event_handlers(self(), events)}
    end

    test "start and stop share a context", %{ref: ref} do
      assert :result = :telemetry.span(@event, %{a: 1}, fn -> {:result, %{b: 2}} end)

      assert_received {[:some, :event, :start], ^ref, start, %{a: 1} = start_metadata}
      assert_received {[:some, :event, :stop], ^ref, stop, %{b: 2} = stop_metadata}

      assert %{monotonic_time: started, system_time: _} = start
      assert %{monotonic_time: stopped, duration: duration} = stop
      assert stopped - started == duration

      assert is_reference(start_metadata.telemetry_span_context)
      assert start_metadata.telemetry_span_context == stop_metadata.telemetry_span_context
      refute Map.has_key?(stop_metadata, :a)
    end

    test "the function may add measurements", %{ref: ref} do
      assert :result = :telemetry.span(@event, %{}, fn -> {:result, %{size: 3}, %{}} end)
      assert_received {[:some, :event, :stop], ^ref, %{size: 3, duration: _}, %{}}
    end

    test "a context given by the caller is kept", %{ref: ref} do
      metadata = %{telemetry_span_context: :mine}
      :telemetry.span(@event, metadata, fn -> {:result, metadata} end)

      assert_received {[:some, :event, :start], ^ref, _, %{telemetry_span_context: :mine}}
      assert_received {[:some, :event, :stop], ^ref, _, %{telemetry_span_context: :mine}}
    end

    test "a failure is reported with the start metadata and raised again", %{ref: ref} do
      assert catch_throw(:telemetry.span(@event, %{a: 1}, fn -> throw(:ball) end)) == :ball

      assert_received {[:some, :event, :exception], ^ref, %{duration: _, monotonic_time: _},
                       %{a: 1, kind: :throw, reason: :ball, stacktrace: [_ | _]} = metadata}

      assert is_reference(metadata.telemetry_span_context)
      refute_received {[:some, :event, :stop], _, _, _}
    end
  end

  test "events are still accepted when the application is not running" do
    capture_log(fn -> Application.stop(:telemetry) end)
    on_exit(fn -> Application.ensure_all_started(:telemetry) end)

    assert capture_log(fn -> assert :ok = :telemetry.execute(@event, %{}) end) =~ "started"
  end
end
