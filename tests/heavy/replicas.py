#!/usr/bin/env python3
"""Three replicas on one PostgreSQL database, each on a network of its own, while everything between them fails.

    replicas.sh [BINARY [SECONDS [SEED]]]        (which calls this in namespaces of its own)
    replicas.py SECONDS --programs FOLDER [--binary FILE] [--seed N] [--accounts N] [--keep]

Replicas are killed and stopped, their lines cut, the database restarted and its connections ended, the token endpoint
slowed down; the clock of one replica is five minutes off throughout. They reach the database by TLS with the role that
`store sql` makes. Callers ask all of them for all accounts.

Exit code 1 if a refresh token was sent again although its successor had arrived, if a login was lost that nothing
explains (the process that had sent its token was killed, or cut off until the answer was given up), if a caller got an
answer that nothing explains, if an account stays out of use for longer than a claim may last, or if anything does not
recover.
"""

import argparse
import collections
import http.client
import json
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import threading
import time

from replicas_bench import Bench, Failure

LOADERS = 4  # for each replica
LIFE = 2.0  # of an access token, in seconds
# The longest claim; then a look, and a refresh, on a busy machine.
CLAIM, CLAIM_PATIENCE = 50.0, 65.0
# An answer may be explained by what ended so long ago: a claim of that time, and what followed from it.
EXPLAINED = 70.0
# A token request is given up then.
TOKEN_REQUEST = 31.0
# Replicas that are back save what they have, and the others have noticed.
HEALED = 15.0
# All of them have noticed a login.
NOTICED = 6.0
CALLER_PATIENCE = 60.0
RECOVERY = 180.0
QUIET = 8.0
TROUBLE = {"auth_unreachable", "login_required", "refresh_timeout", "store_error", "store_unwritable", "token_rotated"}
CUT = {"upstream_broken", "upstream_timeout", "upstream_unreachable"}


class Fault:
    """Something that was done to a replica, or to the database (no replica)."""

    def __init__(self, kind, replica=None):
        self.kind, self.replica, self.since, self.until = kind, replica, time.time(), None

    def overlaps(self, since, until):
        return self.since <= until and (self.until is None or self.until >= since)


class Caller(threading.Thread):
    """Sends requests to one replica, one after another."""

    def __init__(self, run, line, number):
        super().__init__(daemon=True)
        self.run_, self.line, self.connection = run, line, None
        self.random = random.Random(f"{run.seed}/{line.number}/{number}")

    def run(self):
        try:
            while not self.run_.over.is_set():
                self.once(self.random.choice(self.run_.accounts))
                self.run_.over.wait(self.random.uniform(0.0, 0.04))
        except Exception as error:  # a caller that ends early would make the rest of the run say less than it seems to
            self.run_.broken(f"a caller of this run broke: {error!r}")
            raise

    def once(self, account):
        since = time.time()
        try:
            if self.connection is None:
                self.connection = self.line.connection(CALLER_PATIENCE)
            self.connection.request("GET", f"/@{account}/v1/companies")
            answer = self.connection.getresponse()
            answer.read()
            code, wait = answer.headers.get("pleo-proxy-error"), answer.headers.get("retry-after")
            self.run_.judge(self.line, account, since, answer.status, code, wait)
            if answer.will_close:
                self.forget()
        except (OSError, http.client.HTTPException) as error:
            self.forget()
            self.run_.cut(self.line, account, since, error)
            self.run_.over.wait(0.2)

    def forget(self):
        if self.connection:
            self.connection.close()
        self.connection = None


