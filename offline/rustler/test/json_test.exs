defmodule Rustler.JSONTest do
  use ExUnit.Case, async: true

  import Rustler.JSON, only: [decode!: 1]

  test "scalars" do
    assert decode!("null") == nil
    assert decode!(" true ") == true
    assert decode!("false") == false
    assert decode!("-12") === -12
    assert decode!("0.5e1") === 5.0
  end

  test "arrays and objects" do
    assert decode!("[]") == []
    assert decode!("{}") == %{}

    assert decode!(~s([1, [2], {"a": {"b": []}, "c" : "d"}])) == [
             1,
             [2],
             %{"a" => %{"b" => []}, "c" => "d"}
           ]
  end

  test "strings with escapes" do
    assert decode!(~S("a\"b\\c\/d\n\t")) == "a\"b\\c/d\n\t"
    assert decode!(~S("\u00fc ü \ud83d\ude00")) == "ü ü 😀"
  end

  test "anything else is an error" do
    assert_raise ArgumentError, fn -> decode!("nope") end
    assert_raise MatchError, fn -> decode!("1 2") end
  end
end
