#!/usr/bin/env python3
"""All accounting entries of a company, page by page, through pleo-proxy. Needs nothing but Python 3.8 or newer.

usage: client.py [COMPANY_ID]      PLEO_BASE_URL: another address than http://127.0.0.1:8088
"""

import json
import os
import sys
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

PROXY = os.environ.get("PLEO_BASE_URL", "http://127.0.0.1:8088")
SANDBOX_COMPANY = "c0a1e5ce-0000-4000-8000-000000000001"
# No HTTP_PROXY on the way to this machine.
opener = build_opener(ProxyHandler({}))


def call(method, path, query=None, body=None):
    url = PROXY + path + ("?" + urlencode(query) if query else "")
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data=data, method=method, headers={"content-type": "application/json"})
    try:
        # Longer than the proxy's own limits, so that its answer says what went wrong.
        with opener.open(request, timeout=150) as answer:
            return json.load(answer)
    except HTTPError as error:
        whose = "pleo-proxy" if error.headers.get("Pleo-Proxy-Error") else "Pleo"
        raise SystemExit(f"{whose} answered {error.code}: {error.read().decode()}")


def entries(company):
    query = {"company_id": company, "limit": 20}
    while True:
        page = call("POST", "/v1/accounting-entries:search", query, {"includeDeleted": False})
        yield from page["data"]
        if not page["pagination"]["hasNextPage"]:
            return
        query["after"] = page["pagination"]["endCursor"]


if __name__ == "__main__":
    company = sys.argv[1] if len(sys.argv) > 1 else SANDBOX_COMPANY
    count = 0
    for entry in entries(company):
        value = entry["transactionValue"]
        print(entry["performedAt"], f"{value['minors'] / 100:10.2f}", value["currency"], entry["note"])
        count += 1
    print(f"{count} entries")
