defmodule PartitionedBuffer.OptionsTest do
  # Options of starting and of running: what is taken, what is refused, and what a change changes.
  use PartitionedBuffer.BufferCase, async: true

  import PartitionedBuffer.TelemetryCase

  alias NimbleOptions.ValidationError

  @max_ms 4_294_967_295

  # `{option, wrong value}`, for starting and for changing alike.
  @wrong [
    processing_interval_ms: 0,
    processing_interval_ms: -1,
    processing_interval_ms: 1.5,
    processing_interval_ms: "1000",
    processing_interval_ms: nil,
    processing_interval_ms: :infinity,
    processing_interval_ms: @max_ms + 1,
    processing_interval_ms: Integer.pow(10, 30),
    processing_timeout_ms: -1,
    processing_timeout_ms: 0.1,
    processing_timeout_ms: nil,
    processing_timeout_ms: :never,
    processing_timeout_ms: @max_ms + 1,
    processing_timeout_ms: Integer.pow(10, 30),
    processing_batch_size: 0,
    processing_batch_size: -10,
    processing_batch_size: 10.0,
    processing_batch_size: nil,
    processing_batch_size: :tables,
    processing_batch_size: "table",
    processing_batch_size: :infinity
  ]

  describe "starting" do
    test "takes every documented option" do
      opts =
        queue_options(
          partitions: 3,
          processing_interval_ms: 1_000,
          processing_timeout_ms: 500,
          processing_batch_size: 5
        )

      start_supervised!({Queue, opts})
      assert length(PartitionedBuffer.info(opts[:name]).partitions) == 3
    end

    test "takes the least and the greatest values" do
      for opts <- [
            [processing_interval_ms: 1, processing_timeout_ms: @max_ms, processing_batch_size: 1],
            [processing_interval_ms: @max_ms, processing_timeout_ms: :infinity],
            [processing_batch_size: 1_000_000_000]
          ] do
        name = start_queue!(opts)
        Queue.push(name, :item)
        assert drain(name) == [[:item]]
      end
    end

    test "takes names of up to 220 characters" do
      name = start_queue!(name: String.to_atom(String.duplicate("ä", 220)), partitions: 2)
      Queue.push(name, :item)
      assert drain(name) == [[:item]]
    end

    test "drops options that it does not know" do
      name = start_queue!(flush: true, max_demand: -1, registry: self())
      Queue.push(name, :item)
      assert drain(name) == [[:item]]
    end

    test "takes the first of options that are given twice" do
      opts = [processing_batch_size: 1, processing_batch_size: 3] ++ queue_options()
      start_supervised!({Queue, opts})
      Queue.push(opts[:name], [1, 2])
      assert drain(opts[:name]) == [[1], [2]]
    end

    test "needs a name and a processor" do
      for missing <- [:name, :processor] do
        opts = Keyword.delete(queue_options(), missing)
        assert_raise ValidationError, ~r/#{missing}/, fn -> Queue.start_link(opts) end
      end

      assert_raise ValidationError, fn -> Queue.start_link([]) end
      assert_raise ValidationError, fn -> Queue.start_link() end
    end

    test "needs the module when it is not a queue's" do
      opts = queue_options()
      assert_raise ValidationError, ~r/module/, fn -> PartitionedBuffer.start_link(opts) end

      for module <- [nil, "Queue", 1, String, NoSuchModule, Queue.module_info()] do
        opts = [module: module] ++ opts
        assert_raise ValidationError, ~r/module/, fn -> PartitionedBuffer.start_link(opts) end
      end
    end

    for {option, value} <- @wrong do
      test "refuses #{option}: #{inspect(value)}" do
        refute_start([{unquote(option), unquote(value)}], unquote(option))
      end
    end

    test "tells the bound where only that is wrong" do
      for {option, most} <- [
            processing_interval_ms: @max_ms,
            processing_interval_jitter_ms: @max_ms,
            processing_timeout_ms: @max_ms,
            max_size_jitter: @max_ms,
            max_retries: 1_000_000_000
          ] do
        opts = queue_options([{option, most + 1}])
        message = ~r/at most #{most}, got: #{most + 1}$/
        assert_raise ValidationError, message, fn -> Queue.start_link(opts) end
      end

      opts = queue_options(processing_interval_ms: 0)
      message = ~r/expected positive integer, got: 0$/
      assert_raise ValidationError, message, fn -> Queue.start_link(opts) end
    end

    test "refuses wrong names" do
      for name <- [nil, true, false, :undefined, "name", 1, {:local, :name}, self(), []] do
        refute_start([name: name], :name)
      end
    end

    test "refuses wrong processors" do
      for processor <- [
            nil,
            :processor,
            "Module.process",
            fn -> :ok end,
            fn _batch, _info, _more -> :ok end,
            &String.slice/3,
            {String, :length},
            {String, :length, nil},
            {String, :length, 1},
            {"String", :length, []},
            {String, "length", []},
            [&String.length/1]
          ] do
        refute_start([processor: processor], :processor)
      end
    end

    test "refuses wrong numbers of partitions" do
      for partitions <- [-1, 1.0, nil, :auto, "2", -Integer.pow(10, 30)] do
        refute_start([partitions: partitions], :partitions)
      end
    end

    test "refuses more partitions than a machine can hold" do
      for partitions <- [1_000_000, Integer.pow(10, 12), Integer.pow(2, 64), Integer.pow(10, 30)] do
        refute_start([partitions: partitions], :partitions)
      end
    end

    test "refuses a name of which the names of processes can't be made" do
      for length <- [221, 255] do
        refute_start([name: String.to_atom(String.duplicate("a", length))], :name)
      end
    end

    test "refuses what is no keyword list" do
      for opts <- [nil, :name, %{name: :name}, [1], [:name], [{"name", :a}], [{:name, :a} | :b]] do
        assert_raise ArgumentError, ~r/keyword/, fn -> apply(Queue, :start_link, [opts]) end

        assert_raise ArgumentError, ~r/keyword/, fn ->
          apply(PartitionedBuffer, :start_link, [opts])
        end
      end
    end
  end

  describe "update_options/2" do
    test "changes the size of batches" do
      name = start_queue!()
      assert Queue.update_options(name, processing_batch_size: 2) == :ok
      Queue.push(name, [1, 2, 3])
      assert drain(name) == [[1, 2], [3]]
    end

    test "changes the interval at once" do
      name = start_queue!(processor: GatedProcessor.new())
      Queue.push(name, :item)
      assert PartitionedBuffer.update_options(name, processing_interval_ms: 1) == :ok
      assert {runner, [:item]} = GatedProcessor.next_batch()
      GatedProcessor.open(runner)
    end

    test "changes the timeout of the call that is running" do
      name = start_queue!(processing_interval_ms: 1, processor: GatedProcessor.new())
      Queue.push(name, :item)
      {runner, [:item]} = GatedProcessor.next_batch()
      monitor = Process.monitor(runner)
      assert Queue.update_options(name, processing_timeout_ms: 1) == :ok
      assert_receive {:DOWN, ^monitor, :process, ^runner, :killed}, 5_000
    end

    test "changes nothing but what is given" do
      name = start_queue!(processing_batch_size: 2, processor: GatedProcessor.new())
      Queue.push(name, [1, 2, 3])

      # The interval alone: batches stay as they were, and so does the timeout.
      Queue.update_options(name, processing_interval_ms: 1)
      {runner, [1, 2]} = GatedProcessor.next_batch()

      # The timeout alone: batches stay as they were, and the interval too: there is another cycle.
      Queue.update_options(name, processing_timeout_ms: :infinity)
      GatedProcessor.open(runner)
      {runner, [3]} = GatedProcessor.next_batch()
      Queue.push(name, [4, 5, 6])
      GatedProcessor.open(runner)
      {runner, [4, 5]} = GatedProcessor.next_batch()

      # The size alone: the interval stays, so there is another cycle.
      Queue.update_options(name, processing_batch_size: 10)
      Queue.push(name, [7, 8, 9])
      GatedProcessor.open(runner)
      {runner, [6]} = GatedProcessor.next_batch()
      GatedProcessor.open(runner)
      {runner, [7, 8, 9]} = GatedProcessor.next_batch()
      GatedProcessor.open(runner)
    end

    test "keeps the timeout when something else is changed" do
      name = unique_name()
      listen(name)
      start_queue!(name: name, processing_timeout_ms: 1, processor: GatedProcessor.new())
      Queue.push(name, :item)
      Queue.update_options(name, processing_interval_ms: 1)
      assert {%{size: 1}, %{reason: :timeout}} = next_event([:discarded])
    end

    test "takes effect in every partition" do
      name = start_queue!(partitions: 3, processor: GatedProcessor.new())
      Queue.push(name, Enum.to_list(1..30))
      Queue.update_options(name, processing_interval_ms: 1)
      runners = for _ <- 1..3, do: elem(GatedProcessor.next_batch(), 0)
      assert runners |> Enum.uniq() |> length() == 3
      Enum.each(runners, &GatedProcessor.open/1)
    end

    test "changes nothing when nothing is given" do
      name = start_queue!(processing_batch_size: 2)
      assert Queue.update_options(name, []) == :ok
      Queue.push(name, [1, 2, 3])
      assert drain(name) == [[1, 2], [3]]
    end

    for {option, value} <- @wrong do
      test "refuses #{option}: #{inspect(value)}" do
        refute_update([{unquote(option), unquote(value)}], unquote(option))
      end
    end

    test "refuses all if one is wrong" do
      refute_update(
        [processing_batch_size: 7, processing_interval_ms: 0],
        :processing_interval_ms
      )

      refute_update([processing_interval_ms: 1, unknown: 0], :unknown)
    end

    test "refuses what can't be changed or is unknown" do
      for {option, value} <- [partitions: 2, name: :a, processor: & &1, module: Queue, other: 1] do
        refute_update([{option, value}], option)
      end
    end

    test "refuses what is no keyword list" do
      name = start_queue!()

      for opts <- [nil, :all, %{processing_batch_size: 1}, [1], [{"a", 1}]] do
        assert_raise ArgumentError, ~r/keyword/, fn ->
          apply(Queue, :update_options, [name, opts])
        end
      end
    end

    test "refuses an unknown buffer" do
      assert_raise ArgumentError, ~r/unknown registry/, fn ->
        Queue.update_options(unique_name(), processing_batch_size: 1)
      end
    end
  end

  defp refute_start(wrong, option) do
    opts = Keyword.merge(queue_options(), wrong)

    error =
      try do
        Queue.start_link(opts)
      rescue
        error in ValidationError -> Exception.message(error)
      end

    assert is_binary(error), "#{inspect(wrong)} was not refused: #{inspect(error)}"
    assert error =~ to_string(option)
    unless wrong[:name], do: refute(Process.whereis(opts[:name]), "the buffer was started")
  end

  defp refute_update(wrong, option) do
    name = start_queue!(processing_batch_size: 2)

    assert_raise ValidationError, ~r/#{option}/, fn -> Queue.update_options(name, wrong) end

    Queue.push(name, [1, 2, 3])
    assert drain(name) == [[1, 2], [3]]
  end
end
