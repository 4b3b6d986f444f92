#!/bin/bash
# All tests, stage by stage: every stage runs even when an earlier one failed, and the end names what failed,
# what was skipped and how long each took. With CI=true a skipped test is a failure (tests/shoal/conftest.py).
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

stages=(lint types imports ansible-lint sanity units package integration demo)
logs=build/test-logs
rm -rf "$logs"
mkdir -p "$logs"
passed=() failed=()

tests/venv.sh test || exit 1
for stage in "${stages[@]}"; do
  started=$SECONDS
  printf '\n== %s\n' "$stage"
  if make --no-print-directory "$stage" 2>&1 | tee "$logs/$stage.log"; then
    passed+=("$stage $((SECONDS - started)) s")
  else
    failed+=("$stage $((SECONDS - started)) s")
  fi
done

printf '\n== summary\n'
printf '  passed  %s\n' "${passed[@]}"
[ ${#failed[@]} -eq 0 ] || printf '  FAILED  %s\n' "${failed[@]}"
if grep -hE '^SKIPPED ' "$logs"/*.log >"$logs/skipped" 2>/dev/null; then
  echo '  not run here:'
  sed 's/^/    /' "$logs/skipped"
fi
echo "stages: ${#passed[@]} passed, ${#failed[@]} failed"
[ ${#failed[@]} -eq 0 ]
