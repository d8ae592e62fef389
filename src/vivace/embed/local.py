"""The base of embedders that run on this machine: threads that batch and yield to questions."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from vivace.errors import Closed, EmbeddingError
from vivace.protocols import Kind
from vivace.run.background import BackgroundBatcher
from vivace.run.microbatch import Then
from vivace.run.threads import Cores
from vivace.run.work import Priority, work_context
from vivace.run.workers import WorkerStatistics
from vivace.types import Embedded, Vector, Vectors

R = TypeVar("R")

MAX_CHARS: Final = 20_000
"""Characters of a text that are tokenised: far more than any model reads of any prose, and a bound
on the time that a hostile text can take (30 ms)."""


@dataclass(slots=True)
class EmbedCall:
    """A call that waits for texts; `then` continues with the vector of a single one."""

    then: Then[Any] | None = None
    wanted: bool = True
    """False once the caller has gone."""


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    kind: Kind
    call: EmbedCall = field(default_factory=EmbedCall)
    tokens: bool = False
    """Whether to return its token vectors, too."""


@dataclass(slots=True, eq=False)
class _Pass:
    """A running forward pass; `stop` may be called from any thread."""

    items: Sequence[Text]
    stop: Callable[[], None]

    @property
    def unwanted(self) -> bool:
        return not any(item.call.wanted for item in self.items)


class Encoded(NamedTuple):
    """A text's vector (dim,) and its token vectors, if they were requested and the model has
    any."""

    vector: Vector
    tokens: Vectors | None


class LocalEmbedder(ABC):
    """An `Embedder` whose model runs in this process; safe from any thread.

    Args:
        workers: single-threaded threads for questions, and as many for ingest, which give way.
        batch: most texts in one forward pass.
        budget: most texts times longest text in a forward pass of several, in characters.
        threads: what they are called.
    """

    name: str
    dim: int

    def __init__(
        self, *, workers: int, batch: int, budget: int, threads: str, cores: Cores | None
    ) -> None:
        self._passes: set[_Pass] = set()
        self._passing = threading.Lock()
        self._batcher: BackgroundBatcher[Text, Any] = BackgroundBatcher(
            self._done,
            workers=workers,
            cap=batch,
            size=lambda item: len(item.text),
            budget=budget,
            name=threads,
            cores=cores,
        )

    @abstractmethod
    def encode(self, items: Sequence[Text]) -> list[Vector]:
        """Embed each text to a vector (dim,), on a worker's thread.

        Raises:
            EmbeddingError: the model failed.
        """

    async def embed(self, texts: Sequence[str], *, kind: Kind) -> Embedded:
        """Vectors (n, dim) float32 of unit length, in the order of the texts.

        Questions are as urgent as `run.work` says, passages `INGEST` at most.

        Raises:
            EmbeddingError: the model failed, or the embedder has been closed.
            DeadlineExceeded: the deadline of `run.work` passed before all texts were embedded.
        """
        call = EmbedCall()
        items = [Text(text[:MAX_CHARS], kind, call) for text in texts]
        with work_context(Priority.INGEST if kind == "passage" else None):
            rows = await self._run(items, call)
        return Embedded(np.stack(rows) if rows else np.zeros((0, self.dim), np.float32))

    async def embed_then(self, text: str, then: Then[R], *, tokens: bool = False) -> R:
        """The result of `then` for a question's vector, on the thread that has embedded it.

        If the model has no token vectors, `then` gets None for them.

        Raises:
            EmbeddingError, DeadlineExceeded: as `embed`.
            Exception: whatever `then` raised.
        """
        call = EmbedCall(then)
        item = Text(text[:MAX_CHARS], "query", call, tokens)
        outcome = (await self._run([item], call))[0]
        if isinstance(outcome, _Raised):
            raise outcome.error
        result: R = outcome
        return result

    def statistics(self) -> tuple[WorkerStatistics, WorkerStatistics]:
        """Statistics of questions and other urgent work, and of ingest and background work."""
        return self._batcher.statistics()

    def resize(self, workers: int) -> None:
        """So many threads at most, at least 1; nothing that waits or runs is lost."""
        self._batcher.resize(workers)

    def bound(self, priority: Priority, workers: int | None) -> None:
        """At most so many threads do work of this priority or less urgent; None is no bound."""
        self._batcher.bound(priority, workers)

    def close(self) -> None:
        """Stop the workers; waiting calls fail with EmbeddingError. Idempotent."""
        self._batcher.close()

    @contextmanager
    def stoppable(self, items: Sequence[Text], stop: Callable[[], None]) -> Iterator[None]:
        """Wrap a forward pass over these texts: `stop` is called once no caller waits for any.

        A pass takes up to 0.1 s, and its callers may all be cancelled meanwhile.

        Raises:
            EmbeddingError: no caller waits any more.
        """
        one = _Pass(items, stop)
        with self._passing:
            self._passes.add(one)
        try:
            if one.unwanted:
                raise EmbeddingError("no caller waits for the texts any more", fix="None is needed")
            yield
        finally:
            with self._passing:
                self._passes.discard(one)

    async def _run(self, items: Sequence[Text], call: EmbedCall) -> list[Any]:
        try:
            return await self._batcher.run_many(items)
        except Closed as error:
            raise EmbeddingError(error.what, fix=error.fix) from error
        finally:
            call.wanted = False
            self._stop_unwanted()

    def _stop_unwanted(self) -> None:
        if not self._passes:
            return
        with self._passing:
            for one in self._passes:
                if one.unwanted:
                    one.stop()

    def _done(self, items: list[Text]) -> list[Any]:
        """The batch function."""
        return [_continued(*pair) for pair in zip(items, self._encoded(items), strict=True)]

    def _encoded(self, items: list[Text]) -> list[Encoded]:
        return [Encoded(vector, None) for vector in self.encode(items)]


class LocalTokenEmbedder(LocalEmbedder):
    """A `LocalEmbedder` whose model returns token vectors from the same forward pass."""

    @abstractmethod
    def encode_tokens(self, items: Sequence[Text]) -> list[Encoded]:
        """As `encode`, with token vectors (t, dim) of unit length for texts that request them.

        Raises:
            EmbeddingError: the model failed.
        """

    async def embed_tokens(self, texts: Sequence[str], *, kind: Kind) -> Embedded:
        """As `embed`, with every text's token vectors. They take 1.5 KB per token.

        Raises:
            EmbeddingError, DeadlineExceeded: as `embed`.
        """
        call = EmbedCall()
        items = [Text(text[:MAX_CHARS], kind, call, tokens=True) for text in texts]
        with work_context(Priority.INGEST if kind == "passage" else None):
            rows: list[Encoded] = await self._run(items, call)
        vectors = [row.vector for row in rows]
        return Embedded(
            np.stack(vectors) if rows else np.zeros((0, self.dim), np.float32),
            tuple(row.tokens for row in rows if row.tokens is not None),
        )

    def _encoded(self, items: list[Text]) -> list[Encoded]:
        if any(item.tokens for item in items):
            return self.encode_tokens(items)
        return super()._encoded(items)


@dataclass(frozen=True, slots=True)
class _Raised:
    """Returned as a result: an error of one text's `then` must not repeat the forward pass."""

    error: Exception


def _continued(item: Text, encoded: Encoded) -> Any:
    then = item.call.then
    if then is None or not item.call.wanted:
        return encoded if item.tokens else encoded.vector
    try:
        return then(encoded.vector, encoded.tokens if item.tokens else None)
    except Exception as error:
        return _Raised(error)
