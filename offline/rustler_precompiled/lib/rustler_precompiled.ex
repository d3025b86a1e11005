defmodule RustlerPrecompiled do
  @moduledoc """
  Decides between a precompiled library and a build from source: a stand-in that only builds,
  see `README.md`.

  A build from source is asked for, as documented for the package of the same name, by any of

    * the option `force_build: true`
    * `config :rustler_precompiled, :force_build, my_app: true`
    * `config :rustler_precompiled, :force_build_all, true`
    * the environment variable `RUSTLER_PRECOMPILED_FORCE_BUILD_ALL`, set to `1` or `true`
    * a pre-release `:version`, such as `"1.0.0-dev"`

  Further options: `:otp_app`, `:crate`, `:base_url`, `:version` are required, `:targets`,
  `:nif_versions`, `:max_retries` and `:variants` are about the download and ignored. The rest
  goes to `use Rustler`.
  """

  # What `use Rustler` does not know.
  @download_options [
    :base_url,
    :version,
    :force_build,
    :targets,
    :nif_versions,
    :max_retries,
    :variants
  ]

  @required [:otp_app, :crate, :base_url, :version]

  defmacro __using__(opts) do
    quote do
      require RustlerPrecompiled

      @rustler_precompiled_opts RustlerPrecompiled.__configure__(
                                  unquote(opts),
                                  Application.compile_env(:rustler_precompiled, :force_build, []),
                                  Application.compile_env(
                                    :rustler_precompiled,
                                    :force_build_all,
                                    false
                                  )
                                )

      use Rustler, @rustler_precompiled_opts
    end
  end

  @doc false
  # The options of `use Rustler`.
  def __configure__(opts, force_build, force_build_all) do
    for key <- @required, not Keyword.has_key?(opts, key) do
      raise ArgumentError, "RustlerPrecompiled: the option #{inspect(key)} is missing"
    end

    forced? =
      force_build_all or all_forced_by_environment?() or
        Keyword.get_lazy(opts, :force_build, fn -> force_build[opts[:otp_app]] end) == true or
        prerelease?(opts[:version])

    unless forced? do
      raise """
      the precompiled library of #{inspect(opts[:otp_app])} cannot be downloaded: this is the \
      offline stand-in for rustler_precompiled, which only builds from source. Force that with

          config :rustler_precompiled, :force_build, #{opts[:otp_app]}: true
      """
    end

    Keyword.drop(opts, @download_options)
  end

  defp all_forced_by_environment?,
    do: System.get_env("RUSTLER_PRECOMPILED_FORCE_BUILD_ALL") in ["1", "true"]

  # There can be no artifact of a version that is not released yet.
  defp prerelease?(version), do: Version.parse!(version).pre != []
end
