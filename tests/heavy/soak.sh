#!/bin/sh
# A short soak: soak.sh [BINARY [SECONDS]]. The long one is soak.py with more seconds.
set -eu
cd "$(dirname "$0")/../.."
command -v python3 >/dev/null || { echo "soak: skipped, there is no python3"; exit 0; }
exec python3 tests/heavy/soak.py "${2:-60}" --binary "${1:-target/release/pleo-proxy}"
