defmodule RustlerTest do
  # Builds a small crate with the real Rust side of rustler, in a Mix project of its own: a
  # workspace of the NIF crate and a plain one that it depends on. The project compiles in a new
  # OS process, as a user's would.
  use ExUnit.Case, async: false

  @moduletag :tmp_dir
  @moduletag timeout: 300_000

  # All tests share what Cargo built: rustler itself takes a while.
  @target_dir Path.expand("../../../_build/offline/rustler/fixture", __DIR__)

  setup %{tmp_dir: dir} do
    write(dir, "mix.exs", """
    defmodule Fixture.MixProject do
      use Mix.Project

      def project,
        do: [app: :fixture, version: "0.1.0", deps: [{:rustler, path: #{inspect(File.cwd!())}}]]
    end
    """)

    write(dir, "lib/native.ex", """
    defmodule Fixture.Native do
      use Rustler,
        otp_app: :fixture,
        crate: "fixture_nif",
        load_data: 7,
        target_dir: #{inspect(@target_dir)}

      def answer, do: :erlang.nif_error(:nif_not_loaded)
    end
    """)

    write(dir, "native/Cargo.toml", """
    [workspace]
    resolver = "2"
    members = ["fixture_nif", "fixture_core"]
    """)

    write(dir, "native/fixture_core/Cargo.toml", """
    [package]
    name = "fixture_core"
    version = "0.1.0"
    edition = "2021"
    """)

    write(dir, "native/fixture_core/src/lib.rs", "pub const ANSWER: i64 = 41;\n")

    write(dir, "native/fixture_nif/Cargo.toml", """
    [package]
    name = "fixture_nif"
    version = "0.1.0"
    edition = "2021"

    [lib]
    crate-type = ["cdylib"]

    [dependencies]
    fixture_core = { path = "../fixture_core" }
    rustler = { version = "0.38", default-features = false, features = ["nif_version_2_15"] }
    """)

    write(dir, "native/fixture_nif/src/lib.rs", """
    use std::sync::atomic::{AtomicI64, Ordering};

    static LOAD_DATA: AtomicI64 = AtomicI64::new(0);

    #[rustler::nif]
    fn answer() -> (i64, i64) {
        (fixture_core::ANSWER, LOAD_DATA.load(Ordering::Relaxed))
    }

    fn load(_env: rustler::Env, data: rustler::Term) -> bool {
        LOAD_DATA.store(data.decode().expect("an integer"), Ordering::Relaxed);
        true
    }

    rustler::init!("Elixir.Fixture.Native", load = load);
    """)

    # Mix compares whole seconds: whatever a test writes now is newer than this.
    for file <- Path.wildcard("#{dir}/**"), do: File.touch!(file, System.os_time(:second) - 10)
    :ok
  end

  test "builds, installs and loads; says so only when there is something to build", %{
    tmp_dir: dir
  } do
    assert {output, 0} = answer(dir)
    assert output =~ "Compiling fixture_nif"
    assert output =~ "{41, 7}"
    assert File.regular?(Path.join(dir, "priv/native/libfixture_nif.so"))

    # Another environment gets the same library without another build.
    assert {output, 0} = answer(dir, [{"MIX_ENV", "prod"}])
    assert output =~ "{41, 7}"
    refute output =~ ~r/Compiling fixture_nif|Finished/

    # A change in a crate that the NIF crate depends on compiles the module again.
    write(dir, "native/fixture_core/src/lib.rs", "pub const ANSWER: i64 = 42;\n")
    assert {output, 0} = answer(dir)
    assert output =~ "Compiling fixture_core"
    assert output =~ "{42, 7}"

    # With the library in place, the build can be skipped.
    edit(
      dir,
      "lib/native.ex",
      ~s(crate: "fixture_nif"),
      ~s(crate: "fixture_nif", skip_compilation?: true)
    )

    write(dir, "native/fixture_core/src/lib.rs", "not Rust\n")
    assert {output, 0} = answer(dir)
    assert output =~ "{42, 7}"
  end

  test "an error of the compiler is shown and fails the build", %{tmp_dir: dir} do
    write(dir, "native/fixture_core/src/lib.rs", "pub const ANSWER: i64 = nothing;\n")
    assert {output, status} = answer(dir)
    assert status != 0
    assert output =~ "cannot find value `nothing`"
    assert output =~ "cargo build failed"
  end

  test "mistakes in the options are explained", %{tmp_dir: dir} do
    edit(dir, "lib/native.ex", ~s(crate: "fixture_nif"), ~s(crate: "missing"))
    assert {output, 1} = answer(dir)
    assert output =~ ~r"there is no Cargo.toml in .*/native/missing"

    edit(dir, "lib/native.ex", ~s(crate: "missing"), ~s(crate: "fixture_core"))
    assert {output, 1} = answer(dir)
    assert output =~ "the crate fixture_core builds no library"
  end

  test "without cargo it says what to do", %{tmp_dir: dir} do
    # The same programs in the same order, but this one.
    folders = "PATH" |> System.get_env() |> String.split(":") |> Enum.uniq()
    path = Enum.map_join(folders, ":", &without_cargo(&1, dir))

    assert {output, 1} = answer(dir, [{"PATH", path}])
    assert output =~ "cargo was not found"
    assert output =~ "https://rustup.rs"
  end

  defp without_cargo(folder, dir) do
    if File.exists?(Path.join(folder, "cargo")) do
      links = Path.join([dir, "bin", Base.encode16(folder)])
      File.mkdir_p!(links)

      for name <- File.ls!(folder) -- ["cargo"],
          do: File.ln_s!(Path.join(folder, name), Path.join(links, name))

      links
    else
      folder
    end
  end

  # The environment of this test run must not leak into the fixture.
  defp answer(dir, env \\ []) do
    System.cmd("mix", ["run", "-e", "IO.inspect(Fixture.Native.answer())"],
      cd: dir,
      env: Map.to_list(Map.merge(%{"MIX_ENV" => "dev", "MIX_BUILD_PATH" => nil}, Map.new(env))),
      stderr_to_stdout: true
    )
  end

  defp write(dir, file, content) do
    path = Path.join(dir, file)
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, content)
  end

  defp edit(dir, file, from, to) do
    write(dir, file, dir |> Path.join(file) |> File.read!() |> String.replace(from, to))
  end
end
