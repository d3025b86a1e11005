# Sourced: named steps that are timed, all run even when one fails, and summed up in a table.
# shellcheck shell=bash

STEP_NAMES=()
STEP_ROWS=()
STEPS_FAILED=0

# steps_select NAME...: run only these; none means all.
steps_select() { STEPS_SELECTED=("$@"); }

# step NAME COMMAND...
step() {
  local name=$1
  shift
  STEP_NAMES+=("$name")
  steps_selects "$name" || return 0

  say "── $name"
  local log=$LOGS/step-$name.log start=$SECONDS result=ok
  if "$@" >"$log" 2>&1 </dev/null; then
    steps_summary "$log"
  else
    result=FAILED
    STEPS_FAILED=1
    cat "$log"
  fi
  STEP_ROWS+=("$(printf '%-14s %6ss  %-6s' "$name" $((SECONDS - start)) "$result")")
}

# The table; fails if a step failed, or if one was asked for that does not exist.
steps_finish() {
  local name
  for name in "${STEPS_SELECTED[@]}"; do
    [[ " ${STEP_NAMES[*]} " == *" $name "* ]] || die "There is no step '$name', but: ${STEP_NAMES[*]}"
  done

  say "──────────────────────────────"
  printf '%s\n' "${STEP_ROWS[@]}"
  say "──────────────────────────────"
  say "total $((SECONDS / 60)) min $((SECONDS % 60)) s"
  return "$STEPS_FAILED"
}

steps_selects() {
  [ ${#STEPS_SELECTED[@]} -eq 0 ] || [[ " ${STEPS_SELECTED[*]} " == *" $1 "* ]]
}

# What test runners say in the end (ExUnit before and since 1.20, Cargo); silent for everything else.
steps_summary() {
  grep -E '^([0-9]+ .*, [0-9]+ failures?|Result: |test result: )' "$1" | grep -v ' 0 passed; 0 failed' || true
}
