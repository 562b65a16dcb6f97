#!/usr/bin/env python3
"""The bench of replicas.py: a database, the fake Pleo, and replicas on lines that can be cut. It runs in namespaces
that replicas.sh makes, so nothing of it is left when it ends.

    replicas_bench.py --forward PORT...          (in the network of a replica: leads to the fake Pleo's)
"""

import asyncio
import collections
import ctypes
import datetime
import glob
import http.client
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.parse

HERE = "198.18.0.1"
SANDBOX, FILES, API, ADMIN = 8090, 8091, 8088, 8089
KEY = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
PASSWORD = "made-up"
LIFE_MS = 2000
LONG = 200  # seconds
CLONE_NEWNET = 0x40000000
# In a log, between two lives of a replica.
KILLED = "killed"
ENTRY = re.compile(r"(?P<time>\S+Z) +[A-Z]+ (?P<message>.*?)(?P<fields>( \w+=\S+)*)$")
FIELD = re.compile(r"(\w+)=(\S+)")
OPENSSL = """
[ca]
default_ca = here
[here]
database = index
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = policy
[policy]
commonName = supplied
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign
[server]
basicConstraints = CA:false
extendedKeyUsage = serverAuth
subjectAltName = IP:198.18.0.1
"""
# A clock may be behind, so the certificates are valid from long ago.
VALID = ["-startdate", "20200101000000Z", "-enddate", "20991231000000Z"]


class Failure(Exception):
    """The run itself cannot go on."""


