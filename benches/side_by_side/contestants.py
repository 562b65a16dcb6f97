"""The upstream and those who compete before it. Each contestant has `name`, `port`, `pid` and `close`."""

import http.client
import json
import os
import pathlib
import shutil
import subprocess
import time
import urllib.parse

import records
from machine import Failure, Process, free_port

HERE = pathlib.Path(__file__).parent
# As long as the sandbox's own tokens, so that everybody carries about the same bytes.
TOKEN = "x" * 50
LARGE = 64 * 1024 * 1024
DAY_MS = 86_400_000


def find(program):
    """Servers are in sbin, which is not on everybody's PATH."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def fill(name, folder, **values):
    """A configuration of this folder with its @NAMES@ replaced; returns where it is."""
    text = (HERE / name).read_text()
    for key, value in {"FOLDER": folder, **values}.items():
        text = text.replace(f"@{key}@", str(value))
    place = folder / name
    place.write_text(text)
    return place


def call(url, method="GET", headers=None):
    """Status, headers and body; redirects are not followed."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    try:
        target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
        connection.request(method, target, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


class Upstream:
    """nginx over TLS 1.3, with a private authority's certificate."""

    name = "upstream"

    def __init__(self, folder, cores):
        self.folder, self.port = folder, free_port()
        certify(folder)
        files = folder / "files"
        files.mkdir()
        (files / "small.json").write_text(json.dumps({"data": "x" * 1013}))
        with open(files / "large.bin", "wb") as large:
            large.write(os.urandom(1024 * 1024) * (LARGE // 1024 // 1024))
        # nginx may give its rights up, and must still read these.
        folder.chmod(0o755)
        config = fill("upstream.nginx.conf", folder, PORT=self.port)
        self.process = Process([find("nginx"), "-c", config], cores.upstream, folder / "upstream.log")
        self.process.wait_for_port(self.port)

    def close(self):
        self.process.close()


def certify(folder):
    """An authority and its certificate for localhost, good for two days."""
    def openssl(*arguments):
        done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, cwd=folder)
        if done.returncode:
            raise Failure(f"openssl: {done.stderr.decode()[-500:]}")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", 2, "-subj", "/CN=bench authority",
            "-addext", "keyUsage=critical,keyCertSign", "-addext", "basicConstraints=critical,CA:TRUE")
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "server.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out",
            "server.pem", "-days", 2, "-extfile", "server.ext")


class Ours:
    """pleo-proxy, connected by the code flow to a sandbox, in front of the same upstream as everybody."""

    def __init__(self, binary, folder, cores, upstream, life_ms=DAY_MS, accounts=0, name="pleo-proxy"):
        self.name, self.folder = name, folder / name
        self.folder.mkdir(exist_ok=True)
        self.environment = {
            "PATH": os.environ.get("PATH", ""), "HOME": str(self.folder), "PLEO_PROXY_CLIENT_SECRET": "sandbox-secret"}
        self.processes = []
        try:
            self.start(pathlib.Path(binary).resolve(), cores, upstream, life_ms, accounts)
        except BaseException:
            self.close()
            raise

    def start(self, binary, cores, upstream, life_ms, accounts):
        sandbox, ready = self.run(
            [binary, "--json", "sandbox", "--listen", "127.0.0.1:0", "--files", "127.0.0.1:0", "--auto-consent",
             "--rate-limit", "0", "--access-life-ms", life_ms], cores.upstream, "sandbox.log")
        self.sandbox_api = ready["api"]
        self.configure(ready, upstream)
        if accounts:
            records.write(self.folder / "state/sandbox", accounts, ready["token"], self.api_origin)
        begun = time.monotonic()
        proxy, ready = self.run([binary, "--json", "--log", "warn"], cores.proxy, "proxy.log")
        self.start_seconds = time.monotonic() - begun
        self.pid, self.admin = proxy.pid, ready["admin"]
        self.port = urllib.parse.urlsplit(ready["api"]).port
        if not accounts:
            self.login()

    def run(self, command, cores, log):
        """Starts a process and waits for the line in which it says that it is ready."""
        process = Process(command, cores, self.folder / log, cwd=self.folder, env=self.environment,
                          stdout=subprocess.PIPE)
        self.processes.append(process)
        line = process.child.stdout.readline()
        if not line:
            raise Failure(f"{self.name} does not start: {process.log.read_text()[-800:]}")
        return process, json.loads(line)

    def configure(self, sandbox, upstream):
        self.api_origin = f"https://127.0.0.1:{upstream.port}"
        config = self.folder / "proxy.toml"
        config.write_text(f"""environment = "sandbox"
[listen]
api = "127.0.0.1:0"
admin = "127.0.0.1:0"
max_connections = 12000
[client]
id = "sandbox-client"
scopes = ["companies:read"]
[endpoints]
authorize = "{sandbox["authorize"]}"
token = "{sandbox["token"]}"
introspect = "{sandbox["introspect"]}"
api = "{self.api_origin}"
ca_file = "{upstream.folder}/ca.pem"
[store]
path = "state"
""")
        config.chmod(0o600)

    def login(self):
        key = next(self.folder.glob("state/**/admin.key")).read_text().strip()
        status, _, body = call(f"{self.admin}/api/accounts/default/login", "POST", {"Authorization": f"Bearer {key}"})
        if status >= 300:
            raise Failure(f"the login does not begin: {status} {body[:300]!r}")
        _, headers, _ = call(json.loads(body)["authorize_url"])
        status, _, body = call(headers["Location"])
        if status != 200:
            raise Failure(f"the login does not end: {status} {body[:300]!r}")

    def close(self):
        for process in reversed(self.processes):
            process.close()


class Rival:
    """Another proxy, by a configuration of this folder."""

    def __init__(self, name, config, arguments, folder, cores, upstream):
        self.name, self.port = name, free_port()
        values = {"PORT": self.port, "UPSTREAM": upstream.port, "TOKEN": TOKEN}
        place = fill(config, folder, **values)
        command = [find(name), *(each.format(config=place, port=self.port) for each in arguments)]
        self.process = Process(command, cores.proxy, folder / f"{name}.log")
        self.process.wait_for_port(self.port)
        self.pid, self.close = self.process.pid, self.process.close


RIVALS = {
    "nginx": ("nginx.conf", ["-c", "{config}"]),
    "haproxy": ("haproxy.cfg", ["-f", "{config}"]),
    "envoy": ("envoy.yaml", ["-c", "{config}", "--concurrency", "1", "--disable-hot-restart", "-l", "error"]),
    "kubectl": ("kubectl.yaml", ["proxy", "--kubeconfig", "{config}", "--port", "{port}"]),
}


def lineup(binary, against, folder, cores, upstream, wanted):
    """Starts all contestants that are wanted, in the order of the report: ours first, then another build of it."""
    started = []
    try:
        if "pleo-proxy" in wanted:
            started.append(Ours(binary, folder, cores, upstream))
        if against:
            started.append(Ours(against, folder, cores, upstream, name="other build"))
        for name in [name for name in RIVALS if name in wanted]:
            started.append(Rival(name, *RIVALS[name], folder, cores, upstream))
        for contestant in started:
            contestant.tls = negotiated(contestant)
        return started
    except BaseException:
        for contestant in started:
            contestant.close()
        raise


def negotiated(contestant):
    """TLS version and cipher between a contestant and the upstream; also shows that its token arrives."""
    status, _, body = call(f"http://127.0.0.1:{contestant.port}/tls")
    if status != 200:
        raise Failure(f"{contestant.name} does not forward: {status} {body[:300]!r}")
    return json.loads(body)["tls"]
