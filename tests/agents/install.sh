#!/usr/bin/env bash
# Installs the real agents of package.json, from the npm registry, where any
# user may run them: FBROKER_AGENTS (default /var/tmp/fbroker-agents). About
# 1.4 GB; a second run with the same package.json needs no network.
#
#   tests/agents/install.sh        prints the directory
#
# Exit status: 0 they are there, 1 the registry does not answer.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${FBROKER_AGENTS:-/var/tmp/fbroker-agents}

if ! cmp -s "$here/package.json" "$target/installed.json"; then
  command -v npm >/dev/null || { echo "install.sh: npm is missing (examples/setup.sh --tests installs it)" >&2; exit 1; }
  # Otherwise npm tries again, silently, for many minutes.
  npm view node version --fetch-retries=0 --fetch-timeout=20000 --loglevel=error >/dev/null 2>&1 || exit 1
  echo "installing the agents from the npm registry into $target (1.4 GB)" >&2
  mkdir -p "$target"
  cp "$here/package.json" "$target/package.json"
  rm -f "$target/installed.json"
  npm install --prefix "$target" --no-audit --no-fund --no-update-notifier --loglevel=error >&2 || exit 1
  chmod -R a+rX "$target"
  cp "$here/package.json" "$target/installed.json"
fi
echo "$target"
