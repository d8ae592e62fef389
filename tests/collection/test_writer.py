"""Group commits, order, and one caller's mistake."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from vivace.collection.corpus import Corpus
from vivace.collection.writer import Writer
from vivace.errors import BadVectors, StoreError
from vivace.run.background import NICE
from vivace.store.transaction import Change, Committed, NewChunk, Put
from vivace.trace import Trace
from vivace.types import Chunk, Document


def put(name: str, dim: int = 4) -> Put:
    chunk = NewChunk(Chunk(name, name, 0, len(name)), name.encode(), np.ones(dim, np.float16))
    return Put(Document(name, name), name.encode(), (chunk,))


@pytest.fixture
async def corpus(tmp_path: Path) -> AsyncIterator[Corpus]:
    corpus = Corpus.open(tmp_path / "c", embedder="t", dim=4, trace=Trace())
    yield corpus
    corpus.close()


@pytest.fixture
async def writer(corpus: Corpus) -> AsyncIterator[Writer]:
    writer = Writer(corpus)
    yield writer
    writer.close()


async def test_what_waits_is_committed_together(
    corpus: Corpus, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, entered, calls = threading.Event(), threading.Event(), list[int]()
    apply = corpus.apply

    def slow(changes: list[Change]) -> Committed:
        calls.append(len(changes))
        entered.set()
        assert opened.wait(30)
        return apply(changes)

    monkeypatch.setattr(corpus, "apply", slow)
    async with writer.session():
        first = asyncio.create_task(writer.apply([put("a")]))
        assert await asyncio.to_thread(entered.wait, 30)
        others = [asyncio.create_task(writer.apply([put(f"b{n}")])) for n in range(5)]
        await asyncio.sleep(0)
        opened.set()
        assert await first == 1
        assert await asyncio.gather(*others) == [2] * 5
    assert calls == [1, 5]


async def test_one_bad_change_fails_its_caller_alone(
    corpus: Corpus, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, entered = threading.Event(), threading.Event()
    apply = corpus.apply

    def slow(changes: list[Change]) -> Committed:
        entered.set()
        assert opened.wait(30)
        return apply(changes)

    monkeypatch.setattr(corpus, "apply", slow)
    async with writer.session():
        first = asyncio.create_task(writer.apply([put("a")]))
        assert await asyncio.to_thread(entered.wait, 30)
        good = asyncio.create_task(writer.apply([put("b")]))
        bad = asyncio.create_task(writer.apply([put("c", dim=3)]))
        await asyncio.sleep(0)
        opened.set()
        await asyncio.gather(first, good)
        with pytest.raises(BadVectors, match="'c'"):
            await bad
    assert corpus.store.info().documents == 2


async def test_another_failure_reaches_every_caller(
    corpus: Corpus, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> Committed:
        raise StoreError("the disk is gone")

    monkeypatch.setattr(corpus, "apply", broken)
    async with writer.session():
        with pytest.raises(StoreError, match="disk is gone"):
            await writer.apply([put("a")])


async def test_the_lock_is_held_by_sessions_and_released_after(
    corpus: Corpus, writer: Writer
) -> None:
    async with writer.session():
        async with writer.session():
            assert corpus.locked
        assert corpus.locked
    assert not corpus.locked


async def test_a_session_cancelled_while_it_waits_releases_the_lock(
    corpus: Corpus, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, entered = threading.Event(), threading.Event()
    apply = corpus.apply

    def slow(changes: list[Change]) -> Committed:
        entered.set()
        assert opened.wait(30)
        return apply(changes)

    monkeypatch.setattr(corpus, "apply", slow)

    async def write() -> None:
        async with writer.session():
            await writer.apply([put("a")])

    first = asyncio.create_task(write())
    assert await asyncio.to_thread(entered.wait, 30)
    second = asyncio.create_task(write())
    await asyncio.sleep(0)
    second.cancel()
    first.cancel()
    await asyncio.sleep(0)
    opened.set()
    await asyncio.gather(first, second, return_exceptions=True)
    async with writer.session():
        assert await writer.apply([put("z")]) >= 1
    assert not corpus.locked


async def test_close_finishes_what_was_submitted(corpus: Corpus) -> None:
    writer = Writer(corpus)
    async with writer.session():
        applied = [asyncio.create_task(writer.apply([put(f"d{n}")])) for n in range(20)]
        await asyncio.sleep(0)
        await asyncio.to_thread(writer.close)
        await asyncio.gather(*applied)
        assert corpus.store.info().documents == 20
        writer.close()
        with pytest.raises(StoreError, match="closed"):
            await writer.apply([put("late")])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no nice value")
async def test_it_writes_at_lowered_priority_while_questions_arrive(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle, seen, apply = True, list[int](), corpus.apply

    def noted(changes: list[Change]) -> Committed:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return apply(changes)

    monkeypatch.setattr(corpus, "apply", noted)
    corpus.executor.foreground_idle = lambda: idle
    writer = Writer(corpus)
    plain = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    async with writer.session():
        for number, now in enumerate([True, False, False, True]):
            idle = now
            await writer.apply([put(f"d{number}")])
    idle = False
    await asyncio.to_thread(writer.close)
    assert seen == [plain, NICE, NICE, plain]
    assert not corpus.locked
