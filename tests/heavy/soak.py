#!/usr/bin/env python3
"""A soak: two proxies and commands on one store, under load, while everything goes wrong.

    soak.py SECONDS [--binary FILE] [--seed N] [--accounts N] [--keep]

Everything listens on loopback and lives in a temporary folder; only processes started here are ever signalled.
Exit code 1 if a caller got an answer that is neither the upstream's own nor a documented one for this situation, if a
superseded refresh token was sent although its successor had arrived, if a grant was lost without a reason (a lost
answer, a kill in the middle of an exchange, a revocation, a logout), if a token shows in a log, or if anything does
not recover in the end.
"""

import argparse
import collections
import http.client
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

LOADERS = 8
# Codes that this soak may cause. Those of bad requests, configurations and disks are faults of the proxy here.
DOCUMENTED = {
    "auth_unreachable", "login_required", "overloaded", "refresh_timeout", "shutting_down", "token_rotated",
    "upstream_broken", "upstream_timeout", "upstream_unreachable",
}
# A refresh without a known outcome is settled long before, also if its process was stopped meanwhile.
EXCUSE_LASTS = 150.0
# Longer than a token request may take: what arrived meanwhile is read before any deadline is looked at.
LONG_STOP = (31.0, 40.0)
CALLER_PATIENCE = 60.0
ENDING_PATIENCE = 60.0


class Failure(Exception):
    """The soak itself cannot go on."""


def call(url, data=None, headers=None, timeout=20.0):
    """Status, headers and body; redirects are not followed."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    try:
        target = parts.path + ("?" + parts.query if parts.query else "")
        connection.request("GET" if data is None else "POST", target, body=data, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


class Sandbox:
    """The fake Pleo, in a process of its own."""

    def __init__(self, binary, folder):
        command = [binary, "--json", "sandbox", "--listen", "127.0.0.1:0", "--files", "127.0.0.1:0", "--auto-consent",
                   "--rate-limit", "0"]
        self.log = open(folder / "sandbox.log", "wb")
        environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(folder)}
        self.child = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=self.log)
        self.ready = json.loads(self.child.stdout.readline() or b"null")
        if not self.ready:
            raise Failure("the sandbox did not start")

    def control(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        status, _, answer = call(self.ready["api"] + path, data, {"X-Sandbox-Control": "1"})
        if status >= 300:
            raise Failure(f"{path}: {status} {answer[:200]!r}")
        return json.loads(answer) if answer else None

    def counters(self):
        return self.control("/sandbox/counters")


class Proxy:
    """One serving process, started anew whenever it ended."""

    def __init__(self, number, binary, folder):
        self.number, self.binary, self.folder = number, binary, folder
        self.epoch = 0  # counts every signal, so that a caller knows why a connection broke
        self.troubled = True
        self.resume_at = None
        self.log_path = folder / f"proxy{number}.log"
        self.child = self.api = self.admin = None

    def start(self):
        with open(self.log_path, "ab") as log:
            self.child = subprocess.Popen(
                [self.binary, "--json", "--log", "info"], cwd=self.folder, env=environment(self.folder),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        line = self.child.stdout.readline()
        if not line:
            raise Failure(f"proxy {self.number} did not start: {self.log_path.read_text()[-800:]}")
        ready = json.loads(line)
        self.api, self.admin, self.resume_at = ready["api"], ready["admin"], None
        self.troubled = False

    def signal(self, which):
        self.epoch += 1
        self.child.send_signal(which)

    def is_up(self):
        return self.child is not None and not self.troubled and self.resume_at is None

    def close(self):
        if self.child and self.child.poll() is None:
            self.child.kill()
            self.child.wait()


def environment(folder):
    return {"PATH": os.environ.get("PATH", ""), "HOME": str(folder), "PLEO_PROXY_CLIENT_SECRET": "sandbox-secret"}


class Tally:
    """Counts, from all threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.answers = collections.Counter()
        self.odd = []
        self.reasons = collections.Counter()
        self.events = collections.Counter()
        self.resent = self.token_resends = 0
        self.faults = []

    def answer(self, kind):
        with self.lock:
            self.answers[kind] += 1

    def strange(self, what):
        with self.lock:
            self.answers["anything else"] += 1
            if len(self.odd) < 20:
                self.odd.append(what)


