#!/bin/bash
# compare.sh MOUNTED NATIVE [ROUNDS]: the same work through the mount and in
# the native directory, interleaved in one run; medians in milliseconds and
# their ratio. NATIVE is the directory that MOUNTED shows (or a copy of it).
#
# As a session sees it, with a copy for comparison inside:
#   fbroker run -- bash bench/mount/compare.sh /workspace /tmp/copy
#
# Cold means: nothing in the mount's cache. For the native directory the page
# cache stays warm (dropping it needs root and would slow everybody), so the
# cold ratio is what the mount costs, not what the disk costs. The file is
# made anew in each round, so the mount cannot have its pages.
set -euo pipefail

mounted=${1:?usage: compare.sh MOUNTED NATIVE [ROUNDS]}
native=${2:?usage: compare.sh MOUNTED NATIVE [ROUNDS]}
rounds=${3:-7}
megabytes=${FBROKER_BENCH_MB:-256}
big=.fbroker-bench-$$
trap 'rm -f "$native/$big" "$mounted/$big" 2>/dev/null || true' EXIT

declare -A times
measure() {  # NAME COMMAND...: appends the milliseconds it took
  local name=$1 begin end
  shift
  begin=$(date +%s%N)
  "$@" >/dev/null 2>&1
  end=$(date +%s%N)
  times[$name]+="$(((end - begin) / 1000)) "
}
median() { tr ' ' '\n' <<<"$1" | grep . | sort -n | awk '{v[NR]=$1} END {print v[int((NR+1)/2)]}'; }
row() {
  local a b
  a=$(median "${times[$1:mount]}") b=$(median "${times[$1:native]}")
  awk -v n="$1" -v a="$a" -v b="$b" \
    'BEGIN {printf "%-24s %10.1f ms %10.1f ms %8.2fx\n", n, a / 1000, b / 1000, a / (b ? b : 1)}'
}
read_all() { cat "$1" >/dev/null; }
make_big() { head -c "${megabytes}M" /dev/zero >"$1"; }

rows=("tree walk")
git -C "$native" rev-parse >/dev/null 2>&1 && rows=("git status" "${rows[@]}")

# Once each, unmeasured: both sides begin warm.
for at in "$mounted" "$native"; do
  find "$at" -xdev -type f -size -1000k -printf '' || true
  git -C "$at" status --porcelain >/dev/null 2>&1 || true
done
for ((round = 0; round < rounds; ++round)); do
  for side in mount native; do
    [ "$side" = mount ] && at=$mounted || at=$native
    [[ ${rows[0]} == "git status" ]] &&
      measure "git status:$side" git -c core.fsmonitor=false -C "$at" status --porcelain
    measure "tree walk:$side" find "$at" -xdev -printf '%s %p\n'
    # Made in the native directory where both show the same, else on each side.
    rm -f "$native/$big" && make_big "$native/$big"
    [ -e "$at/$big" ] || make_big "$at/$big"
    measure "read cold (${megabytes} MB):$side" read_all "$at/$big"
    measure "read warm (${megabytes} MB):$side" read_all "$at/$big"
    rm -f "$at/$big"
  done
done
printf '%-24s %13s %13s %9s\n' "" mount native ratio
for name in "${rows[@]}" "read cold (${megabytes} MB)" "read warm (${megabytes} MB)"; do row "$name"; done
