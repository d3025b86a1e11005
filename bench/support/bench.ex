Code.require_file("ets_buffer.ex", __DIR__)
Code.require_file("histogram.ex", __DIR__)
Code.require_file("machine.ex", __DIR__)
Code.require_file("side.ex", __DIR__)

defmodule Bench.Queue do
  @moduledoc false
  use Bench.Side, module: PartitionedBuffer.Queue
end

defmodule Bench.Ets do
  @moduledoc false
  use Bench.Side, module: Bench.EtsBuffer
end

defmodule Bench do
  @moduledoc false
  # Paired measurements and their tables.
  #
  # A sample is a function that sets up, measures in fresh processes, cleans up and answers a number.
  # The samples of a comparison are taken by turns, in one VM, in an order that is turned round every
  # time; what the machine does meanwhile hits all of them alike. A ratio is that of two samples of one
  # round. What is told is the median of the rounds, and the smallest and the largest.

  alias Bench.Machine
  alias PartitionedBuffer.Native

  # A round is disturbed when other programs had more than this part of the CPU time.
  @disturbed 0.05

  @doc """
  Takes each sample once for warming up, then by turns: `%{name => [number]}`, by rounds.

  Rounds wait for other programs to be quiet, for some time. If they disturb all the same, up to twice
  as many rounds are taken; those count that were disturbed the least, whatever they measured.

  Options: `warm_up: false`, and `quiet: false` for what other programs do not disturb.
  """
  def rounds(samples, rounds, opts \\ []) do
    if Keyword.get(opts, :warm_up, true), do: Enum.each(samples, &take(elem(&1, 1)))
    quiet? = Keyword.get(opts, :quiet, true)
    taken = rounds(samples, rounds, 1, quiet?, [])
    kept = taken |> Enum.sort_by(& &1.others) |> Enum.take(rounds) |> Enum.sort_by(& &1.round)
    if quiet?, do: note(kept, length(taken))
    Map.new(samples, fn {name, _sample} -> {name, Enum.map(kept, & &1.values[name])} end)
  end

  defp rounds(samples, rounds, round, quiet?, taken) do
    if enough?(rounds, round, taken) do
      taken
    else
      order = if rem(round, 2) == 0, do: Enum.reverse(samples), else: samples
      if quiet?, do: Machine.await_quiet(@disturbed)
      before = Machine.snapshot()
      values = Map.new(order, fn {name, sample} -> {name, take(sample)} end)
      others = if quiet?, do: Machine.others(before), else: 0.0
      taken = [%{round: round, values: values, others: others} | taken]
      rounds(samples, rounds, round + 1, quiet?, taken)
    end
  end

  defp enough?(rounds, round, _taken) when round <= rounds, do: false
  defp enough?(rounds, round, _taken) when round > 2 * rounds, do: true

  defp enough?(rounds, _round, taken) do
    Enum.count(taken, &(&1.others <= @disturbed)) >= rounds or not Machine.patient?()
  end

  # To standard output as well: whoever keeps the tables wants to know how far to trust them.
  defp note(kept, taken) do
    others = Enum.map(kept, &(&1.others * 100))
    IO.puts("#{length(kept)} of #{taken} rounds; others had #{spread(others)} % of the CPU time")
  end

  defp take(sample) do
    settle()
    sample.()
  end

  @doc "Waits until what was freed is freed, and nobody holds garbage."
  def settle do
    collect_garbage()
    if alive().entries > 0, do: Process.sleep(1)
    if alive().entries > 0, do: settle(), else: Process.sleep(10)
  end

  def collect_garbage, do: Enum.each(Process.list(), &:erlang.garbage_collect/1)

  @doc "What the native library holds."
  def alive do
    # The keys are atoms only where somebody has loaded the module that names them.
    Code.ensure_loaded!(Native.Alive)
    Map.from_struct(Native.info_alive())
  end

  @doc """
  Runs `work.(caller)` in this many fresh processes at the same time: nanoseconds for each of `items`.

  `:wall` is the time from the moment all processes are ready until the last is done. `:cpu` is what all
  threads of the VM have worked meanwhile: it hardly depends on what other programs do, nor on how many
  cores there are.

  `work` gets what `prepare.(caller)` has answered in the same process, before the clock starts.
  """
  def run(callers, items, prepare \\ & &1, work) do
    parent = self()

    pids =
      for caller <- 0..(callers - 1) do
        work_on(caller, fn ->
          prepared = prepare.(caller)
          :erlang.garbage_collect()
          send(parent, {:ready, self()})

          receive do
            :go -> :ok
          end

          work.(prepared)
          send(parent, {:done, self()})
        end)
      end

    for pid <- pids do
      receive do
        {:ready, ^pid} -> :ok
      end
    end

    started = start()
    Enum.each(pids, &send(&1, :go))

    for pid <- pids do
      receive do
        {:done, ^pid} -> :ok
      end
    end

    since(started, items)
  end

  @doc "For `since/2`."
  def start do
    worked = Machine.worked_ns()
    {System.monotonic_time(), worked}
  end

  @doc "Nanoseconds for each of `items`: `%{wall: _, cpu: _}`."
  def since({time, worked}, items) do
    wall = System.convert_time_unit(System.monotonic_time() - time, :native, :nanosecond)
    %{wall: wall / items, cpu: (Machine.worked_ns() - worked) / items}
  end

  # Callers are dealt out to the schedulers and stay there: left alone, several short ones may all be
  # run by one scheduler, one after the other, and never meet.
  defp work_on(caller, fun) do
    scheduler = rem(caller, System.schedulers_online()) + 1
    :erlang.spawn_opt(fun, [:link, {:scheduler, scheduler}])
  end

  @doc "Pushes items one by one from several processes; as `run/4`."
  def push(side, callers, items) do
    each = div(items, callers)
    run(callers, items, &side.push_each(&1 * each, &1 * each + each))
  end

  # --- figures -------------------------------------------------------------------------------------

  def median(values) do
    sorted = Enum.sort(values)
    middle = div(length(sorted), 2)

    if rem(length(sorted), 2) == 1,
      do: Enum.at(sorted, middle),
      else: (Enum.at(sorted, middle - 1) + Enum.at(sorted, middle)) / 2
  end

  @doc "One figure of each sample."
  def pick(samples, key), do: Enum.map(samples, & &1[key])

  def ratios(above, below), do: Enum.zip_with(above, below, &(&1 / &2))

  @doc "The median and the range, as text."
  def spread(values) do
    "#{number(median(values))} (#{number(Enum.min(values))}..#{number(Enum.max(values))})"
  end

  def number(value) when value >= 1_000_000, do: "#{round_to(value / 1_000_000, 1)} M"
  def number(value) when abs(value) >= 100, do: Integer.to_string(round(value))
  def number(value) when abs(value) >= 10, do: round_to(value, 1)
  def number(value), do: round_to(value, 2)

  defp round_to(value, digits), do: :erlang.float_to_binary(value / 1, decimals: digits)

  # --- tables --------------------------------------------------------------------------------------

  @doc "What the figures were taken with and on."
  def title(what) do
    IO.puts("""

    # #{what}

    #{Date.utc_today()}, sources #{sources()}, #{Machine.cpu()}, #{System.schedulers_online()} schedulers, \
    Erlang/OTP #{System.otp_release()} (ERTS #{:erlang.system_info(:version)}), Elixir #{System.version()}, \
    load #{load()}
    """)
  end

  @doc """
  A row of `comparison/2`: `{what, ours, theirs, target}`, with the samples by rounds. The target is
  `{:at_least, n}` for theirs / ours, or `{:at_most, n}` for ours / theirs, or `nil` (theirs / ours).
  """
  def comparison(head, rows, name \\ "Queue") do
    table(
      [head, name, "the other", "ratio", "target", "reached"],
      for {what, ours, {other, theirs}, target} <- rows do
        {ratios, quotient} =
          case target do
            {:at_most, _} -> {ratios(ours, theirs), "#{name} / #{other}"}
            _at_least -> {ratios(theirs, ours), "#{other} / #{name}"}
          end

        {wanted, reached} = judge(target, median(ratios))

        [
          what,
          spread(ours),
          "#{other} #{spread(theirs)}",
          "#{spread(ratios)} #{quotient}",
          wanted,
          reached
        ]
      end
    )

    IO.puts("rounds:")

    for {what, ours, {other, theirs}, _target} <- rows do
      IO.puts("  #{what}: #{name} #{raw(ours)} | #{other} #{raw(theirs)}")
    end
  end

  def judge(nil, _value), do: {"", ""}
  def judge({:at_least, n}, value), do: {">= #{n}", verdict(value >= n)}
  def judge({:at_most, n}, value), do: {"<= #{n}", verdict(value <= n)}

  defp verdict(true), do: "yes"
  defp verdict(false), do: "NO"

  def raw(values), do: Enum.map_join(values, " ", &number/1)

  def table(head, rows) do
    widths =
      [head | rows]
      |> Enum.zip_with(fn cells -> cells |> Enum.map(&String.length/1) |> Enum.max() end)

    line = fn cells, pad ->
      IO.puts("| " <> Enum.map_join(Enum.zip(cells, widths), " | ", pad) <> " |")
    end

    padded = fn {cell, width} -> String.pad_trailing(cell, width) end
    line.(head, padded)
    line.(Enum.map(head, fn _ -> "" end), fn {_, width} -> String.duplicate("-", width) end)
    Enum.each(rows, &line.(&1, padded))
    IO.puts("")
  end

  # Two runs of the same sources have the same sign, whether they were committed or not.
  defp sources do
    root = Path.expand("../..", __DIR__)

    ["lib/**/*.ex", "native/buffer_core/src/**/*.rs", "native/buffer_nif/src/**/*.rs"]
    |> Enum.flat_map(&(root |> Path.join(&1) |> Path.wildcard()))
    |> Enum.sort()
    |> Enum.map(&File.read!/1)
    |> then(&:crypto.hash(:sha256, &1))
    |> Base.encode16(case: :lower)
    |> binary_part(0, 8)
  end

  defp load do
    case File.read("/proc/loadavg") do
      {:ok, text} -> text |> String.split() |> hd()
      _other -> "?"
    end
  end
end
