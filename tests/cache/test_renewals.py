"""What is made again behind stale values: once for each key, and until it is closed."""

from __future__ import annotations

import asyncio

from vivace.cache.renewals import Revalidation
from vivace.run.work import Priority, current, work_context


async def test_a_key_is_made_again_once_at_a_time() -> None:
    renewals, go, runs = Revalidation(), asyncio.Event(), []

    async def make() -> None:
        runs.append(1)
        await go.wait()

    for key in (b"a", b"a", b"b"):
        renewals.begin(key, make, lambda: None)
    await asyncio.sleep(0)
    assert len(runs) == 2
    go.set()
    await renewals.settle()
    renewals.begin(b"a", make, lambda: None)
    await renewals.settle()
    assert len(runs) == 3


async def test_it_is_in_background_whoever_asked() -> None:
    renewals, seen = Revalidation(), []

    async def make() -> None:
        seen.append((current().priority, current().deadline))

    with work_context(Priority.INTERACTIVE, seconds=1.0):
        renewals.begin(b"a", make, lambda: None)
    await renewals.settle()
    assert seen == [(Priority.BACKGROUND, None)]


async def test_what_fails_is_told_and_what_is_closed_is_not() -> None:
    renewals, failed = Revalidation(), []

    async def fail() -> None:
        raise RuntimeError("broken")

    renewals.begin(b"a", fail, lambda: failed.append(1))
    await renewals.settle()
    assert failed == [1]
    renewals.begin(b"b", asyncio.Event().wait, lambda: failed.append(1))
    await asyncio.sleep(0)
    await renewals.close()
    await renewals.close()
    assert failed == [1]
