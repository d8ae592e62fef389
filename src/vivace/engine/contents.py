"""What is in a collection, without asking it anything."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

from vivace.collection.corpus import Corpus
from vivace.collection.plan_state import StoredPlan
from vivace.protocols import CandidateSource
from vivace.retrieve import passages
from vivace.settings import Settings
from vivace.store.operations import Operations
from vivace.tune.qualitytuning import in_force
from vivace.types import (
    Chunk,
    CollectionInfo,
    Decision,
    Document,
    Passage,
    Plan,
    SearchResult,
    Stages,
)

# inside the class `list` is a method
Passages: TypeAlias = tuple[Passage, ...]
Listing: TypeAlias = list[tuple[Document, int]]
Chunks: TypeAlias = list[Chunk]
Decisions: TypeAlias = list[Decision]


class Contents:
    """The reading half of a `Collection`."""

    def __init__(self, corpus: Corpus, operations: Operations, settings: Settings) -> None:
        self._corpus = corpus
        self._operations = operations
        self._settings = settings

    async def passages(self, result: SearchResult, budget_chars: int = 4000) -> Passages:
        """The hits as pieces to read, of at most so many characters together.

        Hits of one document that touch are one piece; where there is room, the chunks beside them
        join. Every piece is its document's text from `start` to `end`.
        """
        hits, beside = result.hits, self._corpus.snapshot().neighbours
        return await asyncio.to_thread(passages.passages, hits, budget_chars, beside)

    async def get(self, id: str) -> Document | None:
        """The document with this id."""
        return await asyncio.to_thread(self._corpus.store.document, id)

    async def list(self, *, limit: int = -1, offset: int = 0) -> Listing:
        """Documents without their text, each with its number of chunks."""
        return await asyncio.to_thread(self._corpus.store.documents, limit=limit, offset=offset)

    async def chunks(self, id: str) -> Chunks:
        """A document's chunks in reading order."""
        return await asyncio.to_thread(self._corpus.store.chunks_of, id)

    async def decisions(self, *, limit: int = 100) -> Decisions:
        """What was chosen for this collection and why, the newest first."""
        return await asyncio.to_thread(lambda: self._operations.decisions(limit=limit))

    def record(self, decision: Decision) -> None:
        """Remember it with the others; any thread may call. Never raises."""
        self._operations.record(decision)

    async def info(self) -> CollectionInfo:
        return await asyncio.to_thread(self._corpus.store.info)

    @property
    def plan(self) -> Plan | None:
        """Which index is searched and how; None before any tuning, when the defaults hold. Its
        family is empty where only the stages were chosen."""
        return self.stored_plan.plan if self.stored_plan else None

    @property
    def stored_plan(self) -> StoredPlan | None:
        """The plan with what it was made for and on."""
        return self._corpus.stored_plan

    @property
    def stages(self) -> Stages:
        """What a search does after its candidates: the plan's, else the settings'."""
        return in_force(self._settings.search, self._corpus.stored_plan)

    def snapshot(self) -> CandidateSource:
        """What is searched now, for measuring its stages one by one. It blocks."""
        return self._corpus.snapshot()
