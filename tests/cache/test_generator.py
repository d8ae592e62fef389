"""Answers are replayed as they were written, and only whole ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from vivace.answer.prompted import cost
from vivace.cache.adaptation import make_policy
from vivace.cache.generator import CachedGenerator, RecordedAnswer, decode, encode
from vivace.cache.memory import Memory
from vivace.cache.namespace import CacheNamespace
from vivace.cache.values import ANSWER
from vivace.errors import ModelRefused
from vivace.run.streams import closing
from vivace.settings import Generate
from vivace.types import Delta, Message, Usage

LAST = Delta(finish_reason="stop", usage=Usage(100, 20, 5))
ASKED = (Message("system", "Be brief."), Message("user", "Why?"))


class Model:
    """A `Generator` that says what it is told to, and how often it was asked."""

    name = "openai:fake"

    def __init__(self) -> None:
        self.asked = 0
        self.closed = False
        self.deltas: list[Delta] = [*(Delta(f"word{n} ") for n in range(40)), LAST]
        self.error: Exception | None = None

    async def stream(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float
    ) -> AsyncIterator[Delta]:
        self.asked += 1
        for delta in self.deltas:
            yield delta
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        self.closed = True


class World:
    def __init__(self, **settings: Any) -> None:
        self.now = 0.0
        self.model = Model()
        self.saved = 0
        self.memory = Memory(1 << 20, make_policy("lru", 1 << 20), clock=lambda: self.now, jitter=0)
        self.answers: CacheNamespace[RecordedAnswer] = self.memory.namespace(ANSWER)
        settings = {"seconds": 100.0, **settings}
        self.generator = CachedGenerator(
            self.model,
            self.answers,
            clock=lambda: self.now,
            saved=self._save,
            **settings,
        )

    def _save(self, tokens: int) -> None:
        self.saved += tokens

    async def ask(
        self,
        messages: Sequence[Message] = ASKED,
        max_tokens: int = 100,
        temperature: float = 0.0,
    ) -> list[Delta]:
        stream = self.generator.stream(messages, max_tokens=max_tokens, temperature=temperature)
        return [delta async for delta in stream]


async def test_another_server_with_a_model_of_the_same_name() -> None:
    world = World(scope="openai:fake@http://one/v1")
    await world.ask()
    other = CachedGenerator(
        world.model, world.answers, seconds=100.0, scope="openai:fake@http://two/v1"
    )
    async for _ in other.stream(ASKED, max_tokens=100, temperature=0.0):
        pass
    assert world.model.asked == 2
    await world.ask()
    assert world.model.asked == 2


def text(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


async def test_an_answer_is_replayed_as_a_stream() -> None:
    w = World()
    first, again = await w.ask(), await w.ask()
    assert w.model.asked == 1
    assert text(first) == text(again)
    assert 1 < len(again) < len(first)
    assert all(delta.text for delta in again[:-1])
    assert again[-1] == Delta(finish_reason="stop", usage=Usage(100, 20, 100, free=True))
    assert w.saved == 120
    prices = Generate(price_prompt=1.0, price_completion=1.0)
    assert cost(first[-1].usage, prices) == pytest.approx(120e-6)
    assert cost(again[-1].usage, prices) == 0.0


@pytest.mark.parametrize(
    "other",
    [
        {"max_tokens": 101},
        {"messages": (*ASKED, Message("user", "Why?"))},
        {"messages": (Message("user", "Be brief."), Message("user", "Why?"))},
        {"messages": (ASKED[0], Message("user", "Why? "))},
    ],
)
async def test_another_prompt_is_asked(other: dict[str, Any]) -> None:
    w = World()
    await w.ask()
    await w.ask(**other)
    assert w.model.asked == 2


async def test_another_model_is_asked() -> None:
    w = World()
    await w.ask()
    w.generator.name = "openai:other"
    await w.ask()
    assert w.model.asked == 2


async def test_samples_are_kept_where_that_is_wished_for() -> None:
    plain, sampled = World(), World(sampled=True)
    for w in (plain, sampled):
        for _ in range(2):
            await w.ask(temperature=0.7)
    assert (plain.model.asked, sampled.model.asked) == (2, 1)
    await sampled.ask(temperature=0.8)
    assert sampled.model.asked == 2


@pytest.mark.parametrize(
    "deltas",
    [
        [Delta("half")],
        [Delta("half"), Delta(finish_reason="content_filter")],
        [Delta(finish_reason="stop")],
        [],
        [Delta("warm"), Delta(finish_reason="stop", degraded=("its own temperature",))],
    ],
)
async def test_what_is_not_whole_is_not_kept(deltas: list[Delta]) -> None:
    w = World()
    w.model.deltas = deltas
    assert await w.ask() == await w.ask() == deltas
    assert w.model.asked == 2


async def test_what_failed_is_not_kept() -> None:
    w = World()
    w.model.error = ModelRefused("no", status=500, fix="Ask later")
    for _ in range(2):
        with pytest.raises(ModelRefused):
            await w.ask()
    assert w.model.asked == 2


async def test_what_was_left_early_is_not_kept() -> None:
    w = World()
    for _ in range(2):
        stream = w.generator.stream(ASKED, max_tokens=100, temperature=0.0)
        async with closing(stream) as deltas:
            async for _ in deltas:
                break
    assert w.model.asked == 2


async def test_what_reached_its_length_is_kept() -> None:
    w = World()
    w.model.deltas = [Delta("a lot"), Delta(finish_reason="length")]
    assert await w.ask() == await w.ask()
    assert w.model.asked == 1


async def test_answers_expire_and_may_be_stale_for_a_time() -> None:
    w = World(stale_seconds=50.0)
    await w.ask()
    w.now = 120.0
    w.model.deltas = [Delta("new"), LAST]
    assert text(await w.ask()).startswith("word0")
    await w.generator.settle()
    assert (text(await w.ask()), w.model.asked) == ("new", 2)
    w.now = 300.0
    await w.ask()
    assert w.model.asked == 3
    counts = w.memory.statistics().kinds[ANSWER]
    assert (counts.stale, counts.failed) == (1, 0)


async def test_an_answer_that_cannot_be_made_again_is_counted() -> None:
    w = World(stale_seconds=50.0)
    await w.ask()
    w.now = 120.0
    w.model.error = ModelRefused("no", fix="Ask later", status=400)
    assert text(await w.ask()).startswith("word0")
    await w.generator.settle()
    counts = w.memory.statistics().kinds[ANSWER]
    assert (counts.stale, counts.failed) == (1, 1)


async def test_closing_ends_what_is_made_again() -> None:
    w = World(stale_seconds=50.0)
    await w.ask()
    w.now = 120.0
    await w.ask()
    await w.generator.close()
    await asyncio.sleep(0)
    await w.generator.settle()
    assert w.model.closed


def test_an_answer_comes_back_from_its_bytes() -> None:
    recorded = RecordedAnswer(("a", "试"), "stop", (1, 2), 3.5)
    assert decode(encode(recorded)) == recorded
    with pytest.raises(ValueError, match=r"malformed|Expected|invalid"):
        decode(b"nonsense")
