#!/usr/bin/env python3
"""pleo-proxy beside nginx and haproxy: each alone on a core, in front of the same TLS 1.3 upstream, in turns.

    python3 benches/side_by_side --binary target/release/pleo-proxy [--cases json64,download] [--rounds 5]

Prints markdown tables. README.md in the folder above says how to read them. Exit code 1 if anybody answered wrongly.
"""

import argparse
import json
import os
import pathlib
import platform
import signal
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import cases  # noqa: E402
import contestants  # noqa: E402
import machine  # noqa: E402
import report  # noqa: E402

NEEDED = ["nginx", "wrk", "openssl", "taskset", "chrt"]


def main():
    options = parse()
    missing = [program for program in NEEDED if not contestants.find(program)]
    if missing:
        print(f"compare: skipped, because {', '.join(missing)} is missing "
              "(apt-get install nginx-light haproxy wrk openssl util-linux)")
        return 0
    for name in [each for each in options.only if each in contestants.RIVALS and not contestants.find(each)]:
        print(f"compare: {name} is not installed, so the others go on without it")
        options.only.remove(name)
    options.files = machine.raise_file_limit()
    # Whoever ends us ends what we started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("compare: ended"))
    with tempfile.TemporaryDirectory(prefix="pleo-proxy-bench-") as folder:
        return run(options, pathlib.Path(folder))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default="target/release/pleo-proxy", help="the proxy [default: %(default)s]")
    parser.add_argument("--cases", default=",".join(cases.ALL), help="of %(default)s")
    parser.add_argument("--only", default="pleo-proxy,nginx,haproxy",
                        help="contestants: these, envoy, kubectl; without what is missing [default: %(default)s]")
    parser.add_argument("--against", metavar="FILE", help="another build of the proxy, measured in the same turns")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each case [default: %(default)s]")
    parser.add_argument("--seconds", type=float, default=5, help="of a round [default: %(default)s]")
    parser.add_argument("--connections", type=int, default=10_000, help="of the idle case [default: %(default)s]")
    parser.add_argument("--accounts", type=int, default=10_000, help="of the accounts case [default: %(default)s]")
    parser.add_argument("--trickle", type=int, default=60, help="requests of the trickle case [default: %(default)s]")
    parser.add_argument("--refresh", type=int, default=60, help="seconds of the refresh case [default: %(default)s]")
    parser.add_argument("--json", metavar="FILE", help="write all figures of all rounds there too")
    options = parser.parse_args()
    options.cases, options.only = options.cases.split(","), options.only.split(",")
    unknown = [case for case in options.cases if case not in cases.ALL]
    unknown += [name for name in options.only if name != "pleo-proxy" and name not in contestants.RIVALS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    if not os.access(options.binary, os.X_OK):
        parser.error(f"{options.binary} is not there; cargo build --release makes it")
    return options


def run(options, folder):
    cores = machine.Cores()
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release()}; "
          f"rounds: {options.rounds} of {options.seconds:g} s; load average {os.getloadavg()[0]:.1f}\n", flush=True)
    bench = cases.Bench(options, folder, cores, contestants.Upstream(folder, cores))
    everything, wrong = {}, []
    try:
        for case in options.cases:
            table, figures, faults = cases.ALL[case](bench)
            print(report.markdown(table), flush=True)
            everything[case] = figures
            wrong += [f"{case}: {fault}" for fault in faults]
    finally:
        bench.upstream.close()
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(everything, indent=1))
    for fault in wrong:
        print(f"WRONG: {fault}")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except machine.Failure as failure:
        sys.exit(f"compare: {failure}")
