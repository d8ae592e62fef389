"""Answers that are given again to a question which asks the same in other words. Opt-in.

What is promised, and what is not, is in docs/semantic-cache.md.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeAlias
from weakref import WeakSet

from vivace.cache.semantic.calibration import Calibration, calibrate, shipped, upper_bound
from vivace.cache.semantic.guard import Form, difference, exact_text, form
from vivace.cache.semantic.index import NearestQuestion
from vivace.cache.semantic.shadow import SHARE, Shadow
from vivace.cache.values import weigh_answer
from vivace.errors import VivaceError
from vivace.text.language import language
from vivace.text.terms import words
from vivace.trace import Trace
from vivace.types import Answer, Decision, Vector, Vectors

Embed: TypeAlias = Callable[[Sequence[str]], Awaitable[Vectors]]
Agrees: TypeAlias = Callable[[Answer, Answer], bool]
Groups: TypeAlias = Sequence[Sequence[str]]
"""Questions that ask the same, group by group."""

ENTRIES: Final = 10_000
_PENDING: Final = 1_024
_ENTRY_BYTES: Final = 1_000
"""Of what is kept beside an answer: the places it is found by."""
_QUESTION_BYTES: Final = 33
"""A byte of the question in UTF-8, with its words and folded text. Measured: 27 at most in English
and digits, 32 in Chinese; a question may have thousands of characters."""


@dataclass(frozen=True, slots=True)
class SemanticEntry:
    """A kept answer; `sources` is whatever `keep` was given, for `valid` to look at."""

    question: str
    scope: bytes
    answer: Answer
    sources: Any
    form: Form
    expires: float
    nbytes: int
    """But for its row in the matrix."""


Valid: TypeAlias = Callable[[SemanticEntry], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class _UnservedHit:
    """A hit that was not served: the answer that comes will show whether it was right.

    `entry` is its key: held here, answers would stay that have long gone from what is bounded.
    """

    entry: int
    score: float
    language: str


class BudgetShare(Protocol):
    """Something that keeps entries and can do without the oldest."""

    @property
    def nbytes(self) -> int: ...

    @property
    def idle_since(self) -> float | None:
        """When its oldest entry was last of use; None where it has none."""
        ...

    def drop_oldest(self) -> None: ...

    def clear(self) -> None: ...


class SharedBudget:
    """Of `capacity` bytes; what was of no use for longest goes first. For one event loop."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._tenants: WeakSet[BudgetShare] = WeakSet()

    @property
    def nbytes(self) -> int:
        return sum(tenant.nbytes for tenant in self._tenants)

    def enter(self, tenant: BudgetShare) -> None:
        self._tenants.add(tenant)

    def clear(self) -> None:
        """Forget all that is kept in it."""
        for tenant in self._tenants:
            tenant.clear()

    def make(self) -> None:
        """Drop as many entries as are too much."""
        while self.nbytes > self.capacity:
            waiting = [(t.idle_since, n, t) for n, t in enumerate(self._tenants)]
            oldest = min([one for one in waiting if one[0] is not None], default=None)
            if oldest is None:
                return
            oldest[2].drop_oldest()


