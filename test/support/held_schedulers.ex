defmodule PartitionedBuffer.HeldSchedulers do
  @moduledoc false
  # Whether anything holds a scheduler for longer than a moment.
  #
  # The VM reports a process that has run for longer than @limit_ms without a break, by the clock on the wall. That is
  # also so if the system has put the scheduler's thread aside meanwhile, for other programs, or for other threads of the VM.
  # Linux tells how long each thread has waited for a core. So that is read every few milliseconds, and what all
  # schedulers' threads have waited around a slice, whichever of them it was, is not counted as the slice's. Waiting for a
  # lock is; and on a machine that does nothing else, it is all of the slice.

  import ExUnit.Assertions, only: [flunk: 1]

  # A call is meant to take 0.1 ms, and the VM's own slices take one to two. A virtual machine can be put aside as
  # a whole, which nobody tells: 5 to 9 ms were seen in ordinary calls. Work that is not bounded takes far longer: 75 to
  # 250 ms for waiting until a million entries have been copied.
  @limit_ms 30

  # A machine is put aside now and then, work that is not bounded holds a scheduler up each time.
  @attempts 3

  @sample_ms 4
  # A slice may be reported that much after its end.
  @late_ms 10

  @doc """
  Runs `run`, in a process of its own, and fails if a process holds a scheduler meanwhile that was not there before.
  `run` gets what `prepare` returns, which is not watched, but the processes that it starts are.
  """
  def assert_short(prepare \\ fn -> nil end, run), do: assert_short(prepare, run, [], @attempts)

  defp assert_short(_prepare, _run, long, 0),
    do: flunk("schedulers were held up: #{inspect(long)}")

  defp assert_short(prepare, run, long, attempts) do
    others = Process.list()
    prepared = prepare.()

    case watch(fn -> if is_function(run, 1), do: run.(prepared), else: run.() end, others) do
      {answer, []} -> answer
      {_answer, longer} -> assert_short(prepare, run, [longer | long], attempts - 1)
    end
  end

  @doc "What `run` returns, and the slices that were too long: process, milliseconds of its own, and what the VM tells."
  def watch(run, others \\ Process.list()) do
    others = MapSet.new(others)
    test = self()
    threads = threads()
    watcher = spawn_link(fn -> watch_from(test, threads) end)
    receive do: ({^watcher, :watches} -> :ok)
    answer = Task.await(Task.async(run), :infinity)
    # A slice is reported when it is over.
    Process.send_after(watcher, {:enough, test}, 50)
    {reported, samples} = receive do: ({^watcher, reported, samples} -> {reported, samples})

    long =
      for {pid, what, at} <- reported,
          not MapSet.member?(others, pid),
          own = what[:timeout] - waited_ms(samples, at, what[:timeout]),
          own >= @limit_ms,
          do: {pid, own, what}

    {answer, long}
  end

  defp watch_from(test, threads) do
    Process.flag(:priority, :max)
    before = :erlang.system_monitor(self(), [{:long_schedule, @limit_ms}])
    send(test, {self(), :watches})
    {reported, samples} = watch_on(threads, [], [sample(threads)])
    :erlang.system_monitor(before)
    send(test, {self(), reported, [sample(threads) | samples]})
  end

  defp watch_on(threads, reported, samples) do
    receive do
      {:monitor, pid, :long_schedule, what} when is_pid(pid) ->
        watch_on(threads, [{pid, what, now()} | reported], samples)

      {:monitor, _port, :long_schedule, _what} ->
        watch_on(threads, reported, samples)

      {:enough, _test} ->
        {reported, samples}
    after
      @sample_ms -> watch_on(threads, reported, [sample(threads) | samples])
    end
  end

  # The newest one is first. It is not told which of the schedulers it was: the one that has waited for the shortest time.
  defp waited_ms(samples, at, ms) do
    after_it = samples |> Enum.take_while(fn {time, _waited} -> time >= at end) |> List.last()
    before? = fn {time, _waited} -> time <= at - ms - @late_ms end
    before_it = Enum.find(samples, List.last(samples), before?)
    waited = Enum.zip(elem(after_it, 1), elem(before_it, 1))
    waited |> Enum.map(fn {to, from} -> div(to - from, 1_000_000) end) |> Enum.min(fn -> 0 end)
  end

  defp sample(threads) do
    waited =
      for file <- threads do
        {:ok, statistics} = :file.read_file(file)
        [_ran, waited | _slices] = String.split(statistics)
        String.to_integer(waited)
      end

    {now(), waited}
  end

  # None where the system does not tell.
  defp threads do
    tasks = Path.wildcard("/proc/#{System.pid()}/task/*")

    for task <- tasks,
        {:ok, name} <- [File.read(Path.join(task, "comm"))],
        name =~ ~r/^(\d+_sched|erts_sched)/,
        file = Path.join(task, "schedstat"),
        File.exists?(file),
        do: file
  end

  defp now, do: System.monotonic_time(:millisecond)
end
