"""One stream for identical requests, whoever comes late and whoever leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from vivace.errors import DeadlineExceeded, ModelRefused, StreamCut
from vivace.generate.coalesce import Coalesced
from vivace.generate.names import load
from vivace.run.work import Priority, work_context
from vivace.settings import Generate
from vivace.testing.fake_llm import FakeModel
from vivace.types import Delta, Message

ASKED = (Message("system", "Answer."), Message("user", "How long?"))


class ScriptedGenerator:
    """A generator that says what the test lets it say; keeps what was asked of it."""

    name = "scripted"

    def __init__(self) -> None:
        self.streams: list[asyncio.Queue[Delta | Exception | None]] = []
        self.ended: list[str] = []
        self.taken = 0

    async def stream(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float
    ) -> AsyncIterator[Delta]:
        said: asyncio.Queue[Delta | Exception | None] = asyncio.Queue()
        self.streams.append(said)
        how = "cancelled"
        try:
            while (item := await said.get()) is not None:
                if isinstance(item, Exception):
                    how = "failed"
                    raise item
                self.taken += 1
                yield item
            how = "whole"
        finally:
            self.ended.append(how)

    async def close(self) -> None:
        pass

    def say(self, *items: str | Exception | None, stream: int = -1) -> None:
        for item in items:
            self.streams[stream].put_nowait(Delta(item) if isinstance(item, str) else item)


def ask(model: Coalesced, temperature: float = 0.0) -> AsyncIterator[Delta]:
    return model.stream(ASKED, max_tokens=50, temperature=temperature)


async def whole(stream: AsyncIterator[Delta]) -> str:
    return "".join([delta.text async for delta in stream])


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_hundred_at_once_are_one_upstream() -> None:
    behind = ScriptedGenerator()
    model = Coalesced(behind)
    tasks = [asyncio.create_task(whole(ask(model))) for _ in range(100)]
    await settled()
    behind.say("a ", "b ")
    await settled()
    late = asyncio.create_task(whole(ask(model)))
    await settled()
    behind.say("c", None)
    assert set(await asyncio.gather(*tasks, late)) == {"a b c"}
    assert (len(behind.streams), behind.ended) == (1, ["whole"])


async def test_what_differs_is_asked_for_itself_and_what_has_ended_again() -> None:
    behind = ScriptedGenerator()
    model = Coalesced(behind)
    others = [
        model.stream(ASKED, max_tokens=50, temperature=0.0),
        model.stream(ASKED, max_tokens=51, temperature=0.0),
        model.stream(ASKED[1:], max_tokens=50, temperature=0.0),
    ]
    tasks = [asyncio.create_task(whole(one)) for one in others]
    await settled()
    for stream in range(3):
        behind.say("x", None, stream=stream)
    assert await asyncio.gather(*tasks) == ["x"] * 3
    again = asyncio.create_task(whole(ask(model)))
    await settled()
    behind.say("y", None)
    assert await again == "y"
    assert len(behind.streams) == 4


@pytest.mark.parametrize("sampled", [False, True])
async def test_sampled_answers_are_shared_only_where_wanted(sampled: bool) -> None:
    behind = ScriptedGenerator()
    model = Coalesced(behind, sampled=sampled)
    tasks = [asyncio.create_task(whole(ask(model, 0.7))) for _ in range(2)]
    await settled()
    assert len(behind.streams) == (1 if sampled else 2)
    for stream in range(len(behind.streams)):
        behind.say("x", None, stream=stream)
    assert await asyncio.gather(*tasks) == ["x", "x"]


@pytest.mark.parametrize("begun", [False, True])
async def test_ninety_nine_that_leave_harm_none(begun: bool) -> None:
    """Before the first token and after it; the first of them, who asked, among them."""
    behind = ScriptedGenerator()
    model = Coalesced(behind)
    tasks = [asyncio.create_task(whole(ask(model))) for _ in range(100)]
    await settled()
    if begun:
        behind.say("a")
        await settled()
    for task in tasks[:-1]:
        task.cancel()
    await settled()
    assert not behind.ended
    behind.say("b", "c")
    await settled()
    behind.say("d", None)
    assert await tasks[-1] == ("abcd" if begun else "bcd")
    assert (len(behind.streams), behind.ended) == (1, ["whole"])


@pytest.mark.parametrize("readers", [1, 2, 100])
@pytest.mark.parametrize("begun", [False, True])
async def test_when_all_leave_the_stream_ends(readers: int, begun: bool) -> None:
    behind = ScriptedGenerator()
    model = Coalesced(behind)
    tasks = [asyncio.create_task(whole(ask(model))) for _ in range(readers)]
    await settled()
    if begun:
        behind.say("a")
        await settled()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert behind.ended == ["cancelled"]
    again = asyncio.create_task(whole(ask(model)))
    await settled()
    behind.say("b", None)
    assert await again == "b", "nobody joins what was left"
    assert len(behind.streams) == 2


async def test_closing_ends_the_stream_before_it_returns() -> None:
    behind = ScriptedGenerator()
    model = Coalesced(behind)
    async with aclosing(ask(model)) as stream:  # type: ignore[type-var]
        first = asyncio.ensure_future(anext(stream))
        await settled()
        behind.say("a", "b")
        assert (await first).text == "a"
    assert behind.ended == ["cancelled"]


async def test_the_only_reader_leaves_as_another_one_joins() -> None:
    """It took the stream's deltas itself: who has just joined has read nothing, and begins anew."""
    behind = ScriptedGenerator()
    model = Coalesced(behind)
    only = asyncio.create_task(whole(ask(model)))
    await settled()
    behind.say("a")
    await settled()
    joined = [asyncio.create_task(whole(ask(model))) for _ in range(3)]
    await settled()
    only.cancel()
    await settled()
    assert (len(behind.streams), behind.ended) == (2, ["cancelled"])
    behind.say("a", "b", None)
    assert await asyncio.gather(*joined) == ["ab"] * 3
    assert len(behind.streams) == 2


