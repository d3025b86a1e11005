Code.require_file("bench.ex", __DIR__)
Code.require_file("map_side.ex", __DIR__)

defmodule Bench.MapMemorySample do
  @moduledoc false
  # What an entry takes, as the operating system sees it: one sample of bench/map.exs, in the VM that it is
  # taken in.

  alias Bench.Machine

  @doc "Bytes for each of the keys, with a small tuple as its value."
  def take(side, keys) do
    side.start()
    # What the first use loads and allocates is not what an entry takes.
    side.each(:put, keys, 0, 1_000)
    before = memory()
    count = tuple_size(keys)
    side.each(:put, keys, 1_000, count)
    (memory() - before) / (count - 1_000)
  end

  defp memory do
    Bench.collect_garbage()
    Process.sleep(50)
    Machine.rss() || :erlang.memory(:total)
  end
end
