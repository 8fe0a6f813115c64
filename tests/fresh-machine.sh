#!/usr/bin/env bash
# Runs a command of the README on a fresh machine: a debootstrapped Debian 12
# root with nothing but the base system, in mount and PID namespaces of its own,
# with a clean clone of HEAD. Needs root and debootstrap.
#
#   tests/fresh-machine.sh root examples/quickstart.sh
#   tests/fresh-machine.sh user tests/run.sh            an ordinary user with sudo
#
# FBROKER_FRESH_BASE names the folder that keeps the debootstrapped base
# (default /var/cache/fbroker-fresh); a second run uses it again.
set -euo pipefail
cd "$(dirname "$0")/.."

who=${1:?root or user}; shift
[ $# -gt 0 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2; }
base=${FBROKER_FRESH_BASE:-/var/cache/fbroker-fresh}

if ! [ -e "$base/etc/debian_version" ]; then
  mkdir -p "$base"
  debootstrap --variant=minbase bookworm "$base" "${FBROKER_MIRROR:-http://deb.debian.org/debian}"
fi

machine=$(mktemp -d /var/tmp/fbroker-fresh-XXXXXX)
trap 'rm -rf --one-file-system "$machine"' EXIT
cp -a "$base/." "$machine/"
cp /etc/resolv.conf "$machine/etc/"
cp /etc/apt/apt.conf.d/99* "$machine/etc/apt/apt.conf.d/" 2>/dev/null || true
git clone -q --no-hardlinks . "$machine/root/fbroker"

cat >"$machine/enter" <<'INNER'
#!/bin/bash
# Arguments: root|user, then the command. Runs inside the new root.
set -euo pipefail
who=$1; shift
mount -t proc proc /proc
umount -l /old
rmdir /old
export HOME=/root USER=root LOGNAME=root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
chmod 666 /dev/fuse
if [ "$who" = user ]; then
  apt-get update -qq && apt-get install -y -qq --no-install-recommends sudo >/dev/null
  useradd --create-home --shell /bin/bash newcomer
  echo 'newcomer ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/newcomer
  mv /root/fbroker /home/newcomer/ && chown -R newcomer: /home/newcomer/fbroker
  cd /home/newcomer/fbroker
  exec setpriv --reuid newcomer --regid newcomer --init-groups \
    env HOME=/home/newcomer USER=newcomer LOGNAME=newcomer "$@"
fi
cd /root/fbroker
exec "$@"
INNER
chmod +x "$machine/enter"

exec_in_namespaces='
  set -e
  mount --make-rprivate /
  mount --bind "$1" "$1"; cd "$1"; shift
  mount --rbind /dev dev; mount --rbind /sys sys; mkdir old
  pivot_root . old
  exec /enter "$@"'
unshare --mount --pid --fork --kill-child -- bash -c "$exec_in_namespaces" - "$machine" "$who" "$@"
