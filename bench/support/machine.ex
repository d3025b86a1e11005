defmodule Bench.Machine do
  @moduledoc false
  # What else the machine does. Only Linux tells; elsewhere nobody else is ever at work.

  @doc "To be given to `others/1` later."
  def snapshot, do: {cpu_ticks(), own_ticks()}

  @doc "The part of the machine's CPU time that other processes have had since the snapshot: 0 to 1."
  def others({{busy, idle}, own}) do
    {busy_now, idle_now} = cpu_ticks()
    all = busy_now - busy + idle_now - idle
    if all == 0, do: 0.0, else: max((busy_now - busy - (own_ticks() - own)) / all, 0.0)
  end

  # For how many seconds of this VM's life it is worth while to wait for a quiet machine.
  @patience {"BENCH_PATIENCE", "75"}
  @look_ms 200

  @doc "Whether there is still time to do something once more."
  def patient? do
    {variable, default} = @patience
    seconds = variable |> System.get_env(default) |> String.to_integer()
    elem(:erlang.statistics(:wall_clock), 0) < seconds * 1_000
  end

  @doc "Waits until other programs have had no more than this part of the CPU time for a moment."
  def await_quiet(part) do
    before = snapshot()
    Process.sleep(@look_ms)
    if others(before) > part and patient?(), do: await_quiet(part), else: :ok
  end

  @doc "Bytes of memory that the VM's process holds; `nil` where that can't be told."
  def rss do
    with {:ok, text} <- File.read("/proc/self/statm") do
      [_size, resident | _] = String.split(text)
      String.to_integer(resident) * 4096
    else
      _other -> nil
    end
  end

  @doc """
  Nanoseconds that the threads of this VM have worked so far, in the kernel too. Where the operating
  system does not tell: milliseconds, and without the kernel's part.
  """
  def worked_ns do
    case Path.wildcard("/proc/self/task/*/schedstat") do
      [] -> 1_000_000 * elem(:erlang.statistics(:runtime), 0)
      threads -> threads |> Enum.map(&thread_ns/1) |> Enum.sum()
    end
  end

  @doc "What the processor is called."
  def cpu do
    with {:ok, info} <- File.read("/proc/cpuinfo"),
         [_all, model] <- Regex.run(~r/^model name\s*: (.+)$/m, info) do
      model
    else
      _other -> to_string(:erlang.system_info(:system_architecture))
    end
  end

  # The thread may have ended meanwhile.
  defp thread_ns(schedstat) do
    case File.read(schedstat) do
      {:ok, text} -> text |> String.split() |> hd() |> String.to_integer()
      _gone -> 0
    end
  end

  # user nice system idle iowait irq softirq steal
  defp cpu_ticks do
    with {:ok, "cpu " <> text} <- File.read("/proc/stat") do
      [user, nice, system, idle, iowait, irq, softirq, steal | _] =
        text |> String.split("\n") |> hd() |> String.split() |> Enum.map(&String.to_integer/1)

      {user + nice + system + irq + softirq + steal, idle + iowait}
    else
      _other -> {0, 0}
    end
  end

  defp own_ticks do
    with {:ok, text} <- File.read("/proc/self/stat") do
      # What comes before may contain anything.
      [_name, rest] = String.split(text, ") ", parts: 2)

      [user, system] =
        rest |> String.split() |> Enum.slice(11, 2) |> Enum.map(&String.to_integer/1)

      user + system
    else
      _other -> 0
    end
  end
end
