"""Records of accounts as the store's files have them (src/store/record.rs): ten thousand logins would take too long."""

import hashlib
import json
import os
import time


def write(folder, count, token_endpoint, api_origin):
    """Makes a state folder with the grants of account-1 to account-COUNT, fresh for a day."""
    folder.mkdir(parents=True, mode=0o700)
    for parent in (folder, folder.parent):
        parent.chmod(0o700)
    now = int(time.time() * 1000)
    issued = {"token_endpoint": token_endpoint, "client_id": "sandbox-client", "api_origin": api_origin}
    for number in range(1, count + 1):
        place = os.open(folder / f"account-{number}.json", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with open(place, "w") as file:
            file.write(record(number, now, issued))


def record(number, now, issued):
    """One JSON object; the sum covers the very bytes of `record`."""
    content = json.dumps({
        "generation": 1,
        "grant": {
            "access_token": f"access-{number}-" + "x" * 700, "refresh_token": f"refresh-{number}-" + "x" * 100,
            "expires_at": now + 86_400_000, "life": 86_400_000, "scope": ["companies:read"], "issued": issued,
            "logged_in_at": now, "refreshed_at": now, "introspection_trusted": False},
        "subject": f"urn:pleo:company:{number}", "intent": None, "ended": None})
    total = hashlib.sha256(content.encode()).hexdigest()
    return f'{{"version":1,"sha256":"{total}","record":{content}}}\n'
