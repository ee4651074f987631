#!/usr/bin/env bash
# Makes the disk of a small Linux guest out of this machine's packages: a kernel with its virtio modules (linux-image-cloud-amd64 where it is
# installed, else any), busybox-static and tests/assets/linux-guest/init. Nothing is downloaded.
#
#   linux-guest.sh check        what is missing for it, one line each; exit 1 when there is anything
#   linux-guest.sh make FILE    the disk as a raw image of 32 MiB
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
ROOT=$(dirname "$(dirname "$(readlink -f "$0")")")
MBR=/usr/lib/syslinux/mbr/mbr.bin
MODULES=(virtio_pci virtio_net virtio_scsi virtio_console sd_mod sr_mod ata_piix ata_generic isofs button evdev)

kernel() { # the newest one that has its modules; one made for virtual machines before others
  local file
  { ls -1v /boot/vmlinuz-* | grep -v -- '-cloud-'; ls -1v /boot/vmlinuz-*-cloud-*; } 2>/dev/null | while read -r file; do
    [ ! -d "/lib/modules/${file#/boot/vmlinuz-}" ] || echo "$file"
  done | tail -n 1
}

plain() { # FILE.ko[.xz|.zst|.gz]: the module itself
  case $1 in
    *.xz) xz -dc "$1" ;;
    *.zst) zstd -qdc "$1" ;;
    *.gz) gzip -dc "$1" ;;
    *) cat "$1" ;;
  esac
}

check() {
  local missing=0 program
  lack() { echo "$1: $2"; missing=1; }
  for program in busybox cpio gzip kmod sfdisk mformat mcopy syslinux; do
    command -v $program >/dev/null || lack $program "program not found (packages busybox-static cpio kmod fdisk mtools syslinux syslinux-common)"
  done
  [ -e $MBR ] || lack mbr.bin "not found (package syslinux-common)"
  [ -n "$(kernel)" ] || lack kernel "no /boot/vmlinuz-* with its /lib/modules (package linux-image-cloud-amd64)"
  ! command -v busybox >/dev/null || ! ldd "$(command -v busybox)" >/dev/null 2>&1 || lack busybox "it is not static (package busybox-static)"
  return $missing
}

make() { # FILE
  local file=$1 work release module name start=2048
  check >&2
  work=$(mktemp -d)
  # shellcheck disable=SC2064
  trap "rm -rf '$work'" EXIT
  release=$(basename "$(kernel)"); release=${release#vmlinuz-}
  mkdir -p "$work/root/bin" "$work/root/modules"
  cp "$(command -v busybox)" "$work/root/bin/busybox"
  install -m 0755 "$ROOT/tests/assets/linux-guest/init" "$work/root/init"
  modprobe --set-version "$release" --ignore-install --show-depends --all "${MODULES[@]}" | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' |
    while read -r module; do
      name=$(basename "${module%.ko*}").ko
      plain "$module" >"$work/root/modules/$name"
      echo "$name" >>"$work/root/modules/order"
    done
  (cd "$work/root" && find . | cpio --quiet -o -H newc --owner 0:0 | gzip -1) >"$work/initrd"
  printf 'DEFAULT linux\nLABEL linux\n KERNEL vmlinuz\n APPEND initrd=initrd console=ttyS0 panic=-1 quiet\n' >"$work/syslinux.cfg"
  truncate -s 32M "$work/disk"
  echo "start=$start, type=c, bootable" | sfdisk -q "$work/disk"
  dd if=$MBR of="$work/disk" bs=440 count=1 conv=notrunc status=none
  mformat -i "$work/disk@@$((start * 512))" -T $((32 * 2048 - start)) -h 255 -s 63 -H $start ::
  mcopy -i "$work/disk@@$((start * 512))" "$work/initrd" "$work/syslinux.cfg" ::
  mcopy -i "$work/disk@@$((start * 512))" "$(kernel)" ::vmlinuz
  syslinux --install --offset $((start * 512)) "$work/disk"
  mv "$work/disk" "$file"
}

case ${1:-} in
  check) check ;;
  make) make "${2:?linux-guest.sh make FILE}" ;;
  *) sed -n 's/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
