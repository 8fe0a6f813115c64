#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test.
#
#   tests/run.sh            the release build, all tests (real daemons, mounts, sandboxes;
#                           as root by sudo, acting as root and as user fbroker-test)
#   tests/run.sh --asan     the same under AddressSanitizer and UndefinedBehaviorSanitizer
#   tests/run.sh --tsan     the room's own tests under ThreadSanitizer
#   tests/run.sh --fuzz     each fuzz target for FBROKER_FUZZ_SECONDS (default 10)
#   tests/run.sh --tidy     clang-tidy over every source
#   tests/run.sh -R REGEX   only tests whose name matches (any option of ctest can follow)
set -euo pipefail
cd "$(dirname "$0")/.."

mode=release
case "${1-}" in
  --asan | --tsan | --fuzz | --tidy) mode=${1#--}; shift ;;
  -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac

examples/setup.sh --tests
jobs=${FBROKER_JOBS:-$(nproc)}

# What a booted Debian has and a bare chroot or container may lack. Nothing
# here is needed on an ordinary machine, and nothing is undone by a second run.
prepare_machine() {
  local as_root=()
  [ "$(id -u)" -eq 0 ] || as_root=(sudo)
  if [ -e /dev/fuse ] && ! [ "$(stat -c %a /dev/fuse)" = 666 ]; then
    "${as_root[@]}" chmod 666 /dev/fuse  # as udev does (static-nodes-permissions.conf)
  fi
  # Without it no FUSE connection can be aborted, and no device is adopted.
  if [ -d /sys/fs/fuse/connections ] && ! grep -q ' /sys/fs/fuse/connections ' /proc/mounts; then
    "${as_root[@]}" mount -t fusectl fusectl /sys/fs/fuse/connections || true
  fi
  # crun refuses a hybrid cgroup tree that lacks hugetlb.
  if [ -d /sys/fs/cgroup/memory ] && ! [ -d /sys/fs/cgroup/hugetlb ]; then
    "${as_root[@]}" sh -c 'mkdir /sys/fs/cgroup/hugetlb &&
      mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb' || true
  fi
  # The ordinary user that the tests act as besides root.
  getent passwd fbroker-test >/dev/null ||
    "${as_root[@]}" useradd --create-home --shell /bin/bash fbroker-test
}

build() {
  local target=all
  [ "$1" != fuzz ] || target=fuzzers
  cmake --preset "$1" -DFBROKER_TESTS=ON "${@:2}" >build/"$1".configure.log ||
    { cat build/"$1".configure.log >&2; exit 1; }
  cmake --build --preset "$1" -j "$jobs" --target "$target"
}

# The tests act as root and as an ordinary user, each as a person would start
# fbroker. So they start as root, and what they run lies where anybody may go.
as_root_with_programs() (
  stage=$(mktemp -d /var/tmp/fbroker-tests-XXXXXX)
  trap 'rm -rf "$stage"' EXIT
  mkdir "$stage/bin"
  cp build/"$mode"/bin/fbroker build/"$mode"/bin/fbroker-{init,fuse} "$stage/bin/"
  cp -r examples "$stage/"
  chmod -R a+rX "$stage"
  status=0
  if [ "$(id -u)" -eq 0 ]; then
    FBROKER_TEST_STAGE=$stage "$@" || status=$?
  else
    sudo --preserve-env=ASAN_OPTIONS,UBSAN_OPTIONS,TSAN_OPTIONS,FBROKER_AGENTS env FBROKER_TEST_STAGE="$stage" "$@" || status=$?
    sudo chown -R "$(id -u):$(id -g)" build
  fi
  exit "$status"
)

# ctest counts a skipped test among the passed ones. FBROKER_NO_SKIP=1 (CI): it
# is a failure, for what a machine lacks must not look like what works.
run_ctest() {
  local log=build/$mode.ctest.log status=0
  local again=()
  [ -z "${FBROKER_TRIES-}" ] || again=(--repeat "until-pass:$FBROKER_TRIES")
  as_root_with_programs ctest --output-on-failure -j "$jobs" "${again[@]}" "$@" 2>&1 | tee "$log" || status=$?
  # A test that needed its second try is said, for somebody to look at.
  if [ -n "${FBROKER_TRIES-}" ] && grep -qE '\*\*\*(Failed|Timeout|Exception)' "$log"; then
    echo "FAILED AT LEAST ONCE:" >&2
    grep -E '\*\*\*(Failed|Timeout|Exception)' "$log" >&2
  fi
  local skipped
  skipped=$(sed -n '/^The following tests did not run:/,/^$/s/^\t//p' "$log")
  [ -n "$skipped" ] || return "$status"
  echo "SKIPPED, as this machine lacks something they need (each says what):" >&2
  echo "$skipped" >&2
  [ -z "${FBROKER_NO_SKIP-}" ] || return 1
  return "$status"
}

# The real agents come from the npm registry. Where it does not answer their
# tests cannot run; that is no fault of this tree, and said loudly.
without=()
install_agents() {
  tests/agents/install.sh && return
  echo "*** THE NPM REGISTRY DOES NOT ANSWER: the tests of the real agents (RealAgents.*) ARE NOT RUN ***" >&2
  without=(-E RealAgents)
}

mkdir -p build
prepare_machine
case $mode in
  release)
    build release -DFBROKER_BENCH=ON
    install_agents
    run_ctest --test-dir build/release "${without[@]}" "$@"
    ;;
  asan)
    build asan
    # A page of a revoked file raises SIGBUS, as it should. The shims are dynamic
    # here: the tests of static ones in an empty root are left to the release build, as are
    # the launcher inside a sandbox, where the leak detector may not look, programs that are not ours, and
    # what is a race against a clock: revokes, restarts and the host's changes under load.
    ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:handle_sigbus=0 UBSAN_OPTIONS=halt_on_error=1 \
      run_ctest --test-dir build/asan -LE architecture -E 'RunPodman|FuseProgram|ALauncherInsideASandbox|RealAgents|Tools\.|DeviceRevoke|DeviceRestart|DeviceHostile|DeviceWriteback|Coherence|FuseRestart' "$@"
    ;;
  tsan)
    build tsan
    TSAN_OPTIONS=halt_on_error=1:handle_sigbus=0 \
      run_ctest --test-dir build/tsan -LE 'architecture|e2e|container' "$@"
    ;;
  fuzz)
    build fuzz
    passed=0 failed=0
    for target in build/fuzz/bin/*_fuzz; do
      name=$(basename "$target")
      seeds=tests/fuzz/corpus/${name%_fuzz}
      found=$(mktemp -d)
      echo "== $name"
      if "$target" -max_total_time="${FBROKER_FUZZ_SECONDS:-10}" -timeout=10 -rss_limit_mb=2048 \
          -print_final_stats=1 -verbosity=0 -artifact_prefix=build/fuzz/ \
          "$found" $([ -d "$seeds" ] && echo "$seeds"); then
        passed=$((passed + 1))
      else
        failed=$((failed + 1))
      fi
      rm -rf "$found"
    done
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
    ;;
  tidy)
    cmake --preset dev >/dev/null
    git ls-files '*.cc' | grep -v '^tests/' | xargs -P "$jobs" -n 4 clang-tidy -p build/dev --quiet
    ;;
esac