async def test_one_joins_while_the_only_reader_waits_or_rests() -> None:
    behind = ScriptedGenerator()
    model = Coalesced(behind)
    first = ask(model)
    began = asyncio.ensure_future(anext(first))
    await settled()
    behind.say("a", "b")
    assert (await began).text == "a"  # and now it rests
    joined = asyncio.create_task(whole(ask(model)))
    await settled()
    behind.say("c", None)
    assert await joined == "abc"  # not held up by the one that rests
    assert await whole(first) == "bc"
    assert len(behind.streams) == 1


async def test_a_failure_reaches_each_as_its_own() -> None:
    behind = ScriptedGenerator()
    model = Coalesced(behind)
    tasks = [asyncio.create_task(whole(ask(model))) for _ in range(3)]
    await settled()
    cause = OSError("gone")
    failure = ModelRefused("no", status=503, retry_after=2.0, fix="Wait")
    failure.__cause__ = cause
    behind.say("a", failure)
    found = await asyncio.gather(*tasks, return_exceptions=True)
    errors = [error for error in found if isinstance(error, ModelRefused)]
    assert len({id(error) for error in errors}) == 3
    for error in errors:
        assert (error.status, error.retry_after, error.what, error.fix) == (503, 2.0, "no", "Wait")
        assert str(error) == str(failure)
        assert error.__cause__ is cause
    after = asyncio.create_task(whole(ask(model)))
    await settled()
    behind.say("b", None)
    assert await after == "b"


async def test_a_slow_reader_slows_no_other_and_the_stream_waits_for_the_fastest() -> None:
    behind = ScriptedGenerator()
    model = Coalesced(behind, ahead=4)
    slow, fast = ask(model), ask(model)
    began = [asyncio.ensure_future(anext(one)) for one in (slow, fast)]
    await settled()
    behind.say(*"abcdefghijkl", None)
    assert [one.text for one in await asyncio.gather(*began)] == ["a", "a"]
    await settled()
    assert behind.taken == 1 + 4
    assert await whole(fast) == "bcdefghijkl"
    assert await whole(slow) == "bcdefghijkl"


