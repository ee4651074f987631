#!/usr/bin/env bash
# A lab: a private domain of test hosts on this machine, for `make demo`, `make test` and for trying things by hand.
#
# One lab is one process tree in a PID namespace of its own. Each of its hosts is a network and mount namespace: `core` (10.226.0.1) carries the
# switch, `cell1`, `cell2`, … (10.226.0.2, …) have a bridge br0 on it and a libvirtd of their own with private /run/libvirt, /etc/libvirt and
# /var/lib/libvirt. Whatever NFS export they mount is $LABS/NAME/share. Nothing leaves the lab, several labs may run side by side, and the end of its first process ends everything in it:
# daemons, guests, namespaces, mounts. Files of a lab lie in $LABS/NAME until it is taken down.
set -euo pipefail

LABS=/var/lib/cell-lab
NET=10.226.0
SELF=$(readlink -f "$0")
ROOT=$(dirname "$(dirname "$SELF")")

usage() {
  cat <<'X'
lab.sh check                                what this machine lacks for a lab, one line each; exit 1 when there is anything
lab.sh up NAME [--cells N] [--owner PID]    bring up a lab with a Core host and N cell hosts (default 1); taken down when process PID ends
lab.sh down NAME                            end everything in it and remove its files
lab.sh list                                 the labs of this machine, with the processes in them
lab.sh sweep                                take down labs whose owner is gone
lab.sh dir NAME HOST                        directory of a host's files; HOST is core, cell1, cell2, …
lab.sh pid NAME HOST                        process whose namespaces are the host's (for nsenter --target)
lab.sh exec NAME HOST COMMAND …             run a command inside a host
lab.sh libvirt NAME HOST start|stop|kill    its libvirtd
lab.sh cell NAME HOST                       start target/release/cell on it, in the domain "nano" and with emulated guests
lab.sh loss NAME HOST PERCENT               drop this share of the packets between the host and the Core, each way; 0 ends it
lab.sh link NAME HOST up|down               plug the host's cable in or out
lab.sh boot-sector FILE                     write the test guests' boot sector (tests/assets/boot.lst)
lab.sh boot-disk NAME HOST VOLUME           put it on a qcow2 volume (path inside the host)
X
}

die() { echo "lab: $*" >&2; exit 1; }

# --- processes, told apart from later ones with the same number by their start time ---