class SemanticCache:
    """The nearest kept question's answer, within a bound on wrong answers among all requests.

    One for each collection; used on the event loop alone. A language is bounded on its own. It
    begins with calibrating in the background, and with nothing served: see `Shadow`.

    Args:
        bound: most wrong answers, as a share of all questions.
        model: name of the embedding model; `reads` whether it understands a language.
        embed: vectors of the calibration's questions.
        groups: your own, instead of those shipped.
        agrees: whether two answers say the same; what the bound is measured by.
        entries: most answers kept; the one unused for longest goes first.
        room: bounds the bytes of all that share it; without one only `entries` does.
        seconds: most an answer lives.
        share: of the hits that are answered anew, to look whether they are right.
    """

    def __init__(
        self,
        bound: float,
        *,
        model: str,
        reads: Callable[[str], bool],
        embed: Embed,
        groups: Groups | None = None,
        agrees: Agrees | None = None,
        entries: int = ENTRIES,
        room: SharedBudget | None = None,
        seconds: float = 86_400.0,
        share: float = SHARE,
        trace: Trace | None = None,
        decide: Callable[[Decision], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bound = bound
        self._model = model
        self._reads = reads
        self._embed = embed
        self._groups = groups
        self._agrees = agrees or same_answer
        self._most = entries
        self._seconds = seconds
        self._share = share
        self._trace = trace or Trace()
        self._decide = decide
        self._clock = clock
        self._entries: OrderedDict[int, SemanticEntry] = OrderedDict()
        self._used: dict[int, float] = {}
        """When it was of use last, by `clock`."""
        self._bytes = 0
        """Of the entries and of the matrices."""
        self._room = room
        if room is not None:
            room.enter(self)
        self._next = 0
        self._indexes: dict[bytes, NearestQuestion] = {}
        self._equal: dict[tuple[bytes, str], int] = {}
        self._pending: OrderedDict[tuple[bytes, str], _UnservedHit] = OrderedDict()
        self._shadows: dict[str, Shadow] = {}
        self._calibrated: dict[str, Calibration] = {}
        self._calibrating: dict[str, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    async def find(
        self, question: str, vector: Vector | None, scope: bytes, valid: Valid
    ) -> Answer | None:
        """The kept answer to it or to the nearest question of the scope; None where there is none
        to be given. `cached` and `cached_question` of the answer say what it is.

        `scope` names all an answer depends on but its question: collection, model, template,
        settings, filters. `valid` is asked before an answer is given: whether its sources still
        are what they were; one that is not is forgotten. Microseconds, but for `valid`.

        Do not ask for a question that follows others: its words are not what it asks.
        """
        folded = exact_text(question)
        shadow = self._shadow(language(question))
        if shadow is not None:
            shadow.request()
        equal = self._equal.get((scope, folded))
        if equal is not None:
            entry = await self._checked(equal, valid)
            if entry is not None:
                return self._served(equal, entry, "equal")
        near = self._nearest(question, vector, scope, shadow)
        if near is None or shadow is None:
            return None
        key, score = near
        entry = await self._checked(key, valid)
        if entry is None:
            return None
        if shadow.take(score):
            return self._served(key, entry, "hit")
        self._trace.count("semantic.shadow")
        self._pending[scope, folded] = _UnservedHit(key, score, entry.form.language)
        if len(self._pending) > _PENDING:
            self._pending.popitem(last=False)
        return None

    def keep(
        self, question: str, vector: Vector | None, scope: bytes, answer: Answer, sources: Any
    ) -> None:
        """An answer that was made now. One that fell short in any way is not kept: not found,
        degraded, cut off."""
        self.judge(question, scope, answer)
        folded = exact_text(question)
        if not answer.found or not _whole(answer):
            return
        if (old := self._equal.get((scope, folded))) is not None:
            self._forget(old)
        key, self._next = self._next, self._next + 1
        expires = self._clock() + self._seconds
        asked = _QUESTION_BYTES * len(question.encode(errors="replace"))
        size = _ENTRY_BYTES + asked + weigh_answer(answer)
        entry = SemanticEntry(question, scope, answer, sources, form(question), expires, size)
        self._entries[key], self._used[key] = entry, self._clock()
        self._bytes += size
        self._equal[scope, folded] = key
        if vector is not None and vector.any():
            self._place(key, scope, vector)
        while len(self._entries) > self._most:
            self.drop_oldest()
        if self._room is not None:
            self._room.make()

    def _place(self, key: int, scope: bytes, vector: Vector) -> None:
        index = self._indexes.get(scope)
        if index is None:
            index = self._indexes[scope] = NearestQuestion(len(vector))
            self._bytes += index.nbytes
        before = index.nbytes
        index.add(key, vector)
        self._bytes += index.nbytes - before

    def judge(self, question: str, scope: bytes, answer: Answer) -> None:
        """Compare an answer made anew with the hit that was not served, if it is still there."""
        pending = self._pending.pop((scope, exact_text(question)), None)
        entry = None if pending is None else self._entries.get(pending.entry)
        if pending is not None and entry is not None and _whole(answer):
            right = self._agrees(entry.answer, answer)
            self._trace.count("semantic.right" if right else "semantic.wrong")
            self._shadows[pending.language].judged(pending.score, right)

    @property
    def nbytes(self) -> int:
        """Of the answers with their passages, and of the matrices."""
        return self._bytes

    @property
    def idle_since(self) -> float | None:
        """When the oldest entry was last of use."""
        return next((self._used[key] for key in self._entries), None)

    def drop_oldest(self) -> None:
        self._forget(next(iter(self._entries)))

    def clear(self) -> None:
        """Forget every answer; what was learned of the thresholds stays."""
        for kept in (self._entries, self._used, self._indexes, self._equal, self._pending):
            kept.clear()
        self._bytes = 0

    def statistics(self) -> dict[str, Any]:
        """Entries, bytes, and by language how the bound stands; JSON values."""
        return {
            "entries": len(self._entries),
            "bytes": self._bytes,
            "languages": {name: shadow.statistics() for name, shadow in self._shadows.items()},
        }

    @property
    def disabled(self) -> str:
        """Why nothing but equal questions is answered, by language; empty where none is off."""
        off = [f"{name}: {s.disabled}" for name, s in self._shadows.items() if s.disabled]
        return "; ".join(off)

    async def calibrated(self, of: str) -> Calibration | None:
        """Wait until a language is calibrated; None where there is nothing to calibrate with."""
        self._shadow(of)
        if (task := self._calibrating.get(of)) is not None:
            await task
        return self._calibrated.get(of)

    async def close(self) -> None:
        """Stop calibrating. Idempotent."""
        for task in self._calibrating.values():
            task.cancel()
        await asyncio.gather(*self._calibrating.values(), return_exceptions=True)
        self._calibrating.clear()

    # -- inside -----------------------------------------------------------------------------

    def _nearest(
        self, question: str, vector: Vector | None, scope: bytes, shadow: Shadow | None
    ) -> tuple[int, float] | None:
        """The nearest kept question that the guard lets through."""
        index = self._indexes.get(scope)
        if shadow is None or shadow.disabled or index is None or vector is None:
            return None
        near = index.nearest(vector, shadow.floor)
        if near is None:
            return None
        differs = difference(self._entries[near[0]].form, form(question))
        if differs:
            self._trace.count(f"semantic.differs.{differs}")
            return None
        return near

    async def _checked(self, key: int, valid: Valid) -> SemanticEntry | None:
        entry = self._entries[key]
        if entry.expires > self._clock() and await valid(entry):
            # it may have been forgotten while `valid` looked
            return entry if key in self._entries else None
        self._trace.count("semantic.stale")
        self._forget(key)
        return None

    def _served(self, key: int, entry: SemanticEntry, how: str) -> Answer:
        self._trace.count(f"semantic.{how}")
        self._entries.move_to_end(key)
        self._used[key] = self._clock()
        return replace(
            entry.answer,
            cached="semantic",
            cached_question=entry.question,
            usage=None,
            cost=None,
        )

    def _forget(self, key: int) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        del self._used[key]
        self._bytes -= entry.nbytes
        self._equal.pop((entry.scope, entry.form.text), None)
        index = self._indexes.get(entry.scope)
        if index is not None:
            before = index.nbytes
            index.remove(key)
            self._bytes += index.nbytes - before
            if not len(index):
                self._bytes -= index.nbytes
                del self._indexes[entry.scope]

    def _shadow(self, of: str) -> Shadow | None:
        """None while the language is being calibrated."""
        shadow = self._shadows.get(of)
        if shadow is not None or of in self._calibrating:
            return shadow
        try:
            groups, reads = self._groups_of(of), self._reads(of)
        except Exception as error:  # the model may be anybody's, and a question waits
            return self._failed(of, error)
        if not reads:
            return self._off(of, f"the embedding model {self._model} does not read it")
        if not groups:
            return self._off(of, "there are no pairs of questions to calibrate it with")
        self._calibrating[of] = asyncio.get_running_loop().create_task(self._calibrate(of, groups))
        return None

    def _groups_of(self, of: str) -> Groups:
        if self._groups is None:
            return shipped(of)
        return [group for group in self._groups if group and language(group[0]) == of]

    async def _calibrate(self, of: str, groups: Groups) -> None:
        try:
            vectors = await self._embed([text for group in groups for text in group])
            found = await asyncio.to_thread(calibrate, groups, vectors, self._bound)
        except VivaceError as error:
            # the model's server is away: the next question tries again
            self._trace.count("semantic.uncalibrated")
            self._trace.count(f"semantic.uncalibrated.{type(error).__name__}")
        except Exception as error:  # a model that gives no vectors, pairs that are none
            self._failed(of, error)
        else:
            self._calibrated[of] = found
            if found.threshold is None:
                self._off(
                    of,
                    f"with {self._model}, {found.requests} requests of the calibration bound wrong "
                    f"answers by {upper_bound(0, found.requests):.2%} at best"
                    if upper_bound(0, found.requests) > self._bound
                    else f"{self._model} takes different questions for the same at any similarity",
                )
            else:
                self._shadows[of] = Shadow(
                    self._bound,
                    found.threshold,
                    name=of,
                    share=self._share,
                    decide=self._tell,
                )
        finally:
            self._calibrating.pop(of, None)

    def _tell(self, decision: Decision) -> None:
        """What is decided holds, and a question is answered, whether it can be written or not."""
        if self._decide is None:
            return
        try:
            self._decide(decision)
        except Exception:
            self._trace.count("semantic.untold")

    def _failed(self, of: str, error: Exception) -> Shadow:
        self._trace.count("semantic.uncalibrated")
        return self._off(of, f"it could not be calibrated with {self._model}: {error!r}"[:300])

    def _off(self, of: str, reason: str) -> Shadow:
        shadow = Shadow(self._bound, 0.99, name=of, decide=self._tell)
        shadow.disable(reason)
        self._shadows[of] = shadow
        return shadow


def _whole(answer: Answer) -> bool:
    return not answer.degraded and answer.finish_reason == "stop"


_ALIKE: Final = 0.5


def same_answer(one: Answer, other: Answer) -> bool:
    """Whether two answers say the same, as far as their words show.

    Both found something, with the same numbers, and either cite a passage in common or share half
    of their words. An answer in other words and from other passages counts as another: so the
    bound errs to the safe side, except where one word turns an answer of many.
    """
    if one.found != other.found:
        return False
    if not one.found or one.text == other.text:
        return True
    ours, theirs = set(words(one.text)), set(words(other.text))
    if {w for w in ours if w.isdigit()} != {w for w in theirs if w.isdigit()}:
        return False
    cited = {c.chunk.id for c in one.citations} & {c.chunk.id for c in other.citations}
    return bool(cited) or len(ours & theirs) >= _ALIKE * max(len(ours | theirs), 1)
