"""Many requests in one call: equal ones are sent once, the order is kept."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Final, TypeVar

from vivace.errors import VivaceError, copied
from vivace.protocols import Generator
from vivace.run.streams import closing
from vivace.run.work import Priority, work_context
from vivace.types import BatchProgress, Completion, Delta, OnBatch, Request

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
PARALLEL: Final = 64
"""Requests handed to the generator at once; the limits of the servers decide how many run."""


async def generate_many(
    generator: Generator,
    requests: Sequence[Request],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    sampled: bool = False,
    parallel: int = PARALLEL,
    progress: OnBatch | None = None,
) -> list[Completion | VivaceError]:
    """One completion or error a request, in order; one failure does not lose the others.

    Requests with the same messages, `max_tokens` and temperature are sent once; those with a
    temperature above zero only where `sampled`. They run as a batch: at the servers, interactive
    requests go first. Cancelling the call ends all of them.

    Args:
        max_tokens, temperature: of requests without their own.
        parallel: requests handed to the generator at once; the rest waits here, in a list.
        progress: called on the event loop whenever a request has ended.
    """

    async def whole(key: tuple[Request, int]) -> Completion:
        request, _ = key
        parts: list[str] = []
        last = Delta()
        deltas = generator.stream(
            request.messages,
            max_tokens=request.max_tokens or max_tokens,
            temperature=_given(request.temperature, temperature),
        )
        async with closing(deltas):
            async for delta in deltas:
                parts.append(delta.text)
                if delta.finish_reason:
                    last = delta
        finish = last.finish_reason or "stop"
        return Completion("".join(parts), finish, last.usage, last.degraded)

    keys = [
        (request, 0 if sampled or not _given(request.temperature, temperature) else number)
        for number, request in enumerate(requests)
    ]
    return await run_batch(keys, whole, parallel=parallel, progress=progress)


async def run_batch(
    keys: Sequence[K],
    ask: Callable[[K], Awaitable[T]],
    *,
    parallel: int,
    progress: OnBatch | None = None,
) -> list[T | VivaceError]:
    """The result of `ask` for each key, in order; equal keys are asked once, as work of a batch.

    A `VivaceError` is the result of its own key, one object for each; any other error ends the
    whole batch.
    """
    counts = Counter(keys)
    found: dict[K, T | VivaceError] = {}
    waiting = iter(list(counts))
    done = failed = 0

    async def work() -> None:
        nonlocal done, failed
        for key in waiting:
            try:
                found[key] = await ask(key)
            except VivaceError as error:
                found[key] = error
                failed += counts[key]
            done += counts[key]
            if progress is not None:
                progress(BatchProgress(done, len(keys), failed, len(found)))

    with work_context(Priority.BATCH):
        tasks = [asyncio.ensure_future(work()) for _ in range(min(parallel, len(counts)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    results: list[T | VivaceError] = []
    seen: set[K] = set()
    for key in keys:
        result = found[key]
        results.append(
            copied(result) if isinstance(result, VivaceError) and key in seen else result
        )
        seen.add(key)
    return results


def _given(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