class Loader(threading.Thread):
    """Sends requests one after another, over connections that are kept."""

    def __init__(self, soak, number):
        super().__init__(daemon=True)
        self.soak, self.random = soak, random.Random(f"{soak.seed}/{number}")
        self.connections = {}

    def run(self):
        try:
            while not self.soak.over.is_set():
                self.once()
                self.soak.over.wait(self.random.uniform(0.0, 0.03))
        except Exception as error:  # a caller that ends early would make the rest of the run say less than it seems to
            self.soak.tally.faults.append(f"a caller of this soak broke: {error!r}")
            raise

    def once(self):
        proxy = self.random.choice(self.soak.proxies)
        account = self.random.choice(self.soak.accounts)
        epoch, api = proxy.epoch, proxy.api
        if proxy.troubled:
            return
        request, is_long = self.request(account)
        try:
            status, code = self.send(proxy, epoch, api, request)
        except (OSError, http.client.HTTPException) as error:
            self.forget(api)
            if proxy.epoch != epoch or not proxy.is_up():
                self.soak.tally.answer("none: cut by a kill, a stop or an end of the process")
            else:
                self.soak.tally.strange(f"{request[0]} {request[1]}: {error!r}")
            return
        self.judge(request, is_long, status, code)

    def request(self, account):
        """Method, target, body; and whether the body is too long to be sent twice."""
        kind = self.random.random()
        at = f"/@{account}"
        # Answered before the body is read, by the proxy and by the upstream.
        if kind < 0.02:
            return ("PUT", "/@nobody/v1/sink", bytes(self.random.randrange(1 << 20, 8 << 20))), True
        if kind < 0.04:
            return ("PUT", f"{at}/v1/companies", bytes(self.random.randrange(20_000, 3 << 20))), True
        if kind < 0.05:
            return ("GET", f"{at}/v1/bytes?n=4000000&slowly", None), False
        if kind < 0.55:
            return ("GET", f"{at}/v1/companies", None), False
        if kind < 0.75:
            return ("POST", f"{at}/v1/echo/x%2Fy?a=1&a=2", b'{"small": true}'), False
        if kind < 0.90:
            return ("GET", f"{at}/v1/bytes?n={self.random.randrange(200_000)}", None), False
        return ("PUT", f"{at}/v1/sink", bytes(self.random.randrange(300_000, 600_000))), True

    def send(self, proxy, epoch, api, request):
        """Goes once more on a new connection if a kept one was closed at rest, as every client does. That a connection
        will be closed was to be said with the last answer on it."""
        method, target, body = request
        kept = self.connections.get(api)
        if kept is not None:
            try:
                kept.request(method, target, body=body)
                return self.read(api, kept, target)
            except (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected) as error:
                self.forget(api)
                if proxy.epoch == epoch and proxy.is_up():
                    self.soak.tally.strange(f"closed without notice before {method} {target}: {error!r}")
        for gone in set(self.connections) - self.soak.apis():
            self.forget(gone)
        fresh = self.connections[api] = http.client.HTTPConnection(*address(api), timeout=CALLER_PATIENCE)
        # An answer that comes before the body was taken must not keep a caller from sending all of it first.
        fresh.request(method, target, body=body)
        return self.read(api, fresh, target)

    def read(self, api, connection, target):
        answer = connection.getresponse()
        while target.endswith("slowly") and answer.read(64 * 1024):
            self.soak.over.wait(0.03)
        answer.read()
        if answer.will_close:
            self.forget(api)
        return answer.status, answer.headers.get("pleo-proxy-error")

    def forget(self, api):
        connection = self.connections.pop(api, None)
        if connection:
            connection.close()

    def judge(self, request, is_long, status, code):
        tally = self.soak.tally
        if code is None and status == 401:
            tally.answer(f"upstream's own 401, {'long' if is_long else 'small'} body")
        elif code is None and status < 500:
            tally.answer(f"upstream's own {status}")
        elif code == "account_unknown" and status == 404 and "nobody" in request[1]:
            tally.answer("ours: account_unknown, before the body was read")
        elif code in DOCUMENTED and status in (502, 503, 504):
            tally.answer(f"ours: {code}")
        else:
            tally.strange(f"{request[0]} {request[1]}: {status} {code}")


