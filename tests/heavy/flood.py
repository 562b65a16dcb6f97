#!/usr/bin/env python3
"""Floods: what callers that are many, slow or gone cost everybody else.

    flood.py [BINARY] [--callers N] [--rounds N]

While each flood stands, a good caller opens a new connection for every request and must be answered 200 within a
second. Afterwards the descriptors must be closed, and no flood after the first may add much to the memory: what the
first one used, the allocator keeps for the next. Everything listens on loopback and lives in a temporary folder; only
processes started here are ever signalled. Exit code 1 if the good caller waited too long or was refused, or if anything
did not come back.
"""

import argparse
import errno
import http.client
import json
import multiprocessing
import os
import pathlib
import random
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse

LONGEST_WAIT = 1.0
# A caller whom the proxy closed is back after about this long.
BACK_AFTER = 1.0
# The same where there is room for 40: silence is closed after milliseconds there, and whoever takes longer from
# connecting to asking cannot be told from the silent.
BACK_AFTER_LONG = 5.0
SLOW_PACE = 50
# One byte of each slow caller in this many seconds.
BYTE_EVERY = 2.0
# Descriptors that may be open more than before: connections to the upstream at rest.
MORE_DESCRIPTORS = 40
# KiB that the first flood may cost for each caller, and what any later one may add.
MEMORY_A_CALLER = 32
MORE_MEMORY = 32 << 10
RETURN_PATIENCE = 20.0
LONG_BODY = 2 << 30


def address(url):
    parts = urllib.parse.urlsplit(url)
    return parts.hostname, parts.port


def start(command, folder, files=None):
    """A process, and its ready line."""
    path = os.environ.get("PATH", "")
    environment = {"PATH": path, "HOME": str(folder), "PLEO_PROXY_CLIENT_SECRET": "sandbox-secret"}

    def limit():
        if files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    with open(folder / "log", "ab") as log:
        child = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
            preexec_fn=limit)
    line = child.stdout.readline()
    if not line:
        sys.exit(f"flood: {command[0]} did not start: {(folder / 'log').read_text()[-800:]}")
    return child, json.loads(line)


