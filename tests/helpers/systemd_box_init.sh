#!/bin/bash
# PID 1 of the box before it becomes systemd: hides the host, and shows what the unit needs.
# Runs in new pid, mount, uts, ipc and cgroup namespaces; called by systemd_box.py alone.
#   $1  the unit file    $2  the environment that has the program `supervisor` (sys.prefix)
#   $3… folders to replace by empty ones
set -eu
unit=$1 prefix=$2
shift 2

mount --make-rprivate /
# The root of the cgroup namespace is the box's own subtree: version 2, whatever the host has.
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/etc /run/units

# None of the host's units and generators: nothing but bare targets.
for name in sysinit basic shutdown umount final exit sockets timers paths slices multi-user \
            network network-online local-fs remote-fs; do
  cp "/lib/systemd/system/$name.target" /run/units/ 2>/dev/null || true
done
cp /lib/systemd/system/systemd-exit.service /run/units/
for folder in /lib/systemd/system /lib/systemd/system-generators \
              /lib/systemd/system-environment-generators "$@"; do
  if [ -d "$folder" ]; then mount -t tmpfs tmpfs "$folder"; fi
done
cp /run/units/* /lib/systemd/system/
sed -i '/^\(Wants\|After\|Conflicts\|RequiresMountsFor\)=/d' /lib/systemd/system/{sysinit,basic}.target

# /etc is a copy, so that tests may write /etc/workers.ini and drop-ins.
cp -a /etc/. /run/etc/
mount --bind /run/etc /etc
rm -rf /etc/systemd/system/* /etc/workers.ini
mkdir -p /opt/workers /srv/workers /run/systemd/system.conf.d
ln -s "$prefix" /opt/workers/.venv
install -m 644 "$unit" /etc/systemd/system/supervisor.service
mkdir -p /etc/systemd/system/supervisor.service.d
# There is no journal in the box.
cat >/etc/systemd/system/supervisor.service.d/output.conf <<'CONF'
[Service]
StandardOutput=append:/run/unit.log
StandardError=append:/run/unit.log
CONF
cat >/run/systemd/system.conf.d/box.conf <<'CONF'
[Manager]
DefaultTimeoutStopSec=5
CONF
cat >/etc/systemd/system/box.target <<'CONF'
[Unit]
DefaultDependencies=no
CONF

# The host's console is not ours; what systemd did is asked of systemctl.
mount --bind /dev/null /dev/console
export container=other
exec /lib/systemd/systemd --system --unit=box.target --log-target=null --show-status=no
