# $1 account. Administrators are in the group wheel or sudo, whichever this system has, and have a comfortable shell.
for group in wheel sudo; do
  grep -q "^$group:" /etc/group || continue
  usermod -a -G "$group" "$1" 2>/dev/null || addgroup "$1" "$group"
done
if [ -x /bin/bash ] && command -v usermod >/dev/null; then usermod -s /bin/bash "$1"; fi
exit 0
