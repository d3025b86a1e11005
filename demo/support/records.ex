defmodule Demo.Records do
  # What the demo works on: `{id, value}`. The id tells where the record is from, as
  # `{number of the file, file, position in it}`. So equal lines are separate records, and so are the
  # lines of a file that is named twice.

  @doc "The lines of the files; of no files, what the installed Erlang/OTP and Elixir export."
  def read([]), do: number(beams(), &exports/1)
  def read(files), do: number(files, &lines/1)

  # Everything is read before anything is started, and all files that cannot be read are named at once.
  defp number(files, values) do
    contents = for {file, number} <- Enum.with_index(files, 1), do: {number, file, values.(file)}

    case for {_, file, {:error, reason}} <- contents, do: "cannot read #{file}: #{reason}" do
      [] ->
        {:ok,
         for {number, file, {:ok, values}} <- contents,
             {value, position} <- Enum.with_index(values, 1) do
           {{number, file, position}, value}
         end}

      errors ->
        {:error, errors}
    end
  end

  defp lines(file) do
    case File.read(file) do
      {:ok, content} -> {:ok, split(content)}
      {:error, reason} -> {:error, :file.format_error(reason)}
    end
  end

  # Lines are bytes: nothing here asks whether they are text. A newline ends a line, so there is none
  # after the last one. The copies let go of the file as a whole.
  defp split(""), do: []

  defp split(content) do
    content
    |> String.replace_suffix("\n", "")
    |> :binary.split("\n", [:global])
    |> Enum.map(&:binary.copy/1)
  end

  # Elixir may be installed in a place of its own, or among the applications of Erlang.
  defp beams do
    [:code.lib_dir(), Path.dirname(:code.lib_dir(:elixir))]
    |> Enum.uniq()
    |> Enum.flat_map(&Path.wildcard("#{&1}/*/ebin/*.beam"))
  end

  # Read from the file: loading thousands of modules would take long, and make this another VM.
  defp exports(beam) do
    case :beam_lib.chunks(String.to_charlist(beam), [:exports]) do
      {:ok, {module, [exports: exports]}} ->
        application = application(beam)

        {:ok, for({function, arity} <- exports, do: {application, module, function, arity})}

      {:error, :beam_lib, reason} ->
        {:error, :beam_lib.format_error(reason)}
    end
  end

  # .../stdlib-4.2/ebin/lists.beam
  defp application(beam) do
    [_beam, "ebin", folder | _above] = beam |> Path.split() |> Enum.reverse()
    folder |> String.split("-") |> hd()
  end
end
