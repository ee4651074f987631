#!/usr/bin/env bash
# Installs what building and testing need: libvirt, QEMU, network tools, a C linker and Rust. Changes nothing where all of it is there.
. "$(dirname "$0")/common.sh"

PROGRAMS=(cc make pkg-config libvirtd virtlogd virsh qemu-img qemu-io ip iptables ebtables nsenter unshare ps)

missing() { # what isn't there yet, by name
  local program
  for program in "${PROGRAMS[@]}"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || echo "$program"
  done
  PATH=$PATH:/usr/libexec command -v qemu-system-x86_64 >/dev/null || PATH=$PATH:/usr/libexec command -v qemu-kvm >/dev/null || echo qemu-system-x86_64
  pkg-config --exists libvirt 2>/dev/null || echo "libvirt's headers"
}

# What the test guest is made with (scripts/linux-guest.sh). Its packages are Debian's; elsewhere the tests that need it are skipped by name.
GUEST_PROGRAMS=(busybox cpio kmod sfdisk mformat syslinux mkfs.ext4 chpasswd)

missing_for_guests() {
  local program
  command -v apt-get >/dev/null || return 0
  for program in "${GUEST_PROGRAMS[@]}"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || echo "$program"
  done
}

# --- Debian, Ubuntu ---

known() { # those of the packages that this release has
  local package
  for package in "$@"; do
    [ -z "$(apt-cache madison "$package" 2>/dev/null)" ] || echo "$package"
  done
}

apt_packages() {
  echo build-essential pkg-config ca-certificates libvirt-dev libvirt-daemon-system libvirt-clients libvirt-daemon-driver-qemu \
    qemu-system-x86 qemu-utils iproute2 iptables ebtables util-linux procps
  known busybox-static cpio kmod fdisk mtools syslinux syslinux-common e2fsprogs passwd
  # newer releases hold these apart
  known libvirt-daemon libvirt-daemon-log libvirt-daemon-driver-{network,nwfilter,storage,secret,interface,nodedev} libvirt-daemon-config-nwfilter
}

apt_install() {
  local packages codename
  # shellcheck disable=SC2207
  packages=($(apt_packages))
  install() { as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; }
  install "${packages[@]}" && return
  # A newer qemu-utils from backports keeps qemu-system-x86 out: take the release's own.
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  [ -n "$codename" ] || return 1
  install --allow-downgrades "qemu-utils/$codename" "${packages[@]/%qemu-utils/qemu-utils/$codename}"
}

apt_rust() { # the distribution's Rust, where one of its packages is new enough
  local wanted cargo rustc version
  wanted=$(rust_wanted)
  candidates() {
    echo cargo rustc
    echo cargo-web rustc-web
    apt-cache pkgnames cargo-1. | sed -n 's/^cargo-\([0-9.]*\)$/cargo-\1 rustc-\1/p' | sort -Vr
  }
  while read -r cargo rustc; do
    version=$(apt-cache policy "$rustc" | sed -n 's/^ *Candidate: \([0-9.]*\).*/\1/p')
    [ -n "$version" ] && at_least "$version" "$wanted" || continue
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$cargo" "$rustc" </dev/null
    return
  done < <(candidates)
  return 1
}

# --- CentOS Stream, Rocky, AlmaLinux, Fedora ---

dnf_install() {
  local crb
  # libvirt-devel lies in a repository that is off by default, and is called differently in release 8
  crb=$(as_root dnf -q repolist --all 2>/dev/null | awk '$1 == "crb" || $1 == "powertools" { print $1; exit }')
  as_root dnf install -y ${crb:+--enablerepo="$crb"} gcc make pkgconf-pkg-config libvirt-devel libvirt-daemon libvirt-client libvirt-daemon-driver-qemu \
    libvirt-daemon-driver-nwfilter libvirt-daemon-driver-network libvirt-daemon-driver-storage-core libvirt-daemon-config-nwfilter \
    qemu-kvm qemu-img iproute iptables-nft util-linux procps-ng
}

dnf_rust() {
  local version
  version=$(as_root dnf -q info rust 2>/dev/null | sed -n 's/^Version *: *//p' | sort -V | tail -1)
  [ -n "$version" ] && at_least "$version" "$(rust_wanted)" && as_root dnf install -y rust cargo
}

# --- both ---

lacking=$(missing | paste -sd, | sed 's/,/, /g')
wished=$(missing_for_guests | paste -sd, | sed 's/,/, /g')
rust=yes
find_rust || rust=no
if [ -z "$lacking$wished" ] && [ $rust = yes ]; then
  echo "setup: everything is there already (Rust $(as_caller rustc --version | cut -d' ' -f2), $(PATH=$PATH:/usr/sbin libvirtd --version | tail -1))"
  exit 0
fi
absent=("$lacking" "$wished")
[ $rust = yes ] || absent+=("Rust $(rust_wanted) or newer")
echo "setup: missing: $(printf '%s\n' "${absent[@]}" | sed '/^$/d' | paste -sd, | sed 's/,\([^ ]\)/, \1/g')"
can_be_root || die "installing packages needs root: run this as root, or with sudo installed"

if command -v apt-get >/dev/null; then
  manager=apt
  as_root apt-get update
elif command -v dnf >/dev/null; then
  manager=dnf
else
  die "neither apt-get nor dnf here; install by hand: ${lacking:-Rust}"
fi
[ -z "$lacking$wished" ] || ${manager}_install || [ -z "$lacking" ] || die "the packages could not be installed (see above)"
[ $rust = yes ] || { ${manager}_rust && find_rust; } ||
  die "this system's own Rust is too old; get Rust $(rust_wanted) or newer with:  curl -sSf https://sh.rustup.rs | sh -s -- -y"
lacking=$(missing | paste -sd, | sed 's/,/, /g')
[ -z "$lacking" ] || die "still missing after the installation: $lacking"
echo "setup: done"
