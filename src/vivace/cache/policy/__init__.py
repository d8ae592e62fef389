"""Which key goes? One file a policy; `make` knows them by name."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Final, Protocol

from vivace.cache.policy.arc import Arc
from vivace.cache.policy.gdsf import Gdsf
from vivace.cache.policy.lfu import Lfu
from vivace.cache.policy.lru import Lru
from vivace.cache.policy.predictive import Predictive
from vivace.cache.policy.s3fifo import S3Fifo
from vivace.cache.policy.wtinylfu import WTinyLfu
from vivace.errors import BadSettings
from vivace.protocols import EvictionPolicy
from vivace.types import Decision


class Seeded(EvictionPolicy, Protocol):
    """A policy that can take over from another one."""

    def weights(self) -> dict[Hashable, int]:
        """Of the resident keys."""
        ...

    def learn(self, ghost: EvictionPolicy, share: float) -> None:
        """Take over what a ghost of the same kind has learned, of that share of the keys."""
        ...

    def seed(self, residents: Iterable[tuple[Hashable, int]]) -> None:
        """Hold these from now on, all of them: keys and weights, the next victim first.

        It is empty before, and they fit into its capacity.
        """
        ...


FIXED: Final[dict[str, type[Seeded]]] = {
    "lru": Lru,
    "lfu": Lfu,
    "s3fifo": S3Fifo,
    "arc": Arc,
    "wtinylfu": WTinyLfu,
    "gdsf": Gdsf,
    "predictive": Predictive,
}


def make(
    name: str, capacity: int, decide: Callable[[Decision], None] | None = None
) -> EvictionPolicy:
    """The policy that `cache.policy` names; `decide` is told what `auto` changes.

    Raises:
        BadSettings: there is none of that name.
    """
    if name == "auto":
        from vivace.cache.adaptation import Adaptive

        return Adaptive(capacity, decide)
    return fixed(name, capacity)


def fixed(name: str, capacity: int) -> Seeded:
    """The policy of that name, which stays what it is.

    Raises:
        BadSettings: there is none.
    """
    try:
        policy = FIXED[name]
    except KeyError:
        raise BadSettings(
            f"cache.policy: there is no {name!r}", fix=f"Use auto, {', '.join(sorted(FIXED))}"
        ) from None
    return policy(capacity)  # type: ignore[call-arg]


__all__ = ["FIXED", "EvictionPolicy", "Seeded", "fixed", "make"]
