#!/bin/sh
# What pages can do, in Chromium: the attack of a page from every origin, and the pages that are allowed. Minutes.
set -eu
cd "$(dirname "$0")/../.."
# Each test has a Chromium of its own, which computes more than it waits.
RUST_TEST_THREADS="${RUST_TEST_THREADS:-2}"
export RUST_TEST_THREADS
exec cargo test --locked --test browser -- --include-ignored
