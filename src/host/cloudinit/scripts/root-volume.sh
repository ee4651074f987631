# Grows a root file system that lies on LVM: the partition under it, the physical volume, the logical volume, the file system.
root=$(awk '$2 == "/" { device = $1 } END { print device }' /proc/mounts)
command -v lvs >/dev/null && group=$(lvs --noheadings -o vg_name "$root" 2>/dev/null | tr -d ' ') && [ -n "$group" ] || exit 0
for volume in $(pvs --noheadings -o pv_name -S "vg_name=$group"); do
  part=$(basename "$(readlink -f "$volume")")
  number=$(cat "/sys/class/block/$part/partition" 2>/dev/null)
  if [ -n "$number" ] && command -v growpart >/dev/null; then
    growpart "/dev/$(basename "$(dirname "$(readlink -f "/sys/class/block/$part")")")" "$number"
  fi
  pvresize "$volume"
done
lvextend -r -l +100%FREE "$root"
exit 0
