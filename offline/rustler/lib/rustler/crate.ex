defmodule Rustler.Crate do
  # A crate that is built while a module compiles.
  #
  # Where the library is, and which crates of this repository went into it, is read from what
  # Cargo reports about the build, so workspaces and path dependencies need no special case.
  @moduledoc false

  alias Rustler.Cargo

  @enforce_keys [:library, :sources]
  defstruct [:library, :sources]

  @typedoc "The shared library that was built, and all files whose change asks for a new build."
  @type t() :: %__MODULE__{library: Path.t(), sources: [Path.t()]}

  @spec build!(keyword()) :: t()
  def build!(config) do
    crate = to_string(config[:crate])
    path = Path.expand(config[:path] || "native/#{crate}")

    unless File.regular?(Path.join(path, "Cargo.toml")),
      do: Mix.raise("there is no Cargo.toml in #{path}, where the crate #{crate} should be")

    artifacts =
      config
      |> args()
      |> Cargo.build!(cd: path, env: config[:env] || [])
      |> Enum.filter(&(&1["reason"] == "compiler-artifact"))

    %__MODULE__{library: library!(artifacts, crate), sources: sources(artifacts, path)}
  end

  @doc "Where all environments of a Mix project share what Cargo built."
  @spec default_target_dir() :: Path.t()
  def default_target_dir do
    build_path = Mix.Project.build_path()

    # Usually `_build/dev`; but a path given by the user is not to be left.
    if System.get_env("MIX_BUILD_PATH"),
      do: Path.join(build_path, "native"),
      else: build_path |> Path.dirname() |> Path.join("native")
  end

  defp args(config) do
    features = config[:features] || []

    List.flatten([
      ["--target-dir", config[:target_dir] || default_target_dir()],
      if(config[:mode] == :debug, do: [], else: "--release"),
      if(features == [], do: [], else: ["--features", Enum.join(features, ",")]),
      if(config[:default_features] == false, do: "--no-default-features", else: [])
    ])
  end

  defp library!(artifacts, crate) do
    artifact =
      Enum.find(artifacts, fn %{"target" => target} ->
        target["name"] == crate and "cdylib" in target["kind"]
      end)

    library =
      artifact && Enum.find(artifact["filenames"], &(Path.extname(&1) in [".so", ".dylib"]))

    library ||
      Mix.raise(~s(the crate #{crate} builds no library: it needs crate-type = ["cdylib"]))
  end

  # Crates with a manifest of their own on this disk; what comes from a registry does not change.
  defp sources(artifacts, path) do
    crates =
      for %{"package_id" => "path+" <> _, "manifest_path" => manifest} <- artifacts,
          uniq: true,
          do: Path.dirname(manifest)

    workspace = Path.dirname(Cargo.workspace_manifest!(path))

    shared =
      for file <- ~w(Cargo.toml Cargo.lock rust-toolchain.toml .cargo/config.toml),
          path = Path.join(workspace, file),
          File.regular?(path),
          do: path

    Enum.uniq(shared ++ Enum.flat_map(crates, &crate_sources/1))
  end

  # Not the whole folder: tests, benchmarks and a target folder may lie next to the sources. But
  # all of `src`, where also lies what the sources include.
  defp crate_sources(crate) do
    [Path.join(crate, "Cargo.toml")] ++
      Path.wildcard(Path.join(crate, "build.rs")) ++
      (crate |> Path.join("src/**/*.*") |> Path.wildcard())
  end
end
