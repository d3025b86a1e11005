defmodule PartitionedBuffer.MixProject.Offline do
  # Some machines that build this project, its CI among them, cannot reach Hex. There
  # `PARTITIONED_BUFFER_OFFLINE=1` makes every Hex package that has a folder in `offline/` a path
  # dependency and leaves the others (documentation, dialyxir) out. This is the only place that
  # knows of the switch; what the folders are is told in offline/README.md.
  @moduledoc false

  def on?, do: System.get_env("PARTITIONED_BUFFER_OFFLINE") in ["1", "true"]

  def deps(deps) do
    if on?(), do: Enum.flat_map(deps, &replace/1), else: deps
  end

  # Path dependencies lock nothing, but no task run offline may rewrite the real lock file either.
  def lockfile(file), do: if(on?(), do: Path.join("offline", file), else: file)

  # PropEr comes with the Erlang distribution here (Debian: erlang-proper). It has to be named as
  # an application: Elixir 1.15 and later take everything that is not named off the code path.
  def extra_applications(env), do: [:logger | if(on?() and env == :test, do: [:proper], else: [])]

  defp replace({name, requirement}), do: replace({name, requirement, []})

  defp replace({name, _requirement, opts}) do
    path = "offline/#{name}"

    # Nothing is precompiled there: a project that depends on this one needs what builds it, too.
    opts = Keyword.delete(opts, :optional)

    if File.dir?(Path.expand(path, __DIR__)), do: [{name, [path: path] ++ opts}], else: []
  end
end

defmodule PartitionedBuffer.MixProject do
  use Mix.Project

  alias __MODULE__.Offline

  @version "0.1.0-dev"
  @source_url "https://github.com/partitioned-buffer/partitioned_buffer"

  def project do
    [
      app: :partitioned_buffer,
      version: @version,
      elixir: "~> 1.14",
      elixirc_paths: elixirc_paths(Mix.env()),
      start_permanent: Mix.env() == :prod,
      deps: Offline.deps(deps()),
      lockfile: Offline.lockfile("mix.lock"),
      aliases: aliases(),
      dialyzer: dialyzer(),

      # Hex
      name: "PartitionedBuffer",
      description: "Partitioned in-memory buffers and worker pools on native (Rust) storage.",
      source_url: @source_url,
      package: package(),
      docs: docs()
    ]
  end

  def application do
    [extra_applications: Offline.extra_applications(Mix.env())]
  end

  defp elixirc_paths(:test), do: ["lib", "test/support"]
  defp elixirc_paths(_env), do: ["lib"]

  defp deps do
    [
      {:telemetry, "~> 1.2"},
      {:nimble_options, "~> 1.1"},
      {:rustler_precompiled, "~> 0.9"},

      # Only needed to build the native code from source. It asks for Elixir 1.15; on 1.14 the
      # precompiled artifact is used.
      {:rustler, "~> 0.38", optional: true},
      {:ex_doc, "~> 0.40", only: :dev, runtime: false},
      {:dialyxir, "~> 1.4", only: [:dev, :test], runtime: false},
      {:proper, "~> 1.5", only: :test}
    ]
  end

  defp aliases do
    [
      # The one gate, for people and for CI.
      check: ["cmd bash bin/test"]
    ]
  end

  defp dialyzer do
    [
      plt_local_path: "_build/plts",
      plt_core_path: "_build/plts",
      flags: [:error_handling, :extra_return, :missing_return, :unmatched_returns]
    ]
  end

  defp package do
    [
      licenses: ["MIT"],
      links: %{
        "GitHub" => @source_url,
        "Changelog" => "#{@source_url}/blob/main/CHANGELOG.md"
      },
      # The Rust sources are part of the package so that a target without a precompiled artifact
      # can still be built. `checksum-*.exs` is written at release time, see RELEASE.md.
      files: ~w(
        lib
        native/*/src
        native/*/Cargo.toml
        native/Cargo.toml
        native/Cargo.lock
        checksum-*.exs
        mix.exs
        README.md
        LICENSE
        CHANGELOG.md
      )
    ]
  end

  defp docs do
    [
      main: "PartitionedBuffer",
      source_ref: "v#{@version}",
      source_url: @source_url,
      # Two files are called README.md: the notes need a page name of their own.
      extras:
        ["README.md", "CHANGELOG.md"] ++
          Path.wildcard("docs/guides/*.md") ++
          Path.wildcard("docs/*.md") ++
          [
            {"lib/partitioned_buffer/README.md",
             filename: "implementation-notes", title: "Implementation notes"}
          ],
      groups_for_extras: [
        Guides: [~r"docs/guides/"],
        Internals: [~r"docs/", ~r"lib/partitioned_buffer/"]
      ],
      groups_for_modules: [
        Buffers: [PartitionedBuffer.Queue, PartitionedBuffer.Map, PartitionedBuffer.DataBuffer],
        "Several nodes": [
          PartitionedBuffer.Cluster,
          PartitionedBuffer.Cluster.Error,
          PartitionedBuffer.Cluster.Telemetry,
          PartitionedBuffer.GenBuffer.Dist
        ],
        "Worker pools": [
          PartitionedBuffer.GenBuffer,
          PartitionedBuffer.GenPool,
          PartitionedBuffer.GenPool.Backend,
          PartitionedBuffer.GenPool.Backend.Ane,
          PartitionedBuffer.GenPool.Backend.ETS,
          PartitionedBuffer.GenPool.Backend.Native,
          PartitionedBuffer.GenPool.Broker,
          PartitionedBuffer.GenPool.DefaultBroker,
          PartitionedBuffer.GenPool.Telemetry
        ]
      ]
    ]
  end
end
