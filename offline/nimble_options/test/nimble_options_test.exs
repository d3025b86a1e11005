defmodule NimbleOptionsTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureIO

  alias NimbleOptions.ValidationError

  doctest NimbleOptions

  describe "schemas" do
    test "new! checks the schema once" do
      assert %NimbleOptions{} = schema = NimbleOptions.new!(name: [type: :atom])
      assert NimbleOptions.validate([name: :a], schema) == {:ok, [name: :a]}
    end

    test "an invalid schema is an ArgumentError" do
      for schema <- [
            [name: [type: :no_such_type]],
            [name: [no_such_key: true]],
            [name: [required: :maybe]],
            [name: [type: :atom, keys: [a: []]]],
            [name: [type: :keyword_list, keys: [a: [type: :no_such_type]]]]
          ] do
        assert_raise ArgumentError, ~r/^invalid NimbleOptions schema\. Reason: /, fn ->
          NimbleOptions.new!(schema)
        end

        assert_raise ArgumentError, ~r/^invalid NimbleOptions schema/, fn ->
          NimbleOptions.validate([], schema)
        end
      end
    end
  end

  describe "options" do
    test "unknown ones are listed together with the valid ones" do
      assert {:error, error} = NimbleOptions.validate([foo: 1, a: 1, bar: 2], a: [], b: [])
      assert %ValidationError{key: [:foo, :bar], value: nil, keys_path: []} = error

      assert Exception.message(error) ==
               "unknown options [:foo, :bar], valid options are: [:a, :b]"
    end

    test "required ones have to be there" do
      schema = [name: [type: :atom, required: true], size: []]
      assert {:error, error} = NimbleOptions.validate([size: 1], schema)
      assert %ValidationError{key: :name, value: nil} = error

      assert Exception.message(error) ==
               "required :name option not found, received options: [:size]"
    end

    test "defaults are filled in, and can be overridden" do
      schema = [size: [type: :pos_integer, default: 5], other: []]
      assert NimbleOptions.validate([], schema) == {:ok, [size: 5]}
      assert NimbleOptions.validate([size: 7], schema) == {:ok, [size: 7]}
    end

    test "a default is checked as a value is" do
      assert {:error, %ValidationError{key: :size, value: "5"}} =
               NimbleOptions.validate([], size: [type: :integer, default: "5"])
    end

    test "a map is validated to a map" do
      schema = [size: [type: :pos_integer, default: 5], name: [type: :atom]]
      assert NimbleOptions.validate(%{name: :a}, schema) == {:ok, %{name: :a, size: 5}}
      assert {:error, %ValidationError{}} = NimbleOptions.validate(%{name: 1}, schema)
    end

    test "a key given twice counts once" do
      assert NimbleOptions.validate([a: 1, a: 2], a: [type: :integer]) == {:ok, [a: 1]}
    end

    test "deprecated ones warn" do
      schema = [old: [type: :integer, deprecated: "Use :new instead."]]

      warning =
        capture_io(:stderr, fn -> assert {:ok, _} = NimbleOptions.validate([old: 1], schema) end)

      assert warning =~ ":old"
      assert warning =~ "is deprecated. Use :new instead."

      assert capture_io(:stderr, fn -> NimbleOptions.validate([], schema) end) == ""
    end

    test "validate! raises" do
      assert NimbleOptions.validate!([a: 1], a: []) == [a: 1]

      assert_raise ValidationError, "invalid value for :a option: expected atom, got: 1", fn ->
        NimbleOptions.validate!([a: 1], a: [type: :atom])
      end
    end
  end

  describe "nested options" do
    @schema [
      producers: [
        type: :keyword_list,
        keys: [
          first: [
            type: :non_empty_keyword_list,
            keys: [size: [type: :pos_integer, default: 1], module: [required: true]]
          ]
        ]
      ]
    ]

    test "are validated, with their defaults" do
      assert {:ok, [producers: [first: first]]} =
               NimbleOptions.validate([producers: [first: [module: M]]], @schema)

      assert Enum.sort(first) == [module: M, size: 1]
    end

    test "errors name the path" do
      assert {:error, error} =
               NimbleOptions.validate([producers: [first: [module: M, size: 0]]], @schema)

      assert %ValidationError{key: :size, value: 0, keys_path: [:producers, :first]} = error

      assert Exception.message(error) ==
               "invalid value for :size option: expected positive integer, got: 0 " <>
                 "(in options [:producers, :first])"

      assert {:error, %ValidationError{key: :module, keys_path: [:producers, :first]}} =
               NimbleOptions.validate([producers: [first: [size: 1]]], @schema)

      assert {:error, %ValidationError{key: [:third], keys_path: [:producers]}} =
               NimbleOptions.validate([producers: [third: []]], @schema)
    end

    test "`*` describes every key" do
      schema = [
        pools: [type: :keyword_list, keys: [*: [type: :keyword_list, keys: [n: [default: 1]]]]]
      ]

      assert NimbleOptions.validate([pools: [a: [], b: [n: 2]]], schema) ==
               {:ok, [pools: [b: [n: 2], a: [n: 1]]]}
    end

    test "maps nest as well" do
      schema = [map: [type: :map, keys: [n: [type: :integer, default: 1]]]]
      assert NimbleOptions.validate([map: %{}], schema) == {:ok, [map: %{n: 1}]}
    end
  end

  describe "docs" do
    test "one bullet per option" do
      schema = [
        name: [type: :atom, required: true, doc: "The name."],
        size: [type: :pos_integer, default: 5000, doc: "The size."],
        anything: [doc: "No type."],
        hidden: [doc: false],
        undocumented: [type: :string]
      ]

      assert NimbleOptions.docs(schema) == """
             * `:name` (`t:atom/0`) - Required. The name.

             * `:size` (`t:pos_integer/0`) - The size. The default value is `5000`.

             * `:anything` (`t:term/0`) - No type.

             * `:undocumented` (`t:String.t/0`)

             """
    end

    test "further lines are indented; after several paragraphs the default is one of its own" do
      schema = [
        lines: [type: :timeout, default: 1, doc: "One\nline.\n"],
        paragraphs: [type: :any, default: 10, doc: "One.\n\nTwo:\n\n    code\n"]
      ]

      assert NimbleOptions.docs(schema) == """
             * `:lines` (`t:timeout/0`) - One
               line. The default value is `1`.

             * `:paragraphs` (`t:term/0`) - One.

               Two:

                   code

               The default value is `10`.

             """
    end

    test "types are named where they have a name" do
      docs = fn type -> NimbleOptions.docs([o: [type: type]], []) |> String.trim() end

      assert docs.({:or, [:atom, {:list, :string}]}) ==
               "* `:o` (`t:atom/0` or list of `t:String.t/0`)"

      assert docs.({:fun, 2}) == "* `:o` (function of arity 2)"
      assert docs.({:tuple, [:atom, :pid]}) == "* `:o` (tuple of `t:atom/0`, `t:pid/0` values)"
      assert docs.({:in, [1, 2]}) == "* `:o`"
      assert docs.({:or, [{:fun, 1}, :mfa]}) == "* `:o`"
      assert docs.({:custom, __MODULE__, :odd, []}) == "* `:o`"

      assert String.trim(NimbleOptions.docs(o: [type: :atom, type_doc: "`t:name/0`"])) ==
               "* `:o` (`t:name/0`)"

      assert String.trim(NimbleOptions.docs(o: [type: :atom, type_doc: false])) == "* `:o`"
    end

    test "nested options are indented, subsections follow the list" do
      schema = [
        pool: [
          type: :keyword_list,
          doc: "The pool.",
          keys: [size: [type: :integer, doc: "Size."]]
        ],
        rest: [
          type: :keyword_list,
          doc: "The rest.",
          subsection: "### Rest options",
          keys: [a: [type: :atom, doc: "A."]]
        ],
        last: [type: :atom, doc: "Last."]
      ]

      assert NimbleOptions.docs(schema) == """
             * `:pool` (`t:keyword/0`) - The pool.

               * `:size` (`t:integer/0`) - Size.

             * `:rest` (`t:keyword/0`) - The rest. See "Rest options" section below.

             * `:last` (`t:atom/0`) - Last.

             ### Rest options

             * `:a` (`t:atom/0`) - A.

             """
    end

    test "a nest level indents the whole list" do
      assert NimbleOptions.docs([a: [type: :atom, doc: "A."]], nest_level: 1) ==
               "  * `:a` (`t:atom/0`) - A.\n\n"
    end
  end

  describe "option_typespec" do
    test "is the union of the options" do
      schema = [
        name: [type: :atom, required: true],
        size: [type: {:or, [:pos_integer, {:in, [:infinity]}]}],
        fun: [type: {:fun, 1}],
        pairs: [type: {:map, :atom, {:list, :string}}],
        nested: [type: :keyword_list, keys: [mode: [type: {:in, [:a, :b]}]]],
        own: [type: :any, type_spec: quote(do: GenServer.server())]
      ]

      assert schema |> NimbleOptions.option_typespec() |> Macro.to_string() |> one_line() ==
               one_line("""
               {:name, atom()}
               | {:size, pos_integer() | :infinity}
               | {:fun, (term() -> term())}
               | {:pairs, %{optional(atom()) => [binary()]}}
               | {:nested, mode: :a | :b}
               | {:own, GenServer.server()}
               """)
    end

    test "compiles in a module" do
      assert [{:module, _, _, _}] =
               Code.eval_quoted(
                 quote do
                   [
                     defmodule unquote(__MODULE__).Spec do
                       @schema [
                         basic: [type: :mfa],
                         tuple: [type: {:tuple, [:atom, :mod_arg]}],
                         range: [type: {:in, 1..3}],
                         fun: [type: {:fun, [:atom], :pid}],
                         struct: [type: {:struct, URI}]
                       ]
                       @type option() :: unquote(NimbleOptions.option_typespec(@schema))
                     end
                   ]
                 end
               )
               |> elem(0)
    end

    test "of no options is none" do
      assert Macro.to_string(NimbleOptions.option_typespec([])) == "none()"
    end

    defp one_line(text), do: text |> String.split() |> Enum.join(" ")
  end
end
