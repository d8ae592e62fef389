"""One summary of texts that no prompt can hold.

map_reduce: every part is summarised, so many at once as may be, then the summaries are, until there
is one. refine: one summary goes on from part to part. Either way a passage keeps its number
throughout, so that the last summary cites the passages themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from vivace.generate import prompts
from vivace.generate.excerpts import Count, Excerpt
from vivace.generate.optimise import Price
from vivace.generate.templates import ResolvedTemplate
from vivace.run.streams import closing
from vivace.settings import Answering
from vivace.types import Chunk, Delta, Message, Usage

T = TypeVar("T")
_SHARE = 4
"""Of the budget, the summary of a part takes at most one in so many: then they become fewer."""


class Ask(Protocol):
    """Ask the model."""

    def __call__(
        self, messages: Sequence[Message], most: int | None = None
    ) -> AsyncIterator[Delta]: ...


@dataclass(frozen=True, slots=True)
class Summarising:
    """What a summary is made of, and how."""

    ask: Ask
    task: ResolvedTemplate
    told: Message
    """The system message of every step."""
    history: tuple[Message, ...]
    """Of the last step."""
    answering: Answering
    budget: int
    """Most tokens of the passages, or of the summaries of parts, in one prompt."""
    count: Count


def passages(documents: Sequence[Sequence[Chunk]]) -> tuple[Excerpt, ...]:
    """Every character of the documents once, in order: chunks overlap, excerpts of them do not."""
    made: list[Excerpt] = []
    for chunks in documents:
        reached = 0
        for chunk in chunks:
            length = len(chunk.text)
            overlap = max(0, reached - chunk.start) if chunk.end - chunk.start == length else 0
            if overlap < length:
                made.append(Excerpt(chunk, ((overlap, length),), rank=len(made)))
            reached = max(reached, chunk.end)
    return tuple(made)


def parted(
    excerpts: Sequence[Excerpt], budget: int, price: Price
) -> tuple[tuple[Excerpt, ...], ...]:
    """Groups of neighbours that a prompt has room for; an excerpt larger than that is divided."""
    groups: list[list[Excerpt]] = [[]]
    left = budget
    for piece in (piece for excerpt in excerpts for piece in _divided(excerpt, budget, price)):
        cost = price(piece)
        if cost > left and groups[-1]:
            groups.append([])
            left = budget
        groups[-1].append(piece)
        left -= cost
    return tuple(tuple(group) for group in groups if group)


def _divided(excerpt: Excerpt, budget: int, price: Price) -> list[Excerpt]:
    if (cost := price(excerpt)) <= budget:
        return [excerpt]
    fence = price(replace(excerpt, spans=()))
    length = sum(end - start for start, end in excerpt.spans)
    step = max(1, length * max(1, budget - fence) // max(1, cost - fence) * 9 // 10)
    spans = [
        (at, min(end, at + step)) for start, end in excerpt.spans for at in range(start, end, step)
    ]
    return [replace(excerpt, spans=(span,)) for span in spans]


async def stream(
    summarising: Summarising, groups: Sequence[Sequence[Excerpt]]
) -> AsyncIterator[Delta]:
    """The last summary as it comes. Its last delta has the tokens of all steps.

    Raises:
        GenerationError: a step failed; the others are ended.
    """
    one = summarising
    firsts = [1]
    for group in groups:
        firsts.append(firsts[-1] + len(group))
    spent = Usage()
    if len(groups) == 1:
        last = prompts.message(one.task, groups[0])
    elif one.answering.summary == "refine":
        so_far: tuple[str, ...] = ()
        for group, first in zip(groups[:-1], firsts, strict=False):
            text, usage = await _whole(one, _step(one, group, first, so_far))
            so_far, spent = (text,), _sum(spent, usage)
        last = _step(one, groups[-1], firsts[len(groups) - 1], so_far)
    else:
        steps = [_step(one, g, first, ()) for g, first in zip(groups, firsts, strict=False)]
        notes, spent = await _every(one, steps, spent)
        while sum(map(one.count, notes)) > one.budget and len(notes) > 2:
            merges = [_merge(one, some) for some in _some(one, notes)]
            notes, spent = await _every(one, merges, spent)
        last = _merge(one, [_cut(one, note, one.budget // len(notes)) for note in notes])
    messages = (one.told, *one.history, Message("user", last))
    async with closing(one.ask(messages)) as deltas:
        async for delta in deltas:
            if delta.usage is not None:
                delta = replace(delta, usage=_sum(spent, delta.usage))
            yield delta


def _step(one: Summarising, group: Sequence[Excerpt], first: int, so_far: Sequence[str]) -> str:
    asked = one.task.filled(one.task.wording.refine) + one.task.text if so_far else ""
    return prompts.message(one.task, group, first=first, notes=so_far, asked=asked)


def _merge(one: Summarising, notes: Sequence[str]) -> str:
    asked = one.task.filled(one.task.wording.merge or one.task.wording.ask) + one.task.text
    return prompts.message(one.task, (), notes=notes, asked=asked)


def _some(one: Summarising, notes: Sequence[str]) -> list[list[str]]:
    """Notes in groups of two or more that fit."""
    groups: list[list[str]] = [[]]
    left = one.budget
    for note in (_cut(one, note, one.budget // 2) for note in notes):
        cost = one.count(note)
        if cost > left and len(groups[-1]) > 1:
            groups.append([])
            left = one.budget
        groups[-1].append(note)
        left -= cost
    return groups


def _cut(one: Summarising, note: str, most: int) -> str:
    """A model that writes more than it was told must not overflow the next prompt."""
    cost = one.count(note)
    return note if cost <= most else note[: max(1, len(note) * most // cost)]


async def _every(one: Summarising, asked: Sequence[str], spent: Usage) -> tuple[list[str], Usage]:
    found = await bounded([lambda a=a: _whole(one, a) for a in asked], one.answering.parallel)  # type: ignore[misc]
    for _, usage in found:
        spent = _sum(spent, usage)
    return [text for text, _ in found], spent


async def _whole(one: Summarising, asked: str) -> tuple[str, Usage]:
    parts: list[str] = []
    usage = Usage()
    messages = (one.told, Message("user", asked))
    async with closing(one.ask(messages, max(64, one.budget // _SHARE))) as deltas:
        async for delta in deltas:
            parts.append(delta.text)
            usage = _sum(usage, delta.usage)
    return "".join(parts), usage


async def bounded(calls: Sequence[Callable[[], Awaitable[T]]], most: int) -> list[T]:
    """The results in order, at most `most` at once; the first failure ends the others."""
    room = asyncio.Semaphore(most)

    async def run(call: Callable[[], Awaitable[T]]) -> T:
        async with room:
            return await call()

    tasks = [asyncio.ensure_future(run(call)) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _sum(one: Usage, other: Usage | None) -> Usage:
    nothing = Usage()
    # what was replayed adds nothing to what is billed
    if other is None or other == nothing or (other.free and not one.free and one != nothing):
        return one
    if one == nothing or (one.free and not other.free):
        return other
    return Usage(
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        one.cached_tokens + other.cached_tokens,
        free=one.free,
    )
