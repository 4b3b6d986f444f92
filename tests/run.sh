#!/bin/bash
# All tests, stage by stage, in two lanes beside each other, since most stages keep only one core busy. Every stage runs
# even when another failed, and the end names what failed, what was skipped and how long each took.
# What a stage printed is in build/test-logs/STAGE.log; here is shown what a failed one said last.
# With CI=true a skipped test is a failure (tests/shoal/conftest.py, tests/molecule.sh).
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

lanes=("package demo integration" "lint types imports ansible-lint sanity units")
last=(molecule) # alone: it is the one that changes the machine, by starting an engine

logs=build/test-logs
rm -rf "$logs"
mkdir -p "$logs"
began=$SECONDS
tests/venv.sh test || exit 1
bytecode=$(echo .venv/lib/python3.*/site-packages)/zip_bytecode.kept
SHOAL_MODULE_CACHE=$(mktemp -d)
export SHOAL_MODULE_CACHE
trap 'rm -rf "$bytecode" "$SHOAL_MODULE_CACHE"' EXIT
mkdir -p "$bytecode"

# What Ansible says of tasks that failed and were not to: it may be thousands of lines above the end.
failed_tasks() {
  awk '/^TASK /         { task = $0 }
       /^(fatal|failed): / && !telling { told = task "\n"; telling = 1 }
       /^\.\.\.ignoring/ { telling = 0 }
       telling && /^(TASK|PLAY|RUNNING) / { print told; telling = 0 }
       telling          { told = told $0 "\n" }
       /Idempotence test failed/ { left = 10 } # tasks that changed, which is no failure
       left-- > 0' "$1"
}

# Of some thousand lines those that tell why, each short enough to be read.
tell() {
  echo "-- what failed in $1; all of it is in $logs/$1.log"
  failed_tasks "$logs/$1.log" | tail -n 80 | cut -c-1000
  echo "-- the end of it"
  tail -n 200 "$logs/$1.log" | cut -c-1000
}

run() {
  local stage result started
  for stage in "$@"; do
    started=$SECONDS
    echo "-- $stage begins"
    make --no-print-directory "$stage" >"$logs/$stage.log" 2>&1 && result=passed || result=FAILED
    (
      flock 9 # one stage's output at a time
      [ "$result" = passed ] || tell "$stage"
      echo "$result  $stage $((SECONDS - started)) s" | tee -a "$logs/results"
    ) 9>"$logs/lock"
  done
}

for lane in "${lanes[@]}"; do
  # shellcheck disable=SC2086 # a lane is a list of words
  run $lane &
done
wait
run "${last[@]}"

printf '\n== summary, %s s\n' $((SECONDS - began))
sed 's/^/  /' "$logs/results"
# Once more, for who sees the end only
for stage in $(awk '/^FAILED/ { print $2 }' "$logs/results"); do
  echo "  last of what failed in $stage:"
  { failed_tasks "$logs/$stage.log"; grep -aE '^(FAILED|ERROR) |^make' "$logs/$stage.log"; } | tail -n 30 | cut -c-400 | sed 's/^/    /'
done
if grep -hE '^SKIPPED ' "$logs"/*.log >"$logs/skipped"; then
  echo '  not run here:'
  sed 's/^/    /' "$logs/skipped"
fi
failed=$(grep -c '^FAILED' "$logs/results")
echo "stages: $(grep -c '^passed' "$logs/results") passed, $failed failed"
[ "$failed" -eq 0 ]
