"""How many may run at once, and who waits? One learned limit with a short line in front of it.

Used for admission to a server of ours and for calls of a model server.
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
"""Share of the time beside its own work for which a call is let wait."""
HOPELESS: Final = 0.8
"""A call with less time left than this share of what calls take is not begun."""
_TICK: Final = 0.001
ALIKE: Final = 0.005
"""Seconds between two deadlines that make no difference: the call that was refused had spent a part
of a millisecond on its way."""
MEMORY: Final = 1.0
"""Seconds over which the refused are counted for `retry_after`."""


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


class _Admission:
    """What `ConcurrencyLimit.admit` returns: `acquire` and `release` around a block."""

    __slots__ = ("_limit", "_permit")

    def __init__(self, limit: ConcurrencyLimit) -> None:
        self._limit = limit

    async def __aenter__(self) -> Permit:
        self._permit = await self._limit.acquire()
        return self._permit

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._permit.release(outcome_of(error))


class ConcurrencyLimit:
    """A learned number of slots (see `ThroughputLearner`), and a short line in front of them.

    It belongs to one event loop. Priority, deadline and user of a call are those of
    `vivace.run.work.current()`. A call waits only while, by the rate at which slots come free, it
    will wait for at most PART of the time its deadline leaves it beside its own work: what waits
    longer is served so late that any error of that forecast makes it worthless. A call for which
    there is no room takes the place of a less urgent one, or of one whose user holds more.

    Args:
        name: of what is limited, for errors.
        lowest, highest: hard bounds of the limit; equal ones fix it.
        queue: most calls that wait.
        patience: most seconds a call without a deadline is let wait, as far as can be foreseen.
        paced: learn from the tokens of streams (`StreamLearner`), which
             holders tell with `Permit.came`.
        grown: called when the limit has grown while nothing was given back.
        clock: `time.monotonic`, or a simulated one; deadlines are times of it.
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
        self._queue = queue
        self._patience = patience
        bounds = {"lowest": lowest, "highest": highest, "start": start}
        self._paced = StreamLearner(**bounds, clock=clock) if paced else None
        self._vegas = self._paced or ThroughputLearner(**bounds, clock=clock)
        self._grown = grown
        self._line: FairQueue[QueuedCall] = FairQueue()
        self._held: Counter[str] = Counter()
        """Slots by user; no user is without one."""
        self._refused: Counter[str] = Counter()
        self._admitted = 0
        self._sent_away = DecayingCount(MEMORY, clock())
        self._let_in = DecayingCount(MEMORY, clock())
        self._refusal: _Refusal | None = None
        """Of the last arrival, while nothing has changed since."""
        self._serving = False
        self.closed = False

    def admit(self) -> _Admission:
        """`async with limit.admit():` a slot for the block; raises what `acquire` raises."""
        return _Admission(self)

    async def acquire(self) -> Permit:
        """A slot: at once where one is free and nobody waits, else after some time in the line.

        Raises:
            Overloaded: no room, or it could not be in time; carries `retry_after`.
            ShareExceeded: the same, and this user holds more than an equal share of the room.
            DeadlineExceeded: the deadline passed, here or in the line.
            Closed: the limit is closed.
        """
        return self.try_acquire() or await self.join()

    def join(self) -> Awaitable[Permit]:
        """The two halves of `acquire`: it is refused now or in the line; await the rest at once.

        Raises:
            As `acquire`, but for what comes later.
        """
        work = current()
        future: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        place = self.enter(work, partial(_tell, future))
        if isinstance(place, Permit):
            future.set_result(place)
            return future
        return self._wait(place, future)

    async def _wait(self, place: QueuedCall, future: asyncio.Future[Permit]) -> Permit:
        timer = self._watch(future, place.work)
        try:
            return await future
        except asyncio.CancelledError:
            self.leave(place)
            # told and cancelled at once: nobody else can give the slot back
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().release(Outcome.IGNORED)
            raise
        finally:
            timer.cancel()

    def _watch(self, future: asyncio.Future[Permit], work: Work) -> _Timer:
        """See that the wait ends at its deadline."""
        timer = _Timer()

        def expire() -> None:
            self.expire()
            if work.deadline is not None and not future.done():  # the loop's clock is a coarse one
                later = max(_TICK, work.deadline - self.clock())
                timer.handle = future.get_loop().call_later(later, expire)

        expire()
        return timer

    @property
    def free(self) -> bool:
        """Whether a call would get a slot at once."""
        return self._vegas.in_flight < self._vegas.limit and not self._line and not self.closed

    def urge(self) -> bool:
        """Whether room was made for one more: see `StreamLearner.urge`."""
        return self._paced is not None and self._paced.urge()

    def try_acquire(self) -> Permit | None:
        """A slot if one is free now and nobody waits; never waits, refuses nobody."""
        work = current()
        if not self.free or work.late(self.clock()):
            return None
        return self._grant(work.user, 0.0)

    @property
    def refusing(self) -> bool:
        """Whether `refusal` may know an answer."""
        return self._refusal is not None

    def refusal(self, user: str, seconds: float) -> Overloaded | None:
        """What an interactive call of this user that wants its result in `seconds` would be told,
        where that is known at once; it counts as refused. None: ask `enter`.

        Under overload most arrivals find everything as the one before them did, which was sent
        away. To say so again costs a tenth of finding out.
        """
        known = self._refusal
        if known is None or known.user != user or seconds > known.seconds + ALIKE:
            return None
        self._sent_away.add(self.clock())
        self._refused[known.reason] += 1
        return known.error

    def enter(self, work: Work, told: Callable[[Permit | Exception], bool]) -> Permit | QueuedCall:
        """What `acquire` does, without an event loop: a slot, or a place in the line.

        `told` is called once for a place, with the slot or the error, unless it is left with
        `leave`; it returns False where nobody listens any more.

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
            return self._grant(work.user, 0.0)
        self.expire()
        call = QueuedCall(work, told)
        self._make_room(work, now)
        self._refusal = None
        self._line.put(call, now)
        self._serve()
        return call

    def leave(self, place: QueuedCall) -> None:
        """Wait no longer; nobody is told. Nothing happens where the wait is over already."""
        self._refusal = None
        self._line.remove(place)

    def expire(self) -> None:
        """Tell those in the line whose deadline has passed. A timer calls it at each deadline."""
        for call in self._line.expire(self.clock()):
            self._refusal = None
            self._refuse(call)

    def bound(self, lowest: int, highest: int) -> None:
        """Move the bounds while it runs. Slots above a lowered limit are not taken away: they are
        not given again."""
        self._refusal = None
        self._vegas.bound(lowest, highest)
        self._serve()

    @property
    def shedding(self) -> float:
        """Share of the calls of late (see `MEMORY`) that were sent away."""
        now = self.clock()
        away = self._sent_away.value(now)
        # a single one that was sent away is no load
        return away / max(1.0 + away + self._let_in.value(now), 10.0)

    def close(self) -> None:
        """Refuse who waits and who comes, with `Closed`. Held slots stay held. Idempotent."""
        self.closed = True
        self._refusal = None
        for call in self._line.clear():
            self._refused["closed"] += 1
            call.settle(Closed(self.name))

    def statistics(self) -> LimitStatistics:
        vegas = self._vegas
        return LimitStatistics(
            vegas.limit,
            vegas.lowest,
            vegas.highest,
            vegas.in_flight,
            len(self._line),
            self._admitted,
            dict(self._refused),
            vegas.latency,
            vegas.rate,
        )

    # -- slots ----------------------------------------------------------------------------------

    def _grant(self, user: str, waited: float) -> Permit:
        self._vegas.began()
        self._held[user] += 1
        self._admitted += 1
        self._let_in.add(self.clock())
        tell = None if self._paced is None else self._came
        return Permit(self._release, user, self.clock(), waited, tell)

    def _came(self, began: float, last: float | None, tokens: int) -> float:
        """Tokens of a stream came, after those at `last`; returns now."""
        assert self._paced is not None  # else nobody is told to tell
        now, limit = self.clock(), self._paced.limit
        if last is None:
            self._paced.first(now - began)
        else:
            self._paced.more(now - last, tokens, now - began)
        if self._paced.limit > limit:
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
        if self._paced is not None and outcome is Outcome.DONE and gaps is not None:
            self._paced.over(gaps)
        self._vegas.ended(seconds, done=outcome is Outcome.DONE)
        self._serve()

    def _serve(self) -> None:
        """Give free slots to the line."""
        if self._serving:  # one who is told may give the slot back at once
            return
        self._serving = True
        try:
            while self._vegas.in_flight < self._vegas.limit and (
                call := self._line.head(self._held)
            ):
                self._line.take(call)
                now = self.clock()
                if self._vegas.in_flight and self._hopeless(call.work, now):
                    self._refuse(call)
                    continue
                permit = self._grant(call.work.user, now - call.arrived)
                if not call.settle(permit):
                    permit.release(Outcome.IGNORED)
        finally:
            self._serving = False

    # -- the line -------------------------------------------------------------------------------

    def _own(self, left: float) -> float:
        """Seconds of `left` that a call's own work takes. Never more than half of it: where calls
        are of very different lengths the mean says little about one."""
        return min(self._vegas.latency or 0.0, left / 2)

    def _hopeless(self, work: Work, now: float) -> bool:
        if work.deadline is None:
            return False
        return work.deadline - now < HOPELESS * (self._vegas.latency or 0.0)

    def _in_time(self, work: Work, now: float) -> bool:
        """Whether the line moves fast enough for one more call."""
        rate = self._vegas.rate
        if rate is None or not self._vegas.in_flight:
            return True
        left = self._patience
        if work.deadline is not None:
            left = work.deadline - now
            left = PART * (left - self._own(left))
        return (self._line.ahead(work) + 1) / rate <= left

    def _make_room(self, work: Work, now: float) -> None:
        """Send one away for the arrival if need be; raises where it is the arrival's turn to go."""
        in_time = self._in_time(work, now)
        if in_time and len(self._line) < self._queue:
            return
        # one who is less urgent is behind the arrival: without him it is no sooner served
        victim = self._line.victim(work, self._held, equals=not in_time)
        if victim is None:
            error = self._no_room(work)
            if work.priority is Priority.INTERACTIVE:
                left = inf if work.deadline is None else work.deadline - now
                self._refusal = _Refusal(work.user, left, self._reason(error), error)
            raise error
        self._line.remove(victim)
        fairer = victim.work.priority == work.priority
        victim.settle(self._no_room(victim.work, greedy=fairer))

    def _no_room(self, work: Work, *, greedy: bool = False) -> Overloaded:
        """Counted; says when to come again."""
        now = self.clock()
        self._sent_away.add(now)
        after = self._retry_after(now)
        users = self._held.keys() | self._line.users()
        mine = self._held[work.user] + self._line.waiting_of(work.user)
        room = self._vegas.in_flight + len(self._line)
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
        return "full" if len(self._line) >= self._queue else "late"

    def _retry_after(self, now: float) -> float:
        """Seconds until the line and those turned away of late would all have been served."""
        rate = self._vegas.rate or 1.0
        return min(LONGEST_RETRY, (len(self._line) + 1 + self._sent_away.value(now)) / rate)

    def _refuse(self, call: QueuedCall) -> None:
        self._refused["expired"] += 1
        call.settle(too_late(self.name))


