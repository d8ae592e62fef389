"""One computation over all processes: who holds the lease in L2 computes, the others wait.

`SET key token NX PX` with a token of the holder's own, renewed while it computes and taken back
by the token alone (Redis documentation, "Distributed locks with Redis", the single-instance
form). It saves work and promises nothing: a process that was stopped for longer than its lease
computes the same value once more, which does no harm. If the holder dies, the lease ends by
itself and the next one that looks has it.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol, TypeVar, runtime_checkable

from vivace.cache.failures import TierFailure
from vivace.cache.guarded import Guarded

V = TypeVar("V")

_FIRST_LOOK, _LONGEST_LOOK = 0.005, 0.05
"""Seconds between two looks of one who waits."""
_PATIENCE: Final = 60.0
"""Seconds after which a holder that goes on and on is not waited for any more."""
_LEAST: Final = 0.002
"""Seconds left of a request's time for tiers under which the lease is not asked for."""


@runtime_checkable
class Leases(Protocol):
    """A tier that can give one of many askers the lead."""

    async def claim(
        self, key: bytes, token: bytes, seconds: float
    ) -> bool | tuple[bytes, float | None]: ...

    async def renew(self, key: bytes, token: bytes, seconds: float) -> bool: ...

    async def release(self, key: bytes, token: bytes) -> None: ...


class Lease:
    """Of one tier.

    Args:
        seconds: a holder that dies is replaced within these.
    """

    def __init__(self, guard: Guarded, leases: Leases, *, seconds: float = 2.0) -> None:
        self._guard = guard
        self._leases = leases
        # a follower's last look comes up to one interval after the end
        self._seconds = max(seconds - _LONGEST_LOOK, 2 * _LONGEST_LOOK)
        self._asides: set[asyncio.Task[None]] = set()

    async def once(
        self,
        key: bytes,
        *,
        read: Callable[[bytes, float | None], V | None],
        compute: Callable[[], Awaitable[V]],
        store: Callable[[V], Awaitable[None]],
        within: float,
    ) -> V:
        """The value: of whoever holds the lease, or computed here.

        Args:
            read: the value of what the tier has, None if that is of no use.
            store: puts the value into the tier, before the lease is given back.
            within: seconds that asking for the lease may take; waiting for a holder is more.

        Raises:
            Exception: what `compute` raised here; the lease goes to the next one.
        """
        if within < _LEAST:
            return await compute()
        token = secrets.token_bytes(16)
        look, patience = _FIRST_LOOK, time.monotonic() + _PATIENCE
        while True:
            try:
                found = await self._guard.ask(
                    lambda: self._leases.claim(key, token, self._seconds),
                    within=min(within, self._guard.seconds),
                    of="lease_",
                )
            except TierFailure:
                self._guard.count("lease_unasked")
                return await compute()
            if isinstance(found, tuple):
                value = read(*found)
                if value is not None:
                    self._guard.count("lease_followed")
                    return value
                # damaged, or of another schema: it will be written over
                return await compute()
            if found:
                break
            if time.monotonic() > patience:
                self._guard.count("lease_impatient")
                return await compute()
            await asyncio.sleep(look * random.uniform(0.5, 1.0))
            look = min(2 * look, _LONGEST_LOOK)
            within = self._guard.seconds
        return await self._led(key, token, compute, store)

    async def _led(
        self,
        key: bytes,
        token: bytes,
        compute: Callable[[], Awaitable[V]],
        store: Callable[[V], Awaitable[None]],
    ) -> V:
        self._guard.count("lease_led")
        renewing = asyncio.create_task(self._renew(key, token), name="cache lease")
        try:
            value = await compute()
            await store(value)
            return value
        finally:
            renewing.cancel()
            self._give_back(key, token)

    async def _renew(self, key: bytes, token: bytes) -> None:
        while True:
            await asyncio.sleep(self._seconds / 3)
            with suppress(TierFailure):
                held = await self._guard.ask(
                    lambda: self._leases.renew(key, token, self._seconds),
                    within=self._seconds / 3,
                    of="lease_",
                )
                if not held:
                    self._guard.count("lease_lost")
                    return

    def _give_back(self, key: bytes, token: bytes) -> None:
        """Aside: the request has its value, and may itself be being cancelled."""

        async def release() -> None:
            with suppress(TierFailure):
                await self._guard.ask(
                    lambda: self._leases.release(key, token), within=1.0, of="lease_"
                )

        task = asyncio.create_task(release(), name="cache lease release")
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)
