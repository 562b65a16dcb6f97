#!/bin/sh
# Two programs below `exec` and a proxy on one store while tokens live 2 s: exec.sh [BINARY [SECONDS]], a minute unless
# told. The long form of what `cargo test` does in seconds; it runs the program that cargo builds for tests.
set -eu
cd "$(dirname "$0")/../.."
PLEO_PROXY_HEAVY_SECONDS="${2:-60}" exec cargo test --locked --test operations -- exec_store::
