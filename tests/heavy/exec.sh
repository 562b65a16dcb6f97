#!/bin/sh
# Two programs below `exec` and a proxy on one store while tokens live 2 s: a minute, or as many seconds as the argument
# says. The long form of what `cargo test` does in seconds.
set -eu
cd "$(dirname "$0")/../.."
PLEO_PROXY_HEAVY_SECONDS="${1:-60}" exec cargo test --locked --test operations -- exec_store::
