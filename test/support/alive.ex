defmodule PartitionedBuffer.Alive do
  @moduledoc """
  What the native side keeps alive goes back to where it was.

  In a test module that is not `async`:

      setup_all :assert_alive_baseline

  after `import PartitionedBuffer.Alive`: the counters are those of the whole VM, so no other test may
  run meanwhile. All buffers of the module have to be stopped when its tests are over, which those of
  `start_supervised/2` are.
  """

  import ExUnit.Assertions
  import ExUnit.Callbacks, only: [on_exit: 1]

  alias PartitionedBuffer.Native

  # Freeing takes: a collection of every process, one of the erased handle, the reclaimer's thread.
  @patience_ms 10_000
  @again_ms 10

  @doc "Takes the baseline, and asserts when the test or the module is over that it is reached again."
  @spec assert_alive_baseline(map()) :: :ok
  def assert_alive_baseline(_context \\ %{}) do
    baseline = baseline()
    on_exit(fn -> assert_alive(baseline) end)
    :ok
  end

  @doc "What is alive once all that nobody refers to any more is gone."
  @spec baseline() :: map()
  def baseline do
    collect()
    settle(alive(), @patience_ms)
  end

  @doc "Waits until no more is alive than this."
  @spec assert_alive(map()) :: :ok
  def assert_alive(baseline), do: assert_alive(baseline, now() + @patience_ms)

  defp assert_alive(baseline, deadline) do
    collect()
    alive = alive()

    cond do
      Enum.all?(alive, fn {key, value} -> value <= baseline[key] end) ->
        :ok

      now() > deadline ->
        flunk("expected no more alive than #{inspect(baseline)}, got #{inspect(alive)}")

      true ->
        pause()
        assert_alive(baseline, deadline)
    end
  end

  @doc """
  Bytes of memory that the operating system has given to this VM: with what native code has allocated, of which
  `:erlang.memory/1` tells nothing.
  """
  @spec resident() :: non_neg_integer()
  def resident do
    case File.read("/proc/self/statm") do
      {:ok, statm} ->
        [_size, pages | _] = String.split(statm)
        String.to_integer(pages) * 4_096

      _elsewhere ->
        text = ~c"ps -o rss= -p #{System.pid()}" |> :os.cmd() |> List.to_string()
        text |> String.trim() |> String.to_integer() |> Kernel.*(1_024)
    end
  end

  # The same twice, with time for the reclaimer and the collection of erased handles in between.
  defp settle(alive, patience_ms) do
    pause()
    collect()

    case alive() do
      ^alive -> alive
      other when patience_ms > 0 -> settle(other, patience_ms - @again_ms)
      other -> other
    end
  end

  @doc "The counters, as a map."
  @spec alive() :: %{arenas: integer(), entries: integer(), bytes: integer()}
  def alive, do: Map.from_struct(Native.info_alive())

  # A handle lives as long as the garbage of any process refers to it.
  defp collect, do: Enum.each(Process.list(), &:erlang.garbage_collect/1)

  defp pause do
    receive do
    after
      @again_ms -> :ok
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
