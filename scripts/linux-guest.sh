#!/usr/bin/env bash
# Makes the disk of a small Linux guest out of this machine's packages: a kernel with its virtio modules (linux-image-cloud-amd64 where it is
# installed, else any), busybox-static, QEMU's guest agent, chpasswd with its PAM modules, and tests/assets/linux-guest/init.
#
#   linux-guest.sh check             what is missing for it, one line each; exit 1 when there is anything
#   linux-guest.sh fetch             takes the kernel and the agent out of their packages, where the machine does not have them; nothing is installed
#   linux-guest.sh make FILE [MIB]   the disk as a raw image of 32 MiB; a larger one has a file system in what is left
#
# And the disk of a whole Debian with cloud-init and the guest agent, for the same kernel. Its packages come from a Debian mirror, once: they are
# kept in DIRECTORY.
#
#   linux-guest.sh check-debian
#   linux-guest.sh fetch-debian DIRECTORY
#   linux-guest.sh make-debian DIRECTORY FILE    a raw image of 1 GiB
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
ROOT=$(dirname "$(dirname "$(readlink -f "$0")")")
MBR=/usr/lib/syslinux/mbr/mbr.bin
PACKAGES=/var/lib/cell-lab/packages
MODULES=(virtio_pci virtio_net virtio_scsi virtio_console sd_mod sr_mod ata_piix ata_generic isofs button evdev)

kernel() { # the newest one that has its modules; one made for virtual machines before others
  local file
  {
    ls -1v /boot/vmlinuz-* | grep -v -- '-cloud-' || true
    ls -1v /boot/vmlinuz-*-cloud-* || true
    ls -1v $PACKAGES/boot/vmlinuz-* || true
  } 2>/dev/null | while read -r file; do
    [ ! -d "${file%/boot/*}/lib/modules/${file##*/vmlinuz-}" ] || echo "$file"
  done | tail -n 1
}

agent() { command -v qemu-ga || PATH=$PACKAGES/usr/sbin command -v qemu-ga; }

