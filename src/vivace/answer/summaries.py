"""One summary of texts that no prompt can hold.

map_reduce: every part is summarised, several at once, then the summaries are, until one is left.
refine: one summary is continued from part to part. Either way a passage keeps its number, so that
the last summary cites the passages themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Final, Protocol

from vivace.generate.compression import Excerpt, TokenCost
from vivace.generate.prompts import PromptBuilder, message
from vivace.generate.templates import ResolvedTemplate
from vivace.run.streams import closing
from vivace.settings import Answering
from vivace.types import Chunk, Delta, Message, Usage

_SHARE: Final = 4
"""The summary of a part takes at most one in so many tokens of the budget, so each round of
map_reduce leaves fewer."""
_LEAST: Final = 64
"""Tokens that the summary of a part may have at any rate."""


class AskModel(Protocol):
    def __call__(
        self, messages: Sequence[Message], max_tokens: int | None = None
    ) -> AsyncIterator[Delta]:
        """The model's reply, by default of at most as many tokens as the request allows."""


class SummaryWriter:
    """Writes the summary of one request.

    Args:
        opening: the system message, and the conversation, which only the last step is shown.
    """

    def __init__(
        self,
        ask: AskModel,
        template: ResolvedTemplate,
        opening: Sequence[Message],
        prompts: PromptBuilder,
        answering: Answering,
    ) -> None:
        self._ask = ask
        self._template = template
        self._system = opening[0]
        self._opening = opening
        self._budget = prompts.budget
        self._count = prompts.count
        self._answering = answering
        self._spent = Usage()

    async def stream(self, groups: Sequence[Sequence[Excerpt]]) -> AsyncIterator[Delta]:
        """The last summary as it is written. Its last delta has the tokens of all steps.

        Raises:
            GenerationError: a step failed; the others are ended.
        """
        if len(groups) <= 1:
            last = message(self._template, groups[0] if groups else ())
        elif self._answering.summary == "refine":
            last = await self._refined(groups)
        else:
            last = await self._reduced(groups)
        async with closing(self._ask((*self._opening, Message("user", last)))) as deltas:
            async for delta in deltas:
                if delta.usage is not None:
                    delta = replace(delta, usage=_total(self._spent, delta.usage))
                yield delta

    async def _refined(self, groups: Sequence[Sequence[Excerpt]]) -> str:
        """The last step of refine, after all others."""
        firsts = _first_numbers(groups)
        template = self._template
        step = message(template, groups[0])
        for group, first in zip(groups[1:], firsts[1:], strict=True):
            so_far = await self._reply(step)
            request = template.fill(template.wording.refine) + template.text
            step = message(template, group, first=first, notes=[so_far], request=request)
        return step

    async def _reduced(self, groups: Sequence[Sequence[Excerpt]]) -> str:
        """The last step of map_reduce, after all others."""
        steps = zip(groups, _first_numbers(groups), strict=True)
        notes = await self._replies([message(self._template, g, first=n) for g, n in steps])
        while sum(map(self._count, notes)) > self._budget and len(notes) > 2:
            notes = await self._replies([self._merge(some) for some in self._grouped(notes)])
        return self._merge([self._cut(note, self._budget // len(notes)) for note in notes])

    def _merge(self, notes: Sequence[str]) -> str:
        template = self._template
        request = template.fill(template.wording.merge or template.wording.ask) + template.text
        return message(template, (), notes=notes, request=request)

    def _grouped(self, notes: Sequence[str]) -> list[list[str]]:
        """Notes in groups of two or more that fit."""
        groups: list[list[str]] = [[]]
        left = self._budget
        for note in (self._cut(note, self._budget // 2) for note in notes):
            cost = self._count(note)
            if cost > left and len(groups[-1]) > 1:
                groups.append([])
                left = self._budget
            groups[-1].append(note)
            left -= cost
        return groups

    def _cut(self, note: str, most: int) -> str:
        """A model that exceeds its limit must not overflow the next prompt."""
        cost = self._count(note)
        return note if cost <= most else note[: max(1, len(note) * most // cost)]

    async def _replies(self, requests: Sequence[str]) -> list[str]:
        """In order, a bounded number at once; the first failure cancels the others."""
        slots = asyncio.Semaphore(self._answering.parallel)

        async def reply(request: str) -> str:
            async with slots:
                return await self._reply(request)

        tasks = [asyncio.create_task(reply(request)) for request in requests]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _reply(self, request: str) -> str:
        parts: list[str] = []
        messages = (self._system, Message("user", request))
        async with closing(self._ask(messages, max(_LEAST, self._budget // _SHARE))) as deltas:
            usage = Usage()
            async for delta in deltas:
                parts.append(delta.text)
                usage = _total(usage, delta.usage)
        self._spent = _total(self._spent, usage)
        return "".join(parts)


def whole_documents(documents: Sequence[Sequence[Chunk]]) -> tuple[Excerpt, ...]:
    """Every character of the documents once, in order: chunks overlap, these excerpts do not."""
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


def grouped_by_budget(
    excerpts: Sequence[Excerpt], budget: int, cost: TokenCost
) -> tuple[tuple[Excerpt, ...], ...]:
    """Groups of neighbours that fit in a prompt; an excerpt larger than that is divided."""
    groups: list[list[Excerpt]] = [[]]
    left = budget
    for piece in (piece for excerpt in excerpts for piece in _divided(excerpt, budget, cost)):
        tokens = cost(piece)
        if tokens > left and groups[-1]:
            groups.append([])
            left = budget
        groups[-1].append(piece)
        left -= tokens
    return tuple(tuple(group) for group in groups if group)


def _divided(excerpt: Excerpt, budget: int, cost: TokenCost) -> list[Excerpt]:
    if (tokens := cost(excerpt)) <= budget:
        return [excerpt]
    fence = cost(replace(excerpt, spans=()))
    length = sum(end - start for start, end in excerpt.spans)
    step = max(1, length * max(1, budget - fence) // max(1, tokens - fence) * 9 // 10)
    spans = [
        (at, min(end, at + step)) for start, end in excerpt.spans for at in range(start, end, step)
    ]
    return [replace(excerpt, spans=(span,)) for span in spans]


def _first_numbers(groups: Sequence[Sequence[Excerpt]]) -> list[int]:
    """The number of each group's first passage."""
    return [1 + sum(map(len, groups[:at])) for at in range(len(groups))]


def _total(one: Usage, other: Usage | None) -> Usage:
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
