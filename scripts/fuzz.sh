#!/usr/bin/env bash
# Runs fuzz targets with a stable toolchain: `scripts/fuzz.sh SECONDS [TARGET…]`, all targets when none is named. What a target finds lies in
# fuzz/artifacts/TARGET, and the script fails. `scripts/fuzz.sh build` only builds; `scripts/fuzz.sh list` names the targets.
. "$(dirname "$0")/common.sh"

# What cargo-fuzz passes on a nightly toolchain, but for the sanitizer: the code under test is safe Rust.
COVERAGE="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"

targets() { for file in fuzz/fuzz_targets/*.rs; do basename "$file" .rs; done; }

build() { # leaves the directory with the programs in BIN
  local host
  host=$(rustc -vV | sed -n 's/^host: //p')
  # A target of its own keeps the flags from build scripts and macros.
  RUSTFLAGS=$COVERAGE cargo build --release --locked --manifest-path fuzz/Cargo.toml --bins --target "$host"
  BIN=${CARGO_TARGET_DIR:-fuzz/target}/$host/release
}

run() { # SECONDS TARGET: with the corpus of earlier runs, if there is one; inputs are long from the beginning, for short ones are few operations
  local artifacts=fuzz/artifacts/$2 corpus=fuzz/corpus/$2
  mkdir -p "$artifacts" "$corpus"
  "$BIN/$2" -len_control=0 -max_total_time="$1" -artifact_prefix="$artifacts/" -timeout=25 -rss_limit_mb=1024 -print_final_stats=1 -verbosity=1 "$corpus" 2>&1 |
    if [ -n "${CI:-}" ]; then grep -E 'ERROR|panicked|SUMMARY|Test unit|^Done|stat::number_of_executed_units' || true; else cat; fi
}

find_rust
case ${1:-} in
list) targets; exit ;;
build) build; exit ;;
'' | *[!0-9]*) die "usage: scripts/fuzz.sh SECONDS [TARGET…] | build | list" ;;
esac
seconds=$1
shift
build
[ $# -gt 0 ] || mapfile -t all < <(targets)
for target in "${@:-${all[@]}}"; do
  heading "fuzz $target for $seconds s"
  run "$seconds" "$target"
done
