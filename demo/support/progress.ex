defmodule Demo.Progress do
  # Shows how far something is: a bar that is drawn over and over on a terminal, a line for each quarter
  # anywhere else. It looks at a counter now and then, so showing it costs the work nothing.

  import Demo.Text, only: [count: 1]

  @width 30
  @look_ms 100

  @doc "Runs `work`, and meanwhile shows how much of `total` is done, as the function `done` tells."
  def show(total, done, work) do
    watcher = Task.async(fn -> watch(total, done, 0) end)
    result = work.()
    send(watcher.pid, :finished)
    Task.await(watcher, :infinity)
    result
  end

  defp watch(total, done, shown) do
    receive do
      :finished ->
        if done.() != shown, do: draw(total, done.())
        if terminal?(), do: IO.write("\n")
    after
      @look_ms -> watch(total, done, draw_if_due(total, done.(), shown))
    end
  end

  # Returns what is shown.
  defp draw_if_due(total, now, shown) do
    if due?(total, now, shown) do
      draw(total, now)
      now
    else
      shown
    end
  end

  defp due?(total, now, shown) do
    if terminal?(), do: now != shown, else: div(4 * now, total) != div(4 * shown, total)
  end

  defp draw(total, done) do
    if terminal?(), do: IO.write(["\r", bar(total, done)]), else: IO.puts(bar(total, done))
  end

  defp bar(total, done) do
    bar = String.pad_trailing(String.duplicate("#", div(@width * done, total)), @width, "-")
    percent = String.pad_leading("#{div(100 * done, total)}", 3)
    "  [#{bar}] #{percent} %  #{count(done)} of #{count(total)}"
  end

  # Elixir looks when it starts, and this is where it says what it saw.
  defp terminal?, do: IO.ANSI.enabled?()
end
