"""Ingest runs at lowered priority beside questions, and goes on where it was stopped."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.collection.conftest import HashEmbedder
from vivace.engine import Collection, Engine
from vivace.run import work
from vivace.run.background import NICE
from vivace.run.work import Priority
from vivace.settings import load
from vivace.types import Document, IngestProgress

DOCUMENTS = [Document(f"d{number}", f"Text number {number} of many.") for number in range(200)]


async def test_cancelled_at_any_moment_it_goes_on(
    embedder: HashEmbedder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("vivace.embed.names.load", lambda *_: embedder)
    async with Engine(load(ingest={"commit_chunks": 32})) as engine:
        docs = await engine.open(tmp_path / "c")
        kept = [0]
        while kept[-1] < len(DOCUMENTS):
            embedder.embedded.clear()
            stop = asyncio.create_task(interrupted(docs, after=1))
            await stop
            info = await docs.info()
            # what was embedded for nothing are the windows in flight, never what was committed
            assert info.documents - kept[-1] <= len(embedder.embedded)
            assert len(embedder.embedded) <= info.documents - kept[-1] + 3 * 32
            assert info.documents > kept[-1]
            kept.append(info.documents)
        assert len(kept) > 2
        embedder.embedded.clear()
        report = await docs.add(DOCUMENTS)
        assert (report.unchanged, report.documents, embedder.embedded) == (len(DOCUMENTS), 0, [])


async def interrupted(docs: Collection, *, after: int) -> None:
    """An ingest of everything that is cancelled when it has committed `after` windows."""
    commits = 0
    reached = asyncio.Event()

    def progress(now: IngestProgress) -> None:
        nonlocal commits
        if now.documents:
            commits += 1
        if commits >= after:
            reached.set()

    running = asyncio.create_task(docs._pipeline().run(DOCUMENTS, progress=progress))
    waiting = asyncio.create_task(reached.wait())
    await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no nice value")
async def test_reading_and_embedding_run_at_lowered_priority_and_questions_do_not(
    docs: Collection, embedder: HashEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Counter[tuple[str, int]] = Counter()
    embed, count = embedder.embed, embedder.count_tokens

    async def watching(texts: Sequence[str], **options: object) -> object:
        seen["embed", work.current().priority] += 1
        return await embed(texts, **options)  # type: ignore[arg-type]

    def counting(texts: Sequence[str]) -> list[int]:
        nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        seen["chunk", nice] += 1
        return count(texts)

    monkeypatch.setattr(embedder, "embed", watching)
    monkeypatch.setattr(embedder, "count_tokens", counting)
    await docs.search("which text")
    seen.clear()
    await docs.add(DOCUMENTS[:20])
    assert {key for key in seen if key[0] == "embed"} == {("embed", Priority.INGEST)}
    assert {key for key in seen if key[0] == "chunk"} == {("chunk", NICE)}
    await docs.search("which other text")  # the first one's vector is remembered
    assert seen["embed", Priority.INTERACTIVE] == 1


async def test_threads_of_lowered_priority_end_with_the_collection(docs: Collection) -> None:
    await docs.search("which text")
    for number in range(20):
        await docs.add(DOCUMENTS[5 * number : 5 * number + 5])
    lowered = [t for t in threading.enumerate() if t.name.startswith("vivace-background_")]
    assert 1 <= len(lowered) <= 8  # ingests use them again
    await docs.close()
    for thread in lowered:
        await asyncio.to_thread(thread.join, 30)
        assert not thread.is_alive()
