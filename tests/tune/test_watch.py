"""Live questions are answered again, off the answer's path, and nothing of that can fail one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from vivace.index import matches
from vivace.trace import Trace
from vivace.tune.guard import (
    FAILED,
    LOST,
    MOST_WAITING,
    FloorMissed,
    RecallGuard,
    RecallTicket,
    RecallWatch,
)
from vivace.types import (
    Bitmap,
    Chunk,
    Ids,
    Matches,
    Objective,
    Query,
    Scores,
    Signs,
    Stages,
    Vectors,
)

K = 10
OBJECTIVE = Objective(0.9, k=K)


@dataclass
class Source:
    """A state whose exact answer to question n is the ids from 100 n on."""

    epoch: int = 0
    approximate: bool = True
    broken: bool = False
    asked: int = 0
    hold: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.hold.set()

    def exact(self, vectors: Vectors, k: int, *, allow: Bitmap | None = None) -> Matches:
        self.hold.wait()
        self.asked += 1
        if self.broken:
            raise OSError("the disk is gone")
        return answer(int(vectors[0, 0]), k)

    def dense(
        self, vectors: Vectors, k: int, *, allow: Bitmap | None = None, hurried: bool = False
    ) -> Matches:
        raise AssertionError("an exact answer is what is wanted")

    def keyword(self, terms: object, k: int, *, allow: Bitmap | None = None) -> Matches:
        return matches.empty(1, 0)

    def similarity(self, vector: Vectors, ids: Ids) -> Scores:
        return np.zeros(len(ids), np.float32)

    def allowed(self, query: Query) -> Bitmap | None:
        return None

    def chunks(self, ids: object) -> dict[int, Chunk]:
        return {}

    def vectors(self, ids: Ids) -> Vectors:
        return np.zeros((len(ids), 1), np.float32)

    def neighbours(self, chunks: object) -> dict[int, tuple[Chunk | None, Chunk | None]]:
        return {}

    def signs(self, ids: object) -> dict[int, Signs]:
        return {}

    @property
    def reader(self) -> Source:
        return self

    @property
    def stages(self) -> Stages | None:
        return None


def answer(question: int, k: int) -> Matches:
    ids = 100 * question + np.arange(k)[None]
    return Matches(ids.astype(np.int64), -np.arange(k, dtype=np.float32)[None])


def row(question: int) -> Vectors:
    return np.full((1, 4), question, np.float32)


class Watched:
    """A watch whose guard takes every question."""

    def __init__(self) -> None:
        self.trace = Trace()
        self.dropped = threading.Semaphore(0)
        """Released once for every question that is dropped."""
        self.missed: list[FloorMissed] = []
        self.spent = 0.0
        self.watch = RecallWatch(self.guarding, OBJECTIVE, self.trace, self.missed.append)

    def guarding(self, floor: float) -> RecallGuard:
        watched = self

        class Guard(RecallGuard):
            def dropped(self, ticket: RecallTicket) -> None:
                super().dropped(ticket)
                watched.dropped.release()

        return Guard(floor, share=1.0, cost=1e-9, cpu=self.cpu)

    def cpu(self) -> float:
        self.spent += 1e3
        return self.spent

    def ask(self, source: Source, first: int, n: int, wrong: int, width: int = 50) -> None:
        for question in range(first, first + n):
            found = answer(question, width)
            found.ids[0, K - wrong : K] += 50
            found.scores[0, K - wrong :] -= 100
            self.watch(row(question), found, None, source)
            self.watch.drain()


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched()
    yield watched
    watched.watch.close()


def test_recall_is_of_the_first_k(watched: Watched) -> None:
    watched.ask(Source(), 0, 30, wrong=2)
    seen = watched.watch.estimate()
    assert seen.mean == pytest.approx(0.8)
    assert seen.queries == 30
    gauges = watched.trace.gauges()
    assert gauges["recall.mean"] == pytest.approx(0.8)
    assert gauges["recall.queries"] == 30
    assert gauges["recall.low"] < 0.8 < gauges["recall.high"]


def test_a_missed_floor_is_reported_once_until_seen_again(watched: Watched) -> None:
    watched.ask(Source(), 0, 60, wrong=4)
    assert watched.missed
    assert watched.missed[0].width == 50
    assert watched.missed[0].floor == 0.9
    assert watched.missed[0].seen.mean < 0.9
    watched.watch.restart(Objective(0.5, k=K))
    assert watched.watch.estimate().queries == 0
    before = len(watched.missed)
    watched.ask(Source(), 100, 60, wrong=4)
    assert len(watched.missed) == before


def test_exact_answers_are_not_checked(watched: Watched) -> None:
    source = Source(approximate=False)
    watched.ask(source, 0, 5, wrong=0)
    assert source.asked == 0


def test_the_queue_is_bounded_and_no_caller_waits(watched: Watched) -> None:
    source = Source()
    source.hold.clear()
    for question in range(3 * MOST_WAITING):
        watched.watch(row(question), answer(question, K), None, source)
    lost = watched.trace.counters()[LOST]
    assert 3 * MOST_WAITING - lost <= MOST_WAITING + 1
    source.hold.set()
    watched.watch.drain()
    assert source.asked == 3 * MOST_WAITING - lost


def test_a_failure_is_counted_and_survived(watched: Watched) -> None:
    source = Source(broken=True)
    watched.ask(source, 0, 3, wrong=0)
    assert watched.trace.counters()[FAILED] == 3
    assert watched.watch.estimate().queries == 0
    source.broken = False
    watched.ask(source, 3, 3, wrong=0)
    assert watched.watch.estimate().queries == 3


def test_closing_drops_the_waiting_questions() -> None:
    watched, source = Watched(), Source()
    source.hold.clear()
    for question in range(5):
        watched.watch(row(question), answer(question, K), None, source)
    closing = threading.Thread(target=watched.watch.close)
    closing.start()
    for _ in range(4):  # the fifth may be on its way
        assert watched.dropped.acquire(timeout=60)
    source.hold.set()
    closing.join()
    assert source.asked <= 1
    watched.watch(row(9), answer(9, K), None, source)
    assert source.asked <= 1
