#!/bin/sh
# Twenty restarts under a service manager that holds the sockets, and a hundred requests a second: restarts.sh [BINARY].
set -eu
cd "$(dirname "$0")/../.."
command -v python3 >/dev/null || { echo "restarts: skipped, there is no python3"; exit 0; }
exec python3 tests/heavy/restarts.py "${1:-target/release/pleo-proxy}"
