#!/usr/bin/env python3
"""Measures gateways side by side, in one run on one machine, in front of the same fast upstream.

    python3 benches/run.py              about five minutes
    python3 benches/run.py --quick      under a minute, rougher
    python3 benches/run.py --json       figures for programs on stdout, progress on stderr

Targets, each measured in turn in every round; the median of the rounds is reported:

    direct      no gateway at all: the ceiling, and the latency that is subtracted from the others'
    nginx       plain nginx as a proxy, which checks nothing
    reference   `claude gateway` of the npm package @anthropic-ai/claude-code-linux-x64, on PostgreSQL
    sallyport   target/release/sallyport, on SQLite; `sallyport-pg` is the same on PostgreSQL

A target whose program is missing is left out, with a line that says how to get it; one that fails is left out as well,
and the exit code is 1. Everything listens on loopback;
every process this starts is ended by its own id, and all files live in one temporary directory.
docs/performance.md says what each figure means.
"""

import argparse
import base64
import hashlib
import hmac
import http.client
import http.server
import json
import os
import platform
import re
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = "claude-haiku-4-5-20251001"
API_KEY = "placeholder-upstream-key"
DELTAS = 200
LARGE_BODY_BYTES = 300 * 1024
START_SECONDS = 30


class Unavailable(Exception):
    """A target that cannot be measured here, and what would change that."""


class Failed(Exception):
    """A target that does not start, answers wrongly, or breaks down under load."""


# --- the measurements ------------------------------------------------------------------------------------------------


@dataclass
class Load:
    """One way to press on a target."""

    name: str
    connections: int
    query: str = ""
    rate: int | None = None
    is_large: bool = False
    deltas: int = 0


LOADS = [
    Load("small", connections=32),
    Load("rate", connections=32, rate=200),
    Load("streams", connections=32, query=f"?deltas={DELTAS}", deltas=DELTAS),
    Load("calm", connections=8, query="?deltas=20&pause_ms=20", deltas=20),
    Load("paced", connections=128, query=f"?deltas={DELTAS}&pause_ms=1", deltas=DELTAS),
    Load("large", connections=32, is_large=True),
]

# What is printed: key, title, unit, whether more is better, digits after the point.
ROWS = [
    ("small_rps", "small requests, 32 connections", "req/s", True, 0),
    ("small_cpu_us", "CPU time per small request", "µs", False, 0),
    ("rate_p50_ms", "latency at 200 req/s, p50", "ms", False, 2),
    ("rate_p99_ms", "latency at 200 req/s, p99", "ms", False, 2),
    ("added_p50_ms", "added latency, p50", "ms", False, 2),
    ("added_p99_ms", "added latency, p99", "ms", False, 2),
    ("added_first_byte_ms", "added time to the first byte of a calm stream, p50", "ms", False, 2),
    ("added_stream_ms", "added time of a whole calm stream, p50", "ms", False, 2),
    ("streams_rps", "200-delta streams, 32 connections", "streams/s", True, 0),
    ("paced_rps", "200-delta streams, 1 ms apart, 128 connections", "streams/s", True, 0),
    ("paced_cpu_us", "CPU time per stream of these", "µs", False, 0),
    ("large_rps", "300 KiB bodies, 32 connections", "req/s", True, 0),
    ("idle_mib", "resident memory, idle", "MiB", False, 1),
    ("load_mib", "resident memory, largest under load", "MiB", False, 1),
    ("start_ms", "process start to first 200 on /readyz", "ms", False, 0),
]

# What a target adds to the direct figure of the same round.
ADDED = {
    "added_p50_ms": "rate_p50_ms",
    "added_p99_ms": "rate_p99_ms",
    "added_first_byte_ms": "calm_first_byte_p50_ms",
    "added_stream_ms": "calm_p50_ms",
}


