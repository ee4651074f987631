#!/usr/bin/env bash
# Measures a Cell as a whole: brings up a private domain, starts the release build, and lets corelet ask and count.
# Options go to `corelet bench`, for example: scripts/bench.sh --guests 20 --duration 2
. "$(dirname "$0")/common.sh"

LAB=bench-$$
lab() { PATH=$PATH:/usr/sbin:/sbin as_root scripts/lab.sh "$@"; }

scripts/setup.sh
find_rust
can_be_root || die "the private domain needs root: run it as root, or with sudo installed"
heading "Build"
as_caller cargo build --release --locked --workspace --bins
heading "Private domain"
trap 'lab down "$LAB"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
lab up "$LAB" --owner $$
lab cell "$LAB" cell1
files=$(lab dir "$LAB" cell1)
heading "Measuring"
lab exec "$LAB" core "$ROOT/target/release/corelet" --listen 10.226.0.1 bench \
  --cell-pid "$(as_root cat "$files/home/cell.pid")" --libvirtd-pid "$(as_root cat "$files/run/libvirtd.pid")" "$@"
