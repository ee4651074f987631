# Lets root log in over ssh with a password, which most distributions do not by default.
config=/etc/ssh/sshd_config
[ -f $config ] || exit 0
if grep -qsi '^include /etc/ssh/sshd_config.d/' $config; then
  echo 'PermitRootLogin yes' >/etc/ssh/sshd_config.d/00-root-login.conf
elif grep -qi '^permitrootlogin' $config; then
  sed -i 's/^[Pp]ermit[Rr]oot[Ll]ogin.*/PermitRootLogin yes/' $config
else
  sed -i '1i PermitRootLogin yes' $config
fi
for service in sshd ssh; do
  systemctl try-reload-or-restart $service 2>/dev/null || service $service reload 2>/dev/null || rc-service $service reload 2>/dev/null
done
exit 0
