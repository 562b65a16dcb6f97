"""What is measured. Each case returns a table, the figures of all rounds, and what was answered wrongly."""

import contextlib
import json
import os
import pathlib
import random
import socket
import ssl
import subprocess
import time

import contestants
import machine
import openloop
from report import Table, median, quantile, time as shown

HERE = pathlib.Path(__file__).parent


class Bench:
    """What all cases share."""

    def __init__(self, options, folder, cores, upstream):
        self.options, self.folder, self.cores, self.upstream = options, folder, cores, upstream
        self.number = 0

    @contextlib.contextmanager
    def lineup(self):
        """All contestants, started anew: memory is that of the case alone."""
        started = contestants.lineup(
            self.options.binary, self.options.against, self.fresh(), self.cores, self.upstream, self.options.only)
        try:
            yield started
        finally:
            for contestant in started:
                contestant.close()

    def ours(self, **how):
        folder = self.fresh()
        return contextlib.closing(
            contestants.Ours(self.options.binary, folder, self.cores, self.upstream, **how))

    def fresh(self):
        """A folder for the processes of one case, with the authority's certificate in it."""
        self.number += 1
        folder = self.folder / f"case-{self.number}"
        folder.mkdir()
        folder.joinpath("ca.pem").write_bytes(self.folder.joinpath("ca.pem").read_bytes())
        return folder

    def wrk(self, port, path, connections, seconds, **environment):
        """One run of wrk; its figures."""
        command = ["taskset", "-c", ",".join(map(str, self.cores.load)), "wrk", "-t1", f"-c{connections}",
                   f"-d{max(1, round(seconds))}s", "--timeout", "60s", "-s", str(HERE / "load.lua"),
                   f"http://127.0.0.1:{port}{path}"]
        words = {key: str(value) for key, value in environment.items()}
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **words})
        if done.returncode or not done.stdout.endswith("}\n"):
            raise machine.Failure(f"wrk: {done.stdout[-300:]} {done.stderr[-300:]}")
        return json.loads(done.stdout.splitlines()[-1])

    def measure(self, contestant, path, connections, warm=True, **environment):
        """A short warm-up, then a round with the contestant's own processor time beside wrk's figures."""
        if warm:
            self.wrk(contestant.port, path, connections, 1, **environment)
        before = machine.processor_seconds(contestant.pid)
        figures = self.wrk(contestant.port, path, connections, self.options.seconds, **environment)
        figures["processor"] = machine.processor_seconds(contestant.pid) - before
        figures.update(machine.memory(contestant.pid))
        return figures


def throughput(title, path, connections, about, by_bytes=False, **environment):
    """A case of steady load: everybody in turns, medians of the rounds."""
    def case(bench):
        with bench.lineup() as started, machine.awake(bench.cores):
            rounds = {contestant.name: [] for contestant in started}
            for _ in range(bench.options.rounds):
                for contestant in started:
                    figures = bench.measure(contestant, path, connections, **environment)
                    # Transfers that the end of a round cuts off were work too.
                    done = figures["bytes"] / contestants.LARGE if by_bytes else figures["requests"]
                    figures["rate"] = done / figures["us"] * 1e6
                    figures["cost"] = figures["processor"] / done * 1e6 if done else float("inf")
                    rounds[contestant.name].append(figures)
            tls = ", ".join(sorted({contestant.tls for contestant in started}))
        return compare(title, f"{about} Upstream: {tls}.", rounds), rounds, faults(rounds)
    return case


def compare(title, about, rounds):
    columns = ["", "requests/s", "p50", "p99", "processor time a request", "requests a processor second", "ours to it",
               "VmRSS MiB", "VmHWM MiB", "busy"]
    table = Table(title, about, columns)
    ours = rounds.get("pleo-proxy")
    for name, all_rounds in rounds.items():
        cost = median(all_rounds, "cost")
        # Of the same round: what slows the machine for a while slows both.
        pairs = [{"ratio": theirs["cost"] / each["cost"]} for theirs, each in zip(all_rounds, ours or [])]
        ratio = f"{median(pairs, 'ratio'):.2f}x" if pairs else "-"
        busy = median(all_rounds, "processor") / median(all_rounds, "us") * 1e8
        table.row(name, f"{median(all_rounds, 'rate'):,.1f}", shown(median(all_rounds, "p50")),
                  shown(median(all_rounds, "p99")), shown(cost) if cost < 1000 else f"{cost / 1000:.2f} ms",
                  f"{1e6 / cost:,.0f}", ratio, f"{median(all_rounds, 'rss'):.1f}",
                  f"{max(each['peak'] for each in all_rounds):.1f}", f"{busy:.0f} %")
    return table


