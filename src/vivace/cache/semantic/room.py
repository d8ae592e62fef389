"""One bound on the bytes of all semantic answers of a process, whatever collection they are of."""

from __future__ import annotations

from typing import Protocol
from weakref import WeakSet


class Tenant(Protocol):
    """Something that keeps entries and can do without the oldest."""

    @property
    def nbytes(self) -> int: ...

    @property
    def idle_since(self) -> float | None:
        """When its oldest entry was last of use; None where it has none."""
        ...

    def drop_oldest(self) -> None: ...

    def clear(self) -> None: ...


class Room:
    """Of `capacity` bytes; what was of no use for longest goes first. For one event loop."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._tenants: WeakSet[Tenant] = WeakSet()

    @property
    def nbytes(self) -> int:
        return sum(tenant.nbytes for tenant in self._tenants)

    def enter(self, tenant: Tenant) -> None:
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
