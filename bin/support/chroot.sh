# Sourced: Debian systems of other releases in folders, for bin/matrix.
# shellcheck shell=bash

# The machine's own apt knows a mirror that can be reached, and trusts keys. MATRIX_MIRROR and MATRIX_KEYRING override.
debian_mirror() {
  local mirror=${MATRIX_MIRROR:-}
  # One source of packages from Debian itself; the label of its security updates is another.
  [ -n "$mirror" ] || mirror=$(apt-get indextargets --format '$(REPO_URI)' \
    'Created-By: Packages' 'Label: Debian' 'Component: main' | head -n 1)
  [ -n "$mirror" ] || die "apt knows no mirror of Debian: run 'apt-get update', or name one in MATRIX_MIRROR."
  say "${mirror%/}"
}

debian_keyring() {
  local keyring=${MATRIX_KEYRING:-} candidate
  for candidate in "$keyring" $(signed_by) /usr/share/keyrings/debian-archive-keyring.gpg; do
    [ -f "$candidate" ] && say "$candidate" && return
  done
  die "No keyring of Debian was found: install debian-archive-keyring, or name one in MATRIX_KEYRING."
}

# The keyrings that apt's sources name for Debian, in either format of these files.
signed_by() {
  sed -n -e 's/^Signed-By: *\(\/[^ ]*debian[^ ]*\).*/\1/p' -e 's/^deb .*signed-by=\(\/[^] ]*debian[^] ]*\).*/\1/p' \
    /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null | sort -u
}

# chroot_create SUITE FOLDER: a minimal system. bin/setup installs the rest in it, as on any fresh machine.
chroot_create() {
  local suite=$1 folder=$2
  # Left half done by a run that was stopped?
  [ -f "$folder/.complete" ] && return
  rm -rf --one-file-system "$folder"
  has debootstrap || install_packages debootstrap
  say "making $suite in $folder"
  quietly "debootstrap-$suite" debootstrap --variant=minbase --keyring="$(debian_keyring)" \
    "$suite" "$folder" "$(debian_mirror)" || return

  # Unstable's lists run out after a week, by a clock that may be off.
  say 'Acquire::Check-Valid-Until "false";' >"$folder/etc/apt/apt.conf.d/90matrix"
  apt-config dump | grep -E '^Acquire::https?::Proxy' >>"$folder/etc/apt/apt.conf.d/90matrix" || true
  touch "$folder/.complete"
}

# chroot_run FOLDER COMMAND...: runs in the folder as root, with the project in /project and the machine's Rust.
# The mounts are made in a namespace of their own: they go when the command ends, however it ends.
chroot_run() {
  local folder=$1
  shift
  cp -L /etc/resolv.conf /etc/hosts "$folder/etc/"
  mkdir -p "$folder/opt/rust" "$folder/opt/cargo/registry"

  # The toolchain itself, not rustup's stand-ins for it; and what Cargo has downloaded, with the settings that say
  # where from.
  local cargo=${CARGO_HOME:-$HOME/.cargo}
  [ ! -f "$cargo/config.toml" ] || cp "$cargo/config.toml" "$folder/opt/cargo/"

  CHROOT=$folder RUST=$(rustc --print sysroot) REGISTRY=$cargo/registry \
    unshare --mount --propagation private bash -euc '
      mount -t proc proc "$CHROOT/proc"
      for device in null zero full random urandom tty pts shm; do
        [ -e "/dev/$device" ] || continue
        [ -d "/dev/$device" ] && mkdir -p "$CHROOT/dev/$device" || touch "$CHROOT/dev/$device"
        mount --bind "/dev/$device" "$CHROOT/dev/$device"
      done
      mount --bind "$RUST" "$CHROOT/opt/rust"
      mount --bind "$REGISTRY" "$CHROOT/opt/cargo/registry"
      exec chroot "$CHROOT" env --ignore-environment \
        PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        HOME=/root CARGO_HOME=/opt/cargo CARGO_NET_OFFLINE=true \
        http_proxy="${http_proxy:-}" https_proxy="${https_proxy:-}" \
        PARTITIONED_BUFFER_OFFLINE=1 "$@"' chroot "$@"
}
