"""Requests by the clock: one that waits delays no other, and its wait counts from when it was due."""

import collections
import gc
import select
import socket
import time


class Line:
    """A kept connection with at most one request under way."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.request = b"GET /small.json HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % port
        self.answer, self.due = b"", 0.0

    def send(self, due):
        self.due, self.answer = due, b""
        self.socket.send(self.request)

    def read(self):
        """None while the answer is not whole; else whether it is a good one."""
        try:
            self.answer += self.socket.recv(65536)
        except OSError:
            return False
        head, gap, body = self.answer.partition(b"\r\n\r\n")
        if not self.answer:
            return False
        return head.startswith(b"HTTP/1.1 200") if gap and len(body) >= 1024 else None


class Clockwork:
    """`rate` requests a second to each port, in turns."""

    def __init__(self, ports, rate, lines):
        self.names, self.gap, self.lines = list(ports), 1 / (rate * len(ports)), lines
        self.free = {name: collections.deque(Line(port) for _ in range(lines)) for name, port in ports.items()}
        self.taken, self.wrong = {name: [] for name in ports}, collections.Counter()
        self.late, self.sent, self.poll, self.owners = collections.deque(), 0, select.epoll(), {}
        for name, lines_of_it in self.free.items():
            for line in lines_of_it:
                self.owners[line.socket.fileno()] = (name, line)
                self.poll.register(line.socket, select.EPOLLIN)

    def run(self, seconds):
        begun = time.perf_counter()
        end = begun + seconds
        while True:
            now = time.perf_counter()
            self.send(begun, min(now, end))
            under_way = any(len(lines) < self.lines for lines in self.free.values())
            if now >= end and not self.late and not under_way or now > end + 30:
                return
            self.receive(max(0.0, begun + self.sent * self.gap - now) if now < end else 0.1)

    def send(self, begun, until):
        """Sends what is due; a request whose connections are all taken waits, and its time runs."""
        while begun + self.sent * self.gap < until:
            self.late.append((self.names[self.sent % len(self.names)], begun + self.sent * self.gap))
            self.sent += 1
        for _ in range(len(self.late)):
            name, due = self.late.popleft()
            if self.free[name]:
                self.free[name].popleft().send(due)
            else:
                self.late.append((name, due))

    def receive(self, wait):
        for number, _ in self.poll.poll(wait):
            name, line = self.owners[number]
            good = line.read()
            if good is None:
                continue
            self.taken[name].append((time.perf_counter() - line.due) * 1e6)
            if good:
                self.free[name].append(line)
            else:
                self.wrong[name] += 1
                self.poll.unregister(number)


def steady(ports, seconds, rate, lines):
    """Microseconds of each request to each port, and what went wrong."""
    clockwork = Clockwork(ports, rate, lines)
    # Our own pauses would be taken for the proxy's.
    gc.collect()
    gc.disable()
    try:
        clockwork.run(seconds)
    finally:
        gc.enable()
    wrong = clockwork.wrong.items()
    return clockwork.taken, [f"{count} requests on the token of {name} failed" for name, count in wrong]