@dataclass(frozen=True, slots=True)
class _Refusal:
    user: str
    seconds: float
    """The arrival had before its deadline."""
    reason: str
    error: Overloaded


class _Timer:
    """The timer of a wait, whichever it is by now."""

    __slots__ = ("handle",)

    def __init__(self) -> None:
        self.handle: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        if self.handle is not None:
            self.handle.cancel()


def _tell(future: asyncio.Future[Permit], result: Permit | Exception) -> bool:
    if future.done():  # cancelled
        return False
    if isinstance(result, Permit):
        future.set_result(result)
    else:
        future.set_exception(result)
    return True


class Outcome(Enum):
    """What a call that held a slot says about the service."""

    DONE = "done"
    """It was served: its time is a sample."""
    DROPPED = "dropped"
    """It took a slot for nothing: its deadline passed, or the service said it was overloaded."""
    IGNORED = "ignored"
    """Nothing: it was cancelled, or refused for what it asked."""


def outcome_of(error: BaseException | None) -> Outcome:
    """Of a block that ended with this error."""
    if error is None:
        return Outcome.DONE
    dropped = isinstance(error, DeadlineExceeded | Overloaded)
    return Outcome.DROPPED if dropped else Outcome.IGNORED


class Permit:
    """Give it back once, with `release`, or use it as a context manager, which tells the outcome
    from how the block ended: see `outcome_of`. Made by a `ConcurrencyLimit`."""

    __slots__ = ("_began", "_gaps", "_give_back", "_last", "_tell", "_user", "waited")

    def __init__(
        self,
        give_back: Callable[[str, float, Outcome, int | None], None],
        user: str,
        began: float,
        waited: float,
        tell: Callable[[float, float | None, int], float] | None = None,
    ) -> None:
        self._give_back: Callable[[str, float, Outcome, int | None], None] | None = give_back
        self._user = user
        self._began = began
        self._tell = tell
        self._last: float | None = None
        self._gaps = 0
        self.waited = waited
        """Seconds in the line."""

    def came(self, tokens: int) -> None:
        """So many tokens of a stream came together; a limit that is not paced does not listen."""
        if self._tell is not None and self._give_back is not None:
            if self._last is not None:
                self._gaps += tokens
            self._last = self._tell(self._began, self._last, tokens)

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
        self.release(outcome_of(error))


class DecayingCount:
    """A count that forgets: what was added weighs 1/e after `memory` seconds."""

    __slots__ = ("_at", "_memory", "_value")

    def __init__(self, memory: float, now: float) -> None:
        self._memory = memory
        self._value = 0.0
        self._at = now

    def add(self, now: float, n: float = 1.0) -> None:
        self._value = self.value(now) + n
        self._at = now

    def value(self, now: float) -> float:
        return self._value * exp((self._at - now) / self._memory)
