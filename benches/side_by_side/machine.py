"""Processes, cores and what the kernel tells about them."""

import contextlib
import os
import pathlib
import resource
import signal
import socket
import subprocess
import time

TICKS = os.sysconf("SC_CLK_TCK")


class Failure(Exception):
    """The comparison cannot go on; the message says why."""


class Cores:
    """The proxy's core is its own; upstream and load share another, or have one each where there are three."""

    def __init__(self):
        cores = sorted(os.sched_getaffinity(0))
        self.proxy = {cores[0]}
        self.upstream = {cores[min(1, len(cores) - 1)]}
        self.load = {cores[min(2, len(cores) - 1)]}


@contextlib.contextmanager
def awake(cores):
    """Keeps the cores from halting, by loops that run only where nobody else wants to (SCHED_IDLE).

    A virtual machine's core that halted takes up to a millisecond to wake, which would be all that is measured."""
    every = sorted(cores.proxy | cores.upstream | cores.load)
    loop = ["chrt", "--idle", "0", "sh", "-c", "while :; do :; done"]
    children = [subprocess.Popen(["taskset", "-c", str(core), *loop]) for core in every]
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


def raise_file_limit():
    """As many open files as the system lets us have; returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A process on cores of its own, ended by `close`."""

    def __init__(self, command, cores, log, **more):
        self.log = pathlib.Path(log)
        with open(self.log, "ab") as errors:
            # taskset replaces itself by the command, so that the process id stays.
            pinned = ["taskset", "-c", ",".join(map(str, sorted(cores))), *map(str, command)]
            self.child = subprocess.Popen(pinned, stdin=subprocess.DEVNULL, **{"stdout": errors, "stderr": errors, **more})
        self.pid = self.child.pid

    def wait_for_port(self, port, patience=10.0):
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and self.child.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.02)
        self.close()
        raise Failure(f"{self.child.args[3]} does not listen: {self.log.read_text()[-800:]}")

    def close(self):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(3)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()


def family(pid):
    """A process and all that it started."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid] + [each for child in children for each in family(int(child))]


def processor_seconds(pid):
    """User and system time of a process and all that it started."""
    ticks = 0
    for each in family(pid):
        fields = pathlib.Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


def memory(pid):
    """MiB of a process and all that it started: resident now, the peak of it, and now with shared pages divided."""
    resident = peak = proportional = 0
    for each in family(pid):
        status = pathlib.Path(f"/proc/{each}/status").read_text()
        resident += field(status, "VmRSS")
        peak += field(status, "VmHWM")
        proportional += field(pathlib.Path(f"/proc/{each}/smaps_rollup").read_text(), "Pss")
    return {"rss": resident / 1024, "peak": peak / 1024, "pss": proportional / 1024}


def field(text, name):
    """The number of kB in a line `NAME: 123 kB`."""
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(name + ":"))
