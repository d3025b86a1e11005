defmodule Rustler.MixProject do
  use Mix.Project

  def project do
    [
      app: :rustler,
      version: "0.38.0",
      elixir: "~> 1.14",
      description: "Stand-in for the Hex package of the same name, see README.md",
      build_path: "../../_build/offline/rustler",
      lockfile: "../mix.lock",
      deps: []
    ]
  end

  def application, do: []
end