def measure(target, bench):
    """One round of one target: start, idle memory, every load, memory under load, stop."""
    figures = {}
    target.start()
    try:
        figures["start_ms"] = target.wait_until_ready()
        check_answers(target, bench)
        time.sleep(0.3)
        figures["idle_mib"] = target.resident_mib()
        sampler = MemorySampler(target)
        run_load(LOADS[0], target, bench, bench.seconds / 3)  # Warm up.
        for load in LOADS:
            progress(f"  {target.name}: {load.name}")
            busy_before = target.cpu_seconds()
            result = run_load(load, target, bench, bench.seconds)
            busy = target.cpu_seconds() - busy_before
            figures |= {f"{load.name}_{key}": value for key, value in result.items()}
            figures[f"{load.name}_cpu_us"] = busy / result["requests"] * 1e6
        figures["load_mib"] = sampler.stop()
    finally:
        target.stop()
    if isinstance(target, Direct):  # It is not a process that one would run.
        figures = {key: value for key, value in figures.items() if not key.endswith(("_mib", "_cpu_us", "start_ms"))}
    return figures


def check_answers(target, bench):
    """Refuses to measure error pages: a target must give the upstream's own answers."""
    for load in LOADS:
        status, answer = post(target.port, "/v1/messages" + load.query.split("&")[0], bench.token, bench.body(load))
        is_whole = answer.count(b"event: content_block_delta\n") == load.deltas and b"message_stop" in answer
        is_right = is_whole if load.deltas else b"Hello from the stand-in." in answer
        if status != 200 or not is_right:
            raise Failed(f"{target.name} answers {load.name} with {status}: {answer[:300]!r}\n{target.log_tail()}")
    if target.checks_sessions:
        status, _ = post(target.port, "/v1/messages", bench.token[:-4] + "AAAA", bench.small_body)
        if status != 401:
            raise Failed(f"{target.name} answers a forged session with {status}, not with 401")


def run_load(load, target, bench, seconds):
    command = [bench.oha, "--no-tui", "--output-format", "json", "-w", "-z", f"{seconds:.1f}s"]
    command += ["-c", str(load.connections), "-m", "POST", "-D", bench.body_path(load)]
    command += ["-H", f"authorization: Bearer {bench.token}", "-H", "anthropic-version: 2023-06-01"]
    command += ["-H", "content-type: application/json"]
    if load.rate:
        command += ["-q", str(load.rate), "--latency-correction"]
    command.append(f"http://127.0.0.1:{target.port}/v1/messages{load.query}")
    output = subprocess.run(command, capture_output=True, check=True, timeout=seconds + 60).stdout
    report = json.loads(output)
    statuses = report["statusCodeDistribution"]
    answered = sum(statuses.values())
    if report["errorDistribution"] or set(statuses) != {"200"}:
        raise Failed(
            f"{target.name} under {load.name}: {statuses} {report['errorDistribution']}\n{target.log_tail()}"
        )
    percentiles = report["latencyPercentiles"]
    return {
        "requests": answered,
        "rps": report["summary"]["requestsPerSec"],
        "p50_ms": percentiles["p50"] * 1000,
        "p99_ms": percentiles["p99"] * 1000,
        "first_byte_p50_ms": report["firstBytePercentiles"]["p50"] * 1000,
    }


# --- the targets -----------------------------------------------------------------------------------------------------


class Target:
    """A gateway that can be started, judged and stopped again. `prepare` runs once, before the first round."""

    name = ""
    checks_sessions = True

    def __init__(self, bench):
        self.bench = bench
        self.port = free_port()
        self.directory = bench.directory / self.name
        self.directory.mkdir()
        self.log = self.directory / "log"
        self.process = None

    def prepare(self):
        """Raises `Unavailable` when the program is missing."""

    def command(self):
        """The program with its arguments, and its environment."""
        raise NotImplementedError

    def start(self):
        command, environment = self.command()
        with open(self.log, "ab") as log:
            self.started = time.perf_counter()
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory
            )

    def wait_until_ready(self):
        """Milliseconds from the start of the process to the first 200 on /readyz."""
        deadline = self.started + START_SECONDS
        while time.perf_counter() < deadline:
            if self.process.poll() is not None:
                raise Failed(f"{self.name} ended at once\n{self.log_tail()}")
            if is_ready(self.port):
                return (time.perf_counter() - self.started) * 1000
            time.sleep(0.001)
        raise Failed(f"{self.name} is not ready after {START_SECONDS} s\n{self.log_tail()}")

    def stop(self):
        end(self.process)

    def processes(self):
        return with_children(self.process.pid)

    def resident_mib(self):
        """Proportional set size: pages shared between the processes of a target count once."""
        return sum(proportional_bytes(pid) for pid in self.processes()) / 2**20

    def cpu_seconds(self):
        return sum(cpu_ticks(pid) for pid in self.processes()) / os.sysconf("SC_CLK_TCK")

    def log_tail(self):
        try:
            return self.log.read_text(errors="replace")[-2000:]
        except OSError:
            return ""


