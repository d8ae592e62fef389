"""How many calls may run at once, and which wait? A learned limit with a short queue before it.

Used for admission to our server and for calls of a model server.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from math import exp, inf
from types import TracebackType
from typing import Final, Self

from vivace.errors import Closed, DeadlineExceeded, Overloaded, ShareExceeded
from vivace.run.fair_queue import FairQueue, Waiter
from vivace.run.learners import StreamLearner, ThroughputLearner
from vivace.run.work import Priority, Work, current, too_late

START: Final = 8
"""The limit before anything is learned, within its bounds."""
LONGEST_RETRY: Final = 30.0
"""Seconds."""
PART: Final = 0.5
"""Share of its spare time (what its deadline leaves beside its own work) that a call may wait."""
HOPELESS: Final = 0.8
"""A call with less time left than this share of the mean latency does not begin."""
ALIKE: Final = 0.005
"""Seconds by which two deadlines may differ and count as equal: the call that was refused had spent
a part of a millisecond on its way."""
MEMORY: Final = 1.0
"""Seconds over which refused calls are counted for `retry_after` and `shedding`."""


class Outcome(Enum):
    """What a call that held a slot tells about the service."""

    DONE = "done"
    """It was served: its time is a sample."""
    DROPPED = "dropped"
    """It took a slot in vain: its deadline passed, or the service reported overload."""
    IGNORED = "ignored"
    """Nothing: it was cancelled, or refused for what it asked."""


class Permit:
    """A slot. Give it back once by `release`, or use it as a context manager: then the way the
    block ends decides the outcome. Made by a `ConcurrencyLimit`."""

    __slots__ = ("_began", "_count", "_gaps", "_give_back", "_last", "_user")

    def __init__(
        self,
        give_back: Callable[[str, float, Outcome, int | None], None],
        user: str,
        began: float,
        count: Callable[[float, float | None, int], float] | None = None,
    ) -> None:
        self._give_back: Callable[[str, float, Outcome, int | None], None] | None = give_back
        self._user = user
        self._began = began
        self._count = count
        self._last: float | None = None
        self._gaps = 0

    def count_tokens(self, tokens: int) -> None:
        """Report tokens of a stream that arrived together; without effect unless the limit is one
        of streams."""
        if self._count is not None and self._give_back is not None:
            if self._last is not None:
                self._gaps += tokens
            self._last = self._count(self._began, self._last, tokens)

    def release(self, outcome: Outcome = Outcome.DONE) -> None:
        """Give the slot back. Idempotent."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            gaps = self._gaps if self._last is not None else None
            give_back(self._user, self._began, outcome, gaps)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is None:
            self.release()
        else:
            in_vain = isinstance(error, DeadlineExceeded | Overloaded)
            self.release(Outcome.DROPPED if in_vain else Outcome.IGNORED)


@dataclass(frozen=True, slots=True)
class LimitStatistics:
    """`refused` counts by reason: full, late (it could not be in time), share, expired (while it
    waited), closed. `latency` is in seconds, `rate` in calls a second; None before the first."""

    limit: int
    lowest: int
    highest: int
    in_flight: int
    queued: int
    admitted: int
    refused: dict[str, int]
    latency: float | None
    rate: float | None


class QueuedCall(Waiter):
    """A call that waits for a slot.

    Args:
        settle: called once when the wait is over, with the slot or the error; returns False where
            the caller has left.
    """

    __slots__ = ("settle",)

    def __init__(self, work: Work, settle: Callable[[Permit | Exception], bool]) -> None:
        super().__init__(work)
        self.settle = settle


