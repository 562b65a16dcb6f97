#!/bin/sh
# Model check of the gate (tests/model): every order of its atomic steps, within bounds, under loom. About a minute.
set -eu
cd "$(dirname "$0")/../.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! cargo test --locked --profile ci --package pleo-proxy-model -- --nocapture >"$log" 2>&1; then
    cat "$log"
    exit 1
fi
grep '^model: ' "$log"
awk '/^model: /{ for (i = 2; i <= NF; i++) if ($i == "schedules") n += $(i - 1) } END { print "model: " n " schedules, no fault" }' "$log"
