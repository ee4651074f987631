# $1 number of data disks, $2 where they are mounted.
# Data that is there already is mounted and never formatted: only disks without any signature are used.
count=$1 path=$2
volume=/dev/nano/data
fstab_path=$(printf '%s' "$path" | sed 's/\\/\\134/g; s/ /\\040/g; s/\t/\\011/g')

mount_at() { # device, directory as in fstab, directory
  mkdir -p "$3"
  grep -qsF " $2 " /etc/fstab || printf '%s %s auto defaults,nofail 0 2\n' "$1" "$2" >>/etc/fstab
  grep -qsF " $2 " /proc/mounts || mount "$3"
}

make_filesystem() { # device
  if command -v mkfs.ext4 >/dev/null; then mkfs.ext4 -q -F "$1"; else mkfs.xfs -q "$1"; fi
}

blank_disks() {
  for block in /sys/block/sd* /sys/block/vd* /sys/block/hd* /sys/block/xvd* /sys/block/nvme*; do
    name=${block##*/}
    [ -b "/dev/$name" ] && [ "$(cat "$block/ro")" = 0 ] && [ "$(cat "$block/size")" != 0 ] || continue
    set -- "$block/$name"*/partition
    [ -e "$1" ] && continue
    set -- "$block"/holders/*
    [ -e "$1" ] && continue
    grep -q "^/dev/$name " /proc/mounts && continue
    # 2: nothing was recognised on it.
    blkid -p "/dev/$name" >/dev/null 2>&1
    [ $? = 2 ] && echo "/dev/$name"
  done | head -n "$count"
}

if command -v vgchange >/dev/null; then
  vgchange -q -ay nano >/dev/null 2>&1
  if [ ! -b $volume ]; then
    disks=$(blank_disks)
    if [ -n "$disks" ] && ! vgs nano >/dev/null 2>&1; then
      pvcreate -q $disks && vgcreate -q nano $disks && lvcreate -q -y -n data -l 100%FREE nano && make_filesystem $volume
    fi
  fi
  [ -b $volume ] && mount_at $volume "$fstab_path" "$path"
else
  # Without LVM each disk has a file system of its own; it is known by its label from then on.
  number=1
  while [ "$number" -le "$count" ]; do
    label=nano-data-$number
    device=$(blkid -L $label)
    if [ -z "$device" ]; then
      device=$(blank_disks | head -n 1)
      [ -n "$device" ] && make_filesystem "$device" &&
        if command -v e2label >/dev/null; then e2label "$device" $label; else xfs_admin -L $label "$device"; fi
    fi
    suffix=
    [ "$number" -gt 1 ] && suffix=/disk-$number
    [ -n "$device" ] && mount_at LABEL=$label "$fstab_path$suffix" "$path$suffix"
    number=$((number + 1))
  done
fi
exit 0
