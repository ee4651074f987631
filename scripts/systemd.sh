#!/usr/bin/env bash
# Runs packaging/cell.service under a real systemd: a whole Debian with libvirt, QEMU and an NFS server boots in an emulated machine, the unit is
# installed there as the README says, and a corelet in a network namespace beside it gives the orders. Takes some minutes; needs root,
# debootstrap, e2fsprogs and qemu-system-x86. Nothing of the machine that it runs on is changed, and its network is not used.
#
#   systemd.sh fetch DIRECTORY            makes DIRECTORY/root from a Debian mirror ($DEBIAN_MIRROR), once; 700 MB
#   systemd.sh check DIRECTORY [PROGRAMS] boots a copy of it with cell and corelet of PROGRAMS (default target/release); exit 1 when a check fails
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
ROOT=$(dirname "$(dirname "$(readlink -f "$0")")")
LIMIT=${LIMIT:-2400} # seconds

need() {
  local program missing=0
  for program in "$@"; do
    command -v "$program" >/dev/null || { echo "systemd.sh: $program: program not found" >&2; missing=1; }
  done
  return $missing
}

fetch() { # DIRECTORY
  local packages=systemd-sysv,udev,dbus,kmod,iproute2,procps,e2fsprogs,initramfs-tools,linux-image-cloud-amd64
  packages+=,libvirt-daemon-system,libvirt-clients,qemu-system-x86,qemu-utils,iptables,nfs-kernel-server
  need debootstrap
  mkdir -p "$1"
  rm -rf "$1/root.new"
  debootstrap --include=$packages bookworm "$1/root.new" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$1/debootstrap.log" 2>&1 ||
    { tail -n 20 "$1/debootstrap.log" >&2; return 1; }
  rm -rf "$1/root.new"/{var/cache/apt,var/lib/apt/lists,usr/share/doc,usr/share/man,usr/share/locale}/*
  mv "$1/root.new" "$1/root"
}

furnish() { # TREE PROGRAMS
  local tree=$1 unit
  install -D -m 0755 "$2/cell" "$tree/root/unit/cell"
  install -m 0755 "$2/corelet" "$tree/usr/local/bin/corelet"
  install -m 0644 "$ROOT/packaging/cell.service" "$tree/root/unit/cell.service"
  install -m 0755 "$ROOT/tests/assets/systemd/check" "$tree/root/unit/check"
  install -m 0644 "$ROOT"/tests/assets/systemd/*.service "$tree/etc/systemd/system/"
  install -m 0644 "$ROOT"/tests/assets/systemd/*.net{dev,work} "$tree/etc/systemd/network/"
  echo '/dev/vda / ext4 defaults 0 1' >"$tree/etc/fstab"
  echo host1 >"$tree/etc/hostname"
  : >"$tree/etc/machine-id"
  : >"$tree/etc/resolv.conf" # there is no network: names are not waited for
  echo '127.0.0.1 localhost host1' >"$tree/etc/hosts"
  mkdir -p "$tree/srv/share"
  echo '/srv/share *(rw,sync,no_root_squash,insecure,no_subtree_check)' >"$tree/etc/exports"
  for unit in core-net check systemd-networkd systemd-networkd-wait-online; do systemctl --root "$tree" -q enable $unit.service; done
  for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer nfs-server.service networking.service; do
    systemctl --root "$tree" -q mask $unit
  done
  systemctl --root "$tree" -q unmask nfs-server.service
  systemctl --root "$tree" -q disable nfs-server.service
}

check() { # DIRECTORY PROGRAMS
  local file work
  need qemu-system-x86_64 mkfs.ext4 systemctl
  [ -d "$1/root" ] || { echo "$1/root: not there; systemd.sh fetch $1 makes it" >&2; return 1; }
  for file in "$2/cell" "$2/corelet"; do [ -x "$file" ] || { echo "$file: not there; make build" >&2; return 1; }; done
  work=$(mktemp -d "$1/check.XXXXXX")
  # shellcheck disable=SC2064
  trap "rm -rf '$work'" EXIT
  cp -a "$1/root" "$work/tree"
  furnish "$work/tree" "$2"
  truncate -s 6G "$work/disk"
  mkfs.ext4 -q -F -d "$work/tree" "$work/disk"
  timeout "$LIMIT" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 3072 -display none -no-reboot -nic none \
    -kernel "$(ls -1v "$work"/tree/boot/vmlinuz-* | tail -n 1)" -initrd "$(ls -1v "$work"/tree/boot/initrd.img-* | tail -n 1)" \
    -append "root=/dev/vda rw console=ttyS0 net.ifnames=0 no_timer_check quiet" -drive "file=$work/disk,if=virtio,format=raw,cache=unsafe" \
    -device virtio-rng-pci -serial "file:$work/console" -serial "file:$work/report" </dev/null &
  tail --pid=$! -n +1 -s 1 -F "$work/report" 2>/dev/null || true
  grep -q '^all checks passed' "$work/report" || { tail -n 20 "$work/console" >&2; return 1; }
}

case ${1:-} in
  fetch) fetch "${2:?systemd.sh fetch DIRECTORY}" ;;
  check) check "${2:?systemd.sh check DIRECTORY [PROGRAMS]}" "${3:-$ROOT/target/release}" ;;
  *) sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
