# Shared by the scripts beside it: who to be for which command, where Rust is, and how a step is told. Sourced, not run.
set -euo pipefail

ROOT=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
cd "$ROOT"

die() { echo "$(basename "$0"): $*" >&2; exit 1; }

# --- privileges: packages and the lab need root, building must not leave root's files in a user's checkout ---

can_be_root() { [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; }; }

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# Under sudo: the user who called it, in their own environment. Their toolchain may be theirs alone.
as_caller() {
  if [ "$(id -u)" = 0 ] && [ -n "${SUDO_USER:-}" ] && [ "$(stat -c %U "$ROOT")" = "$SUDO_USER" ]; then
    runuser -u "$SUDO_USER" -- env HOME="$(caller_home)" PATH="$PATH" "$@"
  else
    "$@"
  fi
}

caller_home() { getent passwd "${SUDO_USER:-$(id -un)}" | cut -d: -f6; }

# --- Rust: from PATH, from rustup in the caller's home, or one of the versioned packages of the distribution ---

rust_wanted() { sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml; }

at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -1)" = "$2" ]; } # VERSION WANTED

rust_version() { (PATH=$1:$PATH as_caller rustc --version) 2>/dev/null | cut -d' ' -f2; } # DIRECTORY put before PATH

find_rust() { # puts a toolchain that is new enough into PATH; fails when there is none
  local dir version
  for dir in /nonexistent "$(caller_home)/.cargo/bin" /usr/lib/rust-*/bin; do
    version=$(rust_version "$dir") || continue
    if [ -n "$version" ] && at_least "$version" "$(rust_wanted)" && (PATH=$dir:$PATH as_caller cargo --version) >/dev/null 2>&1; then
      [ "$dir" = /nonexistent ] || PATH=$dir:$PATH
      return 0
    fi
  done
  return 1
}

# --- telling ---

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
  BOLD=$(printf '\033[1m') GREEN=$(printf '\033[32m') RED=$(printf '\033[31m') YELLOW=$(printf '\033[33m') PLAIN=$(printf '\033[0m')
else
  BOLD='' GREEN='' RED='' YELLOW='' PLAIN=''
fi

seconds_since() { # MICROSECONDS of $EPOCHREALTIME without its point
  local spent=$((${EPOCHREALTIME/[.,]/} - $1))
  printf '%d.%d s' $((spent / 1000000)) $((spent / 100000 % 10))
}
now() { echo "${EPOCHREALTIME/[.,]/}"; }

heading() { printf '\n%s== %s%s\n' "$BOLD" "$*" "$PLAIN"; }