class ConcurrencyLimit:
    """A learned number of slots, and a short `FairQueue` of calls that wait for one.

    It belongs to one event loop. Priority, deadline and user of a call are those of
    `vivace.run.work.current()`. A call waits only while, by the rate at which slots become free, it
    will wait for at most `PART` of its spare time: what waits longer is served so late that any
    error of that forecast makes it worthless. A call for which there is no room replaces a less
    urgent waiting one, or one whose user holds and waits for more.

    Args:
        name: of what is limited, for errors.
        lowest, highest: hard bounds of the limit; equal ones fix it.
        queue: most calls that wait.
        patience: most seconds that a call without a deadline may wait, by the same forecast.
        paced: learn from the tokens of streams (`StreamLearner`), which holders report by
            `Permit.count_tokens`.
        grown: called when the limit has grown while no slot was given back.
        clock: `time.monotonic`, or a simulated one; deadlines are on it.
    """

    def __init__(
        self,
        name: str,
        *,
        lowest: int = 1,
        highest: int = 256,
        start: int = START,
        queue: int = 64,
        patience: float = 10.0,
        paced: bool = False,
        grown: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.clock = clock
        self._most_queued = queue
        self._patience = patience
        bounds = {"lowest": lowest, "highest": highest, "start": start}
        self._streams = StreamLearner(**bounds, clock=clock) if paced else None
        self._learner = self._streams or ThroughputLearner(**bounds, clock=clock)
        self._grown = grown
        self._queue: FairQueue[QueuedCall] = FairQueue()
        self._held: Counter[str] = Counter()
        """Slots by user; no user is without one."""
        self._refused: Counter[str] = Counter()
        self._admitted = 0
        self._lately_refused = _DecayingCount(clock())
        self._lately_admitted = _DecayingCount(clock())
        self._refusal: _Refusal | None = None
        """Of the last arrival, while nothing has changed since."""
        self._serving = False
        self.closed = False

    async def acquire(self) -> Permit:
        """A slot: at once where one is free and nobody waits, else after some time in the queue.

        Raises:
            Overloaded: no room, or it could not be in time; carries `retry_after`.
            ShareExceeded: the same, and this user holds more than an equal share of the room.
            DeadlineExceeded: the deadline passed, before or in the queue.
            Closed: the limit is closed.
        """
        return self.try_acquire() or await self.join()

    def try_acquire(self) -> Permit | None:
        """A slot if one is free now and nobody waits; never waits, refuses nobody."""
        work = current()
        if not self.free or work.late(self.clock()):
            return None
        return self._grant(work.user)

    def join(self) -> Awaitable[Permit]:
        """`acquire` in two halves: refuses the call now, or queues it; await the rest at once.

        Raises:
            As `acquire`, except for what happens in the queue.
        """
        work = current()
        future: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        call = self.enter(work, partial(_settle, future))
        if isinstance(call, Permit):
            future.set_result(call)
            return future
        return self._wait(call, future)

    async def _wait(self, call: QueuedCall, future: asyncio.Future[Permit]) -> Permit:
        deadline = call.work.deadline
        try:
            async with asyncio.timeout(None if deadline is None else deadline - self.clock()):
                return await future
        except BaseException as error:
            late = isinstance(error, TimeoutError)
            if not future.done() or future.cancelled():
                if self.leave(call) and late:
                    self._refused["expired"] += 1
            elif future.exception() is None:
                # granted and cancelled at once: nobody else can give the slot back
                future.result().release(Outcome.IGNORED)
            if late:
                raise too_late(self.name) from None
            raise

    @property
    def free(self) -> bool:
        """Whether a call would get a slot at once."""
        return self._learner.in_flight < self._learner.limit and not self._queue and not self.closed

    def urge(self) -> bool:
        """Whether room was made for one more: see `StreamLearner.urge`."""
        return self._streams is not None and self._streams.urge()

    @property
    def refusing(self) -> bool:
        """Whether `refusal` may know an answer."""
        return self._refusal is not None

    def refusal(self, user: str, seconds: float) -> Overloaded | None:
        """The error of an interactive call of this user that wants its result in `seconds`, where
        it is known at once; the call counts as refused. None: ask `enter`.

        Under overload most arrivals meet the same state as the one before, which was refused.
        Repeating that error costs a tenth of finding it.
        """
        known = self._refusal
        if known is None or known.user != user or seconds > known.seconds + ALIKE:
            return None
        self._lately_refused.add(self.clock())
        self._refused[known.reason] += 1
        return known.error

    def enter(
        self, work: Work, settle: Callable[[Permit | Exception], bool]
    ) -> Permit | QueuedCall:
        """`acquire` without an event loop: a slot, or a place in the queue.

        A queued call is settled once (see `QueuedCall`), unless it is taken out by `leave`.

        Raises:
            As `acquire`.
        """
        if self.closed:
            raise Closed(self.name)
        now = self.clock()
        if work.late(now):
            self._refused["expired"] += 1
            raise too_late(self.name)
        if self.free:
            return self._grant(work.user)
        self.expire()
        self._make_room(work, now)
        self._refusal = None
        call = QueuedCall(work, settle)
        self._queue.put(call, now)
        self._serve()
        return call

    def leave(self, call: QueuedCall) -> bool:
        """Take the call out of the queue without settling it; False where it had left already."""
        self._refusal = None
        return self._queue.remove(call)

    def expire(self) -> None:
        """Refuse the queued calls whose deadline has passed."""
        for call in self._queue.expire(self.clock()):
            self._refusal = None
            self._refuse_late(call)

    def bound(self, lowest: int, highest: int) -> None:
        """Move the bounds. Slots above a lowered limit are not taken away, but not granted again
        either."""
        self._refusal = None
        self._learner.bound(lowest, highest)
        self._serve()

    @property
    def shedding(self) -> float:
        """Share of the calls of the last seconds (see `MEMORY`) that were refused."""
        now = self.clock()
        refused = self._lately_refused.value(now)
        # a few calls, one of them refused, are no overload
        return refused / max(1.0 + refused + self._lately_admitted.value(now), 10.0)

    def close(self) -> None:
        """Refuse queued and coming calls with `Closed`. Held slots stay held. Idempotent."""
        self.closed = True
        self._refusal = None
        for call in self._queue.clear():
            self._refused["closed"] += 1
            call.settle(Closed(self.name))

    def statistics(self) -> LimitStatistics:
        learner = self._learner
        return LimitStatistics(
            limit=learner.limit,
            lowest=learner.lowest,
            highest=learner.highest,
            in_flight=learner.in_flight,
            queued=len(self._queue),
            admitted=self._admitted,
            refused=dict(self._refused),
            latency=learner.latency,
            rate=learner.rate,
        )

    # -- slots ----------------------------------------------------------------------------------

    def _grant(self, user: str) -> Permit:
        self._learner.began()
        self._held[user] += 1
        self._admitted += 1
        self._lately_admitted.add(self.clock())
        count = None if self._streams is None else self._count_tokens
        return Permit(self._release, user, self.clock(), count)

    def _count_tokens(self, began: float, last: float | None, tokens: int) -> float:
        """Tokens of a stream arrived, after those at `last`; returns the time now."""
        assert self._streams is not None  # or no permit would call this
        now, limit = self.clock(), self._streams.limit
        if last is None:
            self._streams.first(now - began)
        else:
            self._streams.more(now - last, tokens, now - began)
        if self._streams.limit > limit:
            self._refusal = None
            self._serve()
            if self._grown is not None:
                self._grown()
        return now

    def _release(self, user: str, began: float, outcome: Outcome, gaps: int | None) -> None:
        self._refusal = None
        self._held[user] -= 1
        if not self._held[user]:
            del self._held[user]
        seconds = None if outcome is Outcome.IGNORED else self.clock() - began
        if self._streams is not None and outcome is Outcome.DONE and gaps is not None:
            self._streams.over(gaps)
        self._learner.ended(seconds, done=outcome is Outcome.DONE)
        self._serve()

    def _serve(self) -> None:
        """Grant free slots to queued calls."""
        if self._serving:  # a settled call may give its slot back at once
            return
        self._serving = True
        learner = self._learner
        try:
            while learner.in_flight < learner.limit and (call := self._queue.head(self._held)):
                self._queue.take(call)
                if learner.in_flight and self._hopeless(call.work):
                    self._refuse_late(call)
                    continue
                permit = self._grant(call.work.user)
                if not call.settle(permit):
                    permit.release(Outcome.IGNORED)
        finally:
            self._serving = False

    # -- refusals -------------------------------------------------------------------------------

    def _hopeless(self, work: Work) -> bool:
        if work.deadline is None:
            return False
        return work.deadline - self.clock() < HOPELESS * (self._learner.latency or 0.0)

    def _in_time(self, work: Work, now: float) -> bool:
        """Whether the queue moves fast enough for one more call."""
        rate = self._learner.rate
        if rate is None or not self._learner.in_flight:
            return True
        may_wait = self._patience
        if work.deadline is not None:
            left = work.deadline - now
            # at most half: where calls differ much in length the mean says little about one
            own = min(self._learner.latency or 0.0, left / 2)
            may_wait = PART * (left - own)
        return (self._queue.ahead(work) + 1) / rate <= may_wait

    def _make_room(self, work: Work, now: float) -> None:
        """Refuse a queued call for the arrival if need be; raises where the arrival has to go."""
        in_time = self._in_time(work, now)
        if in_time and len(self._queue) < self._most_queued:
            return
        # a less urgent call is behind the arrival: without it the arrival is served no sooner
        victim = self._queue.victim(work, self._held, equals=not in_time)
        if victim is None:
            error = self._no_room(work)
            if work.priority is Priority.INTERACTIVE:
                left = inf if work.deadline is None else work.deadline - now
                self._refusal = _Refusal(work.user, left, self._reason(error), error)
            raise error
        self._queue.remove(victim)
        fairer = victim.work.priority == work.priority
        victim.settle(self._no_room(victim.work, greedy=fairer))

    def _no_room(self, work: Work, *, greedy: bool = False) -> Overloaded:
        """The error of a refused call, which it counts; says when to try again."""
        now = self.clock()
        self._lately_refused.add(now)
        # until the queue, and what was refused lately, would all have been served
        served = len(self._queue) + 1 + self._lately_refused.value(now)
        after = min(LONGEST_RETRY, served / (self._learner.rate or 1.0))
        users = self._held.keys() | self._queue.users()
        mine = self._held[work.user] + self._queue.waiting_of(work.user)
        room = self._learner.in_flight + len(self._queue)
        if greedy or (work.user and len(users) > 1 and mine * len(users) > room):
            error: Overloaded = ShareExceeded(
                f"{self.name}: you hold more than your share of the room", retry_after=after
            )
        else:
            error = Overloaded(f"{self.name}: no room for more now", retry_after=after)
        self._refused[self._reason(error)] += 1
        return error

    def _reason(self, error: Overloaded) -> str:
        if isinstance(error, ShareExceeded):
            return "share"
        return "full" if len(self._queue) >= self._most_queued else "late"

    def _refuse_late(self, call: QueuedCall) -> None:
        self._refused["expired"] += 1
        call.settle(too_late(self.name))


@dataclass(frozen=True, slots=True)
class _Refusal:
    user: str
    seconds: float
    """What the arrival had left before its deadline."""
    reason: str
    error: Overloaded


class _DecayingCount:
    """A count in which what was added weighs 1/e after `MEMORY` seconds."""

    __slots__ = ("_at", "_value")

    def __init__(self, now: float) -> None:
        self._value = 0.0
        self._at = now

    def add(self, now: float) -> None:
        self._value = self.value(now) + 1.0
        self._at = now

    def value(self, now: float) -> float:
        return self._value * exp((self._at - now) / MEMORY)


def _settle(future: asyncio.Future[Permit], result: Permit | Exception) -> bool:
    if future.done():  # cancelled
        return False
    if isinstance(result, Permit):
        future.set_result(result)
    else:
        future.set_exception(result)
    return True
