"""Runs a command on a terminal of its own and follows steps; prints what came of it as JSON.

The argument is JSON: {"command": [...], "steps": [[VERB, VALUE], ...]}. Verbs: `expect` waits until the output since the
last step holds a text, `type` writes to the terminal, `resize` changes its columns, `signal` sends the process a signal,
`close` closes the terminal, after which nothing is read.

Before the process is told something, the newest process of the terminal is waited for to sleep: a shell that is told between
two commands and then waits in `read` looks at it only when that returns.
"""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

PATIENCE = 30
SLEEP_PATIENCE = 2


def resize(terminal, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


def read(terminal, until):
    """More output; none at the end."""
    while time.monotonic() < until:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                return os.read(terminal, 65536).decode(errors="replace")
            except OSError:
                return ""
    raise TimeoutError


def newest(session):
    """State and context switches of the newest process of a session, as /proc tells them."""
    found = (-1, 0, None)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as stat, open(f"/proc/{pid}/status") as status:
                state, *fields = stat.read().rsplit(")", 1)[1].split()
                switches = [line for line in status if "ctxt_switches" in line]
        except OSError:
            continue
        if int(fields[2]) == session:
            found = max(found, (int(fields[18]), int(pid), (state, switches)))
    return found


def wait_for_sleep(session):
    until = time.monotonic() + SLEEP_PATIENCE
    before = None
    while time.monotonic() < until:
        now = newest(session)
        if now == before and now[2] and now[2][0] == "S":
            return
        before = now
        time.sleep(0.05)


def follow(terminal, process, steps):
    output, at = "", 0
    for verb, value in steps:
        if verb in ("type", "resize", "signal"):
            wait_for_sleep(process)
        if verb == "expect":
            until = time.monotonic() + PATIENCE
            while value not in output[at:]:
                more = read(terminal, until)
                if not more:
                    raise EOFError(f"ended before {value!r}: {output!r}")
                output += more
            at = output.index(value, at) + len(value)
        elif verb == "type":
            os.write(terminal, value.encode())
        elif verb == "resize":
            resize(terminal, value)
        elif verb == "signal":
            os.kill(process, getattr(signal, "SIG" + value))
        elif verb == "close":
            os.close(terminal)
            return output
    until = time.monotonic() + PATIENCE
    while True:
        more = read(terminal, until)
        if not more:
            return output
        output += more


def main():
    asked = json.loads(sys.argv[1])
    sized, size = os.pipe()
    process, terminal = pty.fork()
    if process == 0:
        # Not before the terminal has its size: a change would be told.
        os.read(sized, 1)
        os.execvp(asked["command"][0], asked["command"])
    resize(terminal, 80)
    os.write(size, b"!")
    try:
        output = follow(terminal, process, asked["steps"])
    except BaseException:
        os.kill(process, signal.SIGKILL)
        raise
    status = os.waitpid(process, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    # As a shell reports it.
    print(json.dumps({"code": code if code >= 0 else 128 - code, "output": output.replace("\r\n", "\n")}))


main()
