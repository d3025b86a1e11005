defmodule NimbleOptions.TypeTest do
  use ExUnit.Case, async: true

  # {type, values that match, [{value that does not, what was expected}]}
  @simple [
    {:any, [nil, 1, :a], []},
    {nil, [nil], [{1, "nil"}]},
    {:atom, [:a, nil], [{1, "atom"}]},
    {:string, ["a"], [{[?a], "string"}]},
    {:boolean, [true, false], [{nil, "boolean"}]},
    {:integer, [-1, 0], [{1.0, "integer"}]},
    {:non_neg_integer, [0, 1], [{-1, "non negative integer"}]},
    {:pos_integer, [1], [{0, "positive integer"}, {:a, "positive integer"}]},
    {:float, [1.5], [{1, "float"}]},
    {:timeout, [0, :infinity], [{-1, "non-negative integer or :infinity"}]},
    {:map, [%{}], [{[], "map"}]},
    {:keyword_list, [[], [a: 1]], [{[1], "keyword list"}]},
    {:non_empty_keyword_list, [[a: 1]], [{[], "non-empty keyword list"}]},
    {:mfa, [{M, :f, []}], [{{M, :f}, "tuple {mod, fun, args}"}]},
    {:mod_arg, [{M, 1}], [{{M, 1, 2}, "tuple {mod, arg}"}]},
    {{:in, [:a, :b]}, [:a], [{:c, "one of [:a, :b]"}]},
    {{:in, 1..3}, [2], [{4, "one of 1..3"}]},
    {{:list, :atom}, [[], [:a]], [{:a, "list"}]},
    {{:tuple, [:atom, :pid]}, [], [{1, "tuple"}, {{:a}, "tuple with 2 elements"}]},
    {{:map, :atom, :integer}, [%{}, %{a: 1}], [{[], "map"}]}
  ]

  for {type, good, bad} <- @simple do
    test "#{inspect(type)}" do
      type = unquote(Macro.escape(type))

      for value <- unquote(Macro.escape(good)), do: assert(check(type, value) == {:ok, value})

      for {value, expected} <- unquote(Macro.escape(bad)) do
        assert check(type, value) ==
                 "invalid value for :o option: expected #{expected}, got: #{inspect(value)}"
      end
    end
  end

  test "processes and references" do
    assert check(:pid, self()) == {:ok, self()}
    assert check(:pid, :a) == "invalid value for :o option: expected pid, got: :a"
    assert {:ok, _} = check(:reference, make_ref())
    assert check(:reference, :a) == "invalid value for :o option: expected reference, got: :a"
  end

  test "functions" do
    assert {:ok, _} = check({:fun, 1}, &is_atom/1)
    assert {:ok, _} = check({:fun, [:atom], :boolean}, &is_atom/1)

    assert check({:fun, 2}, &is_atom/1) ==
             "invalid value for :o option: expected function of arity 2, got: function of arity 1"

    assert check({:fun, 2}, :a) ==
             "invalid value for :o option: expected function of arity 2, got: :a"
  end

  test "structs, protocols and behaviours" do
    assert {:ok, _} = check({:struct, Range}, 1..2)
    assert check({:struct, Range}, %{}) =~ "invalid value for :o option: expected"
    assert {:ok, _} = check({:protocol, Enumerable}, [])
    assert check({:protocol, Enumerable}, 1) =~ "Enumerable"
    assert {:ok, _} = check({:impl, GenServer}, Agent.Server)
    assert check({:impl, GenServer}, Enum) =~ "GenServer"
  end

  test "elements of lists, tuples and maps" do
    assert check({:list, :atom}, [:a, 1]) ==
             "invalid list in :o option: invalid value for list element at position 1: " <>
               "expected atom, got: 1"

    assert check({:tuple, [:atom, :integer]}, {:a, :b}) ==
             "invalid tuple in :o option: invalid value for tuple element at position 1: " <>
               "expected integer, got: :b"

    assert check({:map, :atom, :integer}, %{"a" => 1}) ==
             "invalid map in :o option: invalid value for map key: expected atom, got: \"a\""

    assert check({:map, :atom, :integer}, %{a: :b}) ==
             "invalid map in :o option: invalid value for map key :a: expected integer, got: :b"
  end

  test "one of several types" do
    type = {:or, [:atom, {:tuple, [:atom, :timeout]}]}
    assert check(type, :a) == {:ok, :a}
    assert check(type, {:a, 1}) == {:ok, {:a, 1}}

    assert check(type, 1) ==
             "expected :o option to match at least one given type, but didn't match any. " <>
               "Here are the reasons why it didn't match each of the allowed types:\n\n" <>
               "  * invalid value for :o option: expected atom, got: 1\n" <>
               "  * invalid value for :o option: expected tuple, got: 1"
  end

  test "one of several types, with keys of its own" do
    type = {:or, [:boolean, keyword_list: [size: [type: :pos_integer, default: 1]]]}
    assert check(type, true) == {:ok, true}
    assert check(type, []) == {:ok, [size: 1]}
    assert check(type, size: 0) =~ "expected positive integer, got: 0"
  end

  describe "custom types" do
    def odd(value, add) when rem(value, 2) == 1, do: {:ok, value + add}
    def odd(value, _add) when rem(value, 2) == 0, do: {:error, "expected odd, got: #{value}"}

    def broken(_value), do: :oops

    test "may replace the value" do
      assert check({:custom, __MODULE__, :odd, [10]}, 1) == {:ok, 11}
      assert check({:list, {:custom, __MODULE__, :odd, [10]}}, [1, 3]) == {:ok, [11, 13]}

      assert check({:custom, __MODULE__, :odd, [10]}, 2) ==
               "invalid value for :o option: expected odd, got: 2"
    end

    test "have to answer as documented" do
      assert_raise RuntimeError, ~r"broken/1 must return .* got: :oops", fn ->
        check({:custom, __MODULE__, :broken, []}, 1)
      end
    end
  end

  defp check(type, value) do
    case NimbleOptions.validate([o: value], o: [type: type]) do
      {:ok, [o: value]} -> {:ok, value}
      {:error, error} -> Exception.message(error)
    end
  end
end