fetch() { # what `apt-get download` gives, unpacked into $PACKAGES
  local name work packages=()
  if agent >/dev/null && [ -n "$(kernel)" ]; then return; fi
  [ -n "$(apt-cache madison qemu-guest-agent 2>/dev/null)" ] || apt-get -q update
  [ -n "$(kernel)" ] || packages+=("$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | tail -n 1)")
  agent >/dev/null || packages+=(qemu-guest-agent)
  work=$1
  (cd "$work" && apt-get -q download "${packages[@]}")
  mkdir -p $PACKAGES
  for name in "$work"/*.deb; do dpkg-deb -x "$name" $PACKAGES; done
  for name in $PACKAGES/lib/modules/*; do
    [ ! -d "$name" ] || [ -e "$name/modules.dep" ] || depmod -b $PACKAGES "$(basename "$name")"
  done
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
  for program in busybox cpio gzip kmod sfdisk mformat mcopy syslinux mkfs.ext4 chpasswd; do
    command -v $program >/dev/null || lack $program "program not found (packages busybox-static cpio kmod fdisk mtools syslinux syslinux-common e2fsprogs passwd)"
  done
  agent >/dev/null || lack qemu-ga "not found (package qemu-guest-agent, or linux-guest.sh fetch)"
  [ -e $MBR ] || lack mbr.bin "not found (package syslinux-common)"
  [ -n "$(kernel)" ] || lack kernel "no /boot/vmlinuz-* with its /lib/modules (package linux-image-cloud-amd64, or linux-guest.sh fetch)"
  ! command -v busybox >/dev/null || ! ldd "$(command -v busybox)" >/dev/null 2>&1 || lack busybox "it is not static (package busybox-static)"
  return $missing
}

# Kernel, modules and first process as the files of a boot partition; a disk image with that partition.
boot_disk() { # FILE INIT MIB WORK
  local file=$1 work=$4 release module name tree start=2048 boot=32
  release=$(basename "$(kernel)"); release=${release#vmlinuz-}
  tree=$(kernel); tree=${tree%/boot/*}
  mkdir -p "$work/initrd.d/bin" "$work/initrd.d/modules"
  cp "$(command -v busybox)" "$work/initrd.d/bin/busybox"
  install -m 0755 "$2" "$work/initrd.d/init"
  modprobe --dirname "${tree:-/}" --set-version "$release" --ignore-install --show-depends --all "${MODULES[@]}" | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' |
    while read -r module; do
      name=$(basename "${module%.ko*}").ko
      plain "$module" >"$work/initrd.d/modules/$name"
      echo "$name" >>"$work/initrd.d/modules/order"
    done
  (cd "$work/initrd.d" && find . | cpio --quiet -o -H newc --owner 0:0 | gzip -1) >"$work/initrd"
  printf 'DEFAULT linux\nLABEL linux\n KERNEL vmlinuz\n APPEND initrd=initrd console=ttyS0 panic=-1 quiet\n' >"$work/syslinux.cfg"
  truncate -s "$3M" "$file"
  {
    echo "start=$start, size=$((boot * 2048 - start)), type=c, bootable"
    [ "$3" = $boot ] || echo "start=$((boot * 2048)), type=83"
  } | sfdisk -q "$file"
  dd if=$MBR of="$file" bs=440 count=1 conv=notrunc status=none
  mformat -i "$file@@$((start * 512))" -T $((boot * 2048 - start)) -h 255 -s 63 -H $start ::
  mcopy -i "$file@@$((start * 512))" "$work/initrd" "$work/syslinux.cfg" ::
  mcopy -i "$file@@$((start * 512))" "$(kernel)" ::vmlinuz
  syslinux --install --offset $((start * 512)) "$file"
}

in_scratch() { # COMMAND…: with a scratch directory as its last argument, which goes afterwards
  local work
  work=$(mktemp -d)
  # shellcheck disable=SC2064
  trap "rm -rf '$work'" EXIT
  "$@" "$work"
}

with_libraries() { # ROOT FILE…: programs and modules of this machine, and what they are linked with, under the same names
  local root=$1 file
  shift
  { printf '%s\n' "$@"; ldd "$@" | sed -n 's,^[^/]*\(/.*\) (0x.*,\1,p'; } | sort -u | while read -r file; do
    [ -e "$root$file" ] || { mkdir -p "$root$(dirname "$file")" && cp -L "$file" "$root$file"; }
  done
}

make() { # FILE MIB WORK
  local file=$1 size=$2 work=$3 pam name
  check >&2
  pam=$(find /usr/lib /lib/ -name pam_unix.so 2>/dev/null | head -n 1)
  mkdir -p "$work/initrd.d/usr"
  for name in lib lib64; do # where they are one on this machine, both names are used
    [ ! -L /$name ] || { mkdir -p "$work/initrd.d/usr/$name"; ln -s usr/$name "$work/initrd.d/$name"; }
  done
  with_libraries "$work/initrd.d" "$(command -v chpasswd)" "$pam" "$(dirname "$pam")/pam_permit.so"
  with_libraries "$work/initrd.d" "$(agent)"
  [ -e "$work/initrd.d/usr/sbin/qemu-ga" ] || install -D -m 0755 "$(agent)" "$work/initrd.d/usr/sbin/qemu-ga"
  boot_disk "$work/disk" "$ROOT/tests/assets/linux-guest/init" "$size" "$work"
  [ "$size" = 32 ] || mkfs.ext4 -q -F -E offset=$((32 << 20)),lazy_itable_init=1,lazy_journal_init=1 "$work/disk" $(((size - 32) << 10))k
  mv "$work/disk" "$file"
}

check_debian() {
  local missing=0 program
  for program in debootstrap mkfs.ext4; do
    command -v $program >/dev/null || { echo "$program: program not found (packages debootstrap e2fsprogs)"; missing=1; }
  done
  check || missing=1
  return $missing
}

fetch_debian() { # DIRECTORY
  local packages=cloud-init,cloud-guest-utils,qemu-guest-agent,e2fsprogs,lvm2,iproute2,isc-dhcp-client,ifupdown,sudo,openssh-server
  packages+=,systemd-sysv,udev,kmod,dbus,python3-cffi-backend
  check_debian >&2
  mkdir -p "$1"
  rm -rf "$1/root.new"
  debootstrap --variant=minbase --include=$packages bookworm "$1/root.new" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$1/debootstrap.log" 2>&1 ||
    { tail -n 20 "$1/debootstrap.log" >&2; return 1; }
  rm -rf "$1/root.new"/{var/cache/apt,var/lib/apt/lists,usr/share/doc,usr/share/man,usr/share/locale}/*
  mv "$1/root.new" "$1/root"
}

make_debian() { # DIRECTORY FILE WORK
  local root=$3/root release
  check_debian >&2
  [ -d "$1/root" ] || { echo "$1/root: not there; linux-guest.sh fetch-debian $1 makes it" >&2; return 1; }
  cp -a "$1/root" "$root"
  release=$(basename "$(kernel)"); release=${release#vmlinuz-}
  mkdir -p "$root/lib/modules"
  cp -a "/lib/modules/$release" "$root/lib/modules/"
  : >"$root/etc/machine-id"
  rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/resolv.conf" "$root/etc/hostname"
  printf '%s\n' 'datasource_list: [ NoCloud, None ]' 'locale: false' >"$root/etc/cloud/cloud.cfg.d/90-guest.cfg"
  echo 'LABEL=system / ext4 defaults 0 1' >"$root/etc/fstab"
  install -m 0755 "$ROOT/tests/assets/linux-guest/report" "$root/usr/local/sbin/report"
  install -m 0644 "$ROOT/tests/assets/linux-guest/report.service" "$root/etc/systemd/system/report.service"
  systemctl --root "$root" -q enable report.service 2>/dev/null || ln -s ../report.service "$root/etc/systemd/system/cloud-init.target.wants/report.service"
  systemctl --root "$root" -q mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service systemd-timesyncd.service 2>/dev/null || true
  boot_disk "$3/disk" "$ROOT/tests/assets/linux-guest/switch" 1024 "$3"
  truncate -s 992M "$3/filesystem"
  mkfs.ext4 -q -F -L system -d "$root" "$3/filesystem"
  dd if="$3/filesystem" of="$3/disk" bs=1M seek=32 conv=notrunc,sparse status=none
  mv "$3/disk" "$2"
}

case ${1:-} in
  check) check ;;
  fetch) in_scratch fetch ;;
  make) in_scratch make "${2:?linux-guest.sh make FILE [MIB]}" "${3:-32}" ;;
  check-debian) check_debian ;;
  fetch-debian) fetch_debian "${2:?linux-guest.sh fetch-debian DIRECTORY}" ;;
  make-debian) in_scratch make_debian "${2:?linux-guest.sh make-debian DIRECTORY FILE}" "${3:?linux-guest.sh make-debian DIRECTORY FILE}" ;;
  *) sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
