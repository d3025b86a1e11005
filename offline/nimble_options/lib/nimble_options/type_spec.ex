defmodule NimbleOptions.TypeSpec do
  # A schema as the quoted union of its options: `{:name, atom()} | {:size, pos_integer()}`.
  @moduledoc false

  @doc false
  @spec option(keyword()) :: Macro.t()
  def option([]), do: quote(do: none())

  def option(schema) do
    schema
    |> Enum.map(fn {key, entry} -> {key, entry(entry)} end)
    |> union()
  end

  defp entry(entry) do
    keys = entry[:keys] || []

    cond do
      Keyword.has_key?(entry, :type_spec) -> entry[:type_spec]
      keys == [] -> type(entry[:type])
      entry[:type] == :map -> quote(do: map())
      true -> quote(do: [unquote(option(keys))])
    end
  end

  defp type(:any), do: quote(do: term())
  defp type(:string), do: quote(do: binary())
  defp type(:keyword_list), do: quote(do: keyword())
  defp type(:non_empty_keyword_list), do: quote(do: keyword())
  defp type(:mod_arg), do: quote(do: {module(), term()})
  defp type(:mfa), do: quote(do: {module(), atom(), [term()]})
  defp type(:fun), do: quote(do: fun())
  defp type(nil), do: nil
  # The rest of the simple types is called as the built-in typespec is.
  defp type(name) when is_atom(name), do: {name, [], []}

  defp type({:fun, arity}) when is_integer(arity),
    do: function(List.duplicate(quote(do: term()), arity), quote(do: term()))

  defp type({:fun, args}), do: function(Enum.map(args, &type/1), quote(do: term()))
  defp type({:fun, args, return}), do: function(Enum.map(args, &type/1), type(return))
  defp type({:in, first..last//1}), do: quote(do: unquote(first)..unquote(last))
  defp type({:in, choices}), do: choices |> Enum.map(&choice/1) |> union()
  defp type({:or, types}), do: types |> Enum.map(&type/1) |> union()
  defp type({:list, type}), do: [type(type)]
  defp type({:tuple, types}), do: {:{}, [], Enum.map(types, &type/1)}

  defp type({:map, key, value}),
    do: quote(do: %{optional(unquote(type(key))) => unquote(type(value))})

  defp type({:struct, module}), do: quote(do: unquote(module).t())
  defp type({:protocol, module}), do: quote(do: unquote(module).t())
  defp type({:impl, _module}), do: quote(do: module())
  defp type({:map, _keys}), do: quote(do: map())
  defp type({_keyword_list, keys}) when is_list(keys), do: [option(keys)]
  # What a custom function accepts is not known here.
  defp type({:custom, _module, _function, _args}), do: quote(do: term())

  # Only atoms and integers can stand in a typespec as they are.
  defp choice(choice) when is_atom(choice) or is_integer(choice), do: choice
  defp choice(choice) when is_binary(choice), do: quote(do: binary())
  defp choice(_choice), do: quote(do: term())

  defp function(args, return), do: [{:->, [], [args, return]}]

  # Built from the right, the way a typespec written by hand parses.
  defp union(types) do
    types
    |> Enum.uniq()
    |> Enum.reverse()
    |> Enum.reduce(fn type, union -> {:|, [], [type, union]} end)
  end
end
