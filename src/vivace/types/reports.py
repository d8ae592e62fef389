"""What was done, found and decided: reports for people, and the callbacks that receive them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Failure:
    """One source that could not be ingested: what, why, and how to fix it."""

    source: str
    reason: str
    fix: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was not read, and why."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class IngestProgress:
    """Progress of an ingest. All counts but `read` are of what has been committed."""

    read: int = 0
    documents: int = 0
    chunks: int = 0
    unchanged: int = 0
    failed: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """Progress of a batch. `failed` are part of `done`; `asked` counts requests without repeats."""

    done: int = 0
    total: int = 0
    failed: int = 0
    asked: int = 0


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What an ingest did. `documents` and `chunks` count what was written."""

    documents: int = 0
    chunks: int = 0
    unchanged: int = 0
    removed: int = 0
    embedded: int = 0
    """Chunks that went through the model; the others kept the vector they had."""
    skipped: tuple[Skipped, ...] = ()
    errors: tuple[Failure, ...] = ()
    epoch: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection's identity and size."""

    uuid: str
    path: str
    epoch: int
    documents: int
    chunks: int
    embedder: str
    dim: int
    signs_bytes: int = 0
    """Bytes of the token signs that are stored with the chunks."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was chosen for a collection, and why; every field is a JSON value.

    `what` is its kind: "rebuild", "default", "plan", "policy" and so on.
    """

    what: str
    before: Any
    after: Any
    reason: str
    """One sentence."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """The trials or signals it rests on."""
    rejected: tuple[Any, ...] = ()
    time: datetime = field(default_factory=lambda: datetime.now(UTC))
    """UTC."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong in a collection: where, what, and how to fix it."""

    where: str
    what: str
    fix: str


@dataclass(frozen=True, slots=True)
class UpkeepProgress:
    """Progress of a check, a rebuild or a compaction: `done` of `total` in its current step."""

    step: str
    done: int = 0
    total: int = 0


OnIngest: TypeAlias = Callable[[IngestProgress], None]
OnBatch: TypeAlias = Callable[[BatchProgress], None]
OnUpkeep: TypeAlias = Callable[[UpkeepProgress], None]
