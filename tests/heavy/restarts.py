#!/usr/bin/env python3
"""Restarts under a service manager that holds the sockets: nobody is refused, and no request is cut.

    restarts.py [BINARY] [--restarts N] [--requests N] [--rate N]

Stands for systemd: it holds the listening sockets, starts the program with them when the first caller connects, ends and
starts it again and again, and watches for READY=1. Meanwhile requests come at a steady rate, each on a connection of its
own, and all must be answered 200. Everything listens on loopback and lives in a temporary folder; only processes started
here are ever signalled. Exit code 1 if a request was refused, cut or answered otherwise.
"""

import argparse
import collections
import http.client
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

# Longer than a start, a drain and a slow machine take together.
PATIENCE = 60.0


class Failure(Exception):
    pass


def listening(address, family):
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(4096)
    return listener


def both_families():
    """A port of both loopback addresses."""
    for _ in range(20):
        first = listening(("127.0.0.1", 0), socket.AF_INET)
        port = first.getsockname()[1]
        try:
            return [first, listening(("::1", port), socket.AF_INET6)]
        except OSError as error:
            if not socket.has_ipv6 or error.errno != 98:
                return [first]
            first.close()
    raise Failure("no port is free in both families")


class Sandbox:
    def __init__(self, binary, folder):
        command = [binary, "--json", "sandbox", "--listen", "127.0.0.1:0", "--files", "127.0.0.1:0", "--auto-consent",
                   "--rate-limit", "0"]
        self.process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.ready = json.loads(self.process.stdout.readline())

    def counters(self):
        url = f"{self.ready['api']}/sandbox/counters"
        request = urllib.request.Request(url, headers={"X-Sandbox-Control": "1"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def close(self):
        self.process.terminate()
        self.process.wait()


class Holder:
    """Holds sockets, and passes them to one process after the other."""

    def __init__(self, binary, folder, config):
        self.binary, self.folder, self.config = binary, folder, config
        self.api, self.admin = both_families(), both_families()
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(folder / "notify"))
        self.notify.settimeout(PATIENCE)
        self.pid = None
        self.starts = 0

    def address(self, sockets):
        return "http://127.0.0.1:%d" % sockets[0].getsockname()[1]

    def wait_for_caller(self):
        select.select(self.api + self.admin, [], [])

    def start(self):
        sockets = self.api + self.admin
        names = ["api"] * len(self.api) + ["admin"] * len(self.admin)
        log = os.open(self.folder / "proxy.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        pid = os.fork()
        if pid == 0:
            # Above all numbers that are given out below.
            held = [os.dup2(it.fileno(), 200 + at) for at, it in enumerate(sockets)]
            for at, descriptor in enumerate(held):
                os.dup2(descriptor, 3 + at)
            os.dup2(log, 1)
            os.dup2(log, 2)
            environment = {
                "PATH": os.environ.get("PATH", ""), "HOME": str(self.folder), "LISTEN_PID": str(os.getpid()),
                "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": ":".join(names),
                "NOTIFY_SOCKET": str(self.folder / "notify"), "WATCHDOG_USEC": "5000000",
                "PLEO_PROXY_CLIENT_SECRET": "sandbox-secret",
            }
            os.closerange(3 + len(sockets), 300)
            os.execve(self.binary, [self.binary, "--config", str(self.config), "serve"], environment)
        os.close(log)
        self.pid, self.starts = pid, self.starts + 1

    def wait_for(self, word):
        """Reads what the process tells until it tells this."""
        while True:
            told = self.notify.recv(4096).decode()
            if word in told.splitlines():
                return

    def restart(self):
        os.kill(self.pid, signal.SIGTERM)
        _, status = os.waitpid(self.pid, 0)
        if status:
            raise Failure(f"the process ended with status {status}")
        # What the old process told at its end is not the new one's.
        self.start()
        self.wait_for("READY=1")

    def close(self):
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)
            os.waitpid(self.pid, 0)


class Load:
    """Requests at a steady rate, each on its own connection and in its own thread."""

    def __init__(self, port, rate, total):
        self.port, self.rate, self.total = port, rate, total
        self.results = collections.Counter()
        self.longest = 0.0
        self.sent = 0
        self.lock = threading.Lock()

    def one(self, number):
        began = time.monotonic()
        try:
            # Both families, and a body now and then.
            host = "127.0.0.1" if number % 3 else "localhost"
            connection = http.client.HTTPConnection(host, self.port, timeout=PATIENCE)
            connection.request("GET", "/v1/companies")
            answer = connection.getresponse()
            answer.read()
            connection.close()
            result = answer.status
        except OSError as error:
            result = type(error).__name__
        except http.client.HTTPException as error:
            result = type(error).__name__
        with self.lock:
            self.results[result] += 1
            self.longest = max(self.longest, time.monotonic() - began)

    def run(self):
        threads, began = [], time.monotonic()
        for number in range(self.total):
            time.sleep(max(0.0, began + number / self.rate - time.monotonic()))
            thread = threading.Thread(target=self.one, args=(number,))
            thread.start()
            threads.append(thread)
            self.sent = number + 1
        for thread in threads:
            thread.join()


def login(holder):
    key = (holder.folder / "state/sandbox/admin.key").read_text().strip()
    url = f"{holder.address(holder.admin)}/api/accounts/default/login"
    request = urllib.request.Request(url, method="POST", data=b"", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        place = json.load(answer)["authorize_url"]
    # The sandbox consents and leads to the callback.
    with urllib.request.urlopen(place, timeout=PATIENCE) as answer:
        if answer.status != 200:
            raise Failure(f"the login ended with {answer.status}")


def run(options, folder):
    sandbox = Sandbox(options.binary, folder)
    holder = None
    try:
        ready = sandbox.ready
        config = folder / "proxy.toml"
        config.write_text(f"""environment = "sandbox"
[client]
id = "sandbox-client"
scopes = ["companies:read"]
[endpoints]
authorize = "{ready['authorize']}"
token = "{ready['token']}"
introspect = "{ready['introspect']}"
api = "{ready['api']}"
[store]
path = "state"
""")
        config.chmod(0o600)
        holder = Holder(options.binary, folder, config)
        # The first caller starts it.
        first = threading.Thread(target=lambda: urllib.request.urlopen(
            f"{holder.address(holder.admin)}/health", timeout=PATIENCE).read())
        first.start()
        holder.wait_for_caller()
        holder.start()
        holder.wait_for("READY=1")
        first.join()
        login(holder)
        load = Load(holder.api[0].getsockname()[1], options.rate, options.requests)
        sending = threading.Thread(target=load.run)
        sending.start()
        for number in range(options.restarts):
            # Spread over the load.
            while load.sent < options.requests * (number + 1) // (options.restarts + 1):
                time.sleep(0.005)
            holder.restart()
        sending.join()
        told = ", ".join(f"{count} x {result}" for result, count in sorted(load.results.items(), key=str))
        print(f"restarts: {holder.starts - 1} restarts, {options.requests} requests at {options.rate}/s: {told}; "
              f"the longest took {load.longest:.2f} s")
        if load.results != {200: options.requests}:
            raise Failure("a request was refused, cut or answered otherwise")
        counters = sandbox.counters()
        if counters.get("refresh_replays"):
            raise Failure(f"a refresh token was sent twice: {counters}")
    finally:
        if holder:
            holder.close()
        sandbox.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", nargs="?", default="target/release/pleo-proxy")
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=100.0)
    options = parser.parse_args()
    options.binary = str(pathlib.Path(options.binary).resolve())
    with tempfile.TemporaryDirectory(prefix="pleo-restarts-") as folder:
        folder = pathlib.Path(folder)
        try:
            run(options, folder)
        except Failure as failure:
            print(f"restarts: {failure}", file=sys.stderr)
            log = folder / "proxy.log"
            if log.exists():
                print("\n".join(log.read_text().splitlines()[-30:]), file=sys.stderr)
            sys.exit(1)


if __name__ == "__main__":
    main()
