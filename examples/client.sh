#!/bin/sh
# All accounting entries of a company, page by page, one JSON page a line.
#
# usage: client.sh [COMPANY_ID]      PLEO_BASE_URL: another address than http://127.0.0.1:8088
set -eu
proxy=${PLEO_BASE_URL:-http://127.0.0.1:8088}
company=${1:-c0a1e5ce-0000-4000-8000-000000000001}      # the sandbox's first company
after=
while :; do
    page=$(curl --fail-with-body --silent --show-error --max-time 150 \
        -X POST "$proxy/v1/accounting-entries:search?company_id=$company&limit=20$after" \
        -H 'content-type: application/json' -d '{"includeDeleted": false}') || { echo "$page" >&2; exit 1; }
    printf '%s\n' "$page"
    case $page in *'"hasNextPage":true'*) ;; *) break ;; esac
    # Cursors are capitals, digits, = and ~: they need no encoding.
    cursor=$(printf '%s' "$page" | sed -n 's/.*"endCursor":"\([A-Z2-7=~]*\)".*/\1/p')
    after="&after=$cursor"
done
