defmodule NimbleOptions.Docs do
  # A schema as Markdown: one bullet per option, nested options indented below theirs, those with
  # a `:subsection` collected in sections after the list.
  @moduledoc false

  @doc false
  @spec generate(keyword(), keyword()) :: String.t()
  def generate(schema, options) do
    {bullets, sections} = list(schema)
    text = IO.iodata_to_binary([bullets, sections])
    indent(text, String.duplicate("  ", Keyword.get(options, :nest_level, 0)))
  end

  defp list(schema) do
    visible = for {key, entry} <- schema, entry[:doc] != false, do: {key, entry}
    {bullets, sections} = Enum.unzip(Enum.map(visible, fn {key, entry} -> item(key, entry) end))
    {bullets, sections}
  end

  defp item(key, entry) do
    bullet = fn description ->
      ["* `", inspect(key), "`", type(entry), separator(description), description, "\n\n"]
    end

    {nested, sections} = list(entry[:keys] || [])
    nested = IO.iodata_to_binary(nested)

    case entry[:subsection] do
      nil ->
        text = indent(IO.iodata_to_binary(bullet.(description(entry, nil))), "  ", :but_first)
        {[text, indent(nested, "  ")], sections}

      heading ->
        text = indent(IO.iodata_to_binary(bullet.(description(entry, heading))), "  ", :but_first)
        {text, [heading, "\n\n", nested, sections]}
    end
  end

  defp separator(""), do: ""
  defp separator(_description), do: " - "

  # A text of several paragraphs gets the default in a paragraph of its own.
  defp description(entry, heading) do
    text =
      join([
        entry[:deprecated] && "*This option is deprecated. #{String.trim(entry[:deprecated])}*",
        entry[:required] && "Required.",
        entry[:doc] && String.trim(entry[:doc]),
        heading && "See \"#{String.trim_leading(heading, "#") |> String.trim()}\" section below."
      ])

    case Keyword.fetch(entry, :default) do
      {:ok, default} -> text <> default(text, default)
      :error -> text
    end
  end

  defp default(text, default) do
    separator =
      cond do
        text == "" -> ""
        String.contains?(text, "\n\n") -> "\n\n"
        true -> " "
      end

    "#{separator}The default value is `#{inspect(default)}`."
  end

  defp join(parts), do: parts |> Enum.filter(&(&1 not in [nil, false, ""])) |> Enum.join(" ")

  defp type(entry) do
    case Keyword.get_lazy(entry, :type_doc, fn -> type_text(entry[:type]) end) do
      text when text in [nil, false] -> ""
      text -> " (#{text})"
    end
  end

  defp type_text(:any), do: "`t:term/0`"
  defp type_text(:keyword_list), do: "`t:keyword/0`"
  defp type_text(:non_empty_keyword_list), do: "non-empty `t:keyword/0`"
  defp type_text(:string), do: "`t:String.t/0`"
  defp type_text(nil), do: "`nil`"
  # These say more in the text of the option than in a word.
  defp type_text(type) when type in [:mfa, :mod_arg, :fun], do: nil
  defp type_text(type) when is_atom(type), do: "`t:#{type}/0`"
  defp type_text({:fun, args, _return}), do: type_text({:fun, args})
  defp type_text({:fun, args}) when is_list(args), do: type_text({:fun, length(args)})
  defp type_text({:fun, arity}), do: "function of arity #{arity}"
  defp type_text({:struct, module}), do: "struct of type `#{inspect(module)}`"
  defp type_text({:list, type}), do: compound([type], fn [text] -> "list of #{text}" end)

  defp type_text({:or, types}), do: compound(types, &Enum.join(&1, " or "))

  defp type_text({:tuple, types}),
    do: compound(types, &"tuple of #{Enum.join(&1, ", ")} values")

  defp type_text({:map, key, value}),
    do: compound([key, value], fn [key, value] -> "map of #{key} keys and #{value} values" end)

  defp type_text({type, keys}) when is_list(keys) and type != :in, do: type_text(type)
  defp type_text(_type), do: nil

  # A compound type is named only when every part of it has a name.
  defp compound(types, text) do
    parts = Enum.map(types, &type_text/1)
    if Enum.all?(parts), do: text.(parts)
  end

  defp indent(text, indentation, which \\ :all) do
    [first | rest] = String.split(text, "\n")
    rest = Enum.map(rest, &indent_line(&1, indentation))
    first = if which == :all, do: indent_line(first, indentation), else: first
    Enum.join([first | rest], "\n")
  end

  defp indent_line("", _indentation), do: ""
  defp indent_line(line, indentation), do: indentation <> line
end
