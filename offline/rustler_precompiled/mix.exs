defmodule RustlerPrecompiled.MixProject do
  use Mix.Project

  def project do
    [
      app: :rustler_precompiled,
      version: "0.9.0",
      elixir: "~> 1.14",
      description: "Stand-in for the Hex package of the same name, see README.md",
      build_path: "../../_build/offline/rustler_precompiled",
      lockfile: "../mix.lock",
      deps: [{:rustler, path: "../rustler", optional: true}]
    ]
  end

  def application, do: []
end
