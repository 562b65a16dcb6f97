#!/bin/sh
# What pages can do, in Chromium: the attack of a page from every origin, the pages that are allowed, and our own page
# with the real proxy. Minutes. The argument is the program that our own page is tested with; without one it is built.
set -eu
cd "$(dirname "$0")/../.."
program="${1:-}"
# Each test has a Chromium of its own, which computes more than it waits.
RUST_TEST_THREADS="${RUST_TEST_THREADS:-2}"
export RUST_TEST_THREADS
broken=0
cargo test --locked --test browser -- --include-ignored || broken=1

skip() {
    echo "SKIPPED the tests of our own page: $*" >&2
    exit "$broken"
}
CHROMIUM=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || skip "Chromium is missing"
command -v node >/dev/null || skip "Node is missing"
[ "$(node --print 'process.versions.node.split(".")[0]')" -ge 20 ] || skip "Node is older than 20"
command -v npm >/dev/null || skip "npm is missing"
export CHROMIUM
if [ -z "$program" ]; then
    cargo build --locked
    program="${CARGO_TARGET_DIR:-target}/debug/pleo-proxy"
fi
PLEO_PROXY_PROGRAM=$(realpath "$program")
export PLEO_PROXY_PROGRAM
cd tests/browser/page
# Two packages for the tests alone, as their lock file says.
[ -d node_modules/axe-core ] || npm ci --silent || skip "the packages of package-lock.json cannot be fetched"
node run.mjs || broken=1
exit "$broken"
