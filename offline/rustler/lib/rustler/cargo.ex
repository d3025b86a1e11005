defmodule Rustler.Cargo do
  # Runs Cargo. With `--message-format=json-render-diagnostics` it tells on standard output, one
  # JSON object per line, what it built and where; everything meant for people goes to standard
  # error as usual.
  @moduledoc false

  # A line of JSON that names many files is longer than this; it then arrives in several pieces.
  @piece 65_536

  @doc "Builds, and returns Cargo's messages. Raises when Cargo is missing or fails."
  @spec build!([String.t()], keyword()) :: [map()]
  def build!(args, opts) do
    port =
      Port.open({:spawn_executable, executable!()}, [
        :binary,
        :exit_status,
        :stderr_to_stdout,
        :hide,
        line: @piece,
        args: ["build", "--message-format=json-render-diagnostics" | args],
        cd: opts[:cd],
        env: for({key, value} <- opts[:env], do: {to_charlist(key), to_charlist(value)})
      ])

    case collect(port, "", []) do
      {0, messages} -> messages
      {status, _} -> Mix.raise("cargo build failed with status #{status} in #{opts[:cd]}")
    end
  end

  @doc "The manifest of the workspace that a crate belongs to: its own when there is none."
  @spec workspace_manifest!(Path.t()) :: Path.t()
  def workspace_manifest!(directory) do
    args = ~w(locate-project --workspace --message-format plain)
    {path, 0} = System.cmd(executable!(), args, cd: directory)
    String.trim(path)
  end

  defp executable! do
    System.find_executable("cargo") ||
      Mix.raise("""
      cargo was not found, but the native code has to be built from source.

      Install Rust (https://rustup.rs), and make sure that `cargo` is on the PATH.
      """)
  end

  defp collect(port, start, messages) do
    receive do
      {^port, {:data, {:noeol, piece}}} -> collect(port, start <> piece, messages)
      {^port, {:data, {:eol, piece}}} -> collect(port, "", line(start <> piece, messages))
      {^port, {:exit_status, status}} -> {status, messages}
    end
  end

  defp line(~s({"reason":) <> _ = line, messages), do: [Rustler.JSON.decode!(line) | messages]

  defp line(line, messages) do
    unless finished?(line), do: Mix.shell().info(line)
    messages
  end

  # The only thing that Cargo says when there was nothing to do.
  defp finished?(line), do: String.trim_leading(line) |> String.starts_with?("Finished ")
end
