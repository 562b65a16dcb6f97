#!/usr/bin/env python3
"""All accounting entries of a company with requests (https://requests.readthedocs.io), through pleo-proxy.

usage: client_requests.py [COMPANY_ID]      PLEO_BASE_URL: another address than http://127.0.0.1:8088
"""

import os
import sys

import requests

PROXY = os.environ.get("PLEO_BASE_URL", "http://127.0.0.1:8088")
SANDBOX_COMPANY = "c0a1e5ce-0000-4000-8000-000000000001"


def entries(session, company):
    query = {"company_id": company, "limit": 20}
    while True:
        response = session.post(
            PROXY + "/v1/accounting-entries:search", params=query, json={"includeDeleted": False}, timeout=150
        )
        if not response.ok:
            whose = "pleo-proxy" if "Pleo-Proxy-Error" in response.headers else "Pleo"
            raise SystemExit(f"{whose} answered {response.status_code}: {response.text}")
        page = response.json()
        yield from page["data"]
        if not page["pagination"]["hasNextPage"]:
            return
        query["after"] = page["pagination"]["endCursor"]


with requests.Session() as session:
    # Neither HTTP_PROXY nor a password in ~/.netrc is for the way to this machine.
    session.trust_env = False
    count = sum(1 for _ in entries(session, sys.argv[1] if len(sys.argv) > 1 else SANDBOX_COMPANY))
    print(f"{count} entries")
