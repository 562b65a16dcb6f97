#!/bin/sh
# The attack of a page in Chromium once more, from two other origins. Two minutes.
set -eu
cd "$(dirname "$0")/../.."
exec cargo test --locked --test browser -- --ignored