class Run:
    """The hand that breaks things, and what is known of the rest."""

    def __init__(self, arguments, folder):
        self.seed, self.seconds = arguments.seed, arguments.seconds
        self.random = random.Random(f"{self.seed}/hand")
        self.accounts = [f"account-{number:02}" for number in range(1, arguments.accounts + 1)]
        self.skew = self.random.choice([-300, 300])
        self.bench = Bench(arguments, folder, self.skew)
        self.lines = self.bench.lines
        self.lock, self.over = threading.Lock(), threading.Event()
        self.answers, self.events, self.lost = (collections.Counter() for _ in range(3))
        self.problems, self.faults, self.working = [], [], []
        self.bad_since = {}  # replica and account: since when it has no good answer
        self.longest = (0.0, "")
        self.ended = {}  # account: since when its login is over, as far as a replica knows
        self.logged_in = {}  # account: when, after its login was lost
        self.quiet_since = float("inf")  # from here on every answer must be a good one
        self.logins = 0

    # --- What callers get.

    def broken(self, what):
        with self.lock:
            self.problems.append(what)

    def in_trouble(self, line, since, slack=3.0):
        """The replica itself was stopped, killed or cut off meanwhile."""
        now = time.time()
        return any(it.replica is line and it.overlaps(since - slack, now) for it in self.faults)

    def was_touched(self, since):
        now = time.time()
        return any(it.overlaps(since - EXPLAINED, now) for it in self.faults)

    def cut(self, line, account, since, error):
        if self.in_trouble(line, since):
            with self.lock:
                self.answers["none: the replica was killed, stopped or cut off"] += 1
        else:
            self.broken(f"replica {line.number}, {account}: {error!r}")

    def judge(self, line, account, since, status, code, wait):
        with self.lock:
            name = f"{status} {code}" if code else f"{status} of Pleo's"
            self.answers[name] += 1
            key, now = (line.number, account), time.time()
            if status == 200:
                begun = self.bad_since.pop(key, None)
                if begun and now - begun > self.longest[0]:
                    self.longest = (now - begun, f"{account} at replica {line.number}")
                return
            if self.is_explained(line, since, status, code, wait):
                self.wait_for(line, key, code, now)
            else:
                self.problems.append(f"replica {line.number}, {account}: {name}, Retry-After {wait}")

    def is_explained(self, line, since, status, code, wait):
        is_quiet = since > self.quiet_since
        if status == 401 and code is None:
            return not is_quiet
        if code in CUT:
            return self.in_trouble(line, since, slack=EXPLAINED)
        if is_quiet or status != 503 or not self.was_touched(since):
            return False
        if code == "shutting_down":
            return self.in_trouble(line, since)
        return code in TROUBLE and (wait is not None or code == "login_required")

    def wait_for(self, line, key, code, now):
        """An account that no fault keeps from use any more may wait for a claim, and for no more."""
        touched = any(it.replica in (line, None) and it.overlaps(now - 1.0, now) for it in self.faults)
        if touched or code == "login_required":
            self.bad_since.pop(key, None)
            return
        begun = self.bad_since.setdefault(key, now)
        begun = max([begun, *(it.until or now for it in self.faults)])
        if now - begun > CLAIM_PATIENCE:
            self.problems.append(f"{key[1]} at replica {key[0]}: {code} for {now - begun:.0f} s without a fault")
            del self.bad_since[key]

    # --- What goes wrong.

    def begin(self, kind, replica=None):
        fault = Fault(kind, replica)
        with self.lock:
            self.faults.append(fault)
            self.events[kind] += 1
        self.tell(f"{kind}, {replica}" if replica else kind)
        return fault

    def tell(self, what):
        print(f"  {time.time() - self.began:6.1f} s  {what}", flush=True)

    def end(self, fault):
        fault.until = time.time()

    def meanwhile(self, work, *arguments):
        def guarded():
            try:
                work(*arguments)
            except Exception as error:  # the run cannot go on as if nothing were
                self.broken(f"{work.__name__} of this run broke: {error!r}")
                raise
        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        self.working.append(thread)

    def some_line(self):
        """A replica that nothing is done to now; one is always left alone."""
        busy = [it.replica for it in self.faults if it.replica and it.until is None]
        idle = [line for line in self.lines if line not in busy]
        return self.random.choice(idle) if len(idle) > 1 else None

    def kill(self):
        line, pause = self.some_line(), self.random.choice([0.0, self.random.uniform(0.0, 15.0)])
        if line:
            fault = self.begin("kill -9", line)
            line.kill()
            self.meanwhile(self.start_again, line, fault, pause)

    def start_again(self, line, fault, pause):
        time.sleep(pause)
        line.start_until(time.time() + 60.0)
        self.end(fault)

    def stop(self):
        line = self.some_line()
        if line:
            fault = self.begin("SIGSTOP, then SIGCONT", line)
            line.child.send_signal(signal.SIGSTOP)
            long = 25.0 if self.seconds < 200 else self.random.choice([25.0, 60.0])
            self.meanwhile(self.go_on, line, fault, self.random.choice([2.0, 7.0, long, long]))

    def go_on(self, line, fault, pause):
        time.sleep(pause)
        line.child.send_signal(signal.SIGCONT)
        self.end(fault)

    def cut_off(self):
        line = self.some_line()
        if line:
            silent = self.random.random() < 0.5
            fault = self.begin("line cut, packets vanish" if silent else "link down", line)
            line.cut(silent)
            self.meanwhile(self.join, line, fault, self.random.uniform(5.0, 30.0))

    def join(self, line, fault, pause):
        time.sleep(pause)
        line.join()
        self.end(fault)

    def restart_database(self):
        if any(it.kind.startswith("database") and it.until is None for it in self.faults):
            return
        mode = self.random.choice(["fast", "immediate"])
        fault = self.begin(f"database restart, {mode}")
        self.meanwhile(self.bring_back, fault, mode, self.random.uniform(0.0, 6.0))

    def bring_back(self, fault, mode, pause):
        self.bench.database.stop(mode)
        time.sleep(pause)
        self.bench.database.start()
        self.end(fault)

    def end_connections(self):
        fault = self.begin("database ends all connections")
        self.bench.database.try_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pleo_proxy'")
        self.end(fault)

    def slow_tokens(self):
        self.events["slow token endpoint"] += 1
        self.bench.sandbox.set_faults(token_latency_before_ms=self.random.randrange(2000),
                                      token_latency_after_ms=self.random.randrange(3000))

    def quick_tokens(self):
        self.bench.sandbox.set_faults()

    # --- Logins that have ended.

    def look_after_accounts(self):
        """A login that is over is explained, counted and replaced, one at a time: that takes a while. False if there
        is none."""
        states = self.bench.states(self.idle_lines())
        over = {name: it for name, it in states.items() if it["state"] == "login_required"}
        now = time.time()
        if states:
            self.ended = {account: self.ended.get(account, now) for account in over}
        for account, state in over.items():
            if now - self.logged_in.get(account, 0.0) < NOTICED:
                continue
            sender = self.bench.sender(account, state["generation"] - 1)
            if not self.may_heal(sender, self.ended[account], now):
                self.replace(account, state, sender)
                return True
        return False

    def replace(self, account, state, sender):
        why = self.why_lost(sender) or "no reason"
        if why == "no reason":
            told = json.dumps(state)[:600]
            self.broken(f"{account}: its login was lost without a reason, sent by {sender}: {told}")
        self.lost[why] += 1
        self.login(account)
        self.logged_in[account] = time.time()

    def idle_lines(self):
        return [line for line in self.lines if not self.in_trouble(line, time.time(), slack=0.0)]

    def may_heal(self, sender, since, now):
        """The replica with the true tokens in hand may be stopped or cut off: it saves them when it is back."""
        if sender is None:
            return now - since < 5.0
        line, sent, epoch = sender
        if line.epoch != epoch:
            return False
        busy = [it for it in self.faults if it.replica is line and it.overlaps(sent, now)]
        back = [it.until for it in busy]
        return None in back or now - max([*back, since]) < HEALED

    def why_lost(self, sender):
        if sender is None:
            return None
        line, sent, epoch = sender
        if line.epoch != epoch:
            return "its process was killed with the new tokens in hand"
        cuts = [it for it in self.faults if it.replica is line and "cut" in it.kind or "down" in it.kind]
        if any(it.overlaps(sent - 1.0, sent + TOKEN_REQUEST) for it in cuts):
            return "its process was cut off before the answer came"
        return None

    def login(self, account):
        for line in self.random.sample(self.idle_lines(), len(self.idle_lines())):
            try:
                if self.bench.login(line, account):
                    self.logins += 1
                    return
            except (OSError, http.client.HTTPException, Failure) as error:
                print(f"  login of {account} failed at replica {line.number}: {error!r}", file=sys.stderr)

    # --- The run.

    def run(self):
        self.began = time.time()
        self.bench.start()
        for account in self.accounts:
            self.login(account)
        if self.logins != len(self.accounts):
            raise Failure(f"only {self.logins} of the first logins succeeded")
        self.wait_for_all(60.0)
        self.callers = [Caller(self, line, number) for line in self.lines for number in range(LOADERS)]
        for caller in self.callers:
            caller.start()
        time.sleep(3.0)
        self.tell("all accounts are connected, callers call")
        self.since = time.time()
        acts = [self.kill, self.stop, self.cut_off, self.restart_database, self.end_connections, self.slow_tokens,
                self.quick_tokens]
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            self.random.choices(acts, [4, 3, 3, 2, 1, 3, 3])[0]()
            until = time.monotonic() + self.random.uniform(0.5, 6.0)
            while time.monotonic() < until:
                self.look_after_accounts()
                time.sleep(0.2)

    def recover(self):
        """With nothing wrong any more, every account serves at every replica again, and goes on to."""
        self.tell("no more faults")
        for thread in self.working:
            thread.join(120.0)
        self.bench.sandbox.set_faults()
        self.recovered = time.time()
        self.wait_for_all(RECOVERY)
        self.recovered = time.time() - self.recovered
        self.tell("all accounts serve at all replicas")
        time.sleep(2.0)
        self.quiet_since = time.time()
        time.sleep(QUIET)

    def wait_for_all(self, patience):
        """Until all of them have served one after the other, and no claim of a dead replica can be left."""
        end, missing = time.monotonic() + patience, True
        while (missing or self.may_be_claimed()) and time.monotonic() < end:
            while self.look_after_accounts():
                pass
            missing = {}
            for account in self.accounts:
                for line in self.lines:
                    status, said = self.bench.ask(line, account)
                    if status != 200:
                        missing[line.number, account] = said
            time.sleep(0.2)
        for (number, account), said in (missing or {}).items():
            self.broken(f"{account} does not serve at replica {number}: {said}")

    def may_be_claimed(self):
        return any(time.time() - (it.until or 0.0) < CLAIM for it in self.faults)

    def finish(self):
        self.over.set()
        for caller in self.callers:
            caller.join(CALLER_PATIENCE + 10)
            if caller.is_alive():
                self.broken("a caller hangs")
        self.problems += self.bench.leaks()


