# The demo: `bin/demo --help` tells what it does. Each step is a file in support/.

# Errors of Mnesia and of the buffer stay visible. That an application was stopped is no news here.
Logger.configure(level: :error)

# From Elixir 1.15 on, Mix hides the applications of OTP that mix.exs does not name; only the demo needs
# this one.
if function_exported?(Mix, :ensure_application!, 1), do: Mix.ensure_application!(:mnesia)

# Each file after those that it uses.
support =
  ~w(text figures records producers store tally progress through_queue one_by_one states through_map
     audit report)

for name <- support, do: Code.require_file("support/#{name}.ex", __DIR__)

alias Demo.{Audit, OneByOne, Records, Report, States, Store, ThroughMap, ThroughQueue}

# This is how a script of Mix sets the status. What has to be put away is put away on the way out.
finish = fn status -> exit({:shutdown, status}) end

fail = fn problems ->
  Enum.each(problems, &IO.puts(:stderr, &1))
  finish.(1)
end

records =
  case Records.read(System.argv()) do
    {:ok, records} -> records
    {:error, problems} -> fail.(problems)
  end

if records == [] do
  IO.puts("The files are empty: there is nothing to write.")
  finish.(0)
end

Report.read(records)

Store.run(fn ->
  Report.step("Through the queue:")
  {queue, accounts} = ThroughQueue.run(records, :through_queue)

  Report.step("The database against the records:")
  Store.reopen()

  case Audit.records(records, Store.all(:through_queue)) ++ Audit.accounts(accounts) do
    [] -> Report.intact(records)
    problems -> fail.(problems)
  end

  Report.step("For comparison, one transaction for each record, synced to disk:")
  synced = OneByOne.run(records, :synced, &Store.sync/0)

  Report.step("And not synced:")
  unsynced = OneByOne.run(records, :unsynced, fn -> :ok end)

  Report.comparison(length(records), queue, synced, unsynced)
  Report.accounts("queue", accounts)

  changes = States.changes(records)
  final = States.final(changes)
  reports = States.reports(changes)
  Report.step("The records as changes of states, reported several times, through a map:")
  {map, accounts} = ThroughMap.run(reports, map_size(final), :through_map)

  Report.step("The states in the database against the records:")
  Store.reopen()

  case Audit.states(final, Store.states(:through_map)) ++ Audit.accounts(accounts) do
    [] -> Report.states_intact(final)
    problems -> fail.(problems)
  end

  Report.states(map)
  Report.accounts("map", accounts)
end)
