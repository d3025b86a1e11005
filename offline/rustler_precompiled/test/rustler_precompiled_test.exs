defmodule RustlerPrecompiledTest do
  # Not async: one test sets an environment variable.
  use ExUnit.Case, async: false

  @variable "RUSTLER_PRECOMPILED_FORCE_BUILD_ALL"

  @opts [
    otp_app: :my_app,
    crate: "my_crate",
    base_url: "https://example.com",
    version: "1.0.0",
    targets: ["x86_64-unknown-linux-gnu"],
    nif_versions: ["2.16"],
    path: "native/elsewhere"
  ]

  @rustler_opts [otp_app: :my_app, crate: "my_crate", path: "native/elsewhere"]

  setup do
    value = System.get_env(@variable)
    System.delete_env(@variable)

    on_exit(fn ->
      if value, do: System.put_env(@variable, value), else: System.delete_env(@variable)
    end)
  end

  test "a forced build gets the options of rustler" do
    assert configure([force_build: true] ++ @opts) == @rustler_opts
  end

  test "a build is forced by configuration, for this application or for all" do
    assert configure(@opts, my_app: true) == @rustler_opts
    assert configure(@opts, [], true) == @rustler_opts
    assert_raise RuntimeError, fn -> configure(@opts, other_app: true) end
  end

  test "the option of the module goes before the configuration of the application" do
    assert_raise RuntimeError, fn -> configure([force_build: false] ++ @opts, my_app: true) end
  end

  test "a build is forced by the environment" do
    for value <- ["1", "true"] do
      System.put_env(@variable, value)
      assert configure(@opts) == @rustler_opts
    end

    System.put_env(@variable, "0")
    assert_raise RuntimeError, fn -> configure(@opts) end
  end

  test "a build of a pre-release is forced" do
    assert configure(Keyword.put(@opts, :version, "1.0.0-dev")) == @rustler_opts
  end

  test "otherwise it says that it cannot download, and what to do" do
    assert_raise RuntimeError, ~r/only builds from source.*my_app: true/s, fn ->
      configure(@opts)
    end
  end

  test "required options are required" do
    for key <- [:otp_app, :crate, :base_url, :version] do
      assert_raise ArgumentError, ~r/#{inspect(key)} is missing/, fn ->
        configure(Keyword.delete(@opts, key))
      end
    end
  end

  test "`use` hands over to rustler" do
    # There is no such crate, which only rustler would find out.
    assert_raise Mix.Error, ~r"no Cargo.toml in .*/native/elsewhere", fn ->
      Code.eval_quoted(
        quote do
          defmodule Native do
            use RustlerPrecompiled, unquote([force_build: true] ++ @opts)
          end
        end
      )
    end
  end

  defp configure(opts, force_build \\ [], force_build_all \\ false),
    do: RustlerPrecompiled.__configure__(opts, force_build, force_build_all)
end
