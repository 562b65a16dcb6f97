#!/bin/sh
# Three replicas that share their accounts in PostgreSQL, while machines, database and network fail: replicas.sh
# [BINARY [SECONDS [SEED]]]. A minute of faults unless told, and a minute or two to recover.
set -eu
cd "$(dirname "$0")/../.."
skip() { echo "replicas: skipped, $*"; exit 0; }
[ "$(id -u)" -eq 0 ] || skip "it needs root, for networks of its own"
for tool in python3 openssl ip unshare nsenter setpriv; do
    command -v $tool >/dev/null || skip "there is no $tool"
done
for programs in /usr/lib/postgresql/*/bin; do :; done
[ -x "$programs/initdb" ] || skip "there is no PostgreSQL server (Debian package postgresql)"
unshare --net sh -c 'ip link add one type veth peer name two && ip link add three type bridge' 2>/dev/null ||
    skip "this machine has no network namespaces (ip netns), veth pairs or bridges"
# All of it is in namespaces, so that it ends and vanishes with this process.
exec unshare --net --mount --pid --fork --kill-child --mount-proc \
    python3 tests/heavy/replicas.py "${2:-60}" --binary "${1:-target/release/pleo-proxy}" --programs "$programs" \
    ${3:+--seed "$3"} ${KEEP:+--keep}
