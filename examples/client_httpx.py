#!/usr/bin/env python3
"""All accounting entries of two searches at a time with httpx (https://www.python-httpx.org), through pleo-proxy.

usage: client_httpx.py [COMPANY_ID]      PLEO_BASE_URL: another address than http://127.0.0.1:8088
"""

import asyncio
import os
import sys

import httpx

PROXY = os.environ.get("PLEO_BASE_URL", "http://127.0.0.1:8088")
SANDBOX_COMPANY = "c0a1e5ce-0000-4000-8000-000000000001"


class Refused(Exception):
    pass


async def count(client, company, filters):
    query = {"company_id": company, "limit": 20}
    found = 0
    while True:
        response = await client.post("/v1/accounting-entries:search", params=query, json=filters)
        if response.is_error:
            whose = "pleo-proxy" if "Pleo-Proxy-Error" in response.headers else "Pleo"
            raise Refused(f"{whose} answered {response.status_code}: {response.text}")
        page = response.json()
        found += len(page["data"])
        if not page["pagination"]["hasNextPage"]:
            return found
        query["after"] = page["pagination"]["endCursor"]


async def main(company):
    # Neither HTTP_PROXY nor a password in ~/.netrc is for the way to this machine.
    async with httpx.AsyncClient(base_url=PROXY, timeout=150, trust_env=False) as client:
        kept, all_of_them = await asyncio.gather(
            count(client, company, {"includeDeleted": False}), count(client, company, {"includeDeleted": True})
        )
    print(f"{kept} entries, {all_of_them - kept} deleted ones")


try:
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else SANDBOX_COMPANY))
except Refused as refused:
    raise SystemExit(str(refused))