start_time() { local stat; stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0; stat=${stat##*) }; set -- $stat; echo "${20}"; }
identity() { echo "$1 $(start_time "$1")"; }
alive() { # FILE with an identity
  local pid start
  read -r pid start 2>/dev/null <"$1" && [ -n "$start" ] && [ "$(start_time "$pid")" = "$start" ]
}
pid_in() { alive "$1" && cut -d' ' -f1 "$1"; }
wait_for() { # SECONDS CONDITION…
  local tenths=$(($1 * 10)); shift
  until "$@"; do [ $((tenths--)) -gt 0 ] || return 1; sleep 0.1; done
}
gone() { ! alive "$1"; }

# --- what the machine must have ---

emulator() {
  local name
  for name in qemu-system-x86_64 qemu-kvm /usr/libexec/qemu-kvm; do command -v "$name" && return; done
  return 1
}

check() {
  local missing=0 program
  lack() { echo "$1: $2"; missing=1; }
  [ "$(id -u)" = 0 ] || { lack root "network namespaces, libvirtd and QEMU need root; use sudo"; return 1; }
  for program in ip nsenter unshare setsid mount iptables libvirtd virtlogd virsh qemu-img qemu-io; do
    command -v $program >/dev/null || lack $program "program not found; \`make setup\` installs it"
  done
  emulator >/dev/null || lack qemu "neither qemu-system-x86_64 nor qemu-kvm found; \`make setup\` installs it"
  [ $missing = 0 ] || return 1
  if ! unshare --pid --fork --net --mount --mount-proc true 2>/dev/null; then
    lack namespaces "this kernel or container gives no PID, network and mount namespaces"
  else
    unshare --net sh -c 'ip link add b0 type bridge && ip link add v0 type veth peer name v1' 2>/dev/null ||
      lack bridge "no bridge or veth devices in this kernel"
    unshare --net iptables -A INPUT -m statistic --mode random --probability 0.2 -j DROP 2>/dev/null ||
      lack iptables-statistic "iptables has no 'statistic' match here: packet loss can't be made"
  fi
  { [ -d /sys/fs/cgroup/cpu ] || grep -qw cpu /sys/fs/cgroup/cgroup.controllers; } 2>/dev/null ||
    lack cgroup-cpu "no cgroup 'cpu' controller: libvirt can't limit a guest's CPU time"
  return $missing
}

# --- a lab's inside: these two run as processes of it ---

init() { # NAME CELLS: the first process. Starts the holders of the hosts and reaps whatever is orphaned to it.
  local dir=$LABS/$1 pid host
  read -r pid _ </proc/self/stat # /proc is still the machine's, so this is the number it knows us by
  for host in core $(seq -f 'cell%.0f' "$2"); do
    mkdir -p "$dir/$host"
    unshare --net --mount --propagation private "$SELF" _host "$1" "$host" &
  done
  identity "$pid" >"$dir/init.new" && mv "$dir/init.new" "$dir/init"
  while :; do sleep 1000 & wait; done
}

host() { # NAME HOST: holds the host's namespaces.
  local dir=$LABS/$1/$2 id pid
  read -r pid _ </proc/self/stat
  id=$(identity "$pid")
  mount -t proc proc /proc
  # /sys shows the network of whoever mounts it; libvirt needs the cgroups that are mounted below it
  mkdir -p "$dir/sys"
  mount -t sysfs sysfs "$dir/sys"
  mount --rbind /sys/fs/cgroup "$dir/sys/fs/cgroup"
  mount --move "$dir/sys" /sys
  ip link set lo up
  # libvirt must not reach the machine's systemd-machined or firewalld, which know nothing of these namespaces.
  if [ -d /run/dbus ]; then mount -t tmpfs none /run/dbus; fi
  if [ "$2" != core ]; then
    mkdir -p "$dir"/{run,lib/images,etc,log,home} "$LABS/cache"
    chmod 0755 "$dir" "$dir"/{run,lib,lib/images,home}
    printf '%s = "%s"\n' user root group root security_driver none >"$dir/etc/qemu.conf"
    echo 'namespaces = []' >>"$dir/etc/qemu.conf"
    echo 'auth_unix_rw = "none"' >"$dir/etc/libvirtd.conf"
    mount --bind "$dir/run" /run/libvirt
    mount --bind "$dir/lib" /var/lib/libvirt
    mount --bind "$dir/etc" /etc/libvirt
    mount --bind "$dir/log" /var/log/libvirt
    nfs_client "$1" "$dir"
    mount --bind "$LABS/cache" /var/cache/libvirt # what libvirt found out about QEMU; asking it anew takes seconds
  fi
  echo "$id" >"$dir/holder.new" && mv "$dir/holder.new" "$dir/holder"
  exec sleep infinity
}

# A stand-in for the NFS client, which kernels of test machines lack: whatever is mounted is the lab's share, a directory that all of its hosts
# see. It has to lie where mount(8) looks for its helpers, beside the machine's own programs.
nfs_client() { # NAME DIRECTORY of the host
  local sbin share=$LABS/$1/share
  sbin=$(readlink -f /sbin)
  mkdir -p "$2/sbin" "$2/sbin.real" "$share"
  chmod 0755 "$share"
  mount --bind "$sbin" "$2/sbin.real"
  ln -s "$2"/sbin.real/* "$2/sbin/"
  rm -f "$2/sbin/mount.nfs"
  printf '#!/bin/sh\nexec mount --bind %s "$2"\n' "$share" >"$2/sbin/mount.nfs"
  chmod 0755 "$2/sbin/mount.nfs"
  mount --bind "$2/sbin" "$sbin"
}

# --- bringing it up ---

holder() { pid_in "$LABS/$1/$2/holder" || die "no host $2 in lab $1"; }
in_host() { # NAME HOST COMMAND…
  local pid; pid=$(holder "$1" "$2"); shift 2
  nsenter --target "$pid" --pid --net --mount -- "$@"
}

wire() { # NAME CELLS: the switch on the Core's host, a cable to each cell host
  local core cell n dev
  core=$(holder "$1" core)
  bridge() { # PID DEVICE MAC ADDRESS
    local at=(nsenter --target "$1" --net)
    "${at[@]}" ip link add "$2" type bridge mcast_snooping 0 forward_delay 0
    "${at[@]}" ip link set "$2" address "$3"
    "${at[@]}" ip address add "$4/24" dev "$2"
    "${at[@]}" ip link set "$2" up
    "${at[@]}" ip route add 224.0.0.0/4 dev "$2"
  }
  bridge "$core" br0 02:fc:e2:00:00:01 $NET.1
  for n in $(seq "$2"); do
    cell=$(holder "$1" "cell$n")
    dev=port$n
    nsenter --target "$core" --net ip link add "$dev" type veth peer name eth0 netns "$cell"
    nsenter --target "$core" --net ip link set "$dev" master br0 up
    bridge "$cell" br0 "02:fc:e2:00:01:$(printf %02x "$n")" "$NET.$((n + 1))"
    nsenter --target "$cell" --net ip link set eth0 master br0 up
    nsenter --target "$cell" --net ip route add default via $NET.1
  done
}

up() { # NAME [--cells N] [--owner PID]
  local name=${1:?lab.sh up NAME} cells=1 owner= n dir
  shift
  while [ $# -gt 0 ]; do
    case $1 in
      --cells) cells=$2 ;;
      --owner) owner=$2 ;;
      *) die "unknown option $1" ;;
    esac
    shift 2
  done
  [[ $name =~ ^[a-z0-9][a-z0-9.-]{0,30}$ ]] || die "a lab's name is made of a-z, 0-9, '-' and '.'; not '$name'"
  [[ $cells =~ ^[1-9][0-9]?$ ]] || die "--cells takes 1 to 99, not '$cells'"
  check >&2 || die "this machine lacks the above"
  sweep
  dir=$LABS/$name
  mkdir -p "$LABS" /run/libvirt /var/lib/libvirt /etc/libvirt /var/log/libvirt /var/cache/libvirt
  mkdir "$dir" 2>/dev/null || die "lab $name exists already; \`lab.sh down $name\` takes it down"
  [ -z "$owner" ] || identity "$owner" >"$dir/owner"
  trap 'down "$name"' ERR EXIT
  setsid unshare --pid --fork "$SELF" _init "$name" "$cells" </dev/null >"$dir/lab.log" 2>&1 &
  for n in init core/holder $(seq -f 'cell%.0f/holder' "$cells"); do
    wait_for 20 alive "$dir/$n" || { cat "$dir/lab.log" >&2; die "lab $name: $n did not come up"; }
  done
  wire "$name" "$cells"
  for n in $(seq "$cells"); do libvirt "$name" "cell$n" start; done
  if [ -n "$owner" ]; then setsid "$SELF" _guard "$name" "$owner" </dev/null >/dev/null 2>&1 & fi
  trap - ERR EXIT
}

# --- taking it down ---

down() { # NAME
  local dir=$LABS/${1:?lab.sh down NAME} init pidfile
  [ -d "$dir" ] || return 0
  local guests=()
  for pidfile in "$dir"/cell*/run/qemu/*.pid; do
    [ -e "$pidfile" ] && guests+=("$(basename "$pidfile" .pid)")
  done
  if init=$(pid_in "$dir/init"); then
    kill -KILL "$init"
    wait_for 20 gone "$dir/init" || die "lab $1: process $init does not end"
  fi
  forget_cgroups "${guests[@]+"${guests[@]}"}"
  rm -rf "$dir"
}

forget_cgroups() { # GUEST…: directories that libvirtd would have removed; rmdir takes only empty ones
  local guest
  for guest in "$@"; do
    { find /sys/fs/cgroup -depth -type d -path "*/machine/qemu-*-$guest.libvirt-qemu*" -exec rmdir {} + || true; } 2>/dev/null
  done
}

guard() { # NAME PID: waits for the owner's end, however it comes
  tail --pid="$2" -s 0.5 -f /dev/null
  exec "$SELF" down "$1"
}

each_lab() { local dir; for dir in "$LABS"/*/lab.log; do [ -e "$dir" ] && basename "$(dirname "$dir")"; done; return 0; }

sweep() {
  local name
  for name in $(each_lab); do
    if [ -e "$LABS/$name/owner" ] && gone "$LABS/$name/owner"; then down "$name"; fi
  done
}

list() {
  local name init
  for name in $(each_lab); do
    init=$(pid_in "$LABS/$name/init") || { echo "$name: ended, files left in $LABS/$name"; continue; }
    echo "$name:"
    in_host "$name" core ps -A -o pid,args | sed 's/^/  /'
  done
}

# --- its life ---

libvirt() { # NAME HOST start|stop|kill
  local dir=$LABS/$1/$2
  running() { in_host "$1" "$2" sh -c 'grep -qsx $0 /proc/$(cat /run/libvirt/$0.pid)/comm' "$3" 2>/dev/null; }
  ended() { ! running "$@"; }
  case $3 in
    start)
      local daemon
      for daemon in virtlogd libvirtd; do
        running "$1" "$2" $daemon || in_host "$1" "$2" $daemon -d -p /run/libvirt/$daemon.pid || die "$daemon of $2: see $dir/log"
      done
      wait_for 20 in_host "$1" "$2" virsh -q -c qemu:///system uri >/dev/null || die "libvirtd of $2 does not answer"
      ;;
    stop | kill)
      running "$1" "$2" libvirtd || return 0
      in_host "$1" "$2" sh -c "kill -$([ "$3" = stop ] && echo TERM || echo KILL) \$(cat /run/libvirt/libvirtd.pid)"
      wait_for 30 ended "$1" "$2" libvirtd || die "libvirtd of $2 does not end"
      ;;
    *) die "libvirt: start, stop or kill, not '$3'" ;;
  esac
}

cell() { # NAME HOST
  local home=$LABS/$1/$2/home
  mkdir -p "$home/config"
  echo '{"domain": "nano", "group_address": "224.0.0.226", "group_port": 5599}' >"$home/config/domain.cfg"
  echo '{"virtualization": "qemu"}' >"$home/config/cell.cfg"
  in_host "$1" "$2" "$ROOT/target/release/cell" --home "$home" start
}

loss() { # NAME HOST PERCENT. Dropped where they arrive: a packet dropped where it leaves would be told to its sender.
  local address=$NET.$((${2#cell} + 1)) chance
  [[ $3 =~ ^[0-9]+$ && $3 -le 100 ]] || die "loss: a percentage, not '$3'"
  chance=$(printf '%d.%02d' $(($3 / 100)) $(($3 % 100)))
  in_host "$1" "$2" iptables -w -F INPUT
  in_host "$1" core iptables -w -S INPUT | sed -n "s|^-A\(.* -s $address/32 .*\)|-D\1|p" | while read -r rule; do
    # shellcheck disable=SC2086
    in_host "$1" core iptables -w $rule
  done
  [ "$3" = 0 ] && return
  in_host "$1" "$2" iptables -w -A INPUT -i br0 -m statistic --mode random --probability "$chance" -j DROP
  in_host "$1" core iptables -w -A INPUT -s "$address" -m statistic --mode random --probability "$chance" -j DROP
}

link() { in_host "$1" core ip link set "port${2#cell}" "$3"; } # NAME HOST up|down

boot_sector() { # FILE
  local bytes
  bytes=$(sed -n 's/^\([0-9a-f][0-9a-f ]*[0-9a-f]\) *|.*/\1/p' "$ROOT/tests/assets/boot.lst" | tr -s ' \n' ' ')
  set -- "$1" $bytes
  [ $# -le 511 ] || die "boot sector: $(($# - 1)) bytes of code, 510 fit"
  { printf "$(printf '\\x%s' "${@:2}")"; head -c $((511 - $#)) /dev/zero; printf '\x55\xaa'; } >"$1"
}

boot_disk() { # NAME HOST VOLUME
  local sector; sector=$(mktemp "$LABS/$1/boot.XXXXXX")
  boot_sector "$sector"
  in_host "$1" "$2" qemu-io -f qcow2 -c "write -s $sector 0 512" "$3" >/dev/null
  rm -f "$sector"
}

command=${1:-}
[ $# = 0 ] || shift
case $command in
  check | up | down | list | sweep | libvirt | cell | loss | link) "$command" "$@" ;;
  dir) echo "$LABS/${1:?}/${2:?}" ;;
  pid) holder "$@" ;;
  exec) in_host "$@" ;;
  boot-sector) boot_sector "$@" ;;
  boot-disk) boot_disk "$@" ;;
  _init) init "$@" ;;
  _host) host "$@" ;;
  _guard) guard "$@" ;;
  help | --help | -h | '') usage ;;
  *) usage >&2; die "unknown command $command" ;;
esac
