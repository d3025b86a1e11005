# What an item takes: 1,000,000 small tuples are pushed; how much more memory does the VM have then?
#
# Each sample is taken in a VM of its own, since memory that was freed before would not be asked for
# again. `:erlang.memory/1` does not know what native code has allocated by other means than the VM's;
# the operating system does.

Code.require_file("support/bench.ex", __DIR__)
Code.require_file("support/elsewhere.ex", __DIR__)

defmodule Bench.Memory do
  @rounds 7
  @items 1_000_000

  def run do
    Bench.title("memory: bytes for each of #{@items} buffered items")

    samples = [queue: fn -> take(Bench.Queue) end, ets: fn -> take(Bench.Ets) end]
    %{queue: queue, ets: ets} = Bench.rounds(samples, @rounds, quiet: false)

    rows =
      for {what, key} <- [
            {"the operating system (RSS)", :rss},
            {":erlang.memory(:total)", :total}
          ] do
        {what, pick(queue, key), {"ETS", pick(ets, key)}, {:at_most, 0.45}}
      end

    Bench.comparison("as told by", rows)
    IO.puts("info/1 tells #{Bench.spread(pick(queue, :info))} bytes an item.")
  end

  defp take(side) do
    Bench.Elsewhere.run("memory_sample.ex", Bench.MemorySample, :take, [side, @items])
  end

  # Where the operating system tells nothing, its row is 1 / 1.
  defp pick(samples, key), do: Enum.map(samples, &max(&1[key], 1))
end

Bench.Memory.run()
