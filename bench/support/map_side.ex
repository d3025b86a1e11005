Code.require_file("ets_map.ex", __DIR__)

defmodule Bench.MapSide do
  @moduledoc false
  # What is done to a map, once for each of the two modules under comparison; see side.ex. Keys are made
  # before the clock starts, values in the loop. Each loop goes through all keys in an order that no
  # cache knows.

  defmacro __using__(module: module) do
    quote do
      @module unquote(module)
      # No cycle before anybody asks for one.
      @never 3_600_000
      # Has no factor in common with any number of keys.
      @stride 7_919

      def start(opts \\ []) do
        defaults = [
          name: __MODULE__,
          processor: &Function.identity/1,
          processing_interval_ms: @never,
          processing_batch_size: 1_000
        ]

        {:ok, pid} = @module.start_link(Keyword.merge(defaults, opts))
        Process.unlink(pid)
        __MODULE__
      end

      def stop, do: @module.stop(__MODULE__)
      def interval(ms), do: @module.update_options(__MODULE__, processing_interval_ms: ms)

      def each(_what, _keys, n, n), do: :ok

      def each(:put, keys, i, n) do
        :ok = @module.put(__MODULE__, key(keys, i), {:event, i, "payload"})
        each(:put, keys, i + 1, n)
      end

      def each(:put_newer, keys, i, n) do
        :ok = @module.put_newer(__MODULE__, key(keys, i), {:event, i, "payload"}, i)
        each(:put_newer, keys, i + 1, n)
      end

      def each(:put_stale, keys, i, n) do
        :ok = @module.put_newer(__MODULE__, key(keys, i), {:event, i, "payload"}, -1)
        each(:put_stale, keys, i + 1, n)
      end

      def each(:get, keys, i, n) do
        {:event, _number, "payload"} = @module.get(__MODULE__, key(keys, i))
        each(:get, keys, i + 1, n)
      end

      def each(:delete, keys, i, n) do
        :ok = @module.delete(__MODULE__, key(keys, i))
        each(:delete, keys, i + 1, n)
      end

      def each(:put_zero, keys, i, n) do
        :ok = @module.put(__MODULE__, key(keys, i), 0)
        each(:put_zero, keys, i + 1, n)
      end

      def each(:add, keys, i, n) do
        :ok = add(key(keys, i))
        each(:add, keys, i + 1, n)
      end

      def each(:put_newer_replace, keys, i, n) do
        :ok = replace(key(keys, i), {:event, i, "payload"}, i)
        each(:put_newer_replace, keys, i + 1, n)
      end

      if @module == PartitionedBuffer.Map do
        defp add(key), do: @module.update(__MODULE__, key, 1, {:add, 1})
        defp replace(key, value, version), do: @module.put_newer(__MODULE__, key, value, version)
      else
        defp add(key), do: @module.add(__MODULE__, key, 1)

        defp replace(key, value, version) do
          @module.put_newer_replace(__MODULE__, key, value, version)
        end
      end

      def lists([]), do: :ok

      def lists([list | lists]) do
        :ok = @module.put_all(__MODULE__, list)
        lists(lists)
      end

      @compile {:inline, key: 2}
      defp key(keys, i), do: elem(keys, rem(i * @stride, tuple_size(keys)))
    end
  end
end

defmodule Bench.Map do
  @moduledoc false
  use Bench.MapSide, module: PartitionedBuffer.Map
end

defmodule Bench.EtsSet do
  @moduledoc false
  use Bench.MapSide, module: Bench.EtsMap
end
