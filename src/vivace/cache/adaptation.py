"""Which policy suits the stream? Small ghost caches try all of them, on a sample of its keys.

A key belongs to the sample by its hash, so a ghost sees all uses of the keys it sees, and a ghost
of a hundredth of the capacity over a hundredth of the keys finds what the whole would (Waldspurger
et al., "Efficient MRC construction with SHARDS", FAST 2015, and "Cache modeling and optimization
using miniature simulations", ATC 2017). Ghosts hold keys, no values. The live policy is replaced
when another one's ghost has found more, by more than its lead owes to chance; it takes over all
that is there. `docs/decisions/0030` has what was tried.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from math import sqrt
from typing import ClassVar, Final

from vivace.cache.policy import PortablePolicy
from vivace.cache.policy.frequency import Lfu, WTinyLfu
from vivace.cache.policy.predictive import Predictive
from vivace.cache.policy.recency import Arc, Lru
from vivace.cache.policy.s3fifo import S3Fifo
from vivace.cache.statistics import AccessPattern, AccessPatternAnalyzer
from vivace.errors import BadSettings
from vivace.protocols import EvictionPolicy
from vivace.types import Decision

CANDIDATES: Final = ("s3fifo", "lru", "lfu", "arc", "wtinylfu", "predictive")
"""The first is live to begin with."""
SHARE: Final = 0.01
"""Of the resident keys that a ghost holds, and of all keys that it sees,"""
LEAST: Final = 128
"""but so many at least: fewer say little."""
FIRST: Final = 1_024
"""At the beginning, when nothing is known, it is worth more:"""
FIRST_WINDOWS: Final = 32
"""for so many judgements."""
WINDOW: Final = 256
"""Sampled uses between two judgements."""
FADES: Final = 0.95
"""What a judgement leaves of the evidence before it: twenty windows count."""
LEAD: Final = 0.01
"""Of the hit ratio, by which another policy has to be better,"""
SIGMAS: Final = 3.0
"""and how many standard errors of the difference between the two on the same uses."""
WORTH: Final = 0.0625
"""Hits a resident key that have to be lost before a change: it begins with less than a ghost knows,
and loses some itself (as with skis, rent until the rent is what they cost)."""
_SALT: Final = 0x51ED270B76B5A3C9
"""Or the number 0, which may well be the most popular key, would be in every sample."""
_MIX: Final = 0x9E3779B97F4A7C15
_ALL: Final = (1 << 64) - 1
_PAST: Final = 8_192
"""Uses that are kept until the cache is full: the newest of them, and of so many keys that the
ghosts do not need them all, half."""
_GROWN: Final = 4
"""Times as many keys with which the sample becomes smaller."""


POLICIES: Final[dict[str, type[PortablePolicy]]] = {
    policy.name: policy for policy in (Lru, Lfu, S3Fifo, Arc, WTinyLfu, Predictive)
}


def make_policy(
    name: str, capacity: int, decide: Callable[[Decision], None] | None = None
) -> EvictionPolicy:
    """The policy that `cache.policy` names; `decide` is called when `auto` changes its policy.

    Raises:
        BadSettings: there is none of that name.
    """
    return Adaptive(capacity, decide) if name == "auto" else fixed_policy(name, capacity)


def fixed_policy(name: str, capacity: int) -> PortablePolicy:
    """The policy of that name.

    Raises:
        BadSettings: there is none.
    """
    if name not in POLICIES:
        raise BadSettings(
            f"cache.policy: there is no policy {name!r}",
            fix=f"Use auto, {', '.join(sorted(POLICIES))}",
        )
    return POLICIES[name](capacity)


class _Ghost:
    """A policy over the keys of the sample."""

    __slots__ = ("held", "policy")

    def __init__(self, name: str, capacity: int) -> None:
        self.policy = fixed_policy(name, capacity)
        self.held: set[Hashable] = set()

    def use(self, key: Hashable, weight: int, cost: float) -> bool:
        """Whether the key was there."""
        if key in self.held:
            self.policy.hit(key)
            return True
        self.held.add(key)
        if victims := self.policy.insert(key, weight=weight, cost=cost):
            self.held.difference_update(victims)
        return False


class Adaptive(PortablePolicy):
    """An `EvictionPolicy` that is, at any time, the one of `candidates` that suits the stream.

    It learns from `hit` and `insert` alone, so every use has to be told: an insert is a use that
    found nothing.

    Args:
        decide: told of every change, with the figures that made it.
    """

    name: ClassVar[str] = "auto"

    def __init__(
        self,
        capacity: int,
        decide: Callable[[Decision], None] | None = None,
        *,
        candidates: Sequence[str] = CANDIDATES,
    ) -> None:
        self._capacity = capacity
        self._decide = decide
        self._names = tuple(candidates)
        self._at = 0
        self._live: PortablePolicy = fixed_policy(self._names[0], capacity)
        self._hit = self._live.hit
        self._bound = _ALL
        """A key is in the sample if its mixed hash is not above it."""
        self._past: list[tuple[Hashable, int, float]] = []
        """The sample's uses until the cache is full: what the ghosts begin with."""
        self._known: dict[Hashable, tuple[int, float]] = {}
        """Weight and cost of the residents of the sample, and of no other key."""
        self._ghosts: tuple[_Ghost, ...] = ()
        self._share = 1.0
        self._sized = 0
        """Resident keys the ghosts were made for."""
        self._counts: list[float] = []
        """By who found the key, as bits: sampled uses, of which older ones count less."""
        self._fresh: list[float] = []
        """The same since the last judgement."""
        self._lost: list[float] = []
        """Hits, in the whole stream, that each policy would have found more since the live one is;
        never below 0 (a cumulative sum as of Page, 1954)."""
        self._left = WINDOW
        self._uses = AccessPatternAnalyzer()
        self._judged = 0
        self.switches = 0

    @property
    def live(self) -> str:
        """The policy that decides now."""
        return self._names[self._at]

    @property
    def pattern(self) -> AccessPattern:
        """How the stream looks, by the sample."""
        return self._uses.pattern()

    def ratios(self) -> dict[str, float]:
        """Each candidate's hit ratio on the sample, lately; empty before the cache was full."""
        total = sum(self._counts)
        if not total:
            return {}
        return {
            name: sum(n for found, n in enumerate(self._counts) if found >> at & 1) / total
            for at, name in enumerate(self._names)
        }

    def hit(self, key: Hashable) -> None:
        self._hit(key)
        if (known := self._known.get(key)) is not None:  # sooner found than hashed
            self._sampled(key, *known)

    def insert(self, key: Hashable, *, weight: int = 1, cost: float = 1.0) -> list[Hashable]:
        victims = self._live.insert(key, weight=weight, cost=cost)
        if ((hash(key) ^ _SALT) * _MIX) & _ALL <= self._bound:
            self._known[key] = (weight, cost)
            self._sampled(key, weight, cost)
        if victims:
            if not self._ghosts:
                self._begin(len(self._live))
            for victim in victims:
                self._known.pop(victim, None)
        return victims

    def remove(self, key: Hashable) -> None:
        self._live.remove(key)
        if self._known.pop(key, None) is not None:
            for ghost in self._ghosts:
                if key in ghost.held:
                    ghost.held.remove(key)
                    ghost.policy.remove(key)

    def resize(self, capacity: int) -> list[Hashable]:
        self._capacity = capacity
        victims = self._live.resize(capacity)
        for victim in victims:
            self._known.pop(victim, None)
        if self._ghosts:
            self._resize(len(self._live))
        return victims

    def seed(self, residents: Iterable[tuple[Hashable, int]]) -> None:
        self._live.seed(residents)

    def _begin(self, resident: int) -> None:
        """The cache is full: from here on policies differ. The ghosts do what it has done."""
        self._sized = max(1, resident)
        self._resample(FIRST)
        capacity = max(1, round(self._share * self._capacity))
        self._ghosts = tuple(_Ghost(name, capacity) for name in self._names)
        self._counts = [0.0] * (1 << len(self._names))
        self._fresh = list(self._counts)
        self._lost = [0.0] * len(self._names)
        past, self._past = self._past, []
        for key, weight, cost in past:
            if self._seen(key):
                self._uses.add(key)
                for ghost in self._ghosts:
                    ghost.use(key, weight, cost)
        self._known = {key: it for key, it in self._known.items() if self._seen(key)}

    def _remember(self, key: Hashable, weight: int, cost: float) -> None:
        """A use of the sample while nothing has to go yet."""
        self._past.append((key, weight, cost))
        if len(self._past) > _PAST:
            if len(self._known) > 4 * FIRST:  # of fewer keys the ghosts need every one
                self._bound >>= 1
                self._past = [use for use in self._past if self._seen(use[0])]
                self._known = {key: it for key, it in self._known.items() if self._seen(key)}
            del self._past[: -_PAST // 2]  # few keys have most of the uses

    def _resize(self, resident: int) -> None:
        """Ghosts for so many keys, or of a smaller sample; each keeps what it has of it."""
        self._sized = max(1, resident)
        before = self._share
        self._resample(LEAST)
        self._known = {key: it for key, it in self._known.items() if self._seen(key)}
        self._ghosts = tuple(
            self._lesser(name, ghost, self._share / before)
            for name, ghost in zip(self._names, self._ghosts, strict=True)
        )

    def _resample(self, least: int) -> None:
        """Never more keys than now: nothing is known of what the others did."""
        self._bound = min(self._bound, int(max(SHARE, least / self._sized) * _ALL))
        self._share = self._bound / _ALL
        self._uses.share = self._share

    def _seen(self, key: Hashable) -> bool:
        return ((hash(key) ^ _SALT) * _MIX) & _ALL <= self._bound

    def _lesser(self, name: str, before: _Ghost, share: float) -> _Ghost:
        """A ghost of the present sample with what one of the sample before holds and knows."""
        capacity = room = max(1, round(self._share * self._capacity))
        weights, kept = before.policy.weights(), []
        for key in reversed([key for key in before.policy if self._seen(key)]):
            if weights[key] <= room:  # where not all fit, the next victims are left out
                room -= weights[key]
                kept.append((key, weights[key]))
        ghost = _Ghost(name, capacity)
        ghost.policy.seed(reversed(kept))
        ghost.policy.learn(before.policy, 1 / share)
        ghost.held.update(key for key, _ in kept)
        return ghost

    def _sampled(self, key: Hashable, weight: int, cost: float) -> None:
        """A use of a key of the sample."""
        if not self._ghosts:
            self._remember(key, weight, cost)
            return
        found, bit = 0, 1
        for ghost in self._ghosts:
            if ghost.use(key, weight, cost):
                found |= bit
            bit <<= 1
        self._fresh[found] += 1
        self._uses.add(key)
        self._left -= 1
        if not self._left:
            self._judge()

    def _judge(self) -> None:
        """Whether another policy is clearly better."""
        self._left = WINDOW
        fresh, self._fresh = self._fresh, [0.0] * len(self._fresh)
        for at, lost in enumerate(self._lost):
            more, less = _apart(fresh, at, self._at)
            self._lost[at] = max(0.0, lost + (more - less) / self._share)
        self._counts = [FADES * old + new for old, new in zip(self._counts, fresh, strict=True)]
        at = max(range(len(self._names)), key=self._found)
        if at != self._at and self._lost[at] > WORTH * self._sized:
            more, less = _apart(self._counts, at, self._at)
            total = sum(self._counts)
            lead, error = (more - less) / total, sqrt(more + less) / total
            if lead > max(LEAD, SIGMAS * error):
                self._switch(at, lead, error)
        self._judged += 1
        resident = len(self._live)
        if self._judged == FIRST_WINDOWS or resident > self._sized * _GROWN:
            self._resize(resident)

    def _found(self, at: int) -> float:
        return sum(count for found, count in enumerate(self._counts) if found >> at & 1)

    def _switch(self, at: int, lead: float, error: float) -> None:
        before, ratios = self.live, self.ratios()
        weights = self._live.weights()
        policy = fixed_policy(self._names[at], self._capacity)
        policy.seed((key, weights[key]) for key in list(self._live))
        policy.learn(self._ghosts[at].policy, self._share)
        self._at, self._live, self._hit = at, policy, policy.hit
        self.switches += 1
        self._lost = [0.0] * len(self._names)
        if self._decide is not None:
            self._decide(
                Decision(
                    "cache.policy",
                    before,
                    self.live,
                    f"On the same sampled uses {self.live} finds {100 * lead:.1f} points more than"
                    f" {before} (standard error {100 * error:.1f}).",
                    {"hit_ratios": ratios, "resident": len(policy)},
                )
            )

    def weights(self) -> dict[Hashable, int]:
        return self._live.weights()

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._live)


def _apart(counts: Sequence[float], one: int, other: int) -> tuple[float, float]:
    """Sampled uses that only the one found, and that only the other found."""
    bits = (1 << one) | (1 << other)
    more = sum(n for found, n in enumerate(counts) if found & bits == 1 << one)
    less = sum(n for found, n in enumerate(counts) if found & bits == 1 << other)
    return more, less
