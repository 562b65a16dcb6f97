#!/bin/sh
# kill -9 at every system call of a refresh, a login and a logout, in a sealed rename, at 60 of a `store rekey` of 50
# accounts (at every one with PLEO_PROXY_HEAVY=every, which takes an hour), and of a serving proxy at random moments
# under load.
# Prints a table; exit code 1 if an account was lost without an honest reason, a spent token was sent, or a store does
# not load. Takes about twenty minutes on two cores. Needs strace, python3 and the right to trace.
set -u
cd "$(dirname "$0")/../.." || exit 2
for tool in cargo python3 strace; do
    command -v "$tool" >/dev/null || { echo "crash.sh: $tool is missing" >&2; exit 2; }
done
export PLEO_PROXY_HEAVY="${PLEO_PROXY_HEAVY:-1}"
# Every case has a sandbox of its own.
ulimit -n "$(ulimit -H -n)"
log=$(mktemp) || exit 2
trap 'rm -f "$log"' EXIT
cargo test --locked --test journeys -- crash:: --nocapture >"$log" 2>&1 &&
    cargo test --locked --test operations -- a_rekey_killed a_sealed_rename_killed --nocapture >>"$log" 2>&1
code=$?
grep '^| ' "$log"
if [ "$code" -ne 0 ] || grep -q SKIPPED "$log"; then
    grep -v '^| ' "$log" | tail -n 60
    echo "crash.sh: broken rules, or not everything was run" >&2
    exit 1
fi
