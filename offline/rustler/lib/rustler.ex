defmodule Rustler do
  @moduledoc """
  Builds a NIF crate and loads it: a stand-in for the package of the same name, see `README.md`.

      defmodule MyApp.Native do
        use Rustler, otp_app: :my_app, crate: "my_crate"

        def add(_a, _b), do: :erlang.nif_error(:nif_not_loaded)
      end

  Options, which `config :my_app, MyApp.Native, ...` may override:

    * `:otp_app` - the application whose `priv` folder gets the library; required
    * `:crate` - the name of the crate; the name of the application by default
    * `:path` - its folder; `native/<crate>` by default
    * `:mode` - `:release` (default) or `:debug`
    * `:features`, `:default_features` - Cargo features
    * `:env` - environment variables of Cargo, a list of pairs
    * `:target_dir` - Cargo's target folder; one that all Mix environments share by default
    * `:skip_compilation?` - whether to load what is in `priv` already
    * `:load_data` - the term that the NIF gets as its load data; `0` by default
  """

  alias Rustler.Crate

  defmacro __using__(opts) do
    quote bind_quoted: [opts: opts] do
      otp_app = Keyword.fetch!(opts, :otp_app)
      override = Application.compile_env(otp_app, __MODULE__, [])
      config = Rustler.__config__(Keyword.merge(opts, override))

      for source <- Rustler.__build__(config), do: @external_resource(source)

      @rustler_otp_app otp_app
      @rustler_library "priv/native/lib#{config[:crate]}"
      @rustler_load_data Keyword.get(config, :load_data, 0)
      @before_compile Rustler
    end
  end

  # The loading function is defined last so that the functions it replaces are all there. The
  # runtime wants the call to come from the very module that the library names, and a release has
  # no Rustler in it.
  defmacro __before_compile__(_env) do
    quote do
      @on_load :rustler_init

      @doc false
      def rustler_init do
        # Without the extension, which the runtime adds.
        @rustler_otp_app
        |> Application.app_dir(@rustler_library)
        |> to_charlist()
        |> :erlang.load_nif(@rustler_load_data)
      end
    end
  end

  @doc false
  def __config__(opts), do: Keyword.put_new(opts, :crate, to_string(opts[:otp_app]))

  @doc false
  # Returns the files that the module depends on.
  def __build__(config) do
    if config[:skip_compilation?] do
      []
    else
      crate = Crate.build!(config)
      install!(crate.library, config)
      crate.sources
    end
  end

  defp install!(library, config) do
    target = "priv/native/lib#{config[:crate]}.so"
    File.mkdir_p!("priv/native")
    # The first build has only now created `priv`: this links it into the build folder.
    Mix.Project.build_structure()

    unless same?(library, target) do
      # A running node may have the former library mapped: it must be replaced, not written over.
      temporary = "#{target}.#{System.pid()}"
      File.cp!(library, temporary)
      File.rename!(temporary, target)
    end
  end

  defp same?(a, b), do: File.exists?(b) and File.read!(a) == File.read!(b)
end
