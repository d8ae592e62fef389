"""The model's answers to prompts it has been given before, replayed as streams."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import msgspec

from vivace.cache.namespace import CacheNamespace
from vivace.cache.single_flight import Revalidation
from vivace.cache.values import ANSWER, key
from vivace.protocols import Generator
from vivace.run.streams import LazyStream, closing
from vivace.run.work import current, too_late
from vivace.types import Delta, Message, Usage

_COMPLETE: Final = frozenset(("stop", "length"))
"""Finish reasons of answers that are as they were asked for; so is one of `length`."""
_PIECE: Final = 64
"""Least characters of a replayed piece: no one waits between two of them, and each costs a write.
"""


class RecordedAnswer(msgspec.Struct, frozen=True, array_like=True):
    """An answer from its first piece to its finish reason."""

    pieces: tuple[str, ...]
    finish_reason: str
    usage: tuple[int, int] | None = None
    """Prompt and completion tokens, as they were billed then."""
    until: float = 0.0
    """Seconds since 1970 after which it is stale; its time to live may end later."""

    @property
    def nbytes(self) -> int:
        return 200 + sum(map(sys.getsizeof, self.pieces))

    @property
    def tokens(self) -> int:
        return sum(self.usage) if self.usage else 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(RecordedAnswer)


def encode(value: RecordedAnswer) -> bytes:
    """For a tier."""
    return _encoder.encode(value)


def decode(data: bytes) -> RecordedAnswer:
    """The inverse of `encode`.

    Raises:
        ValueError: the data is something else.
    """
    return _decoder.decode(data)


class CachedGenerator:
    """A `Generator` that asks the model once for each prompt.

    An answer is kept under the model's name and scope, the messages, the maximum of tokens and the
    temperature. The prompt holds the passages, so an answer outlives every edit but one of its own
    passages. It is kept when its stream has come to its end with a finish reason; one that failed,
    was cut or was abandoned is not. It is replayed as a stream, with its former usage marked
    `free`. Of several processes that share a tier with leases one asks the model; the others wait
    for the whole answer, until their deadline at most.

    Args:
        answers: where they are kept.
        seconds: that an answer lives.
        stale_seconds: after that, in which it is replayed while it is made again.
        sampled: keep answers of a temperature above 0 as well.
        clock: seconds since 1970.
        saved: called with the prompt and completion tokens that a replay did not cost.
        scope: tells models apart that have the same name on different servers.
    """

    def __init__(
        self,
        generator: Generator,
        answers: CacheNamespace[RecordedAnswer],
        *,
        seconds: float,
        stale_seconds: float = 0.0,
        sampled: bool = False,
        clock: Callable[[], float] = time.time,
        saved: Callable[[int], None] | None = None,
        scope: str = "",
    ) -> None:
        self.name = generator.name
        self._scope = scope
        self._generator = generator
        self._answers = answers
        self._seconds = seconds
        self._stale_seconds = stale_seconds
        self._sampled = sampled
        self._clock = clock
        self._saved = saved
        self._revalidation = Revalidation()

    def stream(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float
    ) -> AsyncIterator[Delta]:
        """The completion in pieces; raises as the generator does."""
        if temperature > 0 and not self._sampled:
            return self._generator.stream(messages, max_tokens=max_tokens, temperature=temperature)
        said = [text for message in messages for text in (message.role, message.content)]
        one = key(ANSWER, self.name, self._scope, max_tokens, float(temperature), *said)
        return LazyStream(lambda: self._begun(one, messages, max_tokens, temperature))

    async def close(self) -> None:
        await self._revalidation.close()
        await self._generator.close()

    async def settle(self) -> None:
        """Wait until no stale answer is being made again."""
        await self._revalidation.settle()

    # -- inside -----------------------------------------------------------------------------

    async def _begun(
        self, one: bytes, messages: Sequence[Message], max_tokens: int, temperature: float
    ) -> AsyncIterator[Delta]:
        lead = AsyncExitStack()
        try:
            async with asyncio.timeout_at(current().deadline):
                known = await lead.enter_async_context(self._answers.lead(one))
        except TimeoutError as error:  # another process was making it
            raise too_late(self.name) from error
        if known is None:
            return self._asked(one, messages, max_tokens, temperature, lead)
        await lead.aclose()
        if self._clock() >= known.until:
            self._answers.count("stale")
            self._revalidate(one, messages, max_tokens, temperature)
        if self._saved is not None:
            self._saved(known.tokens)
        return _replayed(known)

    async def _asked(
        self,
        one: bytes,
        messages: Sequence[Message],
        max_tokens: int,
        temperature: float,
        lead: AsyncExitStack,
    ) -> AsyncIterator[Delta]:
        """The model's own stream, kept when it has come to its end; then the lead is given up."""
        parts: list[str] = []
        last: Delta | None = None
        start = time.perf_counter()
        stream = self._generator.stream(messages, max_tokens=max_tokens, temperature=temperature)
        async with lead:
            async with closing(stream) as deltas:
                async for delta in deltas:
                    if delta.text:
                        parts.append(delta.text)
                    if delta.finish_reason:
                        last = delta
                    yield delta
            await self._keep(one, parts, last, 1e3 * (time.perf_counter() - start))

    async def _keep(self, one: bytes, parts: list[str], last: Delta | None, cost: float) -> None:
        if last is None or last.finish_reason not in _COMPLETE or not parts:
            return
        if last.degraded:
            return  # the model did not do as asked: it may have used a temperature of its own
        usage = last.usage
        recorded = RecordedAnswer(
            _pieces(parts),
            last.finish_reason,
            None if usage is None else (usage.prompt_tokens, usage.completion_tokens),
            self._clock() + self._seconds,
        )
        await self._answers.set(one, recorded, ttl=self._seconds + self._stale_seconds, cost=cost)

    def _revalidate(
        self, one: bytes, messages: Sequence[Message], max_tokens: int, temperature: float
    ) -> None:
        async def again() -> None:
            stream = self._asked(one, messages, max_tokens, temperature, AsyncExitStack())
            async with closing(stream) as deltas:
                async for _ in deltas:
                    pass

        self._revalidation.begin(one, again, partial(self._answers.count, "failed"))


async def _replayed(known: RecordedAnswer) -> AsyncIterator[Delta]:
    for piece in known.pieces:
        yield Delta(piece)
    usage = None
    if known.usage is not None:
        prompt, completion = known.usage
        usage = Usage(prompt, completion, prompt, free=True)
    yield Delta(finish_reason=known.finish_reason, usage=usage)


def _pieces(parts: Sequence[str]) -> tuple[str, ...]:
    """Joined to pieces of at least `_PIECE` characters, except the last."""
    pieces: list[str] = []
    waiting = ""
    for part in parts:
        waiting += part
        if len(waiting) >= _PIECE:
            pieces.append(waiting)
            waiting = ""
    return (*pieces, waiting) if waiting else tuple(pieces)
