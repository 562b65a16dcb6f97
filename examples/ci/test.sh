#!/bin/sh
# Runs a program against what Pleo answered once (recorded.har): no network, no login, no secret.
#
# usage: test.sh COMMAND...      the command finds the API at $PLEO_BASE_URL
set -eu
folder=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
pleo-proxy sandbox --json --replay "$folder/recorded.har" --listen 127.0.0.1:0 --files 127.0.0.1:0 > "$work/ready" &
sandbox=$!
trap 'kill $sandbox; rm -rf "$work"' EXIT
until [ -s "$work/ready" ]; do
    kill -0 $sandbox      # It ended: its own message says why.
    sleep 0.1
done
PLEO_BASE_URL=$(sed -n 's/.*"api":"\([^"]*\)".*/\1/p' "$work/ready")
export PLEO_BASE_URL
"$@"
