# Sourced: brings the machine to where the project can be built. `setup` for building and running,
# `setup test` for the tests as well. Installs what is missing on Debian and its relatives, and says what is missing
# elsewhere; on a machine that has everything it changes nothing.
# shellcheck shell=bash

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Applications of Erlang, which distributions split into packages: what Mix and the library need, then what only
# the tests and the checks need.
ERLANG_RUNTIME=(crypto inets mnesia os_mon parsetools runtime_tools ssl syntax_tools tools)
ERLANG_TEST=(dialyzer eunit proper)

setup() {
  setup_system "${1:-}"
  setup_rust "${1:-}"
  setup_dependencies
}

# --- Elixir, Erlang and a linker ----------------------------------------------------------------------------------

setup_system() {
  local applications=("${ERLANG_RUNTIME[@]}")
  [ "${1:-}" = test ] && applications+=("${ERLANG_TEST[@]}")

  if erlang_is_from_debian; then
    local packages=(elixir erlang-dev "${applications[@]/#/erlang-}")
    has cc || packages+=(gcc libc6-dev)
    install_packages "${packages[@]//_/-}"
  else
    check_erlang "${applications[@]}"
  fi
}

# An Erlang that somebody put there by other means (asdf, source) must not get a second one beside it.
erlang_is_from_debian() {
  has apt-get && has dpkg-query || return 1
  ! has erl || [ "$(command -v erl)" = /usr/bin/erl ]
}

install_packages() {
  local package missing=()
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return

  [ "$(id -u)" = 0 ] || has sudo ||
    die "These packages are missing, and neither root nor sudo is there to install them:" "  ${missing[*]}"

  say "installing ${missing[*]}"
  quietly apt apt_get update && quietly apt apt_get install --yes --no-install-recommends "${missing[@]}"
}

apt_get() {
  local sudo=()
  [ "$(id -u)" = 0 ] || sudo=(sudo)
  # Another apt may be at work: a fresh machine often updates itself.
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@"
}

check_erlang() {
  has elixir && has erl && has cc ||
    die "Elixir 1.14 or later, Erlang/OTP 25 or later and a C compiler (as the linker of Rust) are needed."

  local missing
  missing=$(erl -noinput -boot start_clean -eval '
    [io:format(" ~s", [A]) || A <- init:get_plain_arguments(),
                              code:lib_dir(list_to_atom(A)) =:= {error, bad_name}],
    halt().' -extra "$@")

  # PropEr is no part of Erlang: with Hex at hand it is an ordinary dependency.
  missing=${missing/ proper/}
  [ -z "$missing" ] || die "This Erlang lacks applications that are needed:$missing"
}

# --- Rust ---------------------------------------------------------------------------------------------------------

RUSTUP_SCRIPT=https://static.rust-lang.org/rustup/rustup-init.sh

setup_rust() {
  local components=()
  [ "${1:-}" = test ] && components=(clippy rustfmt)

  if ! rust_is_new_enough; then
    has curl || ! erlang_is_from_debian || install_packages curl ca-certificates
    say "installing Rust with rustup"
    quietly rustup install_rust "${components[@]}" && hash -r && rust_is_new_enough ||
      die "Rust $(rust_version_needed) or later is needed to build the native code, and could not be installed." \
        "Install it as https://rustup.rs says, and make sure that 'cargo' is on the PATH."
  fi

  local component
  for component in "${components[@]}"; do
    case $component in
      clippy) cargo clippy --version ;;
      rustfmt) cargo fmt --version ;;
    esac >/dev/null 2>&1 ||
      quietly "$component" rustup component add "$component" ||
      die "The Rust component '$component' is missing."
  done
}

install_rust() {
  if has rustup; then
    rustup toolchain install stable --profile minimal && rustup default stable
  else
    local script status=0
    script=$(mktemp)
    curl --proto '=https' --tlsv1.2 -sSf -o "$script" "$RUSTUP_SCRIPT" &&
      sh "$script" -y --profile minimal --no-modify-path "${@/#/--component=}" || status=$?
    rm -f "$script"
    return "$status"
  fi
}

rust_is_new_enough() {
  local version
  version=$(cargo --version 2>/dev/null | cut -d ' ' -f 2) && [ -n "$version" ] &&
    printf '%s\n' "$(rust_version_needed)" "$version" | sort -C -V
}

rust_version_needed() { sed -n 's/^rust-version *= *"\(.*\)"/\1/p' native/Cargo.toml; }

# --- Hex, or the stand-ins ----------------------------------------------------------------------------------------

# Asking Hex for the dependencies is the only honest probe, and needs no network once they are all there.
setup_dependencies() {
  [ -n "${PARTITIONED_BUFFER_OFFLINE:-}" ] && return
  if ! fetch_dependencies >"$LOGS/hex.log" 2>&1 </dev/null; then
    export PARTITIONED_BUFFER_OFFLINE=1
    say "Hex cannot be reached: using the stand-ins of offline/ (PARTITIONED_BUFFER_OFFLINE=1)"
  fi
}

fetch_dependencies() {
  timeout 20 mix local.hex --force --if-missing &&
    timeout 20 mix local.rebar --force --if-missing &&
    timeout 120 mix deps.get
}
