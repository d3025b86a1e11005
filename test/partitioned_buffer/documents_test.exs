defmodule PartitionedBuffer.DocumentsTest do
  # What the documents show can be written like that, and what they link to is there.
  use ExUnit.Case, async: true

  @documents ["README.md", "CHANGELOG.md", "RELEASE.md", "bench/README.md", "offline/README.md"] ++
               ["lib/partitioned_buffer/README.md" | Path.wildcard("docs/**/*.md")]

  for document <- @documents do
    test "#{document}: its code is Elixir, and calls functions that are there" do
      for {code, line} <- blocks(unquote(document)) do
        assert {:ok, ast} = Code.string_to_quoted(code, line: line)

        for {module, name, arity} <- calls(ast) do
          assert Code.ensure_loaded?(module), "line #{line}: #{inspect(module)}"

          assert function_exported?(module, name, arity),
                 "line #{line}: #{inspect(module)}.#{name}/#{arity}"
        end
      end
    end

    test "#{document}: its links lead somewhere" do
      for link <- links(unquote(document)), not String.starts_with?(link, "https://") do
        [path | anchor] = String.split(link, "#")
        target = unquote(document) |> Path.dirname() |> Path.join(path) |> Path.expand()
        target = if path == "", do: unquote(document), else: target
        assert File.exists?(target), link
        for anchor <- anchor, do: assert(anchor in anchors(target), link)
      end
    end
  end

  # With the number of the line after which each begins. Those of a list are indented.
  defp blocks(document) do
    text = File.read!(document)

    for [{start, length}] <- Regex.scan(~r/(?<=```elixir\n).*?(?=\n *```)/s, text, return: :index) do
      line = text |> binary_part(0, start) |> String.split("\n") |> length()
      {binary_part(text, start, length), line}
    end
  end

  # Of this library, by full name.
  defp calls(ast) do
    {_ast, calls} =
      Macro.prewalk(ast, [], fn
        {:|>, _, [left, {call, meta, args}]}, calls when is_list(args) ->
          {{:__block__, [], [left, {call, meta, [:piped | args]}]}, calls}

        {{:., _, [{:__aliases__, _, [:PartitionedBuffer | _] = names}, name]}, _, args} = node,
        calls ->
          {node, [{Module.concat(names), name, length(args)} | calls]}

        # `&Module.name/1`
        {:/, _, [{{:., _, [_module, _name]}, _, []}, arity]}, calls when is_integer(arity) ->
          {:captured, calls}

        node, calls ->
          {node, calls}
      end)

    calls
  end

  defp links(document) do
    for [_all, link] <- Regex.scan(~r/\]\(([^)\s]+)\)/, without_code(document)), do: link
  end

  defp anchors(document) do
    for [_all, heading] <- Regex.scan(~r/^#+ (.+)$/m, without_code(document)) do
      heading
      |> String.downcase()
      |> String.replace(~r/[^\w\- ]/u, "")
      |> String.replace(" ", "-")
    end
  end

  defp without_code(document), do: String.replace(File.read!(document), ~r/```.*?```/s, "")
end
