#!/usr/bin/env bash
# Shows the whole of it on this machine: a private domain of two hosts, a Core on one, `cell` on the other, and a guest that really boots.
# Needs nothing beforehand, leaves nothing behind but the folder demo/, and touches no network and no libvirt of this machine.
. "$(dirname "$0")/common.sh"

LAB=demo-$$
OUT=$ROOT/demo
GUEST=demo.first
LINE="cell demo guest: it boots"
CELL=$ROOT/target/release/cell
CORELET=$ROOT/target/release/corelet
STEPS=14

# --- the steps ---

packages() { scripts/setup.sh; }

build() {
  as_caller cargo build --quiet --release --locked --workspace --bins
  "$CELL" --version
  "$CORELET" --version
}

domain() {
  lab up "$LAB" --owner $$
  echo "host core   10.226.0.1  carries the switch and the Core"
  echo "host cell1  10.226.0.2  bridge br0, libvirtd $(libvirt version --daemon | sed -n 's/^Running against daemon: *//p')"
}

start_cell() { lab cell "$LAB" cell1; }

join() { core list; }

create() {
  core --json create "$GUEST" --cores 1 --memory 64M --disk 16M >"$OUT/create.json" || { cat "$OUT/create.json"; return 1; }
  echo "$GUEST is guest $(guest_id)"
}

boot_disk() {
  local volume; volume=/var/lib/libvirt/images/local0/$(guest_id)_sys.qcow2
  lab boot-disk "$LAB" cell1 "$volume"
  echo "a boot sector of 103 bytes (tests/assets/boot.lst) is now at the beginning of $volume"
}

boot() { core start "$GUEST"; }

serial() {
  local log
  log=$HOME_DIR/log/guests/$(guest_id).log
  wait_until 60 as_root grep -qs "$LINE" "$log" || { echo "no such line in $log"; return 1; }
  as_root cat "$log" | tee "$OUT/serial.log"
}

status() { core status "$GUEST"; }

picture() {
  local shot=$HOME_DIR/screen
  libvirt screenshot "$GUEST" "$shot"
  as_root cat "$shot" >"$OUT/screen"
  # libvirt hands out what its QEMU can do: PNG from 7.1 on, PPM before
  case $(head -c 2 "$OUT/screen") in
    P6) "$CORELET" ppm-to-png "$OUT/screen" "$OUT/screen.png" && rm "$OUT/screen" ;;
    *) mv "$OUT/screen" "$OUT/screen.png" ;;
  esac
  [ "$(head -c 4 "$OUT/screen.png" | tail -c 3)" = PNG ]
  echo "$OUT/screen.png"
}

stop() { core stop "$GUEST"; }

delete() {
  core delete "$GUEST"
  ! libvirt list --all --name | grep . || { echo "libvirt still has it"; return 1; }
}

take_down() {
  keep_log
  lab down "$LAB"
}

# --- tools ---

CLEAR=''
[ ! -t 1 ] || CLEAR=$(printf '\033[K')

lab() { PATH=$PATH:/usr/sbin:/sbin as_root scripts/lab.sh "$@"; }
# without a terminal to itself virsh doesn't look for a polkit agent
libvirt() { on cell1 setsid --wait virsh -q -c qemu:///system "$@"; }
on() { lab exec "$LAB" "$@"; }
core() { on core "$CORELET" --listen 10.226.0.1 --quiet "$@"; }
guest_id() { grep -oE '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}' "$OUT/create.json" | head -1; }
keep_log() { [ -s "$OUT/cell.log" ] || as_root cat "$HOME_DIR/log/cell.log" >"$OUT/cell.log" 2>/dev/null || rm -f "$OUT/cell.log"; }
wait_until() { # SECONDS CONDITION…
  local end=$((SECONDS + $1)); shift
  until "$@"; do [ $SECONDS -lt $end ] || return 1; sleep 0.1; done
}

number=0
BEGIN=$(now)
step() { # TITLE FUNCTION: tells how it went and what it printed
  local begin status
  number=$((number + 1))
  [ ! -t 1 ] || printf '  … %2d/%d %s\r' $number $STEPS "$1"
  begin=$(now)
  set +e
  (set -e; "$2") >"$OUT/step.log" 2>&1 </dev/null
  status=$?
  set -e
  { echo "== $number $1 (status $status)"; cat "$OUT/step.log"; } >>"$OUT/demo.log"
  if [ $status = 0 ]; then
    printf '  %s✓%s %2d/%d %s (%s)%s\n' "$GREEN" "$PLAIN" $number $STEPS "$1" "$(seconds_since "$begin")" "$CLEAR"
    tail -n 20 "$OUT/step.log" | sed 's/^/            /'
  else
    printf '  %s✗%s %2d/%d %s (%s)%s\n' "$RED" "$PLAIN" $number $STEPS "$1" "$(seconds_since "$begin")" "$CLEAR"
    tail -n 30 "$OUT/step.log" | sed 's/^/            /'
    FAILED=$1
    exit 1
  fi
}

FAILED=
finish() { # however it ends
  local status=$?
  trap '' INT TERM
  trap - EXIT
  set +e
  keep_log
  lab down "$LAB" 2>/dev/null
  rm -f "$OUT/step.log" "$OUT/create.json"
  echo
  if [ $status = 0 ]; then
    echo "${GREEN}${BOLD}It works.${PLAIN} All $number steps in $(seconds_since "$BEGIN"): a guest was created, booted, looked at, stopped and deleted through a Core."
    echo "  its screen      demo/screen.png"
    echo "  its serial line demo/serial.log"
  elif [ -n "$FAILED" ]; then
    echo "${RED}${BOLD}It failed${PLAIN} in step $number ($FAILED)."
  else
    echo "${YELLOW}Interrupted${PLAIN} in step $number; everything was taken down."
  fi
  [ ! -e "$OUT/cell.log" ] || echo "  the Cell's log  demo/cell.log"
  echo "  all output      demo/demo.log"
  exit $status
}

rm -rf "$OUT"
mkdir -p "$OUT"
[ -z "${SUDO_USER:-}" ] || chown "$SUDO_USER" "$OUT" 2>/dev/null || true
can_be_root || die "the private domain needs root: run it as root, or with sudo installed"
[ "$(id -u)" = 0 ] || sudo -v
HOME_DIR=$(scripts/lab.sh dir "$LAB" cell1)/home
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

echo "${BOLD}cell: a node of a Nano cluster, on a private domain of two hosts in this machine${PLAIN}"
step "Packages and Rust" packages
find_rust
step "Build (some minutes the first time)" build
step "Private domain: a Core host and a cell host with its own libvirt" domain
step "cell start" start_cell
step "The Cell joins the Core's domain" join
step "Create a guest: 1 CPU, 64 MiB, a blank disk of 16 MiB" create
step "Make its disk bootable" boot_disk
step "Start it" boot
step "It boots: its line on the serial port" serial
step "Its status" status
step "A picture of its screen" picture
step "Stop it with the power button (ACPI)" stop
step "Delete it, with its disk" delete
step "Take everything down" take_down
