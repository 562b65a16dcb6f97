#!/bin/sh
# pleo-proxy beside nginx and haproxy: compare.sh [BINARY [OPTION...]].
# Without options a minute's smoke: it shows that everything works, not how fast it is. With options what they say,
# such as: compare.sh target/release/pleo-proxy --cases json64,upload --rounds 5 --seconds 5
set -eu
cd "$(dirname "$0")/.."
command -v python3 >/dev/null || { echo "compare: skipped, there is no python3"; exit 0; }
binary=${1:-target/release/pleo-proxy}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- --rounds 1 --seconds 1 --connections 1000 --accounts 1000 --trickle 5 --refresh 8
exec python3 benches/side_by_side --binary "$binary" "$@"
