"""What do hostile HTTP clients cost the others, in this checkout and in another?

    python -m benchmarks.abuse [BEFORE] [--only NAME,...] [--json]

BEFORE is another checkout (`git worktree add`). Each checkout makes its own collection and serves
it from a process of its own, on a free port of loopback; nothing else is attacked. Every attack is
bounded in bytes, connections and time. Latencies are in milliseconds, memory in MiB.

- `slow_bodies`: N clients send `{` and stop. What a good client's searches take meanwhile, how many
  fail, and when all slow connections are closed.
- `headers`, `header`, `trailers`: many small headers, one large one, many trailers, on one
  connection. The peak of the memory, and the slowest `/healthz` meanwhile.
- `repeated`: the growth of the memory from the tenth to the last repetition of `headers`.
- `filters`: large filters, each another one; the status of one with 3,000 empty conditions.
- `sites`: statuses of requests of another site's page and with malformed Host headers.
- `silent`: connections that send nothing; how many are open after 12 s.
- `handling`: CPU of one request of a good client, by turns; searches that are in the cache.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.http import questions
from benchmarks.report import DATA, show
from benchmarks.wire import quantile

MIB: Final = 1 << 20
HEAD: Final = (
    b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n"
)
START: Final = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@dataclass(frozen=True)
class Target:
    """A server that this benchmark has started."""

    pid: int
    host: str
    port: int

    def connect(self, seconds: float = 30.0) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=seconds)

    def memory(self, name: str = "VmRSS") -> float:
        """MiB; `VmHWM` is the peak since `forget_peak`."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / 1024
        raise LookupError(name)

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def cpu(self) -> float:
        """Seconds of all its threads, to the nanosecond: a tick is too coarse for a request."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def ask(self, client: http.client.HTTPConnection, query: str) -> tuple[int, float]:
        """The status of a search, and its seconds; 0 where there was no answer."""
        start = time.perf_counter()
        try:
            body = json.dumps({"query": query})
            client.request("POST", "/v1/search", body, {"Content-Type": "application/json"})
            answer = client.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            client.close()
            return 0, time.perf_counter() - start
        return answer.status, time.perf_counter() - start

    def client(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=30)


def environment(checkout: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(checkout / "src")}


@contextmanager
def serving(checkout: Path, collection: Path, *settings: str) -> Iterator[Target]:
    """A server of the checkout's code."""
    words = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "vivace", "serve", "--collection", str(collection)]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", "0", "--json", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(checkout),
        cwd=collection.parent,
    )
    try:
        assert process.stdout is not None
        url = urlsplit(json.loads(process.stdout.readline())["address"])
        assert url.hostname == "127.0.0.1"
        assert url.port
        yield Target(process.pid, url.hostname, url.port)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def make(checkout: Path, folder: Path, documents: int) -> Path:
    """A collection that the checkout's code has written."""
    corpus = folder / "corpus.jsonl"
    if not corpus.exists():
        with (DATA / "qa" / "squad2dev_en" / "corpus.jsonl").open() as lines:
            corpus.write_text("".join(islice(lines, documents)))
    where = folder / f"made-{abs(hash(checkout))}"
    subprocess.run(
        [sys.executable, "-m", "vivace", "ingest", str(corpus), "--collection", str(where)],
        env=environment(checkout), cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return where


class Watch:
    """Asks `/healthz` all the time, in a thread; `slowest` is in milliseconds."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.slowest = 0.0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        client = self._target.client()
        while not self._over.wait(0.005):
            start = time.perf_counter()
            try:
                client.request("GET", "/healthz")
                client.getresponse().read()
            except (OSError, http.client.HTTPException):
                client.close()
            self.slowest = max(self.slowest, (time.perf_counter() - start) * 1e3)
        client.close()


def send(target: Target, first: bytes, piece: bytes, total: int) -> int:
    """Send pieces until there are `total` bytes or the server ends it; the bytes sent."""
    sent = 0
    with contextlib.suppress(OSError), target.connect() as connection:
        connection.sendall(first)
        while sent < total:
            connection.sendall(piece)
            sent += len(piece)
    return sent


def slow_bodies(target: Target, count: int, seconds: float = 8.0) -> dict[str, Any]:
    asked = questions()
    good = target.client()

    def ask_for(seconds: float) -> list[tuple[int, float]]:
        end, found = time.perf_counter() + seconds, []
        while time.perf_counter() < end:
            found.append(target.ask(good, next(asked)))
        return found

    ask_for(2.0)
    quiet = [took for status, took in ask_for(4.0) if status == 200]
    with ExitStack() as stack:
        slow = [stack.enter_context(target.connect(1.0)) for _ in range(count)]
        began = time.perf_counter()
        for connection in slow:
            connection.sendall(HEAD % 100 + b"{")
        during = ask_for(seconds)
        open_ = set(slow)
        closed_after = 0.0
        while open_ and time.perf_counter() - began < 20:
            for connection in tuple(open_):
                connection.settimeout(0.02)
                with contextlib.suppress(TimeoutError):
                    try:
                        while connection.recv(4096):
                            pass
                    except ConnectionError:
                        pass
                    open_.remove(connection)
                    closed_after = time.perf_counter() - began
    served = [took for status, took in during if status == 200]
    before, after = quantile(quiet, 0.95), quantile(served, 0.95) if served else None
    return {
        "quiet_p50": round(quantile(quiet, 0.5) * 1e3, 1),
        "quiet_p95": round(before * 1e3, 1),
        "attacked_p95": None if after is None else round(after * 1e3, 1),
        "ratio_p95": None if after is None else round(after / before, 2),
        "failed": sum(status != 200 for status, _ in during),
        "of": len(during),
        "closed_after_s": round(closed_after, 1),
        "still_open_after_20_s": len(open_),
    }


def flood(target: Target, first: bytes, piece: bytes, total: int) -> dict[str, Any]:
    before = target.memory()
    target.forget_peak()
    with Watch(target) as watch:
        start = time.perf_counter()
        sent = send(target, first, piece, total)
        took = time.perf_counter() - start
        time.sleep(0.5)
    return {
        "sent_mib": round(sent / MIB, 1),
        "took_s": round(took, 2),
        "peak_growth": round(target.memory("VmHWM") - before, 1),
        "growth_after": round(target.memory() - before, 1),
        "slowest_healthz": round(watch.slowest, 1),
    }


def headers(target: Target, mib: int) -> dict[str, Any]:
    return flood(target, START, b"name: value\r\n" * 5000, mib * MIB)


def header(target: Target, mib: int) -> dict[str, Any]:
    return flood(target, START + b"name: ", b"v" * 65_536, mib * MIB)


def trailers(target: Target, mib: int) -> dict[str, Any]:
    head = b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    return flood(target, head + b"1\r\na\r\n0\r\n", b"name: value\r\n" * 5000, mib * MIB)


def repeated(target: Target, mib: int, times: int) -> dict[str, Any]:
    grown: list[float] = []
    for _ in range(times):
        send(target, START, b"name: value\r\n" * 5000, mib * MIB)
        grown.append(target.memory())
    return {"times": times, "growth_from_tenth": round(grown[-1] - grown[min(9, times - 1)], 1)}


def filters(target: Target, count: int, size: int) -> dict[str, Any]:
    client = target.client()

    def status_of(given: object) -> int:
        body = json.dumps({"query": "who", "filters": given})
        try:
            client.request("POST", "/v1/search", body, {"Content-Type": "application/json"})
            answer = client.getresponse()
            answer.read()
            return answer.status
        except (OSError, http.client.HTTPException):
            client.close()
            return 0

    status_of({"$id": "x"})
    before = target.memory()
    target.forget_peak()
    start, found = time.perf_counter(), Counter[int]()
    for number in range(count):
        if time.perf_counter() - start > 60:
            break
        values = [f"{number}-{at}-{'x' * 1000}" for at in range(size // 1010)]
        found[status_of({"$id": {"$in": values}})] += 1
    return {
        "statuses": {str(status): times for status, times in found.items()},
        "peak_growth": round(target.memory("VmHWM") - before, 1),
        "growth_after": round(target.memory() - before, 1),
        "empty_conditions_status": status_of({"$or": [{}] * 3000}),
    }


def raw_status(target: Target, request: bytes) -> int:
    with target.connect() as connection, contextlib.suppress(OSError):
        connection.sendall(request)
        answer = connection.recv(65_536)
        return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0
    return 0


def sites(target: Target) -> dict[str, Any]:
    body = b'{"messages":[{"role":"user","content":"who?"}]}'
    page = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.com\r\n"
        b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
    )
    get = b"GET /healthz HTTP/1.1\r\n%b\r\n"
    return {
        "page_text_plain": raw_status(target, page % (b"text/plain", len(body), body)),
        "page_json": raw_status(target, page % (b"application/json", len(body), body)),
        "host_with_evil_port": raw_status(target, get % b"Host: 127.0.0.1:evil.com\r\n"),
        "host_twice": raw_status(target, get % (b"Host: localhost\r\n" * 2)),
        "host_of_others": raw_status(target, get % b"Host: evil.com\r\n"),
    }


def silent(target: Target, count: int) -> dict[str, Any]:
    with ExitStack() as stack:
        opened = [stack.enter_context(target.connect()) for _ in range(count)]
        time.sleep(12)
        still = 0
        for connection in opened:
            connection.setblocking(False)
            try:
                still += bool(connection.recv(1))
            except BlockingIOError:
                still += 1
            except OSError:
                pass
    return {"connections": count, "open_after_12_s": still}


def handling(targets: dict[str, Target], rounds: int, requests: int) -> dict[str, Any]:
    """By turns: what else the machine does hits all alike."""
    found: dict[str, list[float]] = {name: [] for name in targets}
    clients = {name: target.client() for name, target in targets.items()}
    for turn in range(rounds + 1):
        names = list(targets) if turn % 2 else list(targets)[::-1]
        for name in names:
            target, cpu = targets[name], targets[name].cpu()
            for _ in range(requests):
                status, _ = target.ask(clients[name], "Who ruled the duchy of Normandy?")
                assert status == 200
            if turn:  # the first one warms up
                found[name].append((target.cpu() - cpu) / requests * 1e6)
    middle = {name: round(statistics.median(each), 1) for name, each in found.items()}
    if len(found) == 2:
        pairs = zip(*found.values(), strict=True)
        middle["ratio"] = round(statistics.median(after / before for before, after in pairs), 3)
    return middle


def attacks(options: argparse.Namespace) -> dict[str, Callable[[Target], dict[str, Any]]]:
    return {
        "slow_bodies_8": lambda target: slow_bodies(target, 8),
        "slow_bodies_80": lambda target: slow_bodies(target, 80),
        "headers": lambda target: headers(target, options.mib),
        "header": lambda target: header(target, 40),
        "trailers": lambda target: trailers(target, options.mib),
        "repeated": lambda target: repeated(target, 4, 60),
        "filters": lambda target: filters(target, 80, 7_800_000),
        "sites": sites,
        "silent": lambda target: silent(target, 100),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    checkouts = {"after": Path(__file__).resolve().parents[1]}
    if options.before is not None:
        checkouts = {"before": options.before.resolve(), **checkouts}
    wanted = options.only.split(",") if options.only else [*attacks(options), "handling"]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="vivace-bench-") as temporary:
        made = {
            name: make(checkout, Path(temporary), options.documents)
            for name, checkout in checkouts.items()
        }
        for attack, run in attacks(options).items():
            for name, checkout in checkouts.items():
                if (
                    attack in wanted
                ):  # each in a new process: what one leaves behind is not another's
                    with serving(checkout, made[name]) as target:
                        found.setdefault(attack, {})[name] = run(target)
                    print(attack, name, found[attack][name], file=sys.stderr, flush=True)
        if "handling" in wanted:
            with ExitStack() as stack:
                targets = {
                    name: stack.enter_context(serving(checkout, made[name]))
                    for name, checkout in checkouts.items()
                }
                found["handling_us"] = handling(targets, options.rounds, 400)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, nargs="?")
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--mib", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    show(measure(options), as_json=options.json)
