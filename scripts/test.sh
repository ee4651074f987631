#!/usr/bin/env bash
# Runs every test: the unprivileged ones, then the root tests with real libvirt and QEMU. What can't run here is named at the end, with the reason.
. "$(dirname "$0")/common.sh"

SKIPPED=()
FAILED=()
BEGIN=$(now)
skip() { SKIPPED+=("$1: $2"); }
run() { # TITLE COMMAND…
  heading "$1"
  "${@:2}" || FAILED+=("$1")
}

suite() { # NAME: its program
  local path
  path=$(as_caller cargo test --locked -p cell --test "$1" --no-run --message-format=json 2>/dev/null |
    sed -n "s/.*\"name\":\"$1\".*\"executable\":\"\([^\"]*\)\".*/\1/p" | tail -1)
  [ -x "$path" ] || die "the suite $1 was not built"
  echo "$path"
}
names() { as_caller "$1" --list --ignored 2>/dev/null | sed -n 's/: test$//p'; } # PROGRAM: its tests that need root
lab() { PATH=$PATH:/usr/sbin:/sbin as_root scripts/lab.sh "$@"; }

libvirt_suite() { # on a host of its own, whose libvirtd it may restart
  local name=test-libvirt-$$ status=0
  lab up $name --owner $$
  lab exec $name cell1 env CELL_TEST_LIBVIRT_URI=qemu:///system CELL_TEST_BRIDGE=br0 timeout -k 30 1200 "$LIBVIRT" --ignored --test-threads=1 || status=$?
  lab down $name
  return $status
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

# Most of what these wait for is fsync.
MEMORY=/dev/shm
[ -w $MEMORY ] && [ "$(df --output=avail $MEMORY | tail -1)" -gt $((1 << 20)) ] || MEMORY=${TMPDIR:-/tmp}
run "Unit tests" as_caller env "TMPDIR=$MEMORY" cargo test --workspace --locked --no-fail-fast --lib
run "Unprivileged tests" as_caller cargo test --workspace --locked --no-fail-fast --bins --test '*'
run "Documentation tests" as_caller cargo test --workspace --locked --doc

LIBVIRT=$(suite libvirt)
WHOLE=$(suite root)

heading "What the root tests need"
if ! can_be_root; then
  lacks="root: run \`sudo make test\`, or have sudo installed"
else
  lacks=$(lab check) || true
fi
echo "${lacks:-everything is there}"
blocking=$(grep -v '^iptables-statistic:' <<<"$lacks" | paste -sd';') || true
if [ -n "$blocking" ]; then
  for name in $(names "$LIBVIRT") $(names "$WHOLE"); do skip "root test $name" "$blocking"; done
else
  # Without that match packets can't be lost on purpose; the tests that need it say so in their names.
  without=()
  if [ -n "$lacks" ]; then
    for name in $(names "$WHOLE" | grep lost); do
      without+=(--skip "$name")
      skip "root test $name" "$lacks"
    done
  fi
  # Its kernel and its agent are unpacked from their packages where this machine does not have them.
  scripts/linux-guest.sh check >/dev/null || as_root env "PATH=$PATH:/usr/sbin:/sbin" scripts/linux-guest.sh fetch || true
  lacks=$(scripts/linux-guest.sh check) || for name in $(names "$WHOLE" | grep linux_guest); do
    without+=(--skip "$name")
    skip "root test $name" "$(paste -sd';' <<<"$lacks")"
  done
  lacks=$(scripts/linux-guest.sh check-debian) && [ -d /var/lib/cell-lab/debian/root ] || for name in $(names "$WHOLE" | grep debian_guest); do
    without+=(--skip "$name")
    skip "root test $name" "${lacks:-its Debian is not there; scripts/linux-guest.sh fetch-debian /var/lib/cell-lab/debian downloads it}"
  done
  run "libvirt $(virsh --version): the layer alone" libvirt_suite
  # Two at a time: each boots guests under emulation. What hangs is ended, and has failed.
  run "Everything together" as_root env "PATH=$PATH:/usr/sbin:/sbin" timeout -k 30 2700 "$WHOLE" --ignored --test-threads=2 "${without[@]+"${without[@]}"}"
fi
summary