def report(run):
    """The table; true if all is well."""
    counters, sends = run.bench.sandbox.counters(), run.bench.sends()
    replays, lost = counters["refresh_replays"], counters["lost_replays"]
    again = sum(len(it) - 1 for it in sends.values())
    took = time.time() - run.since
    rows = [("seconds", f"{took:.0f}"), ("seed", run.seed), ("clock of replica 3", run.bench.clock_said),
            ("faults", sum(run.events.values()))]
    rows += [(f"  {event}", count) for event, count in sorted(run.events.items())]
    rows += [("answers", sum(run.answers.values()))]
    rows += [(f"  {kind}", count) for kind, count in sorted(run.answers.items())]
    rows += [
        ("longest time without a token at a replica left alone", f"{run.longest[0]:.1f} s {run.longest[1]}"),
        ("refreshes", counters["refreshes"]),
        ("  for each account and life of a token", f"{counters['refreshes'] / len(run.accounts) / (took / LIFE):.2f}"),
        ("token requests, logins included", counters["token_posts"]),
        ("refresh tokens sent", len(sends)), ("  sent again", again),
        ("replays (must be 0)", replays), ("  of them after a lost answer", lost),
        ("refused with invalid_grant", counters["invalid_grants"]),
        ("families revoked (must be 0)", counters["families_revoked"]),
        ("families superseded by another login of the company", counters["families_superseded"]),
        ("requests with a superseded access token", counters["api_superseded"]),
        ("logins lost", sum(run.lost.values())),
    ]
    rows += [(f"  {why}", count) for why, count in sorted(run.lost.items())]
    rows += [("tokens saved over a tombstone or at last", run.bench.said("saved at last")),
             ("seconds until all served again", f"{run.recovered:.0f}")]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    problems = list(run.problems)
    if replays or counters["families_revoked"]:
        problems.append("a refresh token was sent again after it had been redeemed")
    for problem, count in collections.Counter(problems).most_common(40):
        print(f"FAULT: {problem}{f' ({count} times)' if count > 1 else ''}")
    print("replicas: " + (f"{len(problems)} faults were found" if problems else "no fault"), flush=True)
    return not problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--programs", required=True, help="the folder of PostgreSQL's programs")
    parser.add_argument("--binary", default="target/release/pleo-proxy")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--accounts", type=int, default=50)
    parser.add_argument("--keep", action="store_true", help="leave the folder with logs")
    arguments = parser.parse_args()
    for which in (signal.SIGTERM, signal.SIGINT):
        signal.signal(which, lambda *_: sys.exit(143))  # so that children and the folder go too
    folder = pathlib.Path(tempfile.mkdtemp(prefix="replicas-"))
    print(f"replicas: seed {arguments.seed}", flush=True)
    run, well = Run(arguments, folder), False
    try:
        run.run()
        run.recover()
        run.finish()
        well = report(run)
    finally:
        run.over.set()
        run.bench.close()
        if arguments.keep or not well:
            print(f"replicas: kept {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