class Direct(Target):
    name = "direct"
    checks_sessions = False

    def __init__(self, bench):
        super().__init__(bench)
        self.port = bench.upstream_port
        self.process = bench.upstream

    def start(self):
        self.started = time.perf_counter()

    def wait_until_ready(self):
        return 0.0

    def stop(self):
        pass


class Nginx(Target):
    name = "nginx"
    checks_sessions = False

    def prepare(self):
        self.program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        if not self.program:
            raise Unavailable("install it (Debian package nginx)")
        user = "user root;" if os.geteuid() == 0 else ""
        (self.directory / "nginx.conf").write_text(f"""
daemon off; {user}
worker_processes auto;
pid {self.directory}/pid;
error_log {self.log} warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {self.directory}/body;
    proxy_temp_path {self.directory}/proxy;
    fastcgi_temp_path {self.directory}/fastcgi;
    uwsgi_temp_path {self.directory}/uwsgi;
    scgi_temp_path {self.directory}/scgi;
    keepalive_requests 1000000000;
    client_max_body_size 32m;
    upstream stand_in {{
        server 127.0.0.1:{self.bench.upstream_port};
        keepalive 256;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{self.port};
        location = /readyz {{ return 200 "ready"; }}
        location / {{
            proxy_pass http://stand_in;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header x-api-key {API_KEY};
            proxy_buffering off;
            proxy_request_buffering off;
        }}
    }}
}}
""")

    def command(self):
        return [self.program, "-c", self.directory / "nginx.conf", "-p", self.directory], dict(os.environ)


class Gateway(Target):
    """What our host and the reference have in common: the configuration."""

    needs_postgres = False

    def write_config(self):
        postgres_url = json.dumps(self.bench.postgres_url(self.name)) if self.needs_postgres else None
        self.config = self.directory / "gateway.yaml"
        self.config.write_text(f"""
listen:
  host: 127.0.0.1
  port: {self.port}
  public_url: {self.bench.public_url}
oidc:
  issuer: {self.bench.issuer}
  client_id: bench
  client_secret: placeholder-client-secret
session:
  jwt_secret: {self.bench.session_secret}
store: {f"{{postgres_url: {postgres_url}}}" if postgres_url else "{}"}
upstreams:
  - provider: anthropic
    base_url: http://127.0.0.1:{self.bench.upstream_port}
    auth:
      api_key: {API_KEY}
managed:
  policies:
    - match: {{}}
      cli:
        availableModels: [haiku, sonnet, opus]
{"admin: {}" if self.bench.options.metered else ""}
""")

    def environment(self):
        """An empty one, so that nothing of the caller's decides how a gateway behaves."""
        return {
            "CLAUDE_GATEWAY_ALLOW_LOOPBACK": "1",
            "HOME": str(self.directory),
            "PATH": "/usr/local/bin:/usr/bin:/bin",
        }


class Reference(Gateway):
    name = "reference"
    needs_postgres = True

    def prepare(self):
        self.program = self.bench.options.reference or find_reference()
        if not self.program:
            raise Unavailable(
                "`npm install @anthropic-ai/claude-code-linux-x64`, then name its binary with --reference PATH"
            )
        self.write_config()

    def command(self):
        return [self.program, "gateway", "--config", self.config], self.environment()


class Sallyport(Gateway):
    name = "sallyport"

    def prepare(self):
        self.program = Path(self.bench.options.sallyport or ROOT / "target/release/sallyport")
        if not self.program.is_file():
            raise Unavailable("`cargo build --release -p sallyport-host`, or name a binary with --sallyport PATH")
        self.write_config()

    def command(self):
        command = [self.program, "serve", "--config", self.config, "--state-dir", self.directory / "state"]
        return command, self.environment()


class SallyportOnPostgres(Sallyport):
    name = "sallyport-pg"
    needs_postgres = True


TARGETS = {target.name: target for target in (Direct, Nginx, Reference, Sallyport, SallyportOnPostgres)}


