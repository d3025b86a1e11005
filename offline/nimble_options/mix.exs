defmodule NimbleOptions.MixProject do
  use Mix.Project

  def project do
    [
      app: :nimble_options,
      version: "1.1.1",
      elixir: "~> 1.14",
      description: "Stand-in for the Hex package of the same name, see README.md",
      build_path: "../../_build/offline/nimble_options",
      lockfile: "../mix.lock",
      deps: []
    ]
  end

  def application, do: []
end
