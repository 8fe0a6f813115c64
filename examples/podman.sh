#!/usr/bin/env bash
# An agent in an ordinary rootless Podman container that mounts nothing but the
# directory of the broker's data socket, and works in /workspace there.
#
#   examples/podman.sh [DIRECTORY] [-- COMMAND [ARGUMENT]...]
#
# DIRECTORY is shown to the agent (default: a small project made for this);
# COMMAND runs in it (default: a look around). The container's image is built
# here, from scratch, out of the two static shims and a shell: no registry.
# FBROKER_BIN: where fbroker, fbroker-init and fbroker-fuse are.
# FBROKER_TRANSPORT: device (the broker answers the container's kernel itself),
# http, or auto (the default): the first that works.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)

die() { echo "podman.sh: $*" >&2; exit 2; }
step() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }

case "${1-}" in -h | --help) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
[ "$(id -u)" -ne 0 ] || die "rootless Podman is an ordinary user's; run this as one (sudo -iu USER $0)"
command -v podman >/dev/null || die "podman is missing: sudo apt install podman"
[ -r /dev/fuse ] && [ -w /dev/fuse ] || die "/dev/fuse is not open to users: sudo chmod 666 /dev/fuse"

bin=${FBROKER_BIN:-}
for place in "$here/build/release/bin" "$here/build/dev/bin" "$HOME/.local/bin"; do
  [ -n "$bin" ] || [ ! -x "$place/fbroker-fuse" ] || bin=$place
done
[ -n "$bin" ] || die "fbroker is not built: examples/quickstart.sh"

work=$(mktemp -d "${TMPDIR:-/tmp}/fbroker-podman-XXXXXX")
broker=
cleanup() {
  [ -z "$broker" ] || { kill "$broker" 2>/dev/null && wait "$broker"; } || true
  rm -rf "$work"
}
trap cleanup EXIT

project=
if [ $# -gt 0 ] && [ "$1" != -- ]; then project=$(realpath -e "$1"); shift; fi
[ "${1-}" != -- ] || shift
if [ -z "$project" ]; then
  project=$work/project
  mkdir "$project"
  echo 'hello from the host' >"$project/notes.txt"
  echo 'TOKEN=1' >"$project/.env"
fi
[ $# -gt 0 ] || set -- /bin/sh -c 'id; pwd; ls -la; cat notes.txt; cat .env; echo "made in the container" > made.txt; cat made.txt'

# A root file system: the shims, and a shell with what it needs.
build_image() {
  local root=$work/root tool library
  mkdir -p "$root"/{bin,dev,etc,proc,run/fbroker,sys,tmp,workspace,usr/lib/fbroker}
  install -m 755 "$bin/fbroker-init" "$bin/fbroker-fuse" "$root/usr/lib/fbroker/"
  strip "$root"/usr/lib/fbroker/* 2>/dev/null || true
  if [ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1; then
    cp /bin/busybox "$root/bin/"
    for tool in $(/bin/busybox --list); do [ -e "$root/bin/$tool" ] || ln -s busybox "$root/bin/$tool"; done
  else
    for tool in sh bash cat ls id grep ps mkdir rm mv touch; do
      tool=$(command -v "$tool")
      cp -L "$tool" "$root/bin/"
      for library in $(ldd "$tool" | grep -o '/[^ )]*'); do
        mkdir -p "$root$(dirname "$library")"
        cp -L "$library" "$root$library"
      done
    done
  fi
  tar -C "$root" -cf - . | podman import --quiet - localhost/fbroker-example:latest >/dev/null
}

step "1. An image from scratch: two static programs and a shell"
build_image

step "2. The broker, on the host, for $project"
mkdir -m 700 "$work/run" "$work/state"
XDG_RUNTIME_DIR=$work/run XDG_STATE_HOME=$work/state "$bin/fbroker" serve --root "$project" >&2 &
broker=$!
sockets=$work/run/fbroker/default
for _ in $(seq 100); do
  [ ! -S "$sockets/broker.sock" ] || break
  kill -0 "$broker" 2>/dev/null || die "the broker did not start"
  sleep 0.1
done
[ -S "$sockets/broker.sock" ] || die "the broker did not open its socket"

echo "   other terminal: XDG_RUNTIME_DIR=$work/run fbroker grant PATH --read" >&2

step "3. The container: no network, no capability for the agent, one mount"
# sys_admin is for fbroker-init alone, to mount FUSE in the container's own user
# namespace; the agent starts after it was given up. unmask: the kernel lets a
# container mount the fresh /proc that hides fbroker-init only when its own has
# no covered parts; to an unprivileged host user those files are closed anyway.
status=0
podman run --rm --network none --read-only --userns=keep-id \
  --cap-drop=all --cap-add=sys_admin --device /dev/fuse --security-opt unmask=ALL \
  --ulimit nofile=1024:1024 --ulimit nproc=1000:1000 \
  --volume "$sockets:/run/fbroker:ro" \
  localhost/fbroker-example:latest \
  /usr/lib/fbroker/fbroker-init --socket /run/fbroker/broker.sock --chdir /workspace \
  --transport "${FBROKER_TRANSPORT:-auto}" \
  --uid "$(id -u)" --gid "$(id -g)" -- "$@" || status=$?

step "4. What the audit log says"
"$bin/fbroker" audit tail --dir "$work/state/fbroker/default/audit" >&2 || true
exit "$status"
