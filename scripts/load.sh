#!/usr/bin/env bash
# Many guests and many requests on a real host: how long a start takes, what the Cell needs, and whether a storm of requests is answered. Prints figures;
# fails when a request has no answer or the connection breaks. Usage: scripts/load.sh [GUESTS] (default 100; 1000 takes some minutes)
. "$(dirname "$0")/common.sh"

GUESTS=${1:-100}
STUCK=16
LAB=load-$$
lab() { PATH=$PATH:/usr/sbin:/sbin as_root scripts/lab.sh "$@"; }
core() { lab exec "$LAB" core "$ROOT/target/release/corelet" --listen 10.226.0.1 "$@"; }
virsh() { lab exec "$LAB" cell1 virsh -q -c qemu:///system "$@"; }
service() { lab exec "$LAB" cell1 "$ROOT/target/release/cell" --home "$home" "$@"; }
inside() { lab exec "$LAB" cell1 "$@"; }
pid() { as_root cat "$home/cell.pid"; }
memory() { inside grep -E 'RssAnon|VmRSS' "/proc/$(pid)/status"; }
took() { local begin; begin=$(now); "$@" >/dev/null; echo "$(((${EPOCHREALTIME/[.,]/} - begin) / 1000)) ms"; }

scripts/setup.sh
find_rust
can_be_root || die "the private domain needs root: run it as root, or with sudo installed"
heading "Build"
as_caller cargo build --release --locked --workspace --bins
heading "Private domain, $GUESTS guests"
trap 'lab down "$LAB"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
lab up "$LAB" --owner $$
home=$(lab dir "$LAB" cell1)/home
inside mkdir -p "$home/config" "$home/data"
inside sh -c 'echo "{\"domain\": \"nano\", \"group_address\": \"224.0.0.226\", \"group_port\": 5599}" >"$0/config/domain.cfg"' "$home"
inside sh -c 'echo "{\"virtualization\": \"qemu\"}" >"$0/config/cell.cfg"' "$home"
inside sh -c 'echo "{\"instances\": null, \"max_guest\": $1}" >"$0/data/instance.data"' "$home" $((GUESTS + 100))
service start
core bench --guests "$GUESTS" --keep --running 0 --duration 1 --idle 30 --cell-pid "$(pid)"

heading "Starts with $GUESTS guests, until the Core has taken the Cell"
core --quiet watch --for 20 >/dev/null &
for _ in 1 2 3; do
  service stop >/dev/null
  echo "start   $(took service start)"
done
for _ in 1 2 3; do echo "restart $(took service restart)"; done
memory
wait

heading "Storm: 5000 requests in a second, 1024 of them to guests that hang"
stuck=()
for name in $(virsh list --all --name | head -n "$STUCK"); do
  virsh start "$name" >/dev/null
  stuck+=(--stuck "$name")
done
qemus() { inside sh -c 'for file in /run/libvirt/qemu/*.pid; do cat "$file"; echo; done'; }
inside kill -STOP $(qemus)
core storm "${stuck[@]}"
memory
inside kill -CONT $(qemus)
core status "$(virsh list --name | head -n 1)" >/dev/null && echo "the guests answer again"
