#!/bin/sh
# Floods of connections, with a good caller among them: flood.sh [BINARY]. About a minute.
set -eu
cd "$(dirname "$0")/../.."
command -v python3 >/dev/null || { echo "flood: skipped, there is no python3"; exit 0; }
ulimit -n "$(ulimit -H -n)"
binary=${1:-target/release/pleo-proxy}
python3 tests/heavy/flood.py "$binary" && exit
# The second that a good caller may wait is a clock's: a machine that stood still for a moment gets another chance.
echo "flood: once more"
exec python3 tests/heavy/flood.py "$binary"
