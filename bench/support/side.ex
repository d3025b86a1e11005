defmodule Bench.Side do
  @moduledoc false
  # What is done to a buffer, once for each of the two modules under comparison. The loops are
  # compiled for each: the module is named in the code, so both sides make the same kind of call and
  # neither pays for a closure.

  defmacro __using__(module: module) do
    quote do
      @module unquote(module)
      # No cycle before anybody asks for one.
      @never 3_600_000

      def start(opts \\ []) do
        defaults = [
          name: __MODULE__,
          processor: &Function.identity/1,
          processing_interval_ms: @never,
          processing_batch_size: 1_000
        ]

        {:ok, pid} = @module.start_link(Keyword.merge(defaults, opts))
        # Whoever started it may be gone before it.
        Process.unlink(pid)
        __MODULE__
      end

      def stop, do: @module.stop(__MODULE__)
      def size, do: @module.size(__MODULE__)

      def interval(ms), do: @module.update_options(__MODULE__, processing_interval_ms: ms)

      @doc "Pushes the items from `i` up to `n`, one by one."
      def push_each(i, i), do: :ok

      def push_each(i, n) do
        :ok = @module.push(__MODULE__, {:event, i, "payload"})
        push_each(i + 1, n)
      end

      @doc "Pushes `count` lists, those of `lists` again and again."
      def push_lists(_lists, _all, 0), do: :ok
      def push_lists([], all, count), do: push_lists(all, all, count)

      def push_lists([list | lists], all, count) do
        :ok = @module.push(__MODULE__, list)
        push_lists(lists, all, count - 1)
      end

      @doc "Pushes one by one and counts in `histogram` how long each took."
      def push_timed(i, i, _histogram), do: :ok

      def push_timed(i, n, histogram) do
        before = :erlang.monotonic_time()
        :ok = @module.push(__MODULE__, {:event, i, "payload"})
        Bench.Histogram.add(histogram, :erlang.monotonic_time() - before)
        push_timed(i + 1, n, histogram)
      end
    end
  end
end
