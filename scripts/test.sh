#!/usr/bin/env bash
# Runs every test: the unprivileged ones, then the root tests with real libvirt and QEMU. What can't run here is named at the end, with the reason.
. "$(dirname "$0")/common.sh"

SKIPPED=()
FAILED=()
BEGIN=$(now)
skip() { SKIPPED+=("$1: $2"); }
run() { # TITLE COMMAND…
  heading "$1"
  shift
  "$@" || FAILED+=("$*")
}

root_tests() { # names of the ignored tests of the root suite
  as_caller "$1" --list --ignored 2>/dev/null | sed -n 's/: test$//p'
}

summary() {
  heading "Summary ($(seconds_since "$BEGIN"))"
  local line
  for line in "${SKIPPED[@]+"${SKIPPED[@]}"}"; do echo "${YELLOW}skipped${PLAIN} $line"; done
  for line in "${FAILED[@]+"${FAILED[@]}"}"; do echo "${RED}failed${PLAIN}  $line"; done
  [ ${#FAILED[@]} = 0 ] || exit 1
  if [ ${#SKIPPED[@]} = 0 ]; then echo "${GREEN}all tests ran and passed${PLAIN}"; else echo "${GREEN}all other tests ran and passed${PLAIN}"; fi
}

heading "Set-up"
scripts/setup.sh || {
  find_rust || exit 1
  echo "test: going on without the packages that are missing"
}
find_rust || die "no Rust $(rust_wanted) or newer; get it with:  curl -sSf https://sh.rustup.rs | sh -s -- -y"

heading "Build"
# One build for everything that follows: the root tests start the same programs as the integration tests.
as_caller cargo test --workspace --locked --no-run

run "Unprivileged tests" as_caller cargo test --workspace --locked --no-fail-fast

suite=$(as_caller cargo test --locked -p cell --test root --no-run --message-format=json 2>/dev/null |
  sed -n 's/.*"name":"root".*"executable":"\([^"]*\)".*/\1/p' | tail -1)
[ -x "$suite" ] || die "the root suite was not built"

heading "Root tests"
if ! can_be_root; then
  lacks="root: run \`sudo make test\`, or have sudo installed"
else
  lacks=$(PATH=$PATH:/usr/sbin:/sbin as_root scripts/lab.sh check) || true
fi
without=()
blocking=$(grep -v '^iptables-statistic:' <<<"$lacks" | grep . || true)
if [ -n "$blocking" ]; then
  echo "not possible here:"
  sed 's/^/  /' <<<"$blocking"
  for name in $(root_tests "$suite"); do skip "root test $name" "$(paste -sd'; ' <<<"$blocking")"; done
else
  if [ -n "$lacks" ]; then
    for name in $(root_tests "$suite" | grep lost); do
      without+=(--skip "$name")
      skip "root test $name" "$lacks"
    done
  fi
  # Two at a time: each boots guests under emulation.
  run "Root tests with $(virsh --version 2>/dev/null || echo libvirt) and real QEMU" \
    as_root env "PATH=$PATH:/usr/sbin:/sbin" "$suite" --ignored --test-threads=2 "${without[@]+"${without[@]}"}"
fi
summary
