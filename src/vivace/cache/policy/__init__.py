"""Which key is evicted? Each policy holds keys and weights, never values."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from vivace.protocols import EvictionPolicy


class PortablePolicy(EvictionPolicy):
    """An `EvictionPolicy` whose residents and knowledge another one can take over."""

    __slots__ = ()

    def __init__(self, capacity: int) -> None: ...

    def weights(self) -> dict[Hashable, int]:
        """The resident keys with their weights."""
        raise NotImplementedError

    def seed(self, residents: Iterable[tuple[Hashable, int]]) -> None:
        """Take these keys and weights as residents, the next victim first.

        Only for an empty policy, and only what fits into its capacity.
        """
        raise NotImplementedError

    def learn(self, ghost: EvictionPolicy, share: float) -> None:
        """Take over what a policy of the same kind has learned from that share of the keys.

        By default there is nothing to take over.
        """
