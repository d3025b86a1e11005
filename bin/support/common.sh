# Sourced by every script in bin/: the folder of the project, the environment, messages.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
LOGS=$ROOT/_build/logs
cd "$ROOT"
mkdir -p "$LOGS"

# Elixir 1.14 warns, and mangles names, unless both the locale and the runtime say UTF-8.
export LANG=C.UTF-8 LC_ALL=C.UTF-8
export ELIXIR_ERL_OPTIONS="${ELIXIR_ERL_OPTIONS:-+fnu}"

# Rust from rustup goes before that of the distribution, which is often too old.
export PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH

# The folder that Mix lets Cargo use as well (offline/rustler), so that nothing is built twice.
export CARGO_TARGET_DIR=$ROOT/_build/native

say() { printf '%s\n' "$@"; }

die() {
  printf '%s\n' "$@" >&2
  exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

# quietly NAME COMMAND...: the output goes to a log, and to the screen only when the command fails.
quietly() {
  local log=$LOGS/$1.log
  shift
  "$@" >"$log" 2>&1 </dev/null && return
  local status=$?
  say "failed ($status): $*" >&2
  cat "$log" >&2
  return "$status"
}