def address(origin):
    parts = urllib.parse.urlsplit(origin)
    return parts.hostname, parts.port


class Soak:
    """The bench, and the hand that breaks things."""

    def __init__(self, arguments, folder):
        self.seed, self.folder, self.binary = arguments.seed, folder, str(pathlib.Path(arguments.binary).resolve())
        self.random = random.Random(f"{self.seed}/hand")
        self.tally, self.over = Tally(), threading.Event()
        self.accounts = ["blind"] + [f"account-{number}" for number in range(1, arguments.accounts)]
        self.families, self.excuses, self.generations = {}, {}, {}
        self.base = {"access_life_ms": 3000}
        self.fault, self.fault_count_before = None, 0
        self.sandbox = Sandbox(self.binary, folder)
        self.configure()
        self.proxies = [Proxy(number, self.binary, folder) for number in (1, 2)]
        self.loaders = []

    def configure(self):
        ready = self.sandbox.ready
        text = "\n".join([
            'environment = "sandbox"', "[listen]", 'api = "127.0.0.1:0"', 'admin = "127.0.0.1:0"',
            "[client]", 'id = "sandbox-client"', 'scopes = ["companies:read"]', "[endpoints]",
            f'authorize = "{ready["authorize"]}"', f'token = "{ready["token"]}"',
            f'introspect = "{ready["introspect"]}"', f'api = "{ready["api"]}"', "[store]", 'path = "state"', ""])
        path = self.folder / "proxy.toml"
        path.write_text(text)
        path.chmod(0o600)

    @property
    def state(self):
        return self.folder / "state" / "sandbox"

    def apis(self):
        return {proxy.api for proxy in self.proxies}

    def key(self):
        return {"Authorization": "Bearer " + (self.state / "admin.key").read_text().strip()}

    # --- What is known of the accounts.

    def record(self, account):
        try:
            return json.loads((self.state / f"{account}.json").read_bytes())["record"]
        except FileNotFoundError:
            return None

    def excuse(self, account, why):
        """Several may hold at once: a lost answer is settled later than the next fault is chosen."""
        reason = (why, time.monotonic())
        self.excuses.setdefault(account, []).append(reason)
        return reason

    def excused(self, account):
        now = time.monotonic()
        held = [why for why, since in self.excuses.get(account, []) if now - since < EXCUSE_LASTS]
        return held[-1] if held else None

    def look_after_accounts(self):
        """A grant that is over is explained, counted and replaced by a login."""
        for account in self.accounts:
            record = self.record(account)
            if record is not None and record.get("grant"):
                if record["generation"] < self.generations.get(account, 0):
                    self.tally.faults.append(f"{account}: the generation fell")
                self.generations[account] = record["generation"]
                continue
            why = self.excused(account)
            told = ((record or {}).get("ended") or {}).get("why", "there is no record")
            if why is None:
                self.tally.faults.append(f"{account}: its grant was lost without a reason ({told})")
                why = "no reason"
            if self.login(account):
                self.tally.reasons[why] += 1

    # --- Logins.

    def login(self, account):
        """True if the account is connected now. Whoever serves takes it, or the command line."""
        up = [proxy for proxy in self.proxies if proxy.is_up()]
        if not up:
            return False
        if account == "blind":
            self.sandbox.control("/sandbox/faults", {**self.base, "introspect": "inactive_refresh"})
        family = self.sandbox.counters()["code_exchanges"]
        try:
            done = self.login_by_command(account) if self.random.random() < 0.3 else self.login_by_page(
                self.random.choice(up), account)
        except (OSError, http.client.HTTPException) as error:
            print(f"  login of {account} failed: {error!r}", file=sys.stderr)
            done = False
        finally:
            if account == "blind":
                self.set_faults(self.fault)
        if self.sandbox.counters()["code_exchanges"] > family:
            self.families[account] = family
        if done:
            self.excuses.pop(account, None)
        return done

    def login_by_page(self, proxy, account):
        status, _, body = call(f"{proxy.admin}/api/accounts/{account}/login", b"", self.key())
        return status == 200 and self.consent(json.loads(body)["authorize_url"])

    def login_by_command(self, account):
        command = [self.binary, "login", account, "--no-browser"]
        child = subprocess.Popen(command, cwd=self.folder, env=environment(self.folder), stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.tally.events["login by command"] += 1
        try:
            for line in child.stderr:
                if line.strip().startswith("http://"):
                    self.consent(line.strip())
                    break
            return child.wait(timeout=30) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            child.kill()
            child.wait()
            child.stderr.close()

    def consent(self, url):
        _, headers, _ = call(url)
        status, _, _ = call(headers["location"])
        return status == 200

    # --- What goes wrong.

    def set_faults(self, fault=None):
        """Replaces the faults. An excuse for a fault that nobody met is taken back."""
        replaced, met_before = self.fault, self.fault_count_before
        count = self.sandbox.counters()["token_faults"]
        body = {name: value for name, value in (fault or {}).items() if name != "excuses"}
        self.sandbox.control("/sandbox/faults", {**self.base, **body})
        self.fault = fault
        if fault is replaced:
            return
        self.fault_count_before = count
        # Counted after the old fault is out of force: it can be met no more.
        unmet = self.sandbox.counters()["token_faults"] == met_before
        if replaced and replaced.get("excuses") and unmet:
            account, reason = replaced["excuses"]
            if reason in self.excuses.get(account, []):
                self.excuses[account].remove(reason)

    def break_token_endpoint(self):
        account = self.random.choice([name for name in self.accounts if name in self.families])
        name, fault = self.random.choice([
            ("lost before the work", {"kind": "lost"}),
            ("lost after the work", {"kind": "lost", "work": True}),
            ("cut answer", {"kind": "truncated"}),
            ("500, nothing done", {"kind": "status", "status": 500}),
            ("500 after the work", {"kind": "status", "status": 500, "work": True}),
            ("502 with HTML", {"kind": "html", "status": 502}),
            ("200 with HTML", {"kind": "html"}),
            ("503 with Retry-After", {"kind": "status", "status": 503, "retry_after": "1"}),
            ("no answer", {"kind": "hang"}),
        ])
        self.tally.events[f"token endpoint: {name}"] += 1
        loses = fault.get("work", False) or fault["kind"] == "truncated"
        fault = {**fault, "count": self.random.choice([1, 1, 2]), "only_family": self.families[account]}
        if loses or fault["kind"] == "hang":
            fault["count"] = 1
        reason = (account, self.excuse(account, f"lost answer ({name})")) if loses else None
        self.set_faults({"token_answer": fault, "excuses": reason})
        if self.random.random() < 0.5:
            self.command("refresh", account, "--force")

    def slow_token_endpoint(self):
        self.tally.events["token endpoint: slow"] += 1
        self.set_faults({"token_latency_before_ms": self.random.randrange(600),
                         "token_latency_after_ms": self.random.randrange(1500)})

    def slow_heads(self):
        self.tally.events["upstream: slow heads"] += 1
        self.set_faults({"latency_ms": self.random.randrange(200, 2600)})

    def drop_requests(self):
        self.tally.events["upstream: dropped requests"] += 1
        self.set_faults({"api_answer": {"kind": "drop", "count": self.random.randrange(1, 6)}})

    def refuse_requests(self):
        self.tally.events["upstream: a 401 for a good token"] += 1
        self.set_faults({"api_401": 1})

    def calm(self):
        self.base = {"access_life_ms": self.random.choice([2000, 3000, 5000]), "latency_ms": self.random.randrange(30)}
        self.set_faults()

    def revoke(self):
        self.tally.events["all grants revoked by the server"] += 1
        for account in self.accounts:
            self.excuse(account, "revoked by the server")
        self.sandbox.control("/sandbox/revoke", {})

    def kill(self):
        proxy = self.some_proxy()
        if proxy is None:
            return
        self.tally.events["kill -9"] += 1
        self.sample(proxy)
        # Stopped first, so that nobody finishes or resolves what is looked at here.
        proxy.signal(signal.SIGSTOP)
        for account in self.accounts:
            intent = (self.record(account) or {}).get("intent")
            if intent:
                self.excuse(account, "killed in the middle of an exchange")
        proxy.troubled = True
        proxy.child.kill()
        proxy.child.wait()
        proxy.start()

    def terminate(self):
        proxy = self.some_proxy()
        if proxy is None:
            return
        self.tally.events["SIGTERM and restart"] += 1
        self.sample(proxy)
        proxy.troubled = True
        proxy.signal(signal.SIGTERM)
        try:
            code = proxy.child.wait(timeout=ENDING_PATIENCE)
        except subprocess.TimeoutExpired:
            self.tally.faults.append(f"proxy {proxy.number} did not end within {ENDING_PATIENCE:.0f} s of SIGTERM")
            proxy.close()
            code = 0
        if code != 0:
            self.tally.faults.append(f"proxy {proxy.number} ended with {code} after SIGTERM")
        proxy.start()

    def stop(self):
        proxy = self.some_proxy()
        if proxy is None:
            return
        self.tally.events["SIGSTOP, then SIGCONT"] += 1
        proxy.signal(signal.SIGSTOP)
        proxy.resume_at = time.monotonic() + self.random.uniform(0.3, 6.0)

    def stop_for_long(self):
        """In the middle of a refresh, if that can be had: the answer then waits in the socket."""
        proxy = self.some_proxy()
        if proxy is None or any(other.resume_at for other in self.proxies):
            return
        self.tally.events["SIGSTOP for over 30 s"] += 1
        self.set_faults({"token_latency_before_ms": 300, "token_latency_after_ms": 300})
        account = self.random.choice(self.accounts)
        refresh = f"{proxy.admin}/api/accounts/{account}/refresh?force=true"
        forced = threading.Thread(target=self.force, args=(refresh,), daemon=True)
        forced.start()
        time.sleep(self.random.uniform(0.1, 0.7))
        proxy.signal(signal.SIGSTOP)
        proxy.resume_at = time.monotonic() + self.random.uniform(*LONG_STOP)

    def force(self, url):
        try:
            call(url, b"", self.key(), timeout=120)
        except (OSError, http.client.HTTPException):
            pass  # killed meanwhile

    def resume(self, everybody=False):
        for proxy in self.proxies:
            if proxy.resume_at is not None and (everybody or time.monotonic() >= proxy.resume_at):
                proxy.signal(signal.SIGCONT)
                proxy.resume_at = None

    def some_proxy(self):
        up = [proxy for proxy in self.proxies if proxy.is_up()]
        return self.random.choice(up) if up else None

    def command(self, *arguments):
        """Runs a command: through a serving proxy, or as a third process on the store."""
        run, hidden = self.state / "run", self.state / "run.hidden"
        alone = self.random.random() < 0.5
        if alone:
            run.rename(hidden)  # no running proxy is found
        self.tally.events[f"command {arguments[0]}{', on the store itself' if alone else ''}"] += 1
        try:
            done = subprocess.run([self.binary, *arguments], cwd=self.folder, env=environment(self.folder),
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
        finally:
            if alone:
                hidden.rename(run)
        if done.returncode not in (0, 1, 3, 4, 5):
            self.tally.faults.append(f"{arguments} ended with {done.returncode}: {done.stderr[-300:]}")
        return done

    def refresh(self):
        force = ["--force"] if self.random.random() < 0.5 else []
        self.command("refresh", self.random.choice(self.accounts), *force)

    def status(self):
        self.command("status", "--json")

    def logout(self):
        account = self.random.choice(self.accounts)
        self.excuse(account, "logged out")
        if self.command("logout", account).returncode != 0:
            self.tally.events["logout refused"] += 1

    # --- The run.

    def sample(self, proxy):
        """Adds up counters that end with their process."""
        try:
            _, _, body = call(f"{proxy.admin}/metrics", headers=self.key(), timeout=5)
        except (OSError, http.client.HTTPException):
            return
        for line in body.decode().splitlines():
            name, _, value = line.partition(" ")
            if name == "pleo_proxy_resent_requests_total":
                self.tally.resent += int(value)
            if name == "pleo_proxy_token_resends_total":
                self.tally.token_resends += int(value)

    def run(self, seconds):
        for proxy in self.proxies:
            proxy.start()
        for account in self.accounts:
            if not self.login(account):
                raise Failure(f"the first login of {account} failed")
        self.loaders = [Loader(self, number) for number in range(LOADERS)]
        for loader in self.loaders:
            loader.start()
        acts = [self.kill, self.terminate, self.stop, self.refresh, self.status, self.logout, self.slow_token_endpoint,
                self.slow_heads, self.drop_requests, self.refuse_requests, self.calm, self.break_token_endpoint,
                self.revoke, self.stop_for_long]
        weights = [3, 2, 3, 4, 1, 1, 2, 1, 1, 1, 5, 6, 0.3, 0.6]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.resume()
            self.look_after_accounts()
            self.random.choices(acts, weights)[0]()
            self.over.wait(self.random.uniform(0.1, 1.5))

    def recover(self):
        """With nothing wrong any more, every account serves through every proxy again."""
        self.resume(everybody=True)
        self.base = {"access_life_ms": 5000}
        self.set_faults()
        missing = {(proxy.number, account) for proxy in self.proxies for account in self.accounts}
        end = time.monotonic() + 120
        while missing and time.monotonic() < end:
            self.look_after_accounts()
            for number, account in sorted(missing):
                try:
                    status, _, _ = call(f"{self.proxies[number - 1].api}/@{account}/v1/companies", timeout=30)
                except (OSError, http.client.HTTPException):
                    status = 0
                if status == 200:
                    missing.discard((number, account))
            time.sleep(0.2)
        for number, account in sorted(missing):
            self.tally.faults.append(f"{account} did not recover in proxy {number}")

    def finish(self):
        self.over.set()
        for loader in self.loaders:
            loader.join(CALLER_PATIENCE + 10)
            if loader.is_alive():
                self.tally.faults.append("a caller hangs")
        for proxy in self.proxies:
            self.sample(proxy)
            leaked = sum(b"sbx-" in line for line in open(proxy.log_path, "rb"))
            if leaked:
                self.tally.faults.append(f"{leaked} lines of the log of proxy {proxy.number} hold a token")

    def close(self):
        self.over.set()
        for process in self.proxies:
            process.close()
        self.sandbox.child.kill()
        self.sandbox.child.wait()


def report(soak, seconds):
    """The table; true if all is well."""
    tally, counters = soak.tally, soak.sandbox.counters()
    replays, lost = counters["refresh_replays"], counters["lost_replays"]
    unexplained = tally.reasons["no reason"]
    rows = [("seconds", f"{seconds:.0f}"), ("seed", soak.seed), ("requests", sum(tally.answers.values()))]
    rows += [(f"  {kind}", count) for kind, count in sorted(tally.answers.items())]
    rows += [
        ("refreshes", counters["refreshes"]), ("token requests", counters["token_posts"]),
        ("replays after a lost answer", lost), ("replays otherwise (must be 0)", replays - lost),
        ("families revoked", counters["families_revoked"]),
        ("requests that arrived with a superseded token", counters["api_superseded"]),
        ("requests sent again", tally.resent), ("refresh tokens sent again", tally.token_resends),
        ("logins after a lost grant or a logout", sum(tally.reasons.values())),
    ]
    rows += [(f"  {why}", count) for why, count in sorted(tally.reasons.items())]
    rows += [("grants lost without a reason (must be 0)", unexplained), ("what was done", sum(tally.events.values()))]
    rows += [(f"  {event}", count) for event, count in sorted(tally.events.items())]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    faults = list(tally.faults)
    if replays > lost:
        faults.append(f"{replays - lost} superseded refresh tokens were sent although their successors had arrived")
    if tally.answers["anything else"]:
        faults.append("answers that nobody may get: " + "; ".join(tally.odd))
    for fault in faults:
        print(f"FAULT: {fault}")
    print("soak: " + ("faults were found" if faults else "no fault"), flush=True)
    return not faults


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--binary", default="target/release/pleo-proxy")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--accounts", type=int, default=5)
    parser.add_argument("--keep", action="store_true", help="leave the folder with logs and records")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that children and the folder go too
    folder = pathlib.Path(tempfile.mkdtemp(prefix="soak-"))
    print(f"soak: seed {arguments.seed}", flush=True)
    soak, started = Soak(arguments, folder), time.monotonic()
    try:
        soak.run(arguments.seconds)
        soak.recover()
        soak.finish()
        well = report(soak, time.monotonic() - started)
    finally:
        soak.close()
        if arguments.keep:
            print(f"soak: kept {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
