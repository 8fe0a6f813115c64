#!/usr/bin/env bash
# Installs what fbroker needs from Debian 12's packages. Asks for nothing that
# is already there, so a second run needs neither network nor root.
#
#   examples/setup.sh            to build and run fbroker
#   examples/setup.sh --tests    also what the tests, fuzzers and benchmarks need
set -euo pipefail

packages=(
  build-essential cmake ninja-build pkg-config
  libboost1.81-dev nlohmann-json3-dev libre2-dev libspdlog-dev libcli11-dev
  libssl-dev zlib1g-dev libseccomp-dev libvalijson-dev libfuse3-dev
  bubblewrap
)
test_packages=(
  ccache clang clang-tidy libclang-rt-14-dev libgtest-dev libgmock-dev libbenchmark-dev
  git make gcc sqlite3 ripgrep curl python3 procps util-linux passwd sudo fuse3 attr
  podman crun uidmap slirp4netns busybox-static
  iproute2 openssl python3-venv vim cargo tar
)

usage() { sed -n '2,6s/^# \{0,1\}//p' "$0"; }

case "${1-}" in
  "") ;;
  --tests)
    packages+=("${test_packages[@]}")
    # Node from elsewhere brings its own, which Debian's package conflicts with.
    command -v npm >/dev/null || packages+=(npm)
    ;;
  -h | --help) usage; exit 0 ;;
  *) echo "setup.sh: unknown option $1" >&2; usage >&2; exit 2 ;;
esac

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "setup.sh: these packages are missing and there is no sudo; as root, run:" >&2
    echo "  apt-get update && apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "Installing ${#missing[@]} packages: ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