async def test_a_single_slow_reader_holds_the_stream() -> None:
    behind = ScriptedGenerator()
    model = Coalesced(behind)
    slow = ask(model)
    began = asyncio.ensure_future(anext(slow))
    await settled()
    behind.say(*"abcdefghijkl", None)
    await began
    await settled()
    assert behind.taken == 1
    assert await whole(slow) == "bcdefghijkl"


async def test_an_endless_answer_is_not_kept_for_a_reader_that_stands_still() -> None:
    behind = ScriptedGenerator()
    model = Coalesced(behind, most_chars=100, ahead=4)
    slow, fast = ask(model), ask(model)
    began = [asyncio.ensure_future(anext(one)) for one in (slow, fast)]
    await settled()
    behind.say("a", *["b" * 10] * 50, None)
    await asyncio.gather(*began)
    assert len(await whole(fast)) == 500
    with pytest.raises(StreamCut, match="behind the fastest"):
        await whole(slow)


async def test_an_endless_answer_of_one_reader_is_not_kept() -> None:
    behind = ScriptedGenerator()
    model = Coalesced(behind, most_chars=100)
    only = asyncio.create_task(whole(ask(model)))
    await settled()
    behind.say(*["b" * 10] * 50)
    await settled()
    later = asyncio.create_task(whole(ask(model)))
    await settled()
    assert len(behind.streams) == 2, "nobody may join it"
    behind.say(None, stream=0)
    behind.say("b", None, stream=1)
    assert list(await asyncio.gather(only, later)) == ["b" * 500, "b"]


async def test_a_deadline_is_the_readers_own() -> None:
    """One who has no time left leaves; the others and the work upstream have no such deadline."""
    behind = ScriptedGenerator()
    model = Coalesced(behind)

    async def hurried() -> str:
        with work_context(seconds=0.001):
            return await whole(ask(model))

    late, patient = asyncio.create_task(hurried()), asyncio.create_task(whole(ask(model)))
    with pytest.raises(DeadlineExceeded):
        await late
    behind.say("a", None)
    assert await patient == "a"
    assert len(behind.streams) == 1


async def test_an_urgent_one_does_not_wait_with_a_batch() -> None:
    behind = ScriptedGenerator()
    model = Coalesced(behind)

    async def batch() -> str:
        with work_context(Priority.BATCH):
            return await whole(ask(model))

    patient = asyncio.create_task(batch())
    await settled()
    urgent = asyncio.create_task(whole(ask(model)))
    await settled()
    assert len(behind.streams) == 2
    patient_too = asyncio.create_task(batch())
    await settled()
    assert len(behind.streams) == 2
    behind.say("a", None, stream=0)
    behind.say("a", None, stream=1)
    assert list(await asyncio.gather(patient, urgent, patient_too)) == ["a"] * 3


async def test_over_the_wire() -> None:
    """A hundred readers, one request; when the last one leaves it is cancelled."""
    text = " ".join(f"word{n}" for n in range(200))
    with FakeModel(mode="scripted", text=text, delay_ms=1) as fake:
        upstream = load(Generate(model=f"openai:fake@{fake.url}"))
        assert upstream is not None
        model = Coalesced(upstream)

        def stream() -> Any:
            return model.stream(ASKED, max_tokens=400, temperature=0.0)

        try:
            tasks = [asyncio.create_task(whole(stream())) for _ in range(100)]
            assert set(await asyncio.gather(*tasks)) == {text}
            assert fake.statistics().requests == 1
            tasks = [asyncio.create_task(whole(stream())) for _ in range(100)]
            await asyncio.to_thread(fake.wait, lambda now: now.running == 1)
            for task in tasks:
                task.cancel()
            await asyncio.to_thread(fake.wait, lambda now: now.cancelled == 1)
            assert fake.statistics().requests == 2
        finally:
            await model.close()
