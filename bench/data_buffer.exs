# What an insert into a module buffer costs, while nobody listens to its events: one item, and batches of 100, by
# 1, 2, 8 and 64 callers. Compared with a buffer whose partitions are processes, with a call for each insert:
# with its events, which nobody listens to either, and without them. Batches are compared with items that are
# inserted one by one, and with batches.
#
# Time is that of all callers together, for each item. Full partitions are flushed to a function that does
# nothing. Batches are made before the clock starts, items in the loop.

Code.require_file("support/bench.ex", __DIR__)
Code.require_file("support/server_buffer.ex", __DIR__)

defmodule Bench.DataBuffer do
  @rounds 7
  @items 128_000
  @batched 1_280_000
  @options [partitions: 2, max_size: 5_000]

  defmodule Ours do
    use PartitionedBuffer.DataBuffer

    @impl PartitionedBuffer.DataBuffer
    def handle_flush(_items, _opts), do: :ok
  end

  for {side, module, insert} <- [
        {Bench.DataBuffer.OursSide, PartitionedBuffer.DataBuffer, :insert},
        {Bench.DataBuffer.Servers, Bench.ServerBuffer, :insert},
        {Bench.DataBuffer.Silent, Bench.ServerBuffer, :insert_silently}
      ] do
    defmodule side do
      @module module
      @insert insert
      def insert_each(i, i), do: :ok

      def insert_each(i, n) do
        :ok = @module.unquote(@insert)(Bench.DataBuffer.Buffer, {:event, i, "payload"})
        insert_each(i + 1, n)
      end

      def insert_lists(_list, 0), do: :ok

      def insert_lists(list, count) do
        :ok = @module.insert_batch(Bench.DataBuffer.Buffer, list)
        insert_lists(list, count - 1)
      end
    end
  end

  def run do
    Bench.title("module buffers: nanoseconds for each item")
    rows = for callers <- [1, 2, 8, 64], row <- singles(callers), do: row
    tell("insert", rows)
    tell("insert_batch of 100", for(callers <- [1, 2, 8, 64], row <- batches(callers), do: row))
  end

  defp tell(head, rows) do
    for {figure, of} <- [{:wall, "wall time"}, {:cpu, "CPU time"}] do
      Bench.comparison(
        "#{head} (#{of})",
        for {what, ours, {other, theirs}, target} <- rows do
          {what, Bench.pick(ours, figure), {other, Bench.pick(theirs, figure)}, target}
        end,
        "DataBuffer"
      )
    end
  end

  defp singles(callers) do
    each = div(@items, callers)
    insert = fn side -> fn caller -> side.insert_each(caller * each, caller * each + each) end end

    %{ours: ours, servers: servers, silent: silent} =
      Bench.rounds(
        [
          ours: fn -> ours(callers, @items, insert.(Bench.DataBuffer.OursSide)) end,
          servers: fn -> servers(callers, @items, insert.(Bench.DataBuffer.Servers)) end,
          silent: fn -> servers(callers, @items, insert.(Bench.DataBuffer.Silent)) end
        ],
        @rounds
      )

    [
      {callers(callers), ours, {"processes", servers}, {:at_least, 10}},
      {"#{callers(callers)}, no events", ours, {"processes", silent}, nil}
    ]
  end

  defp batches(callers) do
    count = div(@batched, 100 * callers)
    list = for i <- 1..100, do: {:event, i, "payload"}
    each = div(@items, callers)
    batches = fn side -> fn _caller -> side.insert_lists(list, count) end end

    singles = fn caller ->
      Bench.DataBuffer.Servers.insert_each(caller * each, caller * each + each)
    end

    %{ours: ours, singles: singles, batches: batches} =
      Bench.rounds(
        [
          ours: fn -> ours(callers, @batched, batches.(Bench.DataBuffer.OursSide)) end,
          singles: fn -> servers(callers, @items, singles) end,
          batches: fn -> servers(callers, @batched, batches.(Bench.DataBuffer.Servers)) end
        ],
        @rounds
      )

    [
      {callers(callers), ours, {"one by one", singles}, {:at_least, 20}},
      {callers(callers), ours, {"batches", batches}, nil}
    ]
  end

  defp ours(callers, items, work) do
    {:ok, pid} = Ours.start_link([name: __MODULE__.Buffer] ++ @options)
    Process.unlink(pid)
    figures = Bench.run(callers, items, work)
    PartitionedBuffer.DataBuffer.stop(__MODULE__.Buffer)
    figures
  end

  defp servers(callers, items, work) do
    {:ok, pid} = Bench.ServerBuffer.start_link([name: __MODULE__.Buffer] ++ @options)
    Process.unlink(pid)
    figures = Bench.run(callers, items, work)
    Bench.ServerBuffer.stop(__MODULE__.Buffer)
    figures
  end

  defp callers(1), do: "1 caller"
  defp callers(callers), do: "#{callers} callers"
end

Bench.DataBuffer.run()
