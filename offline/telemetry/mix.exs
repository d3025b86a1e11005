defmodule Telemetry.MixProject do
  use Mix.Project

  def project do
    [
      app: :telemetry,
      version: "1.4.1",
      elixir: "~> 1.14",
      description: "Stand-in for the Hex package of the same name, see README.md",
      build_path: "../../_build/offline/telemetry",
      lockfile: "../mix.lock",
      deps: []
    ]
  end

  def application do
    [extra_applications: [:logger], mod: {:telemetry_app, []}]
  end
end
