#!/usr/bin/env bash
# Runs Dialyzer without dialyxir, for machines without Hex. The flags are those of mix.exs, so both agree.
set -euo pipefail
source "$(dirname "$0")/common.sh"

export MIX_ENV=dev
mix compile

elixir_libs=$(elixir -e 'IO.write(Path.dirname(:code.lib_dir(:elixir)))')
versions=$(elixir -e 'IO.write("otp#{System.otp_release()}-elixir#{System.version()}")')
flags=$(mix run --no-compile --no-start -e '
  Mix.Project.config()[:dialyzer][:flags] |> Enum.map_join(" ", &"-W#{&1}") |> IO.write()')

# Dialyzer reads Elixir's modules with the help of Elixir itself.
dialyzer=(dialyzer -pa "$elixir_libs/elixir/ebin")
plt=_build/plts/$versions.plt

if [ ! -f "$plt" ]; then
  say "building $plt"
  mkdir -p "$(dirname "$plt")"
  # The status says whether there were warnings, and about OTP itself there always are.
  "${dialyzer[@]}" --quiet --build_plt --output_plt "$plt.new" \
    --apps erts kernel stdlib crypto -r "$elixir_libs"/{elixir,logger}/ebin || [ -f "$plt.new" ]
  mv "$plt.new" "$plt"
fi

# shellcheck disable=SC2086 # the flags are words
"${dialyzer[@]}" --plt "$plt" $flags -r _build/dev/lib/{partitioned_buffer,nimble_options,telemetry}/ebin
