"""Clients that leave by the hundred, wherever their request is, cost nothing afterwards."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.server.live import HEAD, WAIT, Live, serving
from vivace.embed.minilm import MiniLM
from vivace.retrieve.pipeline import SearchPipeline
from vivace.run.workers import WorkerStatistics
from vivace.settings import Admission, Cache, Settings
from vivace.testing.fake_llm import FakeModel

CLIENTS = 25
ROUNDS = 5
WARM = 2
LATE = 6
"""Threads, and files of theirs, that a pool may still open after the warm-up: far fewer than the
clients that leave."""
SEARCH = ("/v1/search", {"query": "How long is the notice period?"})
STREAM = (
    "/v1/chat/completions",
    {
        "model": "vivace",
        "stream": True,
        "messages": [{"role": "user", "content": "How long is the notice period?"}],
    },
)


class Gate:
    """Stands before a function: counts who comes, and holds them while it is shut."""

    def __init__(self) -> None:
        self.came = 0
        self._lock = threading.Condition()
        self._open = True

    def shut(self) -> None:
        with self._lock:
            self._open, self.came = False, 0

    def open(self) -> None:
        with self._lock:
            self._open = True
            self._lock.notify_all()

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def gated(*args: Any) -> Any:
            with self._lock:
                self.came += 1
                self._lock.notify_all()
                assert self._lock.wait_for(lambda: self._open, WAIT)
            return function(*args)

        return gated

    def reached(self, count: int) -> None:
        with self._lock:
            assert self._lock.wait_for(lambda: self.came >= count, WAIT)


@contextmanager
def clients(live: Live, what: tuple[str, dict[str, Any]]) -> Iterator[list[socket.socket]]:
    """Requests that have been sent; at the end of the block their clients leave."""
    host, port = live.address.removeprefix("http://").split(":")
    path, value = what
    with ExitStack() as stack:
        opened = []
        for number in range(CLIENTS):
            # each another one: the same requests at once would share a search, and a stream
            body = json.dumps(value).replace("notice", f"notice ({number})").encode()
            head = HEAD % (path.encode(), len(body))
            one = stack.enter_context(socket.create_connection((host, int(port)), timeout=WAIT))
            one.sendall(head + body)
            opened.append(one)
        yield opened


def until(live: Live, true: Callable[[], bool]) -> None:
    """Let the server's loop turn until it is so."""

    deadline = time.monotonic() + WAIT
    while not true():
        live.tasks()  # a turn of the loop
        assert time.monotonic() < deadline


def embedding_threads(live: Live) -> WorkerStatistics:
    """Of the workers that embed questions."""
    embedder = live.state.engine.resources.embedder
    assert isinstance(embedder, MiniLM)
    plain, _ = embedder.statistics()
    return plain


def held(live: Live) -> tuple[int, int, int]:
    """Tasks, threads and open files."""
    files = Path("/proc/self/fd")
    return (
        live.tasks(),
        threading.active_count(),
        sum(1 for _ in files.iterdir()) if files.exists() else 0,
    )


def grown(now: tuple[int, int, int], before: tuple[int, int, int]) -> bool:
    tasks, threads, files = (more - less for more, less in zip(now, before, strict=True))
    return tasks > 0 or max(threads, files) > LATE


def let_go(live: Live, leave: Callable[[], None]) -> None:
    """Round after round of leaving clients; after the warm-up nothing of theirs is held."""
    for _ in range(WARM):
        leave()
        live.idle()
    before = held(live)
    for _ in range(ROUNDS - WARM):
        leave()
        live.idle()
    deadline = time.monotonic() + WAIT
    while grown(now := held(live), before) and time.monotonic() < deadline:
        live.idle()  # connections are closed by the loop's next turns
    assert not grown(now, before), (before, now)
    assert live.state.trace.counters() == {"clients.gone": CLIENTS * ROUNDS}


def open_to_all(config: Settings) -> Settings:
    """So many at once that none waits for admission: what is behind it is tested here. All ask the
    same; without caches, each is a search of its own."""
    return msgspec.structs.replace(
        config, admission=Admission(search=512, chat=512), cache=Cache(memory_mib=0)
    )


def test_leaving_while_queued_and_embedding_frees_everything(
    config: Settings, handbook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    for forward_pass in (MiniLM.encode, MiniLM.encode_tokens):
        monkeypatch.setattr(MiniLM, forward_pass.__name__, gate.before(forward_pass))
    with serving(open_to_all(config), [handbook]) as live:

        def leave() -> None:
            gate.shut()
            with clients(live, SEARCH):
                until(live, lambda: live.state.in_flight.count == CLIENTS)
                gate.reached(1)
                until(live, lambda: waiting(live) == CLIENTS)
            live.idle()  # before the forward pass has ended
            gate.open()
            until(live, lambda: waiting(live) == 0)
            assert gate.came == 1, "passes for nobody"  # of the one worker

        let_go(live, leave)


def waiting(live: Live) -> int:
    workers = embedding_threads(live)
    return sum(workers.queued.values()) + workers.running


def test_leaving_during_the_search_frees_everything(
    config: Settings, handbook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    monkeypatch.setattr(SearchPipeline, "run", gate.before(SearchPipeline.run))
    with serving(open_to_all(config), [handbook]) as live:
        pool = live.state.engine.resources.search_pool

        def leave() -> None:
            gate.shut()
            with clients(live, SEARCH):
                gate.reached(1)
                until(live, lambda: live.state.in_flight.count == CLIENTS)
            live.idle()
            gate.open()
            until(live, lambda: pool.statistics().running == waiting(live) == 0)
            # one that has begun runs to its end, wherever it does
            threads = pool.statistics().threads + embedding_threads(live).threads
            assert gate.came <= threads < CLIENTS, "searches for nobody"

        let_go(live, leave)


def test_leaving_during_a_stream_frees_everything(config: Settings, handbook: str) -> None:

    fake = FakeModel(
        mode="scripted", text="word " * 5000, delay_ms=5, slots=100, reports_slots=True
    )
    with fake:
        generate = msgspec.structs.replace(config.generate, model=f"openai:fake@{fake.url}")
        settings = msgspec.structs.replace(config, generate=generate)
        with serving(open_to_all(settings), [handbook]) as live:

            def leave() -> None:
                with clients(live, STREAM) as opened:
                    for one in opened:
                        while b'"content":' not in one.recv(65536):
                            pass
                    assert fake.statistics().running == CLIENTS
                live.idle()
                fake.wait(lambda now: now.running == 0)

            let_go(live, leave)