def run(*command, folder=None, given=None):
    done = subprocess.run(command, cwd=folder, input=given, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise Failure(f"{' '.join(map(str, command))}: {done.stderr[-500:]}")
    return done.stdout


class Connection(http.client.HTTPConnection):
    """From within a replica's network."""

    def __init__(self, line, port, timeout):
        super().__init__("127.0.0.1", port, timeout=timeout)
        self.line = line

    def connect(self):
        self.sock = self.line.socket()
        self.sock.settimeout(self.timeout)
        self.sock.connect((self.host, self.port))


def call(connection, target, data=None, headers=None):
    """Status, headers and body; redirects are not followed."""
    try:
        connection.request("GET" if data is None else "POST", target, body=data, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


class Database:
    """A PostgreSQL server that takes TLS alone from other machines."""

    def __init__(self, programs, folder):
        self.programs, self.folder, self.data = programs, folder, folder / "data"
        self.log = open(folder / "log", "ab")
        self.child = None
        shutil.chown(folder, "nobody")
        self.certify()
        run(*self.unprivileged("initdb"), "-D", str(self.data), "-A", "trust", "-U", "owner", "-N", "-E", "UTF8",
            "--locale=C", folder="/")
        rules = "local all all trust\nhostssl all pleo_proxy all scram-sha-256\n"
        (self.data / "pg_hba.conf").write_text(rules)

    def unprivileged(self, program):
        return ["setpriv", "--reuid", "nobody", "--clear-groups", "--", f"{self.programs}/{program}"]

    def certify(self):
        """An authority and a certificate of it; and an authority that nobody asked."""
        (self.folder / "openssl.cnf").write_text(OPENSSL)
        (self.folder / "index").touch()
        for name in ("authority", "server", "stranger"):
            run("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
                f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}", folder=self.folder)
            issuer = ["-cert", "authority.pem", "-keyfile", "authority.key", "-extensions", "server"]
            if name != "server":
                issuer = ["-selfsign", "-keyfile", f"{name}.key", "-extensions", "authority"]
            run("openssl", "ca", "-batch", "-notext", "-config", "openssl.cnf", "-in", f"{name}.csr", "-out",
                f"{name}.pem", *VALID, *issuer, folder=self.folder)
        for name in ("server.key", "server.pem"):
            shutil.chown(self.folder / name, "nobody")
        (self.folder / "server.key").chmod(0o600)

    def start(self):
        certificate = [f"ssl_cert_file={self.folder}/server.pem", f"ssl_key_file={self.folder}/server.key"]
        settings = [f"listen_addresses={HERE}", "ssl=on", "max_connections=100", *certificate]
        command = [*self.unprivileged("postgres"), "-D", str(self.data), "-k", str(self.folder)]
        for setting in settings:
            command += ["-c", setting]
        self.child = subprocess.Popen(command, cwd="/", stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        end = time.monotonic() + 60
        while self.try_sql("SELECT 1") is None:
            if time.monotonic() > end:
                raise Failure(f"PostgreSQL does not start: {(self.folder / 'log').read_text()[-800:]}")
            time.sleep(0.1)

    def stop(self, mode):
        self.child.send_signal({"fast": 2, "immediate": 3}[mode])
        self.child.wait(60)

    def psql(self, sql):
        command = [f"{self.programs}/psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "owner", "-d",
                   "postgres", "-h", str(self.folder)]
        return subprocess.run(command, input=sql, capture_output=True, text=True, timeout=60, check=False)

    def sql(self, sql):
        done = self.psql(sql)
        if done.returncode != 0:
            raise Failure(f"{sql[:200]}: {done.stderr[-500:]}")
        return done.stdout

    def try_sql(self, sql):
        done = self.psql(sql)
        return done.stdout if done.returncode == 0 else None

    def close(self):
        if self.child and self.child.poll() is None:
            self.stop("immediate")


class Sandbox:
    """The fake Pleo, in a process of its own."""

    def __init__(self, binary, folder):
        command = [binary, "--json", "sandbox", "--listen", f"0.0.0.0:{SANDBOX}", "--files", f"0.0.0.0:{FILES}",
                   "--auto-consent", "--rate-limit", "0", "--access-life-ms", str(LIFE_MS)]
        self.log = open(folder / "sandbox.log", "wb")
        environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(folder)}
        self.child = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=self.log)
        self.ready = json.loads(self.child.stdout.readline() or b"null")
        if not self.ready:
            raise Failure("the sandbox did not start")

    def call(self, target, data=None, headers=None):
        return call(http.client.HTTPConnection("127.0.0.1", SANDBOX, timeout=20), target, data, headers)

    def control(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        status, _, answer = self.call(path, data, {"X-Sandbox-Control": "1"})
        if status >= 300:
            raise Failure(f"{path}: {status} {answer[:200]!r}")
        return json.loads(answer) if answer else None

    def counters(self):
        return self.control("/sandbox/counters")

    def set_faults(self, **faults):
        self.control("/sandbox/faults", {"access_life_ms": LIFE_MS, **faults})

    def close(self):
        self.child.kill()
        self.child.wait()


class Line:
    """A replica and its network: a link to a bridge, on which database and fake Pleo are."""

    def __init__(self, number, binary, folder, config, skew):
        self.number, self.binary, self.folder, self.skew = number, binary, folder / f"replica{number}", skew
        self.epoch, self.child, self.starts = 0, None, []
        self.link = f"line{number}"
        self.folder.mkdir()
        for name, content in config.items():
            (self.folder / name).write_text(content)
            (self.folder / name).chmod(0o600)
        self.lay()

    def lay(self):
        command = ["unshare", "--net", sys.executable, __file__, "--forward", str(SANDBOX), str(FILES)]
        self.forwarder = subprocess.Popen(command, stdout=subprocess.PIPE)
        if self.forwarder.stdout.readline() != b"ready\n":
            raise Failure("no network for a replica")
        pid = str(self.forwarder.pid)
        self.network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", pid)
        run("ip", "link", "set", self.link, "master", "bridge", "up")
        run(*self.inside(), "ip", "address", "add", f"198.18.0.{10 + self.number}/24", "dev", "eth0")
        run(*self.inside(), "ip", "link", "set", "eth0", "up")

    def __repr__(self):
        return f"replica {self.number}"

    def inside(self):
        return ["nsenter", "-t", str(self.forwarder.pid), "-n", "--"]

    def socket(self):
        """One that belongs to this network, whatever the thread's is."""
        enter = ctypes.CDLL(None, use_errno=True).setns
        home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
        try:
            if enter(self.network, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            try:
                return socket.socket()
            finally:
                enter(home, CLONE_NEWNET)
        finally:
            os.close(home)

    def connection(self, timeout, port=API):
        return Connection(self, port, timeout)

    def admin(self, target, data=None):
        key = (self.folder / "state" / "sandbox" / "admin.key").read_text().strip()
        return call(self.connection(20.0, ADMIN), target, data, {"Authorization": f"Bearer {key}"})

    def environment(self):
        variables = {"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder),
                     "PLEO_PROXY_CLIENT_SECRET": "sandbox-secret"}
        if self.skew:
            variables |= {"LD_PRELOAD": faketime(), "FAKETIME": f"{self.skew:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                          "DONT_FAKE_MONOTONIC": "1"}
        return variables

    def start(self, *arguments):
        """True if it is ready."""
        # `nsenter` is not what is asked for another time.
        command = [*self.inside(), self.binary, "--json", "--log", "info", *arguments]
        with open(self.folder / "log", "ab") as log:
            self.child = subprocess.Popen(command, cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL,
                                          stdout=subprocess.PIPE, stderr=log)
        return bool(self.child.stdout.readline())

    def start_until(self, end):
        """The database may be away, or the line cut."""
        while not self.start():
            self.child.wait()
            if time.time() > end:
                raise Failure(f"replica {self.number} does not start: {(self.folder / 'log').read_text()[-800:]}")
            time.sleep(0.3)

    def kill(self):
        self.child.kill()
        self.child.wait()
        self.epoch += 1
        with open(self.folder / "log", "a", encoding="utf-8") as log:
            log.write(f"\n{KILLED}\n")

    def cut(self, silent):
        where = ["nomaster"] if silent else ["down"]
        run("ip", "link", "set", self.link, *where)

    def join(self):
        run("ip", "link", "set", self.link, "master", "bridge", "up")

    def close(self):
        if self.child and self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        self.forwarder.kill()
        self.forwarder.wait()


class Bench:
    """All of it."""

    def __init__(self, arguments, folder, skew):
        self.folder, self.binary = folder, os.path.realpath(arguments.binary)
        folder.chmod(0o755)
        (folder / "database").mkdir()
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "bridge", "type", "bridge")
        run("ip", "address", "add", f"{HERE}/24", "dev", "bridge")
        run("ip", "link", "set", "bridge", "up")
        self.database = Database(arguments.programs, folder / "database")
        self.database.start()
        self.database.sql(run(self.binary, "store", "sql"))
        self.database.sql(f"ALTER ROLE pleo_proxy PASSWORD '{PASSWORD}'")
        self.sandbox = Sandbox(self.binary, folder)
        # Of tokens that live 2 s, a clock that is minutes off leaves a replica none that it takes for a fresh one: in a
        # short run that is most of what one sees.
        if not faketime():
            self.clock_said, skew = "right (there is no libfaketime, Debian package faketime)", 0
        elif arguments.seconds < LONG:
            self.clock_said, skew = f"right (runs from {LONG} s on have one that is 5 minutes off)", 0
        else:
            self.clock_said = f"{skew:+d} s"
        skews = [0, 0, skew]
        self.lines = [Line(number, self.binary, folder, self.config(), off) for number, off in enumerate(skews, 1)]
        self.read = {line: [0, 0] for line in self.lines}  # how much of a log, and of which process
        self.sent = collections.defaultdict(list)
        self.counted = collections.Counter()

    def config(self):
        ready, trusted = self.sandbox.ready, self.folder / "database" / "authority.pem"
        text = "\n".join([
            'environment = "sandbox"', "[listen]", f'api = "127.0.0.1:{API}"', f'admin = "127.0.0.1:{ADMIN}"',
            "[client]", 'id = "sandbox-client"', 'scopes = ["companies:read"]', "[tokens]", 'hold = "5s"',
            "[endpoints]", f'authorize = "{ready["authorize"]}"', f'token = "{ready["token"]}"',
            f'introspect = "{ready["introspect"]}"', f'api = "{ready["api"]}"', "[store]", 'path = "state"',
            'kind = "postgres"', 'url_file = "database-url"', 'key_file = "store-key"', f'ca_file = "{trusted}"', ""])
        url = f"postgresql://pleo_proxy:{PASSWORD}@{HERE}/postgres"
        return {"proxy.toml": text, "database-url": url, "store-key": KEY}

    def start(self):
        stranger = f"store.ca_file={self.folder}/database/stranger.pem"
        if self.lines[0].start("--set", stranger):
            raise Failure("a database whose certificate comes from a stranger was taken")
        self.lines[0].child.wait()
        for line in self.lines:
            line.start_until(time.time() + 60.0)

    def login(self, line, account):
        """True if it is connected then, always as the same company."""
        number = int(account.rsplit("-", 1)[1])
        self.sandbox.control("/sandbox/subject", {"subject": f"urn:pleo:company:c0a1e5ce-0000-4000-8000-{number:012}"})
        status, _, body = line.admin(f"/api/accounts/{account}/login", b"")
        if status != 200:
            return False
        begin = urllib.parse.urlsplit(json.loads(body)["authorize_url"])
        _, headers, _ = self.sandbox.call(f"{begin.path}?{begin.query}")
        back = urllib.parse.urlsplit(headers["location"])
        status, _, _ = call(line.connection(90.0, ADMIN), f"{back.path}?{back.query}")
        return status == 200

    def ask(self, line, account):
        try:
            status, headers, _ = call(line.connection(30.0), f"/@{account}/v1/companies")
        except (OSError, http.client.HTTPException) as error:
            return 0, repr(error)
        return status, f"{status} {headers.get('pleo-proxy-error')}"

    def states(self, lines):
        """What a replica knows of the accounts; nothing if none answers."""
        for line in lines:
            try:
                status, _, body = line.admin("/api/status")
            except (OSError, http.client.HTTPException):
                continue
            if status == 200:
                return {it["account"]: it for it in json.loads(body)["accounts"]}
        return {}

    # --- What the logs say.

    def read_logs(self):
        for line in self.lines:
            at, epoch = self.read[line]
            with open(line.folder / "log", "rb") as log:
                log.seek(at)
                text = log.read()
            whole = text[:text.rfind(b"\n") + 1]
            for entry in whole.decode().splitlines():
                epoch += entry == KILLED
                self.learn(line, epoch, entry)
            self.read[line] = [at + len(whole), epoch]

    def learn(self, line, epoch, entry):
        found = ENTRY.match(entry)
        if not found:
            return
        self.counted[found["message"]] += 1
        if found["message"] == "refresh sent":
            fields = dict(FIELD.findall(found["fields"]))
            pair = fields["account"], int(fields["generation"])
            self.sent[pair].append((line, when(found["time"]) - line.skew, epoch))

    def sender(self, account, generation):
        """Who sent that pair's token last, when, and in which of its lives."""
        self.read_logs()
        return (self.sent.get((account, generation)) or [None])[-1]

    def sends(self):
        self.read_logs()
        return self.sent

    def said(self, message):
        return self.counted[message]

    def leaks(self):
        """Tokens and the password are in no log, and no token is plain in the database."""
        found = []
        for line in self.lines:
            text = (line.folder / "log").read_bytes()
            if b"sbx-" in text or PASSWORD.encode() in text:
                found.append(f"the log of replica {line.number} holds a secret")
        if self.database.sql("SELECT count(*) FROM pleo_proxy.account "
                             "WHERE position('sbx-'::bytea IN record) > 0").strip() != "0":
            found.append("the database holds a plain token")
        return found

    def close(self):
        for it in (*self.lines, self.sandbox, self.database):
            it.close()


def when(written):
    """In seconds since 1970."""
    return datetime.datetime.fromisoformat(written.replace("Z", "+00:00")).timestamp()


def faketime():
    return (glob.glob("/usr/lib/*/faketime/libfaketime.so.1") or [""])[0]


# --- In the network of a replica.


async def forward(port):
    """Leads from a port here to the same one beside the bridge; a connection that is reset here is reset there."""
    kept = set()

    async def serve(reader, writer):
        kept.add(asyncio.current_task())
        asyncio.current_task().add_done_callback(kept.discard)
        try:
            far_reader, far_writer = await asyncio.open_connection(HERE, port)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        for end in (writer, far_writer):
            end.close()
    return await asyncio.start_server(serve, "127.0.0.1", port, backlog=1000)


async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        linger = struct.pack("ii", 1, 0)
        peer = writer.get_extra_info("socket")
        if peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()


async def forward_all(ports):
    run("ip", "link", "set", "lo", "up")
    servers = [await forward(port) for port in ports]
    print("ready", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(forward_all([int(port) for port in sys.argv[2:]]))
