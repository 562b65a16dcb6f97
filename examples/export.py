#!/usr/bin/env python3
"""An export from the first job to the last receipt, through pleo-proxy. Needs nothing but Python 3.8 or newer.

It takes the company's unfinished export job, or creates one of all entries that are not exported, and writes each item
with its receipts into FOLDER, where an accounting system would book it. It can be stopped at any time and run again: a
job, an item and a receipt that are there already are not made twice.

usage: export.py FOLDER [COMPANY_ID]      PLEO_BASE_URL: another address than http://127.0.0.1:8088
"""

import json
import os
import sys
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

PROXY = os.environ.get("PLEO_BASE_URL", "http://127.0.0.1:8088")
SANDBOX_COMPANY = "c0a1e5ce-0000-4000-8000-000000000001"
UNFINISHED = [("statuses", "pending"), ("statuses", "in_progress")]
# No HTTP_PROXY on the way to this machine; receipts are on another host and go the usual way.
to_proxy, to_files = build_opener(ProxyHandler({})), build_opener()


def call(method, path, query=(), body=None):
    """One request, repeated if it is asked to wait. At worst a job exists already: the next run finds it."""
    url = PROXY + path + ("?" + urlencode(query) if query else "")
    data = None if body is None else json.dumps(body).encode()
    for attempt in range(6):
        request = Request(url, data=data, method=method, headers={"content-type": "application/json"})
        try:
            with to_proxy.open(request, timeout=150) as response:
                text = response.read()
                return json.loads(text) if text else None
        except HTTPError as error:
            wait = error.headers.get("Retry-After", "")
            if error.code in (429, 503) and wait.isdigit() and attempt < 5:
                time.sleep(min(int(wait), 60))
                continue
            whose = "pleo-proxy" if error.headers.get("Pleo-Proxy-Error") else "Pleo"
            raise SystemExit(f"{method} {path}: {whose} answered {error.code}: {error.read().decode()}")


def pages(method, path, query, body=None):
    query = [*query, ("limit", 20)]
    after = []
    while True:
        page = call(method, path, query + after, body)
        yield page["data"]
        if not page["pagination"]["hasNextPage"]:
            return
        after = [("after", page["pagination"]["endCursor"])]


def unfinished_or_new_job(company):
    for jobs in pages("GET", "/v3/export-jobs", [("company_id", company), *UNFINISHED]):
        for job in jobs:
            return job      # The oldest comes first. There is one at a time.
    search = pages("POST", "/v1/accounting-entries:search", [("company_id", company)], {"includeDeleted": False})
    entries = [entry["id"] for page in search for entry in page if entry["exportStatus"] == "NOT_EXPORTED"]
    if not entries:
        return None
    return call("POST", "/v3/export-jobs", body={"companyId": company, "accountingEntryIds": entries})["data"]


def write(path, content):
    """The whole file or nothing, also if the machine stops."""
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def book(item, folder):
    """What an accounting system would do, once for each entry. Returns what Pleo is told."""
    entry = item["accountingEntryId"]
    for number, receipt in enumerate(item["files"], start=1):
        path = folder / f"{entry}-{number}.{receipt['type'].split('/')[-1]}"
        if path.exists():
            continue
        try:
            # A URL on another host, valid for a day and for anyone: no proxy, no token.
            with to_files.open(receipt["url"], timeout=150) as response:
                write(path, response.read())
        except URLError as error:
            return {"accountingEntryId": entry, "status": "failed",
                    "failureReasonType": "receipt_download_failure", "failureReason": str(error.reason)}
    path = folder / f"{entry}.json"
    if not path.exists():
        write(path, json.dumps(item, indent=1).encode())
    return {"accountingEntryId": entry, "status": "successful", "externalId": entry}


def export(job, folder):
    """Works off a job page by page: one that nobody updates for an hour expires."""
    if job["status"] == "pending":
        call("POST", "/v3/export-job-events", body={"jobId": job["id"], "event": "started"})
    items = f"/v3/export-jobs/{job['id']}/items"
    done = {item["accountingEntryId"] for page in pages("GET", items, [("status", "successful")]) for item in page}
    booked = failed = 0
    for page in pages("GET", "/v3/export-items", [("job_id", job["id"])]):
        outcomes = [book(item, folder) for item in page if item["accountingEntryId"] not in done]
        if outcomes:
            answer = call("PUT", items, body=outcomes)
            booked += sum(item["status"] == "successful" for item in answer["data"])
            failed += sum(item["status"] == "failed" for item in answer["data"]) + len(answer["errors"])
    event = "completed_with_errors" if failed else "completed"
    call("POST", "/v3/export-job-events", body={"jobId": job["id"], "event": event})
    print(f"job {job['id']}: {booked} booked, {len(done)} before, {failed} failed: {event}")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    job = unfinished_or_new_job(sys.argv[2] if len(sys.argv) > 2 else SANDBOX_COMPANY)
    if job:
        export(job, folder)
    else:
        print("nothing to export")