def faults(rounds):
    return [f"{name}: {each['refused']} answers above 399, {each['broken']} broken connections"
            for name, all_rounds in rounds.items() for each in all_rounds if each["refused"] or each["broken"]]


def idle(bench):
    """Connections that made one request each and stay open."""
    wanted = min(bench.options.connections, bench.options.files - 500)
    table = Table(f"{wanted:,} idle connections", "Memory at rest, and with connections that made one request each.",
                  ["", "VmRSS MiB at rest", "VmRSS MiB held", "KiB a connection", "Pss MiB held", "alive after"])
    figures, wrong = {}, []
    with bench.lineup() as started:
        for contestant in started:
            rest = machine.memory(contestant.pid)
            held, failed = hold(contestant.port, wanted)
            full = machine.memory(contestant.pid)
            alive = sum(ask(connection) for connection in random.sample(held, min(100, len(held))))
            for connection in held:
                connection.close()
            each = (full["rss"] - rest["rss"]) * 1024 / max(1, len(held))
            table.row(contestant.name, f"{rest['rss']:.1f}", f"{full['rss']:.1f}", f"{each:.1f}", f"{full['pss']:.1f}",
                      f"{alive} of {min(100, len(held))}")
            figures[contestant.name] = {"rest": rest, "held": full, "connections": len(held)}
            if failed or alive < min(100, len(held)):
                wrong.append(f"{contestant.name}: {failed} connections failed, {alive} of 100 answered again")
    return table, figures, wrong


REQUEST = b"GET /small.json HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n"


def hold(port, wanted):
    """Opens connections, one request on each. Two source addresses, so that no range of ports runs out."""
    held, failed = [], 0
    for number in range(wanted):
        connection = socket.socket()
        try:
            connection.bind((f"127.0.0.{1 + number % 2}", 0))
            connection.connect(("127.0.0.1", port))
        except OSError:
            connection.close()
            failed += 1
            continue
        if ask(connection):
            held.append(connection)
        else:
            connection.close()
            failed += 1
    return held, failed


def ask(connection, authorization=b""):
    """One request and its whole answer; true if it is a good one."""
    try:
        connection.settimeout(10)
        connection.sendall(REQUEST[:-2] % connection.getpeername()[1] + authorization + b"\r\n")
        answer = connection.recv(65536)
        while b"\r\n\r\n" not in answer or len(answer) < answer.index(b"\r\n\r\n") + 1028:
            more = connection.recv(65536)
            if not more:
                return False
            answer += more
        return answer.startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def trickle(bench):
    """One request a second, to everybody in turns, beside a client that speaks TLS to the upstream itself."""
    count = bench.options.trickle
    with bench.lineup() as started, machine.awake(bench.cores):
        lines = {"direct (TLS client)": direct(bench)}
        lines.update({contestant.name: socket.create_connection(("127.0.0.1", contestant.port))
                      for contestant in started})
        taken = {name: [] for name in lines}
        order, wrong = list(lines), []
        for second in range(count + 1):
            time.sleep(1)
            random.shuffle(order)
            for name in order:
                begun = time.perf_counter()
                good = ask(lines[name], b"Authorization: Bearer direct\r\n" if name.startswith("direct") else b"")
                if second:
                    taken[name].append((time.perf_counter() - begun) * 1e6)
                if not good:
                    wrong.append(f"{name}: second {second}")
        for line in lines.values():
            line.close()
    table = Table("One request a second", f"{count} requests of 1 KiB each, one connection each.",
                  ["", "p50", "p90", "max", "added to the median"])
    base = quantile(taken["direct (TLS client)"], 0.5)
    for name, values in taken.items():
        table.row(name, shown(quantile(values, 0.5)), shown(quantile(values, 0.9)), shown(max(values)),
                  f"{quantile(values, 0.5) - base:+.0f} us")
    return table, taken, wrong


