"""One computation over all processes: one computes, the others wait for its value.

`SET key token NX PX` with a token of the holder's own, renewed while it computes and released by
the token alone (Redis documentation, "Distributed locks with Redis", the single-instance form). The
lease saves work and guarantees nothing: a process that was stopped for longer than its lease
computes the value once more, which does no harm. If the holder dies, the lease expires, and the
next process that looks takes it. If the holder ends without a value to share (it failed, or the
value is not kept), it says so for a moment, and those that waited all compute for themselves: one
after the other, the last would wait for the failures of all.
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
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

from vivace.cache.tiers.connection import TierFailure
from vivace.cache.tiers.resilient import ResilientTier

Read: TypeAlias = Callable[[bytes, float | None], Any]
"""The value of the tier's bytes and the seconds they have left; None if they are of no use."""

_FIRST_LOOK, _LONGEST_LOOK = 0.005, 0.05
"""Seconds between two looks of a follower."""
_PATIENCE: Final = 60.0
"""Seconds after which a follower waits for no holder any more."""
_LEAST: Final = 0.002
"""Seconds left of a request's time for tiers below which the lease is not asked for."""


class Claim(Enum):
    """The result of asking for a lease."""

    OURS = 1
    THEIRS = 0
    UNSHARED = 2
    """Its holder has just ended without a value."""


@runtime_checkable
class LeasingTier(Protocol):
    """A tier that can give one of many processes the lease of a key."""

    async def claim(
        self, key: bytes, token: bytes, seconds: float
    ) -> Claim | tuple[bytes, float | None]: ...

    async def renew(self, key: bytes, token: bytes, seconds: float) -> bool: ...

    async def release(self, key: bytes, token: bytes, *, unshared: bool = False) -> None:
        """Args: `unshared`: no value was stored; followers are to know."""
        ...


class DistributedLease:
    """The leases of one tier. For one event loop.

    Args:
        seconds: within these a holder that died is replaced.
    """

    def __init__(self, tier: ResilientTier, leasing: LeasingTier, *, seconds: float = 2.0) -> None:
        self.tier = tier
        self._leasing = leasing
        # a follower's last look comes up to one interval after the end
        self._seconds = max(seconds - _LONGEST_LOOK, 2 * _LONGEST_LOOK)
        self._holders: dict[bytes, LeaseHolder] = {}
        self._releasing: set[asyncio.Task[None]] = set()

    def hold(self, key: bytes, read: Read, *, within: float) -> LeaseHolder:
        """Enter the result with `async with`.

        Args:
            within: seconds that asking for the lease may take; waiting for another holder is extra.
        """
        found = self._holders.get(key)
        if found is None:
            found = self._holders[key] = LeaseHolder(self, key, read, within)
        return found

    def held(self, key: bytes) -> LeaseHolder | None:
        """The holder of this process, if this process has the lease of the key."""
        found = self._holders.get(key)
        return found if found is not None and found.leads else None

    def forget(self, key: bytes | None) -> None:
        """A key was deleted (None: all): later requests share no computation begun before."""
        if key is None:
            self._holders.clear()
        else:
            self._holders.pop(key, None)

    async def acquire(self, holder: LeaseHolder, read: Read, within: float) -> Any:
        """Wait for another process's value; None if this process is to compute it."""
        if within < _LEAST:
            return None
        look, patience = _FIRST_LOOK, time.monotonic() + _PATIENCE
        while True:
            try:
                found = await self.tier.ask(
                    lambda: self._leasing.claim(holder.key, holder.token, self._seconds),
                    within=min(within, self.tier.seconds),
                    of="lease_",
                )
            except TierFailure:
                self.tier.count("lease_unasked")
                return None
            if isinstance(found, tuple):
                value = read(*found)
                # None: damaged, or of another schema; it is going to be overwritten
                self.tier.count("lease_unread" if value is None else "lease_followed")
                return value
            if found is Claim.OURS:
                self.tier.count("lease_led")
                holder.lead(asyncio.create_task(self._renew(holder), name="cache lease"))
                return None
            if found is Claim.UNSHARED:
                self.tier.count("lease_unshared")
                return None
            if time.monotonic() > patience:
                self.tier.count("lease_impatient")
                return None
            await asyncio.sleep(look * random.uniform(0.5, 1.0))
            look = min(2 * look, _LONGEST_LOOK)
            within = self.tier.seconds

    def end(self, holder: LeaseHolder, *, unshared: bool) -> None:
        """Release the lease in a task of its own: the request may be being cancelled."""
        if self._holders.get(holder.key) is holder:
            del self._holders[holder.key]

        async def release() -> None:
            with suppress(TierFailure):
                await self.tier.ask(
                    lambda: self._leasing.release(holder.key, holder.token, unshared=unshared),
                    within=1.0,
                    of="lease_",
                )

        if holder.claimed:
            task = asyncio.create_task(release(), name="cache lease release")
            self._releasing.add(task)
            task.add_done_callback(self._releasing.discard)

    async def _renew(self, holder: LeaseHolder) -> None:
        while True:
            await asyncio.sleep(self._seconds / 3)
            with suppress(TierFailure):
                held = await self.tier.ask(
                    lambda: self._leasing.renew(holder.key, holder.token, self._seconds),
                    within=self._seconds / 3,
                    of="lease_",
                )
                if not held:
                    self.tier.count("lease_lost")
                    return


class LeaseHolder:
    """One process's part in a lease, shared by all its requests for the key while it lasts.

    Entering returns the value another process has computed, or None: then the request computes the
    value and sets `stored` when it is in the tier. The lease ends when the last request leaves.
    """

    def __init__(self, lease: DistributedLease, key: bytes, read: Read, within: float) -> None:
        self.key = key
        self.token = secrets.token_bytes(16)
        self.stored = False
        """Followers can find the value now."""
        self._lease = lease
        self._users = 0
        self._failed = False
        self._renewing: asyncio.Task[None] | None = None
        self._acquired = asyncio.create_task(
            lease.acquire(self, read, within), name="cache lease claim"
        )

    @property
    def leads(self) -> bool:
        return self._renewing is not None

    @property
    def claimed(self) -> bool:
        """Whether there may be a lease to release: also where the claim was never answered."""
        return self.leads or self._acquired.cancelled() or not self._acquired.done()

    def lead(self, renewing: asyncio.Task[None]) -> None:
        self._renewing = renewing

    async def __aenter__(self) -> Any:
        self._users += 1
        try:
            return await asyncio.shield(self._acquired)
        except BaseException:
            self._leave()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # a request that was cancelled, or left its stream, hands over to the next one
        self._failed |= error is None or isinstance(error, Exception)
        self._leave()

    def _leave(self) -> None:
        self._users -= 1
        if self._users:
            return
        self._lease.end(self, unshared=self._failed and not self.stored)
        self._acquired.cancel()
        if self._renewing is not None:
            self._renewing.cancel()
