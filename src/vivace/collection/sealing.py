"""Which segments to write next, and writing them: the tail is sealed, like sizes are merged.

The logarithmic method (Bentley and Saxe, "Decomposable searching problems", 1980): segments have
levels, each holding `merge_factor` times the rows of the one below, and that many of one level are
merged into one of the next. A row is written once a level: O(N log N) over N additions.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path

import numpy as np

from vivace.collection.dense import Dense, Sealed, Segment, live_ids, live_vectors
from vivace.index import segments
from vivace.settings import Index
from vivace.types import Bitmap, Metric

LARGEST = 262_144
"""Rows of a segment beyond which nothing is merged: coarse codes lose recall over more (0.99 is
reached at 200,000 rows, not at a million), and no merge takes longer than seconds."""
FLAT_UP_TO = 32_768
"""Rows up to which exact float16 search answers within a millisecond (p95) on the machine measured;
beyond, codes with exact rescoring are several times faster."""
DEAD_SHARE = 0.25
"""A sealed segment is written anew once this share of its rows is removed."""


@dataclass(frozen=True, slots=True)
class Job:
    """Write what is live in some neighbouring segments as one sealed segment."""

    inputs: tuple[Segment, ...]
    live: Bitmap
    reason: str

    @property
    def first(self) -> int:
        return self.inputs[0].first

    @property
    def last(self) -> int:
        return self.inputs[-1].last


def next_job(dense: Dense, settings: Index) -> Job | None:
    """What to write next; None when everything is as it should be."""
    sealed = dense.segments[: len(dense.segments) - len(dense.tail)]
    for segment in sealed:
        if segment.sealed is None:
            return Job((segment,), dense.live, "restore")
    if sum(len(s) for s in dense.tail) >= settings.seal_chunks:
        return Job(_fitting(dense.tail), dense.live, "seal")
    for segment in sealed:
        if segment.removed > DEAD_SHARE * len(segment.index.ids):
            return Job((segment,), dense.live, "shrink")
    run = _run(sealed, settings)
    return Job(run, dense.live, "merge") if run else None


def full_jobs(dense: Dense) -> list[Job]:
    """Everything as few segments without removed rows: what `compact` does."""
    jobs, left = [], dense.segments
    while left:
        run = _fitting(left)
        left = left[len(run) :]
        if len(run) > 1 or run[0].removed or run[0].sealed is None:
            jobs.append(Job(run, dense.live, "compact"))
    return jobs


def family_of(rows: int, settings: Index) -> str:
    """The family of a segment of so many rows."""
    if settings.family != "auto":
        return settings.family
    return "pq" if rows > FLAT_UP_TO else "flat"


def write(job: Job, folder: Path, *, dim: int, metric: Metric, settings: Index) -> Segment | None:
    """Write a job's segment below `folder`, durable; None where nothing of it is live.

    Raises:
        OSError: it cannot be written; what was begun is garbage.
        CorruptIndex: what was written cannot be read.
    """
    ids = np.concatenate([live_ids(s, job.live) for s in job.inputs])
    if not len(ids):
        return None
    name = f"{ids[0]:012d}-{secrets.token_hex(4)}"
    described = segments.write(
        folder / name,
        ids,
        live_vectors(job.inputs, job.live),
        dim=dim,
        metric=metric,
        family=family_of(len(ids), settings),
    )
    return Segment(segments.open_segment(folder / name, described), 0, Sealed(name, described))


def _fitting(parts: Sequence[Segment]) -> tuple[Segment, ...]:
    """The longest run from the first on that fits into one segment; at least one."""
    rows, taken = 0, list[Segment]()
    for segment in parts:
        rows += len(segment)
        if taken and rows > LARGEST:
            break
        taken.append(segment)
    return tuple(taken)


def _run(sealed: Sequence[Segment], settings: Index) -> tuple[Segment, ...]:
    """The newest neighbours of which `merge_factor` are of the highest level among them."""
    levels = [_level(len(s), settings) for s in sealed]
    for level in sorted(set(levels)):
        at, rows, of_level = len(sealed), 0, 0
        while at and levels[at - 1] <= level and rows + len(sealed[at - 1]) <= LARGEST:
            at -= 1
            rows += len(sealed[at])
            of_level += levels[at] == level
        if of_level >= settings.merge_factor:
            return tuple(sealed[at:])
    return ()


def _level(rows: int, settings: Index) -> int:
    return max(0, int(log(max(rows, 1) / settings.seal_chunks, settings.merge_factor) + 1e-9))
