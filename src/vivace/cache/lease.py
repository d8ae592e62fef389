"""One computation over all processes: whose turn it is computes, the others wait for the value.

`SET key token NX PX` with a token of the holder's own, renewed while it computes and taken back
by the token alone (Redis documentation, "Distributed locks with Redis", the single-instance
form). It saves work and promises nothing: a process that was stopped for longer than its lease
computes the same value once more, which does no harm. If the holder dies, the lease ends by
itself and the next one that looks has it. If it ends without a value to share (it failed, or its
value is not to be kept), it says so for a moment, and those that waited compute for themselves:
in turns the last of them would wait for the failures of all.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from types import TracebackType
from typing import Final, Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

from vivace.cache.failures import TierFailure
from vivace.cache.guarded import ResilientTier

V = TypeVar("V")
Read: TypeAlias = Callable[[bytes, float | None], V | None]
"""The value of what the tier has and the seconds it has left; None if that is of no use."""

_FIRST_LOOK, _LONGEST_LOOK = 0.005, 0.05
"""Seconds between two looks of one who waits."""
_PATIENCE: Final = 60.0
"""Seconds after which a holder that goes on and on is not waited for any more."""
_LEAST: Final = 0.002
"""Seconds left of a request's time for tiers under which the lease is not asked for."""


class Claimed(Enum):
    """What came of asking for a lease."""

    OURS = 1
    THEIRS = 0
    UNSHARED = 2
    """Its holder has just ended without a value."""


@runtime_checkable
class Leases(Protocol):
    """A tier that can give one of many askers the lead."""

    async def claim(
        self, key: bytes, token: bytes, seconds: float
    ) -> Claimed | tuple[bytes, float | None]: ...

    async def renew(self, key: bytes, token: bytes, seconds: float) -> bool: ...

    async def release(self, key: bytes, token: bytes, *, unshared: bool = False) -> None:
        """Args: `unshared`: no value was made; who waits is to know."""
        ...


class DistributedLease(Generic[V]):
    """Of one tier. For one event loop.

    Args:
        seconds: a holder that dies is replaced within these.
    """

    def __init__(self, guard: ResilientTier, leases: Leases, *, seconds: float = 2.0) -> None:
        self.guard = guard
        self._leases = leases
        # a follower's last look comes up to one interval after the end
        self._seconds = max(seconds - _LONGEST_LOOK, 2 * _LONGEST_LOOK)
        self._turns: dict[bytes, LeaseHolder[V]] = {}
        self._asides: set[asyncio.Task[None]] = set()

    def turn(self, key: bytes, read: Read[V], *, within: float) -> LeaseHolder[V]:
        """Enter it with `async with`.

        Args:
            within: seconds that asking for the lease may take; waiting for a holder is more.
        """
        found = self._turns.get(key)
        if found is None:
            found = self._turns[key] = LeaseHolder(self, key, read, within)
        return found

    def led(self, key: bytes) -> LeaseHolder[V] | None:
        """The turn of this process, if it is one's turn to make the value."""
        found = self._turns.get(key)
        return found if found is not None and found.leads else None

    def forget(self, key: bytes | None) -> None:
        """Who comes from now on shares no turn that has begun: the key was deleted, or all were."""
        if key is None:
            self._turns.clear()
        else:
            self._turns.pop(key, None)

    async def take(self, turn: LeaseHolder[V], read: Read[V], within: float) -> V | None:
        """Wait for the value, or until there is nobody to wait for."""
        if within < _LEAST:
            return None
        look, patience = _FIRST_LOOK, time.monotonic() + _PATIENCE
        while True:
            try:
                found = await self.guard.ask(
                    lambda: self._leases.claim(turn.key, turn.token, self._seconds),
                    within=min(within, self.guard.seconds),
                    of="lease_",
                )
            except TierFailure:
                self.guard.count("lease_unasked")
                return None
            if isinstance(found, tuple):
                value = read(*found)
                # without one it is damaged, or of another schema: it will be written over
                self.guard.count("lease_unread" if value is None else "lease_followed")
                return value
            if found is Claimed.OURS:
                self.guard.count("lease_led")
                turn.lead(asyncio.create_task(self._renew(turn), name="cache lease"))
                return None
            if found is Claimed.UNSHARED:
                self.guard.count("lease_unshared")
                return None
            if time.monotonic() > patience:
                self.guard.count("lease_impatient")
                return None
            await asyncio.sleep(look * random.uniform(0.5, 1.0))
            look = min(2 * look, _LONGEST_LOOK)
            within = self.guard.seconds

    def end(self, turn: LeaseHolder[V], *, unshared: bool) -> None:
        """Give the lease back, aside: the request may itself be being cancelled."""
        if self._turns.get(turn.key) is turn:
            del self._turns[turn.key]

        async def release() -> None:
            with suppress(TierFailure):
                await self.guard.ask(
                    lambda: self._leases.release(turn.key, turn.token, unshared=unshared),
                    within=1.0,
                    of="lease_",
                )

        if turn.claimed:
            task = asyncio.create_task(release(), name="cache lease release")
            self._asides.add(task)
            task.add_done_callback(self._asides.discard)

    async def _renew(self, turn: LeaseHolder[V]) -> None:
        while True:
            await asyncio.sleep(self._seconds / 3)
            with suppress(TierFailure):
                held = await self.guard.ask(
                    lambda: self._leases.renew(turn.key, turn.token, self._seconds),
                    within=self._seconds / 3,
                    of="lease_",
                )
                if not held:
                    self.guard.count("lease_lost")
                    return


class LeaseHolder(Generic[V]):
    """Of one process: all its requests for a key that come while it lasts share it.

    Entering gives the value that another process has made, or None: whoever entered makes it, and
    says so by `stored`. The lease lasts until the last of them has left.
    """

    def __init__(
        self, lease: DistributedLease[V], key: bytes, read: Read[V], within: float
    ) -> None:
        self.key = key
        self.token = secrets.token_bytes(16)
        self.stored = False
        """Those that wait can find the value now."""
        self._lease = lease
        self._users = 0
        self._failed = False
        self._renewing: asyncio.Task[None] | None = None
        self._taken = asyncio.create_task(lease.take(self, read, within), name="cache turn")

    @property
    def leads(self) -> bool:
        return self._renewing is not None

    @property
    def claimed(self) -> bool:
        """Whether there may be a lease to be given back: also where its answer never came."""
        return self.leads or self._taken.cancelled() or not self._taken.done()

    def lead(self, renewing: asyncio.Task[None]) -> None:
        self._renewing = renewing

    async def __aenter__(self) -> V | None:
        self._users += 1
        try:
            return await asyncio.shield(self._taken)
        except BaseException:
            self._leave()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # who was cancelled, or left his stream, hands over to the next one
        self._failed |= error is None or isinstance(error, Exception)
        self._leave()

    def _leave(self) -> None:
        self._users -= 1
        if self._users:
            return
        self._lease.end(self, unshared=self._failed and not self.stored)
        self._taken.cancel()
        if self._renewing is not None:
            self._renewing.cancel()