def direct(bench):
    context = ssl.create_default_context(cafile=bench.folder / "ca.pem")
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    plain = socket.create_connection(("127.0.0.1", bench.upstream.port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_hostname="localhost")


def accounts(bench):
    """Ours alone: what many accounts cost."""
    table = Table("Accounts", "Start, memory, and the load of 64 connections over random accounts, all of them in use.",
                  ["accounts", "start", "VmRSS MiB at rest", "VmRSS MiB after", "requests/s", "p99",
                   "processor time a request"])
    figures, wrong = {}, []
    for count in (1, bench.options.accounts):
        with bench.ours(accounts=count) as ours:
            rest = machine.memory(ours.pid)
            first = timed(bench, ours, count, IN_ORDER=1)
            rounds = [timed(bench, ours, count) for _ in range(bench.options.rounds)]
            started = f"{ours.start_seconds * 1000:.0f} ms"
            if count > 1:
                account_row(table, f"{count:,}, first requests", started, rest, [first])
            account_row(table, f"{count:,}", started, rest, rounds)
            figures[count] = {"start": ours.start_seconds, "rest": rest, "first": first, "rounds": rounds}
            wrong += faults({f"{count} accounts": [first, *rounds]})
    return table, figures, wrong


def timed(bench, ours, count, **environment):
    each = bench.measure(ours, "/small.json", 64, warm="IN_ORDER" not in environment, ACCOUNTS=count, **environment)
    each["rate"] = each["requests"] / each["us"] * 1e6
    each["cost"] = each["processor"] / max(1, each["requests"]) * 1e6
    return each


def account_row(table, title, started, rest, rounds):
    table.row(title, started, f"{rest['rss']:.1f}", f"{median(rounds, 'rss'):.1f}", f"{median(rounds, 'rate'):,.0f}",
              shown(median(rounds, "p99")), shown(median(rounds, "cost")))


def refresh(bench):
    """Ours alone: the same steady load on a token that is refreshed all the time and on one that is not."""
    lives = {"2 s": 2000, "600 s": 600_000}
    with contextlib.ExitStack() as stack:
        started = {name: stack.enter_context(bench.ours(life_ms=life)) for name, life in lives.items()}
        ports = {name: ours.port for name, ours in started.items()}
        taken, wrong = openloop.steady(ports, bench.options.refresh, rate=400, lines=32)
        counts = {name: refreshes(ours) for name, ours in started.items()}
    table = Table("Refresh under a steady load",
                  "Requests are sent by the clock, 400 a second to each, in turns; time counts from when one was due.",
                  ["token life", "refreshes", "requests", "p50", "p99", "p99.9", "max"])
    for name, values in taken.items():
        parts = [shown(quantile(values, part)) for part in (0.5, 0.99, 0.999)]
        table.row(name, counts[name], f"{len(values):,}", *parts, shown(max(values)))
    return table, {"us": taken, "refreshes": counts}, wrong


def refreshes(ours):
    """How often the sandbox gave a new pair for a refresh token."""
    url = ours.sandbox_api + "/sandbox/counters"
    status, _, body = contestants.call(url, headers={"X-Sandbox-Control": "1"})
    return json.loads(body)["refreshes"] if status == 200 else "?"


JSON = "1 KiB of JSON; wrk closes the loop."
ALL = {
    "json64": throughput("1 KiB JSON, 64 connections", "/small.json", 64, JSON),
    "json1": throughput("1 KiB JSON, 1 connection", "/small.json", 1, JSON),
    "download": throughput("64 MiB downloads, 8 connections", "/large.bin", 8, "A request is 64 MiB of body.",
                           by_bytes=True),
    "upload": throughput("256 KiB uploads, 16 connections", "/upload", 16, "The upstream reads all before it answers.",
                         UPLOAD_BYTES=256 * 1024),
    "idle": idle,
    "trickle": trickle,
    "accounts": accounts,
    "refresh": refresh,
}
