"""Chooses the segments to write next, writes them, and runs the thread that does both.

The tail is sealed, and segments of similar size are merged by the logarithmic method (Bentley and
Saxe, "Decomposable searching problems", 1980): segments have levels, each with `merge_factor` times
the rows of the one below, and `merge_factor` segments of one level are merged into one of the next.
A row is written once per level: O(N log N) for N additions.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import log
from pathlib import Path

import numpy as np

from vivace.collection.dense import Dense, Sealed, Segment, live_ids, live_vectors
from vivace.collection.plan_state import SegmentPolicy
from vivace.index import segments
from vivace.run.background import BackgroundExecutor, short_switch_interval
from vivace.run.work import Priority, work_context
from vivace.settings import Index
from vivace.types import Bitmap, Metric

BY_PLAN = "plan"
"""The reason of a job that changes a segment's family: searches are right without it."""
DEAD_SHARE = 0.25
"""A sealed segment is rewritten once more than this share of its rows is removed."""
_NICENESS = 10


@dataclass(frozen=True, slots=True)
class Job:
    """Write the live rows of some neighbouring segments as one sealed segment."""

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
    """The segment to write next; None if none is due."""
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
    """The jobs that leave as few segments as possible, without removed rows: for `compact`."""
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
    """Write a job's segment below `folder`, durably; None if none of its rows is live.

    Raises:
        MissingExtra: its family's library is not installed.
        OSError: it cannot be written.
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


class SealingThread:
    """Runs `work` on a thread of low priority whenever it is woken, one run at a time.

    `work` does everything that is due and reports its own failures. It runs on `executor`: at
    lowered priority while questions arrive.
    """

    def __init__(self, work: Callable[[], None], executor: BackgroundExecutor) -> None:
        self._work = work
        self._executor = executor
        self._changed = threading.Condition()
        self._wanted = self._busy = self._closed = False
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Run `work` soon; no effect after `close`."""
        with self._changed:
            if self._closed:
                return
            self._wanted = True
            if self._thread is None:
                # started when needed: most processes never write
                self._thread = threading.Thread(
                    target=self._serve, name="vivace-background", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def drain(self) -> None:
        """Wait until no run is due or running."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._wanted or self._busy) or self._closed)

    def close(self) -> None:
        """Finish the present run and stop. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _serve(self) -> None:
        with suppress(OSError):  # on Linux each thread has a niceness of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._closed)
                if not self._wanted:
                    return
                self._wanted, self._busy = False, True
            try:
                self._executor.call(self._do)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _do(self) -> None:
        with work_context(Priority.BACKGROUND), short_switch_interval:
            self._work()
