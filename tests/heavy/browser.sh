#!/bin/sh
# What pages can do, in Chromium: the attack of a page from every origin, and the pages that are allowed. Minutes.
set -eu
cd "$(dirname "$0")/../.."
exec cargo test --locked --test browser -- --include-ignored
