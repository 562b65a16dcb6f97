#!/bin/sh
# Floods of connections, with a good caller among them: flood.sh [BINARY]. About a minute.
set -eu
cd "$(dirname "$0")/../.."
command -v python3 >/dev/null || { echo "flood: skipped, there is no python3"; exit 0; }
ulimit -n "$(ulimit -H -n)"
exec python3 tests/heavy/flood.py "${1:-target/release/pleo-proxy}"