class Proxy:
    """A proxy with one connected account, in a folder of its own."""

    def __init__(self, binary, home, sandbox, most=0, files=None):
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=home))
        self.configure(sandbox, most)
        self.child, ready = start([binary, "--json", "--log", "error"], self.folder, files)
        self.api, self.admin = address(ready["api"]), ready["admin"]
        self.login()
        self.descriptors, self.memory, self.is_fresh = self.open(), self.resident(), True

    def configure(self, sandbox, most):
        config = self.folder / "proxy.toml"
        config.write_text(
            f'environment = "sandbox"\n[listen]\napi = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\nmax_connections = {most}\n'
            f'[client]\nid = "sandbox-client"\nscopes = ["companies:read"]\n'
            f'[endpoints]\nauthorize = "{sandbox["authorize"]}"\ntoken = "{sandbox["token"]}"\n'
            f'introspect = "{sandbox["introspect"]}"\napi = "{sandbox["api"]}"\n[store]\npath = "state"\n')
        config.chmod(0o600)

    def login(self):
        """Consents, as a browser would."""
        status, location = self.get(f"{self.admin}/connect?account=default")
        while status in (302, 303):
            status, location = self.get(location)
        if status != 200:
            sys.exit(f"flood: the login ended in {status}")

    @staticmethod
    def get(url):
        parts = urllib.parse.urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
        connection.request("GET", f"{parts.path}?{parts.query}")
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status, answer.headers.get("location")

    def allowed(self, callers):
        """KiB that may be resident after a flood."""
        return self.memory + MORE_MEMORY + (MEMORY_A_CALLER * callers if self.is_fresh else 0)

    def flooded(self, resident):
        self.memory, self.is_fresh = max(self.memory, resident) if self.is_fresh else self.memory, False

    def open(self):
        return len(os.listdir(f"/proc/{self.child.pid}/fd"))

    def resident(self, field="VmRSS:"):
        for line in pathlib.Path(f"/proc/{self.child.pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1])
        return 0

    def close(self):
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()


# --- Callers that mean no good; each flood is a process of its own, so that it does not slow the good caller's clock.


class Caller:
    """One connection of a flood, opened again when the proxy closes it."""

    def __init__(self, target, opening, more, back_after):
        self.target, self.opening, self.more, self.back_after = target, opening, more, back_after
        self.socket, self.back_at, self.byte_at = None, 0.0, 0.0

    def tend(self, now, poll, by_descriptor):
        if self.socket is None:
            if now >= self.back_at:
                self.connect(now, poll, by_descriptor)
        elif self.more and now >= self.byte_at:
            self.byte_at = now + BYTE_EVERY
            self.write(self.more)

    def connect(self, now, poll, by_descriptor):
        self.socket = socket.socket()
        self.socket.setblocking(False)
        result = self.socket.connect_ex(self.target)
        by_descriptor[self.socket.fileno()] = self
        poll.register(self.socket, select.EPOLLIN | select.EPOLLRDHUP)
        self.byte_at = now + random.uniform(0.0, BYTE_EVERY)
        if result not in (0, errno.EINPROGRESS):
            self.gone(now, poll, by_descriptor)
        elif self.opening:
            self.write(self.opening)

    def write(self, data):
        try:
            self.socket.send(data)
        except OSError:
            pass  # if it is closed, the poll says so

    def gone(self, now, poll, by_descriptor):
        poll.unregister(self.socket)
        del by_descriptor[self.socket.fileno()]
        self.socket.close()
        self.socket, self.back_at = None, now + self.back_after * random.uniform(0.5, 1.5)


def flood(target, callers, opening, more, pace, stands, over):
    """Keeps so many connections open until it is over, `pace` more each round; says once all were tried."""
    poll, by_descriptor = select.epoll(), {}
    back_after = BACK_AFTER if pace == callers else BACK_AFTER_LONG
    crowd = [Caller(target, opening, more, back_after) for _ in range(callers)]
    come = 0
    while not over.is_set():
        now, come = time.monotonic(), min(callers, come + pace)
        for caller in crowd[:come]:
            caller.tend(now, poll, by_descriptor)
        if come == callers:
            stands.set()
        for descriptor, _ in poll.poll(0.05):
            by_descriptor[descriptor].gone(now, poll, by_descriptor)


def vanish(target, rounds, seed, stands, over):
    """Callers that leave at any moment, one after another."""
    chance = random.Random(seed)
    stands.set()
    host = f"{target[0]}:{target[1]}"
    for _ in range(rounds):
        if over.is_set():
            return
        request = chance.choice([
            f"GET /v1/companies HTTP/1.1\r\nHost: {host}\r\n\r\n",
            f"GET /v1/bytes?n=50000000 HTTP/1.1\r\nHost: {host}\r\n\r\n",
            f"PUT /v1/sink HTTP/1.1\r\nHost: {host}\r\nContent-Length: 500000\r\n\r\n" + "x" * chance.randrange(500000),
        ]).encode()
        connection = socket.create_connection(target, 20)
        if chance.random() < 0.3:
            request = request[: chance.randrange(len(request))]
        connection.setblocking(False)
        try:
            connection.send(request)
            time.sleep(chance.uniform(0.0, 0.02))
            connection.recv(chance.randrange(1, 100000))
        except OSError:
            pass  # refused, or nothing came yet
        if chance.random() < 0.5:
            # A reset instead of an end.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()


# --- The good caller.


def ask(target):
    """A request on a new connection: how long it took, and what came."""
    begun = time.monotonic()
    connection = http.client.HTTPConnection(*target, timeout=20)
    try:
        connection.request("GET", "/v1/companies", headers={"Connection": "close"})
        answer = connection.getresponse()
        answer.read()
        code = answer.headers.get("pleo-proxy-error")
        told = f"{answer.status} {code}" if code else str(answer.status)
    except (OSError, http.client.HTTPException) as error:
        told = repr(error)
    finally:
        connection.close()
    return time.monotonic() - begun, told


class Good:
    """What the good caller met."""

    def __init__(self):
        self.requests, self.worst, self.refused = 0, 0.0, {}

    def call(self, target, seconds, until=lambda: False):
        requests, worst, refused, end = 0, 0.0, 0, time.monotonic() + seconds
        while time.monotonic() < end and not until():
            took, told = ask(target)
            requests, worst = requests + 1, max(worst, took)
            if told != "200":
                refused += 1
                self.refused[told] = self.refused.get(told, 0) + 1
            time.sleep(0.01)
        self.requests, self.worst = self.requests + requests, max(self.worst, worst)
        return requests, worst, refused


class Show:
    """Floods one after another, a line of the table for each."""

    def __init__(self, callers):
        self.callers, self.good, self.faults = callers, Good(), []
        print(f"| {'flood':<52} | {'requests':>8} | {'worst':>7} | {'refused':>7} | {'open':>11} | {'memory':>14} |")
        print(f"| {'-' * 52} | {'-' * 7}: | {'-' * 6}: | {'-' * 6}: | {'-' * 10}: | {'-' * 13}: |")

    def play(self, name, proxy, seconds, crowds, until_done=False):
        stage = multiprocessing.get_context("fork")
        over = stage.Event()
        standing = [stage.Event() for _ in crowds]
        players = [
            stage.Process(target=work, args=(*arguments, stands, over), daemon=True)
            for (work, arguments), stands in zip(crowds, standing)
        ]
        for player in players:
            player.start()
        for stands in standing:
            stands.wait(20)
        done = (lambda: not any(player.is_alive() for player in players)) if until_done else (lambda: False)
        met = self.good.call(proxy.api, seconds, done)
        if until_done and not done():
            self.faults.append(f"{name}: not done in {seconds} s")
        most, peak = proxy.open(), proxy.resident("VmHWM:")
        over.set()
        for player in players:
            player.join(10)
        self.line(name, proxy, met, most, peak)

    def line(self, name, proxy, met, most, peak):
        requests, worst, refused = met
        left, resident = self.come_back(proxy, proxy.allowed(self.callers))
        print(f"| {name:<52} | {requests:>8} | {worst * 1000:>4.0f} ms | {refused:>7} | {most:>4} -> {left:>3} "
              f"| {peak >> 10:>3} -> {resident >> 10:>3} MiB |", flush=True)
        if worst > LONGEST_WAIT or refused or not requests:
            self.faults.append(f"{name}: {requests} requests, the worst took {worst:.2f} s, {refused} refused")
        if left > proxy.descriptors + MORE_DESCRIPTORS:
            self.faults.append(f"{name}: {left} descriptors are open, of {proxy.descriptors} before")
        if resident > proxy.allowed(self.callers):
            self.faults.append(f"{name}: {resident} KiB are resident, of {proxy.memory} before")
        proxy.flooded(resident)

    @staticmethod
    def come_back(proxy, allowed):
        end = time.monotonic() + RETURN_PATIENCE
        while time.monotonic() < end:
            left, resident = proxy.open(), proxy.resident()
            if left <= proxy.descriptors + MORE_DESCRIPTORS and resident <= allowed:
                break
            time.sleep(0.1)
        return left, resident


def floods(show, make, callers, rounds):
    def crowd(target, kind, count=callers, pace=None):
        host = f"{target[0]}:{target[1]}"
        opening, more = {
            "idle": (b"", b""),
            "head": (f"GET /v1/companies HTTP/1.1\r\nHost: {host}\r\nX-Slow: ".encode(), b"x"),
            "body": (f"PUT /v1/sink HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100000\r\n\r\n".encode(), b"x"),
        }[kind]
        return flood, (target, count, opening, more, pace or count)

    proxy = make()
    # Longer than a head may take, so that all are closed and come back.
    show.play(f"{callers:,} whose heads trickle", proxy, 13, [crowd(proxy.api, "head")])
    show.play(f"{callers:,} that say nothing", proxy, 4, [crowd(proxy.api, "idle")])
    # Each body has a connection to the upstream, whose queue is as short as most.
    show.play(f"{callers // 5:,} whose bodies trickle", proxy, 5, [crowd(proxy.api, "body", callers // 5, SLOW_PACE)])
    leavers = [(vanish, (proxy.api, rounds // 4, seed)) for seed in range(4)]
    show.play(f"{rounds:,} that vanish", proxy, 40, leavers, until_done=True)
    show.play("nobody, but a body of 2 GiB", proxy, 30, [(download, (proxy.api,))], until_done=True)
    proxy.close()

    few = max(callers * 2 // 5, 16)
    proxy = make(most=few)
    for kind, name in (("head", "whose heads trickle"), ("idle", "that say nothing")):
        show.play(f"{callers:,} {name}, max_connections = {few}", proxy, 5, [crowd(proxy.api, kind)])
    proxy.close()
    proxy = make(files=256)
    for kind, name in (("head", "whose heads trickle"), ("idle", "that say nothing")):
        show.play(f"{callers:,} {name}, 256 descriptors", proxy, 5, [crowd(proxy.api, kind, pace=SLOW_PACE)])
    proxy.close()


def download(target, stands, over):
    """Reads one long body to its end."""
    stands.set()
    connection = http.client.HTTPConnection(*target, timeout=20)
    connection.request("GET", f"/v1/bytes?n={LONG_BODY}")
    answer = connection.getresponse()
    left, buffer = LONG_BODY, bytearray(1 << 20)
    while left and not over.is_set():
        read = answer.readinto(buffer)
        if not read:
            os._exit(1)
        left -= read


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", nargs="?", default="target/release/pleo-proxy")
    parser.add_argument("--callers", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=1000)
    options = parser.parse_args()
    binary = os.path.abspath(options.binary)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    home = pathlib.Path(tempfile.mkdtemp(prefix="flood-"))
    sandbox, made = None, []
    try:
        command = [binary, "--json", "sandbox", "--listen", "127.0.0.1:0", "--files", "127.0.0.1:0", "--auto-consent",
                   "--rate-limit", "0"]
        sandbox, ready = start(command, home)

        def make(**how):
            made.append(Proxy(binary, home, ready, **how))
            return made[-1]

        show = Show(options.callers)
        floods(show, make, options.callers, options.rounds)
    finally:
        for child in [proxy.child for proxy in made] + ([sandbox] if sandbox else []):
            if child.poll() is None:
                child.kill()
                child.wait()
        shutil.rmtree(home, ignore_errors=True)
    for fault in show.faults:
        print(f"flood: {fault}", file=sys.stderr)
    good = show.good
    refused = sum(good.refused.values())
    reasons = f" ({', '.join(good.refused)})" if refused else ""
    print(f"flood: {good.requests} good requests, worst {good.worst * 1000:.0f} ms, {refused} refused{reasons}")
    sys.exit(1 if show.faults else 0)


if __name__ == "__main__":
    main()
