Code.require_file("bench.ex", __DIR__)

defmodule Bench.MemorySample do
  @moduledoc false
  # One sample of bench/memory.exs, in the VM that it is taken in.

  alias Bench.Machine

  # What the first use loads and allocates is not what an item takes.
  @first 1_000

  @doc "Bytes for each of `items` small tuples, by three ways of telling."
  def take(side, items) do
    side.start()
    side.push_each(0, @first)
    before = memory()
    Bench.run(1, items, fn _caller -> side.push_each(@first, @first + items) end)
    later = memory()

    %{
      rss: (later.rss - before.rss) / items,
      total: (later.total - before.total) / items,
      info: told(side) / (items + @first)
    }
  end

  defp told(Bench.Queue), do: PartitionedBuffer.info(Bench.Queue).bytes
  defp told(_ets), do: 0

  defp memory do
    Bench.collect_garbage()
    Process.sleep(50)
    %{rss: Machine.rss() || 0, total: :erlang.memory(:total)}
  end
end
