defmodule NimbleOptions.Type do
  # The types: one clause each of `check/3`, which takes the value and how messages call it
  # (`":name option"`, `"list element at position 0"`). An error is the message; what it belongs
  # to is added by the caller.
  @moduledoc false

  alias NimbleOptions.ValidationError

  @basic [
    :any,
    :keyword_list,
    :non_empty_keyword_list,
    :map,
    :atom,
    :string,
    :boolean,
    :integer,
    :non_neg_integer,
    :pos_integer,
    :float,
    :timeout,
    :pid,
    :reference,
    :mfa,
    :mod_arg,
    nil
  ]

  @doc "Is this a type? Used by the schema of schemas."
  @spec validate(term()) :: {:ok, term()} | {:error, String.t()}
  def validate(type) do
    if type?(type), do: {:ok, type}, else: {:error, "unknown type #{inspect(type)}"}
  end

  defp type?(type) when type in @basic, do: true
  defp type?(:fun), do: true
  defp type?({:fun, arity}) when is_integer(arity) and arity >= 0, do: true
  defp type?({:fun, args}), do: types?(args)
  defp type?({:fun, args, return}), do: types?(args) and type?(return)
  # `:in` takes any enumerable, so that ranges and sets work.
  defp type?({:in, choices}), do: Enumerable.impl_for(choices) != nil
  defp type?({:or, types}), do: types?(types)
  defp type?({:list, type}), do: type?(type)
  defp type?({:tuple, types}), do: types?(types)
  defp type?({:map, key, value}), do: type?(key) and type?(value)
  defp type?({:struct, module}), do: is_atom(module)
  defp type?({:protocol, module}), do: is_atom(module)
  defp type?({:impl, module}), do: is_atom(module)

  defp type?({:custom, module, function, args}),
    do: is_atom(module) and is_atom(function) and is_list(args)

  # In `:or`, a keyword list may come with its own keys.
  defp type?({type, keys}) when type in [:keyword_list, :non_empty_keyword_list, :map],
    do: is_list(keys)

  defp type?(_other), do: false

  defp types?(types), do: is_list(types) and Enum.all?(types, &type?/1)

  @doc "Checks a value; `{:custom, ...}` may replace it."
  @spec check(term(), term(), String.t()) ::
          {:ok, term()} | {:error, String.t() | ValidationError.t()}
  def check(type, value, name)

  def check(:any, value, _name), do: {:ok, value}

  def check(nil, value, name), do: expect(is_nil(value), "nil", value, name)
  def check(:atom, value, name), do: expect(is_atom(value), "atom", value, name)
  def check(:string, value, name), do: expect(is_binary(value), "string", value, name)
  def check(:boolean, value, name), do: expect(is_boolean(value), "boolean", value, name)
  def check(:integer, value, name), do: expect(is_integer(value), "integer", value, name)
  def check(:float, value, name), do: expect(is_float(value), "float", value, name)
  def check(:pid, value, name), do: expect(is_pid(value), "pid", value, name)
  def check(:reference, value, name), do: expect(is_reference(value), "reference", value, name)
  def check(:map, value, name), do: expect(is_map(value), "map", value, name)

  def check(:non_neg_integer, value, name),
    do: expect(is_integer(value) and value >= 0, "non negative integer", value, name)

  def check(:pos_integer, value, name),
    do: expect(is_integer(value) and value > 0, "positive integer", value, name)

  def check(:timeout, value, name) do
    valid? = value == :infinity or (is_integer(value) and value >= 0)
    expect(valid?, "non-negative integer or :infinity", value, name)
  end

  def check(:keyword_list, value, name),
    do: expect(Keyword.keyword?(value), "keyword list", value, name)

  def check(:non_empty_keyword_list, value, name) do
    valid? = value != [] and Keyword.keyword?(value)
    expect(valid?, "non-empty keyword list", value, name)
  end

  def check(:mfa, value, name) do
    valid? = match?({m, f, args} when is_atom(m) and is_atom(f) and is_list(args), value)

    expect(valid?, "tuple {mod, fun, args}", value, name)
  end

  def check(:mod_arg, value, name),
    do: expect(match?({m, _arg} when is_atom(m), value), "tuple {mod, arg}", value, name)

  def check(:fun, value, name), do: expect(is_function(value), "function", value, name)
  def check({:fun, args, _return}, value, name), do: check({:fun, args}, value, name)

  def check({:fun, args}, value, name) when is_list(args),
    do: check_fun(length(args), value, name)

  def check({:fun, arity}, value, name), do: check_fun(arity, value, name)

  def check({:in, choices}, value, name),
    do: expect(Enum.member?(choices, value), "one of #{inspect(choices)}", value, name)

  def check({:struct, module}, value, name),
    do: expect(is_struct(value, module), "struct #{inspect(module)}", value, name)

  def check({:protocol, module}, value, name) do
    expect(module.impl_for(value) != nil, "#{inspect(module)} protocol", value, name)
  end

  def check({:impl, module}, value, name) do
    valid? = is_atom(value) and Code.ensure_loaded?(value) and module in behaviours(value)
    expect(valid?, "a module that implements #{inspect(module)}", value, name)
  end

  def check({:or, types}, value, name) do
    Enum.reduce_while(types, {:error, []}, fn type, {:error, reasons} ->
      case check(type, value, name) do
        {:ok, value} -> {:halt, {:ok, value}}
        {:error, reason} -> {:cont, {:error, [text(reason) | reasons]}}
      end
    end)
    |> case do
      {:ok, value} -> {:ok, value}
      {:error, reasons} -> {:error, none_matched(name, Enum.reverse(reasons))}
    end
  end

  def check({:list, type}, value, name) when is_list(value) do
    value
    |> Enum.with_index()
    |> check_each(fn {element, index} ->
      check(type, element, "list element at position #{index}")
    end)
    |> within("list", name)
  end

  def check({:list, _type}, value, name), do: expect(false, "list", value, name)

  def check({:tuple, types}, value, name)
      when is_tuple(value) and tuple_size(value) == length(types) do
    value
    |> Tuple.to_list()
    |> Enum.zip(types)
    |> Enum.with_index()
    |> check_each(fn {{element, type}, index} ->
      check(type, element, "tuple element at position #{index}")
    end)
    |> within("tuple", name)
    |> case do
      {:ok, elements} -> {:ok, List.to_tuple(elements)}
      error -> error
    end
  end

  def check({:tuple, types}, value, name) when is_tuple(value),
    do: expect(false, "tuple with #{length(types)} elements", value, name)

  def check({:tuple, _types}, value, name), do: expect(false, "tuple", value, name)

  def check({:map, key_type, value_type}, value, name) when is_map(value) do
    value
    |> check_each(fn {key, element} ->
      with {:ok, key} <- check(key_type, key, "map key"),
           {:ok, element} <- check(value_type, element, "map key #{inspect(key)}") do
        {:ok, {key, element}}
      end
    end)
    |> within("map", name)
    |> case do
      {:ok, pairs} -> {:ok, Map.new(pairs)}
      error -> error
    end
  end

  def check({:map, _key_type, _value_type}, value, name), do: expect(false, "map", value, name)

  def check({:custom, module, function, args}, value, name) do
    case apply(module, function, [value | args]) do
      {:ok, value} ->
        {:ok, value}

      {:error, message} when is_binary(message) ->
        {:error, "invalid value for #{name}: #{message}"}

      other ->
        raise "custom validation function #{inspect(module)}.#{function}/#{length(args) + 1} " <>
                "must return {:ok, value} or {:error, message}, got: #{inspect(other)}"
    end
  end

  def check({type, keys}, value, name)
      when type in [:keyword_list, :non_empty_keyword_list, :map] do
    with {:ok, value} <- check(type, value, name), do: NimbleOptions.validate(value, keys)
  end

  defp check_fun(arity, value, _name) when is_function(value, arity), do: {:ok, value}

  defp check_fun(arity, value, name) when is_function(value) do
    {:arity, actual} = Function.info(value, :arity)
    error("function of arity #{arity}", "function of arity #{actual}", name)
  end

  defp check_fun(arity, value, name), do: expect(false, "function of arity #{arity}", value, name)

  # Stops at the first element that does not match.
  defp check_each(elements, check) do
    Enum.reduce_while(elements, {:ok, []}, fn element, {:ok, checked} ->
      case check.(element) do
        {:ok, element} -> {:cont, {:ok, [element | checked]}}
        {:error, reason} -> {:halt, {:error, reason}}
      end
    end)
  end

  defp within({:ok, elements}, _kind, _name), do: {:ok, Enum.reverse(elements)}

  defp within({:error, reason}, kind, name),
    do: {:error, "invalid #{kind} in #{name}: #{text(reason)}"}

  defp expect(true, _expected, value, _name), do: {:ok, value}
  defp expect(false, expected, value, name), do: error(expected, inspect(value), name)

  defp error(expected, got, name),
    do: {:error, "invalid value for #{name}: expected #{expected}, got: #{got}"}

  defp none_matched(name, reasons) do
    "expected #{name} to match at least one given type, but didn't match any. " <>
      "Here are the reasons why it didn't match each of the allowed types:\n\n" <>
      Enum.map_join(reasons, "\n", &"  * #{&1}")
  end

  # Nested options fail with an exception, everything else with a text.
  defp text(%ValidationError{} = error), do: Exception.message(error)
  defp text(message), do: message

  defp behaviours(module) do
    for {:behaviour, behaviours} <- module.module_info(:attributes),
        behaviour <- behaviours,
        do: behaviour
  end
end
