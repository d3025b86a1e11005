defmodule PartitionedBuffer.MapUpdateTest do
  # `update/5`: operations, functions, and what is left alone.
  use PartitionedBuffer.MapCase, async: true

  import PartitionedBuffer.Generators
  import PartitionedBuffer.Property

  alias :proper_types, as: Types

  setup do
    %{name: start_map!(partitions: 2)}
  end

  # The value after an operation on one that is there.
  defp updated(name, value, operation, opts \\ []) do
    Buffer.put(name, :key, value, opts)
    assert Buffer.update(name, :key, :default, operation, opts) == :ok
    Buffer.get(name, :key, nil, opts)
  end

  defp unchanged(name, value, exception, operation) do
    Buffer.put(name, :key, value)
    before = figures(name)
    assert_raise exception, fn -> Buffer.update(name, :key, :default, operation) end
    assert identical?(Buffer.get(name, :key), value)
    assert figures(name) == before
  end

  defp figures(name) do
    Map.take(PartitionedBuffer.info(name), [:accepted, :superseded, :deleted, :queued, :bytes])
  end

  # What the operations are, in Elixir.
  defp expected({:add, number}, value), do: value + number
  defp expected({:max, term}, value), do: max(value, term)
  defp expected({:min, term}, value), do: min(value, term)
  defp expected({:append, term}, value), do: value ++ [term]

  describe "a key that is not there" do
    test "gets the default, whatever the operation is", %{name: name} do
      for operation <- [{:add, 1}, {:max, 9}, {:min, -9}, {:append, 1}, &{:not_called, &1}],
          default <- [:not_a_number, 1, nil, [], [1 | 2], :binary.copy("x", 200_000)] do
        assert Buffer.update(name, :key, default, operation) == :ok
        assert Buffer.take(name, :key) == {:ok, default}
      end
    end

    test "gets the term of :put_new, and not the default", %{name: name} do
      for value <- [1, nil, :binary.copy("x", 200_000)] do
        assert Buffer.update(name, :key, :default, {:put_new, value}) == :ok
        assert Buffer.update(name, :key, :default, {:put_new, :other}) == :ok
        assert Buffer.take(name, :key) == {:ok, value}
      end
    end

    test "has no updates and version 0 then", %{name: name} do
      Buffer.update(name, :a, 1, {:add, 1})
      Buffer.update(name, :b, 1, &(&1 + 1))
      Buffer.update(name, :c, 1, {:put_new, 2})
      assert entries(name) == [{:a, 1, 0, 0}, {:b, 1, 0, 0}, {:c, 2, 0, 0}]
    end
  end

  test "updates are counted and the version stays", %{name: name} do
    Buffer.put_newer(name, :key, 1, 77)
    Buffer.update(name, :key, 0, {:add, 1})
    Buffer.update(name, :key, 0, {:max, 0})
    Buffer.update(name, :key, 0, &(&1 * 10))
    Buffer.update(name, :key, 0, &Function.identity/1)
    Buffer.update(name, :key, 0, {:put_new, 1})
    Buffer.put_newer(name, :key, :no, 77)
    Buffer.put_newer(name, :key, [21], 78)
    Buffer.update(name, :key, 0, {:append, 1})
    assert entries(name) == [{:key, [21, 1], 78, 6}]
  end

  describe ":add" do
    test "adds integers of every size and floats", %{name: name} do
      check({integer(), integer(), float()}, [tests: 300], fn {one, other, float} ->
        for {value, number} <- [{one, other}, {float, -float / 2}, {rem(one, 999), float}] do
          assert identical?(updated(name, value, {:add, number}), value + number)
          assert identical?(updated(name, number, {:add, value}), number + value)
        end
      end)
    end

    test "goes over to big integers and back", %{name: name} do
      for limit <- [Integer.pow(2, 59), Integer.pow(2, 63), Integer.pow(2, 64)],
          sign <- [1, -1] do
        edge = sign * limit
        assert updated(name, edge - sign, {:add, sign}) === edge
        assert updated(name, edge, {:add, -sign}) === edge - sign
        assert updated(name, edge, {:add, edge}) === 2 * edge
        assert updated(name, 2 * edge, {:add, -2 * edge}) === 0
      end

      Buffer.put(name, :key, 1)
      for _ <- 1..200, do: Buffer.update(name, :key, 0, {:add, Buffer.get(name, :key)})
      assert Buffer.get(name, :key) == Integer.pow(2, 200)
    end

    test "of an integer too large for a float, or a sum that is, changes nothing", %{name: name} do
      huge = Integer.pow(10, 400)
      max = 1.7976931348623157e308

      for {value, add} <- [{huge, 1.0}, {1.0, huge}, {max, max}, {-max, -max}] do
        unchanged(name, value, ArithmeticError, {:add, add})
      end
    end

    test "to no number changes nothing", %{name: name} do
      for value <- [:atom, "1", [1], nil, {1}, %{}, self(), :binary.copy("x", 200_000)] do
        unchanged(name, value, ArithmeticError, {:add, 1})
        unchanged(name, value, ArithmeticError, {:add, 1.5})
        unchanged(name, value, ArithmeticError, {:add, Integer.pow(2, 100)})
      end
    end
  end

  describe ":max and :min" do
    test "keep the larger or the smaller term of any two", %{name: name} do
      check({any_term(), any_term()}, [tests: 200, size: 20], fn {one, other} ->
        for operation <- [{:max, other}, {:min, other}, {:max, one}, {:min, one}] do
          assert identical?(updated(name, one, operation), expected(operation, one))
        end
      end)
    end

    test "keep what is there of terms that are equal", %{name: name} do
      for {there, other} <- [{1, 1.0}, {1.0, 1}, {[2.0], [2]}, {{0}, {0.0}}],
          how <- [:max, :min] do
        assert updated(name, there, {how, other}) === there
      end
    end
  end

  describe ":append" do
    test "adds any term to the end of any list", %{name: name} do
      check({Types.list(any_term()), any_term()}, [tests: 100, size: 15], fn {list, term} ->
        assert identical?(updated(name, list, {:append, term}), list ++ [term])
      end)
    end

    test "keeps the order of many, up to large lists", %{name: name} do
      for number <- 1..3_000, do: Buffer.update(name, :key, [number], {:append, number})
      assert Buffer.get(name, :key) == Enum.to_list(1..3_000)
      assert [{:key, _list, 0, 2_999}] = entries(name)
    end

    test "to no proper list changes nothing", %{name: name} do
      for value <- [:atom, 1, "text", {}, %{}, [1 | 2], Enum.to_list(1..20_000) ++ :tail] do
        unchanged(name, value, ArgumentError, {:append, 1})
      end
    end
  end

  test "large values and operands are changed as small ones are", %{name: name} do
    for size <- [1_000, 1_030, 10_000, 20_000, 140_000], opts <- [[], [partition_key: :one]] do
      list = Enum.to_list(1..size)
      binary = :binary.copy("b", size * 8)
      big = Integer.pow(2, size * 8)

      for {value, operation} <- [
            {list, {:append, :last}},
            {[:first], {:append, list}},
            {list, {:append, list}},
            {binary, {:max, "c"}},
            {"a", {:max, binary}},
            {binary, {:min, "a"}},
            {list, {:min, binary}},
            {big, {:add, 1}},
            {1, {:add, -big}},
            {big, {:add, -big}}
          ] do
        assert updated(name, value, operation, opts) === expected(operation, value)
      end

      assert updated(name, binary, &byte_size/1, opts) == size * 8
      assert updated(name, size, &:binary.copy("z", &1 * 8), opts) == :binary.copy("z", size * 8)
    end
  end

  describe "a function" do
    test "is called in the calling process with the value", %{name: name} do
      test = self()
      assert updated(name, {:v, 1}, fn {:v, 1} -> {:called_in, self()} end) == {:called_in, test}
    end

    test "of any value to any other", %{name: name} do
      check({any_term(), any_term()}, [tests: 150, size: 20], fn {one, other} ->
        fun = fn value ->
          assert identical?(value, one)
          other
        end

        assert identical?(updated(name, one, fun), other)
      end)
    end

    test "that raises, throws or exits changes nothing", %{name: name} do
      unchanged(name, [1, 2], RuntimeError, fn _value -> raise "boom" end)
      before = figures(name)
      assert catch_throw(Buffer.update(name, :key, 0, fn _ -> throw(:ball) end)) == :ball
      assert catch_exit(Buffer.update(name, :key, 0, fn _ -> exit(:reason) end)) == :reason
      assert figures(name) == before
    end

    test "is called again with what another process has put meanwhile", %{name: name} do
      for {there, meanwhile} <- [
            {1, 2},
            {1, 1.0},
            {{:a}, {:b}},
            {"x", :binary.copy("x", 200_000)}
          ] do
        Buffer.put(name, :key, there)
        once = :counters.new(1, [])

        Buffer.update(name, :key, :default, fn value ->
          :counters.add(once, 1, 1)
          if :counters.get(once, 1) == 1, do: Buffer.put(name, :key, meanwhile)
          {:changed, value}
        end)

        assert Buffer.get(name, :key) === {:changed, meanwhile}
        assert :counters.get(once, 1) == 2
      end
    end

    test "is given up for the default when the key is deleted or processed meanwhile", %{
      name: name
    } do
      for {remove, nth} <- Enum.with_index([&Buffer.delete(&1, :key), &cycle/1]) do
        Buffer.put(name, :key, {:there, nth})

        Buffer.update(name, :key, {:default, nth}, fn value ->
          remove.(name)
          {:changed, value}
        end)

        assert Buffer.get(name, :key) == {:default, nth}
      end

      # What was processed is what was there before.
      assert entries(name) == [{:key, {:default, 1}, 0, 0}, {:key, {:there, 1}, 0, 0}]
    end

    test "may update the same key, or another one, in the same buffer", %{name: name} do
      Buffer.put(name, :key, 1)

      Buffer.update(name, :key, 0, fn value ->
        Buffer.update(name, :other, 5, {:add, 1})
        value + 1
      end)

      assert entries(name) == [{:key, 2, 0, 1}, {:other, 5, 0, 0}]
    end
  end

  test "no operation raises ArgumentError, there or not", %{name: name} do
    Buffer.put(name, :key, 1)
    before = figures(name)

    for key <- [:key, :none],
        other <- [
          :add,
          {:add},
          {:add, 1, 2},
          {:add, :atom},
          {:add, "1"},
          {:add, nil},
          {:sub, 1},
          {"add", 1},
          nil,
          [add: 1],
          &Kernel.+/2,
          fn -> 1 end,
          {:put, 1}
        ] do
      assert_raise ArgumentError, ~r/expected an operation/, fn ->
        apply(Buffer, :update, [name, key, 0, other])
      end
    end

    assert figures(name) == before
    assert entries(name) == [{:key, 1, 0, 0}]
  end
end
