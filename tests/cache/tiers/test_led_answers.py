"""Of several processes one asks the model; here they are generators with tiers of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from tests.support.services import Valkey
from vivace.cache.adaptation import make_policy
from vivace.cache.generator import CachedGenerator, RecordedAnswer, decode, encode
from vivace.cache.memory import Memory
from vivace.cache.namespace import CacheNamespace
from vivace.cache.tiers.redis import RedisTier
from vivace.cache.tiers.resilient import ResilientTier
from vivace.cache.values import ANSWER
from vivace.errors import DeadlineExceeded, GenerationError, ModelRefused
from vivace.generate.coalesce import Coalesced
from vivace.run.streams import closing
from vivace.run.work import Priority, work_context
from vivace.types import Delta, Message

ASKED = (Message("system", "Be brief."), Message("user", "Why?"))
WORDS = [f"word{n} " for n in range(20)]
LEASE = 1.0
pytestmark = pytest.mark.integration


class Model:
    """Of all processes; it goes on when it may."""

    name = "openai:fake"

    def __init__(self) -> None:
        self.asked = 0
        self.may = asyncio.Event()
        self.last = Delta(finish_reason="stop")
        self.error: Exception | None = None

    async def stream(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float
    ) -> AsyncIterator[Delta]:
        self.asked += 1
        error = self.error
        yield Delta(WORDS[0])
        await self.may.wait()
        if error is not None:
            raise error
        for word in WORDS[1:]:
            yield Delta(word)
        yield self.last

    async def close(self) -> None: ...


class Process:
    def __init__(self, url: str, model: Model) -> None:
        self.tier = ResilientTier(RedisTier(url, seconds=1.0), seconds=1.0)
        self.memory = Memory(
            1 << 20,
            make_policy("lru", 1 << 20),
            tiers=[self.tier],
            tier_seconds=1.0,
            lease_seconds=LEASE,
        )
        answers: CacheNamespace[RecordedAnswer] = self.memory.namespace(
            ANSWER, encode=encode, decode=decode
        )
        self.generator = CachedGenerator(Coalesced(model), answers, seconds=60.0)

    def stream(self) -> AsyncIterator[Delta]:
        return self.generator.stream(ASKED, max_tokens=100, temperature=0.0)

    async def ask(self) -> str:
        return "".join([delta.text async for delta in self.stream()])

    def counted(self, what: str) -> int:
        return self.tier.trace.counters().get(f"cache.redis.{what}", 0)


@pytest.fixture
async def model() -> Model:
    return Model()


@pytest.fixture
async def processes(valkey: Valkey, model: Model) -> AsyncIterator[list[Process]]:
    made = [Process(valkey.url, model) for _ in range(4)]
    for each in made:
        await each.tier.get(b"connected")
        tiers = each.memory.tiers
        assert tiers is not None
        assert tiers.invalidation is not None
        tiers.start()
        await tiers.invalidation.connected.wait()  # which forgets what was computed before
    yield made
    for each in made:
        await each.memory.close()


async def begun(model: Model, asked: int = 1) -> None:
    async with asyncio.timeout(10):
        while model.asked < asked:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_hundred_requests_of_four_processes_are_one_call(
    processes: list[Process], model: Model, valkey: Valkey
) -> None:
    asking = [asyncio.create_task(each.ask()) for each in processes for _ in range(25)]
    await begun(model)
    await asyncio.sleep(3 * LEASE / 2)  # longer than the lease: it is renewed
    model.may.set()
    assert set(await asyncio.gather(*asking)) == {"".join(WORDS)}
    assert model.asked == 1
    assert await processes[0].ask() == "".join(WORDS)
    await asyncio.sleep(0.05)
    assert valkey.ask("KEYS", "*lease*") == []


async def test_those_of_the_process_that_leads_read_along(
    processes: list[Process], model: Model
) -> None:
    first, second = processes[0].stream(), processes[0].stream()
    assert (await anext(first)).text == WORDS[0]
    async with asyncio.timeout(5):
        assert (await anext(second)).text == WORDS[0]  # and the model has not gone on
    assert model.asked == 1
    model.may.set()
    for stream in (first, second):
        assert "".join([delta.text async for delta in stream]) == "".join(WORDS[1:])


async def test_who_leaves_hands_over(processes: list[Process], model: Model) -> None:
    one, other, *_ = processes
    async with closing(one.stream()) as stream:
        await anext(stream)
        waiting = asyncio.create_task(other.ask())
        await asyncio.sleep(0.1)
        assert model.asked == 1
    await begun(model, 2)
    model.may.set()
    assert await waiting == "".join(WORDS)
    assert model.asked == 2


async def test_nobody_waits_for_the_failures_of_all(processes: list[Process], model: Model) -> None:
    model.error = ModelRefused("the model refused", fix="Ask another one", status=400)
    one, *others = processes
    failing = asyncio.create_task(one.ask())
    await begun(model)
    waiting = [asyncio.create_task(each.ask()) for each in others]
    await asyncio.sleep(0.1)
    assert model.asked == 1
    model.error = None
    model.may.set()
    with pytest.raises(GenerationError):
        await failing
    model.may.clear()
    await begun(model, 4)  # all at once: none of them has anything yet
    model.may.set()
    assert set(await asyncio.gather(*waiting)) == {"".join(WORDS)}
    assert sum(each.counted("lease_unshared") for each in others) == 3


async def test_what_is_not_kept_is_asked_for_by_everybody(
    processes: list[Process], model: Model
) -> None:
    model.last = Delta(finish_reason="content_filter")
    waiting = [asyncio.create_task(each.ask()) for each in processes]
    await begun(model)
    model.may.set()
    async with asyncio.timeout(5):
        assert set(await asyncio.gather(*waiting)) == {"".join(WORDS)}
    assert model.asked == 4


async def test_who_waits_for_another_process_has_a_deadline(
    processes: list[Process], model: Model
) -> None:
    one, other, *_ = processes
    leading = asyncio.create_task(one.ask())
    await begun(model)
    with work_context(Priority.INTERACTIVE, seconds=0.1), pytest.raises(DeadlineExceeded):
        await other.ask()
    model.may.set()
    assert await leading == "".join(WORDS)
    assert await other.ask() == "".join(WORDS)
    assert model.asked == 1


async def test_what_is_cleared_while_it_is_written_is_not_kept(
    processes: list[Process], model: Model
) -> None:
    one, other, *_ = processes
    leading = asyncio.create_task(one.ask())
    await begun(model)
    await one.memory.clear()
    model.may.set()
    await leading
    await other.ask()
    assert model.asked == 2
