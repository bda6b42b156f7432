#!/usr/bin/env python3
"""Measures what masking costs in the compiled component, through the host: the same gateway with and without it.

    python3 benches/masking.py            about a minute
    python3 benches/masking.py --rounds 9

A conversation of one megabyte (benches/conversation.rs) is sent again and again over one connection, to two gateways in
turn, one with `masking: {}` and one without the section. Two figures come out of each round:

    CPU          user time of the gateway's process for each request, with masking minus without
    first event  from the moment at which the upstream writes the first event of its answer to the moment at which the
                 client has it, with masking minus without

The first event carries a token, so it has something to restore. docs/masking.md shows a run.
"""

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import run

IDENTIFIER = rb"(?<![a-z0-9-])(?:i|vol|vpc|subnet|sg|ami|snap|eni|rtb)-0[0-9a-f]{16}\b"
SECTIONS = {"without": "", "with": "masking: {}\n"}


class Upstream:
    """Reads each request to its end, notes when, and says in one event what it heard last."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.written = 0.0
        self.body = b""
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            connection, _ = self.listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection):
        pending = b""
        while True:
            while b"\r\n\r\n" not in pending:
                piece = connection.recv(1 << 20)
                if not piece:
                    return
                pending += piece
            head, _, pending = pending.partition(b"\r\n\r\n")
            length = int(re.search(rb"content-length: (\d+)", head, re.I)[1])
            pieces = [pending]
            received = len(pending)
            while received < length:
                piece = connection.recv(1 << 20)
                pieces.append(piece)
                received += len(piece)
            self.body = b"".join(pieces)
            pending = b""
            found = re.search(IDENTIFIER, self.body)
            text = found[0].decode() if found else "nothing"
            delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": f"{text} is "}}
            event = f"event: content_block_delta\ndata: {json.dumps(delta)}\n\n".encode()
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            time.sleep(0.002)  # The request is over for everybody when the answer begins.
            self.written = time.perf_counter()
            connection.sendall(head + b"%x\r\n%s\r\n" % (len(event), event))
            time.sleep(0.002)
            connection.sendall(b"0\r\n\r\n")


class Gateway(run.Sallyport):
    """Our host, with more lines in its configuration."""

    def __init__(self, bench, name):
        self.name = name
        super().__init__(bench)

    def prepare(self):
        super().prepare()
        with open(self.config, "a") as config:
            config.write(SECTIONS[self.name])

    def user_seconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) / os.sysconf("SC_CLK_TCK")

    def connect(self):
        self.connection = socket.create_connection(("127.0.0.1", self.port))
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, upstream, body):
        """One request; seconds from the upstream's first event to ours, and the answer."""
        head = (
            f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.bench.token}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.connection.sendall(head.encode() + body)
        answer, first = b"", None
        while not answer.endswith(b"\r\n0\r\n\r\n"):
            piece = self.connection.recv(1 << 16)
            if not piece:
                raise run.Failed(f"the gateway hung up: {answer[:300]!r}\n{self.log_tail()}")
            answer += piece
            if first is None and b"content_block_delta" in answer:
                first = time.perf_counter()
        if not answer.startswith(b"HTTP/1.1 200"):
            raise run.Failed(f"{answer[:300]!r}\n{self.log_tail()}")
        return first - upstream.written, answer


def measure(gateway, upstream, body, requests):
    """Milliseconds of CPU for each request, and until the first event."""
    busy = gateway.user_seconds()
    waits = [gateway.ask(upstream, body)[0] for _ in range(requests)]
    return (gateway.user_seconds() - busy) / requests * 1000, statistics.median(waits) * 1000


def check(gateways, upstream, body):
    """Refuses to measure what does not mask: nothing may leave with masking, and all must come back."""
    original = re.search(IDENTIFIER, body)[0]
    for name, gateway in gateways.items():
        _, answer = gateway.ask(upstream, body)
        masked = re.search(rb"x-sallyport-masked: (\d+)", answer, re.I)
        if (original in upstream.body) == (name == "with") or original not in answer or bool(masked) != (name == "with"):
            raise run.Failed(f"`{name}` does not do what it should: {answer[:500]!r}")
        if masked:
            return int(masked[1])
    raise run.Failed("nothing was masked")


def main():
    parser = argparse.ArgumentParser(description="Measures what masking costs; see docs/masking.md.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=60, help="for each gateway in each round")
    parser.add_argument("--sallyport", metavar="PATH", help="our binary (target/release/sallyport)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    build = ["cargo", "build", "--quiet", "--release", "-p", "sallyport-benches"]
    subprocess.run(build, cwd=run.ROOT, check=True, stdout=sys.stderr)
    programs = Path(os.environ.get("CARGO_TARGET_DIR", run.ROOT / "target")) / "release"
    results = {}
    with tempfile.TemporaryDirectory(prefix="sallyport-bench-") as directory:
        bench = run.Bench(options, Path(directory), 0)
        bench.issuer = run.start_identity_provider()
        bench.token = run.session_token(bench.session_secret, bench.public_url)
        upstream = Upstream()
        bench.upstream_port = upstream.port
        gateways = {name: Gateway(bench, name) for name in SECTIONS}
        try:
            for gateway in gateways.values():
                gateway.prepare()
                gateway.start()
                gateway.wait_until_ready()
                gateway.connect()
            for identifiers in (100, 1500):
                body = subprocess.run([programs / "conversation", str(identifiers)], capture_output=True, check=True).stdout
                count = check(dict(reversed(gateways.items())), upstream, body)
                rounds = []
                for number in range(options.rounds + 1):
                    run.progress(f"{count} identifiers, round {number} of {options.rounds}")
                    figures = {name: measure(gateway, upstream, body, options.requests) for name, gateway in gateways.items()}
                    if number > 0:  # The first one warms up.
                        rounds.append([with_it - without for with_it, without in zip(figures["with"], figures["without"])])
                cpu, first = zip(*rounds)
                results[f"{len(body)} bytes, {count} identifiers"] = {
                    "cpu_ms": [round(value, 2) for value in cpu],
                    "first_event_ms": [round(value, 3) for value in first],
                }
        finally:
            for gateway in gateways.values():
                gateway.stop()
    if options.json:
        print(json.dumps({"machine": run.machine(), "results": results}, indent=2))
        return
    print("| conversation | added CPU, median (least) | added until the first event, median |\n|---|---|---|")
    for name, figures in results.items():
        cpu, first = figures["cpu_ms"], figures["first_event_ms"]
        print(f"| {name} | {statistics.median(cpu):.1f} ms ({min(cpu):.1f} ms) | {statistics.median(first):.2f} ms |")


if __name__ == "__main__":
    main()