def find_reference():
    candidates = [ROOT / "node_modules", ROOT / "benches/node_modules"]
    npm = shutil.which("npm")
    if npm:
        root = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, check=False).stdout.strip()
        candidates += [Path(root)] if root else []
    for modules in candidates:
        program = modules / "@anthropic-ai/claude-code-linux-x64/claude"
        if program.is_file():
            return program
    return None


# --- what stands around them -----------------------------------------------------------------------------------------


@dataclass
class Bench:
    """Everything that lives for the whole run: the upstream, the identity provider, the database, the session."""

    options: argparse.Namespace
    directory: Path
    seconds: float
    oha: str = ""
    issuer: str = ""
    upstream: subprocess.Popen | None = None
    upstream_port: int = 0
    postgres: subprocess.Popen | None = None
    postgres_port: int = 0
    session_secret: str = field(default_factory=lambda: secrets.token_hex(32))
    public_url: str = "http://gateway.example.com"

    def __enter__(self):
        self.oha = find_oha()
        self.issuer = start_identity_provider()
        self.start_upstream()
        self.token = session_token(self.session_secret, self.public_url)
        question = {"model": MODEL, "max_tokens": 64, "messages": [{"role": "user", "content": "Hello."}]}
        self.small_body = json.dumps(question).encode()
        question["messages"][0]["content"] = "x" * (LARGE_BODY_BYTES - len(self.small_body))
        question["stream"] = False
        self.large_body = json.dumps(question).encode()
        question["stream"], question["messages"][0]["content"] = True, "Hello."
        self.stream_body = json.dumps(question).encode()
        for name in ("small", "large", "stream"):
            (self.directory / f"{name}.json").write_bytes(getattr(self, f"{name}_body"))
        return self

    def __exit__(self, *_):
        end(self.upstream)
        end(self.postgres, signal.SIGINT)  # PostgreSQL's fast shutdown.

    def kind(self, load):
        return "large" if load.is_large else "stream" if load.deltas else "small"

    def body(self, load):
        return getattr(self, f"{self.kind(load)}_body")

    def body_path(self, load):
        return str(self.directory / f"{self.kind(load)}.json")

    def start_upstream(self):
        progress("building the upstream stand-in")
        subprocess.run(
            ["cargo", "build", "--quiet", "--release", "-p", "sallyport-benches"], cwd=ROOT, check=True, stdout=sys.stderr
        )
        program = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/stand-in"
        self.upstream = subprocess.Popen([program, "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
        self.upstream_port = int(self.upstream.stdout.readline().rsplit(":", 1)[1])

    def postgres_url(self, database):
        """The address of a new, empty database; the server is started for the first one."""
        if not self.postgres:
            self.start_postgres()
        database = database.replace("-", "_")
        client = ["-h", "127.0.0.1", "-p", str(self.postgres_port), "-U", "bench"]
        subprocess.run([find_postgres("createdb"), *client, database], check=True)
        return f"postgres://bench@127.0.0.1:{self.postgres_port}/{database}"

    def start_postgres(self):
        progress("starting PostgreSQL")
        data = self.directory / "postgres"
        data.mkdir()
        owner = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root.
            shutil.chown(data, "postgres")
            self.directory.chmod(0o755)
            owner = {"user": "postgres", "group": "postgres", "extra_groups": []}
        initdb = [find_postgres("initdb"), "-D", data / "data", "-U", "bench", "-A", "trust", "--no-sync"]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd=data, **owner)
        self.postgres_port = free_port()
        settings = ["listen_addresses=127.0.0.1", f"port={self.postgres_port}", f"unix_socket_directories={data}"]
        command = [find_postgres("postgres"), "-D", data / "data"]
        for setting in settings:
            command += ["-c", setting]
        with open(data / "log", "wb") as log:
            self.postgres = subprocess.Popen(command, stdout=log, stderr=log, cwd=data, **owner)
        ready = [find_postgres("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.postgres_port)]
        for _ in range(START_SECONDS * 10):
            if subprocess.run(ready, check=False).returncode == 0:
                return
            time.sleep(0.1)
        raise Failed("PostgreSQL does not start:\n" + (data / "log").read_text()[-2000:])


def find_oha():
    for candidate in (os.environ.get("OHA"), shutil.which("oha"), "/opt/oha/bin/oha"):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    sys.exit("run.py: oha is missing; `cargo install oha`, or name it with OHA=/path/to/oha")


def find_postgres(program):
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    for directory in reversed(versions):
        if (directory / program).is_file():
            return str(directory / program)
    found = shutil.which(program)
    if not found:
        raise Unavailable("it needs PostgreSQL (Debian package postgresql)")
    return found


def start_identity_provider():
    """What a gateway asks an identity provider for at its start: discovery and an empty key set. Nobody signs in."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/jwks":
                answer = {"keys": []}
            else:
                answer = {
                    "issuer": issuer,
                    "authorization_endpoint": f"{issuer}/authorize",
                    "token_endpoint": f"{issuer}/token",
                    "userinfo_endpoint": f"{issuer}/userinfo",
                    "jwks_uri": f"{issuer}/jwks",
                    "response_types_supported": ["code"],
                    "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": ["RS256"],
                }
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return issuer


def session_token(secret, public_url):
    """A session as the gateways mint it themselves (auth contract §7.1)."""
    now = int(time.time())
    header = {"alg": "HS256", "typ": "JWT", "kid": hashlib.sha256(secret.encode()).hexdigest()[:16]}
    claims = {
        "sub": "bench",
        "email": "bench@example.com",
        "name": "Bench",
        "groups": ["engineering"],
        "aud": "claude-gateway",
        "iss": public_url,
        "iat": now,
        "exp": now + 3600,
    }
    signed = ".".join(base64url(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
    return f"{signed}.{base64url(hmac.digest(secret.encode(), signed.encode(), 'sha256'))}"


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


# --- processes and sockets -------------------------------------------------------------------------------------------


class MemorySampler:
    """Keeps the largest memory of a target that is seen, looking twice a second."""

    def __init__(self, target):
        self.target, self.largest, self.is_over = target, 0.0, threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.is_over.wait(0.5):
            self.largest = max(self.largest, self.target.resident_mib())

    def stop(self):
        self.is_over.set()
        self.thread.join()
        return max(self.largest, self.target.resident_mib())


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def is_ready(port):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def post(port, path, token, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {
        "authorization": f"Bearer {token}",
        "anthropic-version": "2023-06-01",
        "content-type": "application/json",
    }
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


def end(process, first_signal=signal.SIGTERM):
    if process is None or process.poll() is not None:
        return
    process.send_signal(first_signal)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def with_children(pid):
    pids = [pid]
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in thread.read_text().split():
                pids += with_children(int(child))
        except OSError:
            pass
    return pids


def proportional_bytes(pid):
    try:
        return int(re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)[1]) * 1024
    except (OSError, TypeError):
        return 0


def cpu_ticks(pid):
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])  # utime and stime, proc(5).
    except OSError:
        return 0


# --- the report ------------------------------------------------------------------------------------------------------


def summarize(rounds):
    """Medians of each target, and what it adds to the latency of the same round's direct requests."""
    direct = rounds.get("direct", [])
    for name, target_rounds in rounds.items():
        if name != "direct":
            for figures, base in zip(target_rounds, direct):
                for added, key in ADDED.items():
                    figures[added] = figures[key] - base[key]
    return {
        name: {key: statistics.median(figures[key] for figures in target_rounds) for key in target_rounds[0]}
        for name, target_rounds in rounds.items()
    }


def ratio(figures, key, is_more_better, one, other):
    """How many times better `one` is than `other`; `None` where a figure is missing or within noise of zero."""
    mine, theirs = figures.get(one, {}).get(key), figures.get(other, {}).get(key)
    if mine is None or theirs is None or mine <= 0 or theirs <= 0:
        return None
    return mine / theirs if is_more_better else theirs / mine


def pairs(figures):
    """Which targets are compared: ours with both others, or else the reference with nginx."""
    ours = [name for name in ("sallyport", "sallyport-pg") if name in figures]
    wanted = [(one, other) for one in ours for other in ("reference", "nginx")] or [("nginx", "reference")]
    return [(one, other) for one, other in wanted if one in figures and other in figures]


def table(figures):
    compared = pairs(figures)
    header = ["", "unit", *figures, *(f"{one} : {other}" for one, other in compared)]
    lines = [header]
    for key, title, unit, is_more_better, digits in ROWS:
        line = [title, unit]
        for name in figures:
            value = figures[name].get(key)
            line.append("–" if value is None else f"{value:,.{digits}f}")
        for one, other in compared:
            value = ratio(figures, key, is_more_better, one, other)
            line.append("–" if value is None else f"{value:.1f}×")
        lines.append(line)
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    aligned = []
    for line in lines:
        cells = [text.ljust(width) if column < 2 else text.rjust(width) for column, (text, width) in enumerate(zip(line, widths))]
        aligned.append("| " + " | ".join(cells) + " |")
    rule = ["-" * width if column < 2 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    aligned.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join(aligned)


def machine():
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory),
        "kernel": platform.release(),
        "load_before": os.getloadavg()[0],
    }


def progress(text):
    print(f"[{time.perf_counter() - STARTED:5.0f} s] {text}", file=sys.stderr, flush=True)


def parse_options():
    parser = argparse.ArgumentParser(description="Measures gateways side by side; see docs/performance.md.")
    parser.add_argument("--quick", action="store_true", help="one short round, under a minute")
    parser.add_argument("--rounds", type=int, help="how often each target is measured (3; quick: 1)")
    parser.add_argument("--seconds", type=float, help="length of each load (4; quick: 1.5)")
    parser.add_argument("--targets", default="direct,nginx,reference,sallyport", help=f"some of {','.join(TARGETS)}")
    parser.add_argument("--metered", action="store_true", help="with `admin:`, so that both gateways meter what is spent")
    parser.add_argument("--sallyport", metavar="PATH", help="our binary (target/release/sallyport)")
    parser.add_argument("--reference", metavar="PATH", help="the reference's `claude` binary")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    for name in options.targets.split(","):
        if name not in TARGETS:
            parser.error(f"unknown target {name}")
    return options


def main():
    options = parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that what was started is ended.
    count = options.rounds or (1 if options.quick else 3)
    seconds = options.seconds or (1.5 if options.quick else 4.0)
    about = machine()
    with tempfile.TemporaryDirectory(prefix="sallyport-bench-") as directory:
        with Bench(options, Path(directory), seconds) as bench:
            rounds, missing = run_rounds(bench, options.targets.split(","), count)
    if not rounds:
        sys.exit("run.py: nothing could be measured")
    report(options, about, summarize(rounds), rounds, missing, seconds)
    if any(target["has_failed"] for target in missing.values()):
        sys.exit(1)


def report(options, about, figures, rounds, missing, seconds):
    if options.json:
        ratios = {
            f"{one}:{other}": {key: ratio(figures, key, is_more_better, one, other) for key, _, _, is_more_better, _ in ROWS}
            for one, other in pairs(figures)
        }
        result = {"machine": about, "rounds": rounds, "medians": figures, "ratios": ratios, "missing": missing}
        print(json.dumps({**result, "seconds_per_load": seconds}, indent=2))
        return
    print(table(figures))
    print(
        f"\nMedians of {len(next(iter(rounds.values())))} round(s), {seconds:g} s per load, on {about['processor']}, {about['cores']} cores, "
        f"{about['memory_gib']} GiB, Linux {about['kernel']}; load average before: {about['load_before']:.1f}.\n"
        "Ratios say how many times better the first one is."
    )


def run_rounds(bench, names, count):
    """The figures of every round of every target, and why the targets that are missing are missing."""
    targets, missing = [], {}
    rounds = {}

    def attempt(name, step):
        try:
            return step()
        except (Unavailable, Failed, subprocess.SubprocessError) as reason:
            missing[name] = {"reason": str(reason), "has_failed": not isinstance(reason, Unavailable)}
            rounds.pop(name, None)
            progress(f"without {name}: {reason}")
            return None

    for name in names:
        progress(f"first start of {name}")
        target = attempt(name, lambda name=name: first_start(TARGETS[name](bench)))
        if target:
            targets.append(target)
            rounds[name] = []
    for number in range(1, count + 1):
        for target in targets:
            if target.name not in missing:
                progress(f"round {number} of {count}: {target.name}")
                figures = attempt(target.name, lambda target=target: measure(target, bench))
                rounds.get(target.name, []).append(figures)
    return rounds, missing


def first_start(target):
    """A first start applies migrations and fills disk caches, so it is not the one that is reported."""
    target.prepare()
    target.start()
    try:
        target.wait_until_ready()
    finally:
        target.stop()
    return target


STARTED = time.perf_counter()

if __name__ == "__main__":
    main()
