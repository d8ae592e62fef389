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
from vivace.collection.plan_state import SegmentPolicy
from vivace.index import segments
from vivace.settings import Index
from vivace.types import Bitmap, Metric

BY_PLAN = "plan"
"""The reason of a job that gives rows another family: searches are right without it."""
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


def next_job(dense: Dense, policy: SegmentPolicy) -> Job | None:
    """What to write next; None when everything is as it should be."""
    settings = policy.settings
    sealed = dense.segments[: len(dense.segments) - len(dense.tail)]
    for segment in sealed:
        if segment.sealed is None:
            return Job((segment,), dense.live, "restore")
    if sum(len(s) for s in dense.tail) >= settings.seal_chunks:
        return Job(_fitting(dense.tail, policy.largest), dense.live, "seal")
    for segment in sealed:
        if segment.removed > DEAD_SHARE * len(segment.index.ids):
            return Job((segment,), dense.live, "shrink")
    if run := _run(sealed, settings, policy.largest):
        return Job(run, dense.live, "merge")
    for segment in sealed:
        if policy.rejects(segment):
            return Job((segment,), dense.live, BY_PLAN)
    return None


def full_jobs(dense: Dense, policy: SegmentPolicy) -> list[Job]:
    """Everything as few segments without removed rows, shaped anew: what `compact` does."""
    jobs, left = [], dense.segments
    while left:
        run = _fitting(left, policy.largest)
        left = left[len(run) :]
        whole = len(run) == 1 and run[0].sealed is not None and not run[0].removed
        if not whole or policy.rejects(run[0]):
            jobs.append(Job(run, dense.live, "compact"))
    return jobs


def write(
    job: Job, folder: Path, *, dim: int, metric: Metric, policy: SegmentPolicy
) -> Segment | None:
    """Write a job's segment below `folder`, durable; None where nothing of it is live.

    Raises:
        MissingExtra: its family's library is not installed; what was begun is garbage.
        OSError: it cannot be written; what was begun is garbage.
        CorruptIndex: what was written cannot be read.
    """
    ids = np.concatenate([live_ids(s, job.live) for s in job.inputs])
    if not len(ids):
        return None
    name = f"{ids[0]:012d}-{secrets.token_hex(4)}"
    layout = policy.layout(len(ids))
    described = segments.write(
        folder / name,
        ids,
        live_vectors(job.inputs, job.live),
        dim=dim,
        metric=metric,
        family=layout.family,
        params=layout.params,
    )
    return Segment(segments.open_segment(folder / name, described), 0, Sealed(name, described))


def _fitting(parts: Sequence[Segment], largest: int) -> tuple[Segment, ...]:
    """The longest run from the first on that fits into one segment; at least one."""
    rows, taken = 0, list[Segment]()
    for segment in parts:
        rows += len(segment)
        if taken and rows > largest:
            break
        taken.append(segment)
    return tuple(taken)


def _run(sealed: Sequence[Segment], settings: Index, largest: int) -> tuple[Segment, ...]:
    """The newest neighbours of which `merge_factor` are of the highest level among them."""
    levels = [_level(len(s), settings) for s in sealed]
    for level in sorted(set(levels)):
        at, rows, of_level = len(sealed), 0, 0
        while at and levels[at - 1] <= level and rows + len(sealed[at - 1]) <= largest:
            at -= 1
            rows += len(sealed[at])
            of_level += levels[at] == level
        if of_level >= settings.merge_factor:
            return tuple(sealed[at:])
    return ()


def _level(rows: int, settings: Index) -> int:
    return max(0, int(log(max(rows, 1) / settings.seal_chunks, settings.merge_factor) + 1e-9))
