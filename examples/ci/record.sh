#!/bin/sh
# Makes recorded.har of a program's requests, through the running proxy. Look at the file before it goes into a
# repository: secrets are taken out and personal data is replaced, other data of your company stays in it.
#
# usage: record.sh COMMAND...
set -eu
folder=$(cd "$(dirname "$0")" && pwd)
pleo-proxy capture --for 15m
"$@"
pleo-proxy har --output "$folder/recorded.har" --force --pseudonyms --filter 'is:captured -is:running'
pleo-proxy capture --stop
