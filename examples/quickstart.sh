#!/usr/bin/env bash
# From a fresh Debian 12 to a first session: installs what is missing, builds
# fbroker, and shows an agent's shell that gains and loses a file while it runs.
#
#   examples/quickstart.sh             asks whether to install into ~/.local/bin
#   examples/quickstart.sh --install   installs without asking
#   examples/quickstart.sh --no-install
set -euo pipefail
cd "$(dirname "$0")/.."

install=ask
case "${1-}" in
  "") ;;
  --install) install=yes ;;
  --no-install) install=no ;;
  -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *) echo "quickstart.sh: unknown option $1 (see --help)" >&2; exit 2 ;;
esac

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '\033[2m%s$\033[0m %s\n' "$1" "$2"; }

say "1. Packages and build"
examples/setup.sh
mkdir -p build
# The tests share this build folder; keep them if they are configured already.
[ -f build/release/CMakeCache.txt ] ||
  cmake --preset release -DFBROKER_TESTS=OFF -DFBROKER_BENCH=OFF >/dev/null
cmake --build --preset release -j "${FBROKER_JOBS:-$(nproc)}" --target fbroker fbroker-init fbroker-fuse
bin=$PWD/build/release/bin
PATH=$bin:$PATH

# A small project with a secret in it, and an agent: a shell that we type into.
demo=$(mktemp -d "${TMPDIR:-/tmp}/fbroker-demo-XXXXXX")
session=demo-$$
agent_pid=
cleanup() {
  exec 8>&- 9<&- || true
  [ -z "$agent_pid" ] || wait "$agent_pid" 2>/dev/null || true
  rm -rf "$demo"
}
trap cleanup EXIT
mkdir "$demo/project"
cd "$demo/project"
git init -q . 2>/dev/null || true
printf 'int main(void) { return 0; }\n' >main.c
printf 'API_KEY=correct-horse-battery-staple\n' >.env
printf 'API_KEY=put-yours-here\n' >.env.example

mkfifo "$demo/in" "$demo/out"
# Not plain `bash`: one that reads its script from a pipe crashes (bash 5.2) when
# a descriptor that it duplicates cannot be asked for its status, as after a revoke.
fbroker run --name "$session" -- bash -c \
  'exec 2>&1; while IFS= read -r line; do eval "$line"; echo =end=; done' <"$demo/in" >"$demo/out" 2>"$demo/messages" &
agent_pid=$!
exec 8>"$demo/in" 9<"$demo/out"

# Types a line into the agent's shell and shows what came back.
agent() {
  show agent "$1"
  printf '%s\n' "$1" >&8
  local line
  while IFS= read -r -t 60 line <&9; do
    [ "$line" != "=end=" ] || return 0
    printf '%s\n' "$line"
  done
  echo "The sandbox did not answer:" >&2
  cat "$demo/messages" >&2
  exit 1
}
# Runs a command in the person's terminal.
you() {
  show you "$*"
  "$@"
}

say "2. An agent in a sandbox: it sees the project, and not the secret"
agent "ls -A"
head -1 "$demo/messages"
agent "cat .env.example"
agent "cat .env"

say "3. A grant, while the agent runs: no restart, no new mount"
you fbroker grant -s "$session" .env --read --override-deny --for 15m
agent "cat .env"
agent "exec 5<.env   # and holds it open"

say "4. A revoke is final when it returns, on the open descriptor too"
you fbroker revoke -s "$session" .env
agent "cat .env"
agent "cat <&5"

agent "echo done >notes.txt"
exec 8>&-
wait "$agent_pid" || true
agent_pid=

say "5. What the launcher says at the end, and the audit log"
sed 1d "$demo/messages"
you fbroker audit search -s "$session" --path /.env
you fbroker audit verify -s "$session"

say "6. Install"
target=$HOME/.local/bin
if [ "$install" = ask ]; then
  install=no
  if [ -t 0 ]; then
    read -r -p "Install fbroker into $target? [y/N] " answer
    case "$answer" in [yY]*) install=yes ;; esac
  else
    echo "Not asked, as this is no terminal: examples/quickstart.sh --install does it."
  fi
fi
if [ "$install" = yes ]; then
  mkdir -p "$target"
  install -s -m 755 "$bin"/fbroker "$bin"/fbroker-init "$bin"/fbroker-fuse "$target"/
  fbroker=fbroker
  case ":$PATH:" in *":$target:"*) ;; *) fbroker=$target/fbroker ;; esac
  echo "Installed fbroker, fbroker-init and fbroker-fuse into $target."
else
  fbroker=$bin/fbroker
fi

say "Now in a project of your own:"
echo "  $fbroker run -- bash                         # a sandboxed shell in this directory"
echo "  $fbroker grant ~/Downloads/spec.pdf --read --for 15m   # from another terminal"
echo "  $fbroker audit tail                          # what was read, changed and refused"
