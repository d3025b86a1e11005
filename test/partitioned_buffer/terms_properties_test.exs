defmodule PartitionedBuffer.TermsPropertiesTest do
  # Whatever is pushed comes out as it was.
  use PartitionedBuffer.BufferCase, async: true

  import PartitionedBuffer.Generators
  import PartitionedBuffer.Property

  alias :proper_types, as: Types

  @text String.duplicate("text", 50)

  # One trip: in by `push`, out by the processor.
  defp trip(term, push) do
    name = start_queue!()
    push.(name, term)
    [[result]] = drain(name)
    result
  end

  defp item(name, term), do: Queue.push(name, [term])

  @ways [
    alone: quote(do: &Queue.push(&1, {:alone, &2})),
    listed: quote(do: &Queue.push(&1, [{:alone, &2}])),
    keyed: quote(do: &Queue.push(&1, {:alone, &2}, partition_key: :key)),
    listed_and_keyed: quote(do: &Queue.push(&1, [{:alone, &2}], partition_key: :key))
  ]

  test "identical terms are the same to the last bit" do
    for {one, other} <- [{0.0, -0.0}, {1, 1.0}, {<<1::7>>, <<1::8>>}, {%{a: 0.0}, %{a: -0.0}}] do
      refute identical?(one, other)
      assert identical?(one, one)
    end
  end

  for {way, push} <- @ways do
    test "every kind of term comes back identical, pushed #{way}" do
      check(any_term(), [tests: 100, size: 24], fn term ->
        {:alone, result} = trip(term, unquote(push))
        assert identical?(result, term)
      end)
    end
  end

  test "lists of every kind of term come back identical and in order" do
    check(Types.list(any_term()), [tests: 100, size: 10], fn terms ->
      name = start_queue!(processing_batch_size: 1_000_000)
      Queue.push(name, terms)
      assert identical?(drain(name), if(terms == [], do: [], else: [terms]))
    end)
  end

  test "scalars come back identical" do
    check(scalar(), [tests: 300], fn term -> assert identical?(trip(term, &item/2), term) end)
  end

  test "terms in a table are identical" do
    test = self()

    check(Types.list(any_term()), [tests: 50, size: 10], fn terms ->
      name = start_queue!(processing_batch_size: :table, processor: &send_values(test, &1))
      Queue.push(name, terms)
      Queue.stop(name)

      unless terms == [] do
        assert_received {:values, values}
        assert identical?(values, terms)
      end
    end)
  end

  # Copied word by word, unless they are larger or deeper than that goes, or have something else in them.
  describe "small terms" do
    for {kind, terms} <- [
          tuples:
            quote(do: for(size <- [0, 1, 2, 62, 63, 64, 1022, 1023, 1024], do: tuple(size))),
          lists:
            quote(do: for(length <- [1, 2, 510, 511, 512, 513], do: Enum.to_list(1..length))),
          texts: quote(do: for(size <- 0..70, do: {:text, :binary.copy("x", size)})),
          parts: quote(do: for(size <- 0..70, do: {:part, binary_part(@text, 1, size)})),
          integers: quote(do: for(bits <- 55..200, sign <- [1, -1], do: sign * 2 ** bits)),
          deep_tuples: quote(do: for(depth <- 1..40, do: nest(depth, &{&1, depth, 1.5}))),
          deep_lists: quote(do: for(depth <- 1..40, do: nest(depth, &[&1, depth | "tail"]))),
          maps: quote(do: for(size <- 0..40, do: Map.new(1..size//1, &{&1, {"text", &1}}))),
          maps_of_maps:
            quote(do: for(size <- 1..34, do: Map.new(1..size, &{%{&1 => 1}, %{a: &1}}))),
          deep_maps: quote(do: for(depth <- 1..40, do: nest(depth, &%{depth: depth, inner: &1}))),
          structs:
            quote(do: [%URI{}, ~D[2026-01-01], ~U[2026-01-01 00:00:00Z], 1..2, MapSet.new([1])]),
          references:
            quote do
              for other <- [make_ref(), :erlang.alias(), :counters.new(1, []), hd(Port.list())],
                  reference = make_ref(),
                  term <- [reference, {self(), reference}, [reference | other], %{other => other}],
                  do: {term, reference, other}
            end,
          mixed:
            quote(do: for(other <- others(), do: {:item, ["a", {1.5, other}], 2 ** 62, other}))
        ] do
      test "#{kind}" do
        terms = unquote(terms)
        name = start_queue!(processing_batch_size: 1_000_000)
        Queue.push(name, terms)
        Enum.each(terms, &Queue.push(name, {&1}))
        :erlang.garbage_collect()
        expected = terms ++ Enum.map(terms, &{&1})
        assert [result] = drain(name)
        assert identical?(result, expected)
      end
    end
  end

  describe "a batch is like any other list" do
    for size <- [1, 7, 100, 256, 1_000] do
      test "while the process that has it collects its garbage, with #{size} items" do
        test = self()
        terms = for number <- 1..1_000, do: Enum.at(kinds(number), rem(number, 10))
        batches = Enum.chunk_every(terms, unquote(size))

        name =
          start_queue!(
            processing_batch_size: unquote(size),
            processor: &send(test, {:seen, whatever_is_done_with(&1)})
          )

        Enum.each(terms, &Queue.push(name, [&1]))
        Queue.stop(name)

        for batch <- batches do
          assert_received {:seen, copies}
          for copy <- copies, do: assert(identical?(copy, batch))
        end
      end
    end
  end

  describe "what refers to something" do
    test "a table that is known by its reference" do
      table = :ets.new(:table, [])
      true = :ets.insert(table, {:key, 1})
      assert :ets.lookup(trip(table, &item/2), :key) == [key: 1]
    end

    test "atomics and counters, though nobody else refers to them" do
      name = start_queue!()
      push_atomics(name)
      :erlang.garbage_collect()
      [[atomics, counters]] = drain(name)
      assert :atomics.add_get(atomics, 1, 1) == 43
      :counters.add(counters, 2, 1)
      assert :counters.get(counters, 2) == 8
    end

    test "counters that many terms refer to, and others in between" do
      name = start_queue!(processing_batch_size: 1_000)
      terms = counted_terms(1..2_000)
      {one_by_one, at_once} = Enum.split(terms, 1_000)
      Enum.each(one_by_one, &Queue.push(name, {&1}))
      Queue.push(name, at_once)
      :erlang.garbage_collect()
      result = name |> drain() |> Enum.concat()
      :erlang.garbage_collect()
      assert identical?(result, Enum.map(one_by_one, &{&1}) ++ at_once)
    end

    test "a function, with what it closes over" do
      name = start_queue!()
      push_closure(name, Enum.to_list(1..100), :binary.copy("x", 100))
      :erlang.garbage_collect()
      [[fun]] = drain(name)
      assert fun.(:arg) == {:arg, 5_050, 100}
    end

    test "a port, a monitor and an alias" do
      port = hd(Port.list())
      assert Port.info(trip(port, &item/2)) == Port.info(port)

      pid = spawn(fn -> receive(do: (:end -> :ok)) end)
      monitor = trip(Process.monitor(pid), &item/2)
      send(trip(pid, &item/2), :end)
      assert_receive {:DOWN, ^monitor, :process, ^pid, :normal}

      address = :erlang.alias()
      send(trip(address, &item/2), :by_alias)
      assert_receive :by_alias
    end

    test "a literal of a module that is gone" do
      [{module, _binary}] =
        Code.compile_string("""
        defmodule PartitionedBuffer.TermsPropertiesTest.Gone do
          def literal, do: {:literal, [%{map: ~c"chars"}], "text", 12_345_678_901_234_567_890}
        end
        """)

      name = start_queue!()
      Queue.push(name, module.literal())
      Queue.push(name, [module.literal()])
      :code.delete(module)
      _ = :code.purge(module)
      :erlang.garbage_collect()
      expected = {:literal, [%{map: ~c"chars"}], "text", 12_345_678_901_234_567_890}
      assert drain(name) === [[expected, expected]]
    end

    test "a persistent term that is erased" do
      key = {__MODULE__, self()}
      value = {:persistent, Enum.to_list(1..100), :binary.copy("x", 100), %{1.0 => [1 | 2]}}
      :persistent_term.put(key, value)
      name = start_queue!()
      Queue.push(name, :persistent_term.get(key))
      :persistent_term.erase(key)
      :erlang.garbage_collect()
      assert identical?(drain(name), [[value]])
    end

    test "a binary that its owner goes on appending to" do
      name = start_queue!()

      built =
        Enum.reduce(1..200, "", fn number, binary ->
          Queue.push(name, binary)
          binary <> <<number>>
        end)

      assert built == :binary.list_to_bin(Enum.to_list(1..200))
      items = name |> drain() |> Enum.concat()
      assert items == for(number <- 1..200, do: binary_part(built, 0, number - 1))
    end
  end

  describe "large terms" do
    for {kind, term} <- [
          binary: quote(do: :binary.copy(<<1, 2, 3, 4>>, 300_000)),
          part_of_a_binary: quote(do: binary_part(:binary.copy("ab", 2_000_000), 1, 1_200_000)),
          bits: quote(do: <<1::1, :binary.copy("a", 1_200_000)::binary>>),
          list: quote(do: Enum.to_list(1..80_000)),
          improper_list: quote(do: Enum.to_list(1..80_000) ++ :tail),
          tuple: quote(do: List.to_tuple(Enum.to_list(1..150_000))),
          map: quote(do: Map.new(1..30_000, &{&1, {&1, "value"}})),
          integer: quote(do: Integer.pow(7, 100_000)),
          charlist_of_strings: quote(do: Enum.map(1..20_000, &Integer.to_string/1)),
          nested: quote(do: Enum.reduce(1..100_000, [], fn depth, inner -> {depth, inner} end)),
          nested_lists: quote(do: Enum.reduce(1..100_000, [], fn _depth, inner -> [inner] end)),
          nested_maps:
            quote(do: Enum.reduce(1..20_000, %{}, fn _depth, inner -> %{in: inner} end))
        ] do
      test "a #{kind} of a megabyte" do
        term = unquote(term)
        assert identical?(trip(term, &item/2), term)
        assert identical?(trip({term}, &Queue.push/2), {term})
        assert identical?(trip({term}, &Queue.push(&1, &2, partition_key: :key)), {term})
      end
    end

    test "many of them in one list" do
      terms =
        for byte <- 1..20, do: {byte, :binary.copy(<<byte>>, 200_000), Enum.to_list(1..20_000)}

      name = start_queue!(partitions: 3, processing_batch_size: 100)
      Queue.push(name, terms)
      assert PartitionedBuffer.info(name).bytes > 4_000_000
      assert name |> drain() |> Enum.concat() |> Enum.sort() === terms
    end
  end

  defp kinds(number) do
    text = Integer.to_string(number)
    list = [number, text | {number * 1.5, [text]}]
    others = others()

    [
      number,
      {:event, number, text},
      [],
      text,
      list,
      {list, {list, 2 ** 63 + number}},
      Enum.at(others, rem(number, length(others))),
      :atom,
      {text, others},
      %{id: number, name: text, at: %{number => [text]}}
    ]
  end

  defp whatever_is_done_with(batch) do
    table = :ets.new(:table, [])
    garbage(1_000)
    :erlang.garbage_collect(self(), type: :minor)
    :ets.insert(table, {:batch, batch})
    garbage(100_000)
    :erlang.garbage_collect(self(), type: :minor)
    send(self(), batch)
    :erlang.garbage_collect()
    again = receive do: (batch -> batch)
    [batch: stored] = :ets.tab2list(table)
    fun = fn -> batch end
    :erlang.garbage_collect()
    [batch, again, stored, fun.(), Enum.map(batch, & &1)]
  end

  defp garbage(words), do: Enum.reduce(1..div(words, 2), [], &[&1 | &2])

  defp tuple(size), do: List.to_tuple(List.duplicate(1, size))

  defp nest(depth, wrap), do: Enum.reduce(1..depth, :inner, fn _depth, inner -> wrap.(inner) end)

  defp others do
    [
      {},
      %{},
      %{a: 1},
      [],
      make_ref(),
      :erlang.alias(),
      fn -> :ok end,
      self(),
      @text,
      <<1::7>>,
      [{}, "text"]
    ]
  end

  defp send_values(test, table) do
    send(test, {:values, for({:entry, _key, value, 0, 0} <- :ets.tab2list(table), do: value)})
  end

  # One that most of them refer to, one that every tenth does, and one for a few in a row.
  defp counted_terms(numbers) do
    [usual, other, table] = [:counters.new(1, []), :counters.new(1, []), :ets.new(:table, [])]

    for number <- numbers do
      counters = if rem(number, 10) == 0, do: other, else: usual
      counters = if number in 501..550, do: table, else: counters
      counted_term(rem(number, 8), number, counters, {usual, "text"})
    end
  end

  defp counted_term(0, _number, counters, _pair), do: counters
  defp counted_term(1, number, counters, _pair), do: {:count, counters, number}
  defp counted_term(2, number, counters, pair), do: [number, counters, pair | counters]
  defp counted_term(3, number, counters, pair), do: %{number => counters, pair => [counters]}

  defp counted_term(4, number, counters, _pair),
    do: {number, make_ref(), {counters, 1.5, counters}}

  defp counted_term(5, number, counters, _pair), do: {counters, String.duplicate("x", number)}
  defp counted_term(6, number, _counters, _pair), do: number
  defp counted_term(7, number, counters, _pair), do: List.duplicate(counters, rem(number, 100))

  defp push_atomics(name) do
    atomics = :atomics.new(1, [])
    :atomics.put(atomics, 1, 42)
    counters = :counters.new(3, [])
    :counters.put(counters, 2, 7)
    Queue.push(name, [atomics, counters])
  end

  defp push_closure(name, list, binary) do
    Queue.push(name, fn arg -> {arg, Enum.sum(list), byte_size(binary)} end)
  end
end
