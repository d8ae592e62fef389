"""Any history of additions, updates, deletions, seals, merges and reopenings, with a second reader:
searches equal brute force, and both sides hold the same chunks."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.support.profiles import scaled
from vivace.collection.corpus import Corpus
from vivace.collection.snapshot import Snapshot
from vivace.index.flat import FlatIndex
from vivace.settings import Index
from vivace.store.transaction import Change, NewChunk, Put, Remove
from vivace.trace import Trace
from vivace.types import Chunk, Document, Float16Vectors, Ids, Query

DIM = 8
WORDS = ["ash", "birch", "cedar", "elm", "fir", "gum"]
SETTINGS = Index(family="flat", seal_chunks=6, merge_factor=2, terms_chunks=5, terms_seconds=1000.0)


class Histories(RuleBasedStateMachine):
    """A writer, and a reader that is opened and searched at any time."""

    @initialize(seed=st.integers(0, 2**16))
    def start(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        root = os.environ.get("PYTEST_DEBUG_TEMPROOT")
        self.folder = Path(tempfile.mkdtemp(dir=root)) / "c"
        self.writer = self._opened()
        self.reader: Corpus | None = None
        self.version = 0
        self.documents: dict[str, int] = {}
        """Colour by document id."""

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.writer.close()
            if self.reader is not None:
                self.reader.close()
            shutil.rmtree(self.folder.parent)

    @rule(
        ids=st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True), n=st.integers(1, 4)
    )
    def put(self, ids: list[int], n: int) -> None:
        self._apply([self._put(f"d{number}", n) for number in ids])

    @rule(ids=st.lists(st.integers(0, 30), min_size=1, max_size=12, unique=True))
    def delete(self, ids: list[int]) -> None:
        self._apply([Remove(f"d{n}") for n in ids])
        for n in ids:
            self.documents.pop(f"d{n}", None)

    @rule(share=st.floats(0, 1))
    def several_in_one_session(self, share: float) -> None:
        with self.writer.writing():
            for number in range(4):
                some = [f"d{n}" for n in range(31) if self.rng.random() < share / 4]
                changes: list[Change] = [self._put(name, 1 + number % 2) for name in some]
                if changes:
                    self.writer.apply(changes)
                    self._agree(self.writer.snapshot())
                    if self.reader is not None:
                        self._agree(self.reader.snapshot())

    @rule()
    def settle(self) -> None:
        self.writer.settle()

    @rule()
    def compact(self) -> None:
        self.writer.compact(lambda _: None)
        assert len(self.writer.dense.segments) <= 1
        assert self.writer.verify(lambda _: None) == []

    @rule()
    def rebuild(self) -> None:
        self.writer.rebuild(lambda _: None)

    @rule()
    def reopen(self) -> None:
        self.writer.close()
        self.writer = self._opened()

    @rule()
    def open_reader(self) -> None:
        if self.reader is not None:
            self.reader.close()
        self.reader = self._opened()

    @precondition(lambda self: getattr(self, "reader", None) is not None)
    @rule()
    def swap_roles(self) -> None:
        assert self.reader is not None
        self.writer.settle()
        self.writer, self.reader = self.reader, self.writer

    @invariant()
    def writer_and_reader_answer_as_brute_force(self) -> None:
        if not hasattr(self, "folder"):
            return
        self._agree(self.writer.snapshot())
        if self.reader is not None:
            self._agree(self.reader.snapshot())

    def _agree(self, snapshot: Snapshot) -> None:
        store = self.writer.store
        assert snapshot.epoch == store.epoch()
        ids, vectors = self._stored()
        colours = {c.id: c.metadata["colour"] for c in store.chunks(ids.tolist()).values()}
        exact = FlatIndex.build(ids, vectors)
        queries = self.rng.normal(size=(2, DIM)).astype(np.float32)
        for allow in (None, {"colour": 1}):
            wanted = None
            if allow is not None and len(ids):
                wanted = np.zeros(int(ids[-1]) + 1, np.bool_)
                wanted[[n for n in ids.tolist() if colours[n] == 1]] = True
                if 1 not in colours.values():
                    continue
            elif allow is not None:
                continue
            given = snapshot.allowed(Query("x", filters=allow))
            k = 5
            found = snapshot.dense(queries, k, allow=given)
            expected = exact.search(queries, k, allow=wanted)
            assert found.ids.tolist() == expected.ids.tolist()
            assert found.scores.tolist() == expected.scores.tolist()
            everything = snapshot.dense(queries[:1], len(ids) + 5, allow=given).ids[0]
            by_words = snapshot.keyword([*WORDS, "every"], len(ids) + 5, allow=given).ids
            here = {n for n in everything.tolist() if n >= 0}
            found_by_words = [n for n in by_words.ravel().tolist() if n >= 0]
            assert len(found_by_words) == len(set(found_by_words))
            assert set(found_by_words) == here

    def _stored(self) -> tuple[Ids, Float16Vectors]:
        batches = list(self.writer.store.vectors())
        if not batches:
            return np.empty(0, np.int64), np.empty((0, DIM), np.float16)
        return np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches])

    def _apply(self, changes: list[Any]) -> None:
        with self.writer.writing():
            self.writer.apply(changes)
            self._agree(self.writer.snapshot())

    def _put(self, name: str, n: int) -> Put:
        self.version += 1
        self.documents[name] = colour = int(self.rng.integers(2))
        chunks, at = [], 0
        for _ in range(n):
            words = f"every {self.rng.choice(WORDS)} {self.rng.choice(WORDS)}"
            chunk = Chunk(name, words, at, at + len(words))
            at = chunk.end
            # few different vectors, so that there are ties
            vector = np.zeros(DIM, np.float16)
            vector[self.rng.integers(DIM)] = 1
            if self.rng.random() < 0.5:
                vector = self.rng.normal(size=DIM).astype(np.float16)
            chunks.append(NewChunk(chunk, words.encode() + vector.tobytes(), vector))
        text = "".join(c.chunk.text for c in chunks)
        document = Document(name, text, metadata={"colour": colour})
        return Put(document, str(self.version).encode(), tuple(chunks))

    def _opened(self) -> Corpus:
        return Corpus.open(self.folder, embedder="t", dim=DIM, trace=Trace(), settings=SETTINGS)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=scaled(20), stateful_step_count=25, deadline=None)


@pytest.mark.stateful
class TestLongHistories(Histories.TestCase):  # type: ignore[valid-type,misc]
    settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
