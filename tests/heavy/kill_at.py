#!/usr/bin/env python3
"""Runs a command and kills it with SIGKILL at its Nth system call, before the call is made.

    kill_at.py N COMMAND...       N = 0 kills never; the number of calls goes to the file named by $KILL_AT_REPORT

The calls of all threads are counted together, in the order in which they are made. `strace -e inject=...:when=N` counts
each thread for itself, so that a call which another thread makes as often would never be hit.
Exit code: 137 after a kill, else the command's own.
"""

import ctypes
import os
import signal
import sys

TRACEME, CONT_TO_CALL, SET_OPTIONS = 0, 24, 0x4200
# System calls marked, threads followed, everything killed with the tracer.
OPTIONS = 0x1 | 0x8 | 0x100000
CALL_STOP = signal.SIGTRAP | 0x80
WALL = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request, thread=0, data=0):
    return libc.ptrace(request, thread, None, data)


def start(command):
    child = os.fork()
    if child == 0:
        if ptrace(TRACEME) < 0:
            os._exit(126)
        os.execvp(command[0], command)
    _, status = os.waitpid(child, 0)
    if not os.WIFSTOPPED(status):
        sys.exit("kill_at.py: tracing is not allowed here")
    ptrace(SET_OPTIONS, child, OPTIONS)
    ptrace(CONT_TO_CALL, child)
    return child


def trace(child, limit):
    """The exit code and the number of calls."""
    known, inside, calls = {child}, set(), 0
    while True:
        try:
            thread, status = os.waitpid(-1, WALL)
        except ChildProcessError:
            return 137, calls
        if not os.WIFSTOPPED(status):
            if thread == child:
                return (os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)), calls
            continue
        stop, deliver = os.WSTOPSIG(status), 0
        if stop == CALL_STOP:
            if thread in inside:
                inside.discard(thread)
            else:
                inside.add(thread)
                calls += 1
                if calls == limit:
                    os.kill(child, signal.SIGKILL)
        elif stop == signal.SIGSTOP and thread not in known:
            known.add(thread)  # A new thread says that it is there.
        elif stop != signal.SIGTRAP:
            deliver = stop
        ptrace(CONT_TO_CALL, thread, deliver)


def main():
    code, calls = trace(start(sys.argv[2:]), int(sys.argv[1]))
    report = os.environ.get("KILL_AT_REPORT")
    if report:
        with open(report, "w", encoding="ascii") as file:
            file.write(str(calls))
    sys.exit(code)


main()
