"""Many requests in one call: order, duplicates, errors, progress, several servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from vivace.engine import Engine
from vivace.errors import BadSettings, GenerationError, ModelRefused
from vivace.generate.batch import generate_many, run_batch
from vivace.run.work import Priority, current
from vivace.testing.fake_llm import FakeModel
from vivace.testing.faults import Fault
from vivace.types import BatchProgress, Completion, Delta, Message, Request


class Echo:
    """Says what it was asked, fails where it is told to; knows how many ask at once."""

    name = "echo"

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, float]] = []
        self.running = self.most = 0
        self.priorities: set[Priority] = set()

    async def stream(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float
    ) -> AsyncIterator[Delta]:
        text = messages[-1].content
        self.asked.append((text, max_tokens, temperature))
        self.priorities.add(current().priority)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0)
            if text.startswith("bad"):
                raise GenerationError(f"{text} failed", fix="Mend it")
            yield Delta(text)
            yield Delta(finish_reason="length")
        finally:
            self.running -= 1

    async def close(self) -> None:
        pass


def request(text: str, temperature: float | None = None) -> Request:
    return Request((Message("user", text),), temperature=temperature)


async def test_order_duplicates_and_errors() -> None:
    echo = Echo()
    seen: list[BatchProgress] = []
    texts = ["a", "bad 1", "b", "a", "bad 1", "c", "a"]
    found = await generate_many(
        echo, [request(text) for text in texts], max_tokens=9, parallel=3, progress=seen.append
    )
    assert [r.text if isinstance(r, Completion) else r.what for r in found] == [
        text if not text.startswith("bad") else f"{text} failed" for text in texts
    ]
    assert found[0] == Completion("a", "length")
    assert found[1] is not found[4]
    assert sorted(text for text, *_ in echo.asked) == ["a", "b", "bad 1", "c"]
    assert echo.most == 3
    assert echo.priorities == {Priority.BATCH}
    assert seen[-1] == BatchProgress(7, 7, 2, 4)
    assert [now.done for now in seen] == sorted(now.done for now in seen)


@pytest.mark.parametrize("sampled", [False, True])
async def test_sampled_requests_are_asked_each_unless_shared(sampled: bool) -> None:
    echo = Echo()
    asked = [request("a", 0.5), request("a", 0.5), request("a", 0.0), request("a")]
    await generate_many(echo, asked, max_tokens=9, sampled=sampled)
    # the settings' temperature is 0: the last two differ only in who said it
    assert len(echo.asked) == (3 if sampled else 4)
    assert {temperature for *_, temperature in echo.asked} == {0.0, 0.5}


async def test_nothing_is_asked_of_nobody() -> None:
    assert await generate_many(Echo(), [], max_tokens=9) == []


async def test_a_foreign_error_ends_all() -> None:
    gone: list[int] = []

    async def ask(number: int) -> int:
        if number == 3:
            raise ZeroDivisionError
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            gone.append(number)
            raise
        return number

    with pytest.raises(ZeroDivisionError):
        await run_batch(range(5), ask, parallel=5)
    assert gone == [0, 1, 2, 4]


async def test_of_an_engine_with_several_servers() -> None:
    """One of which fails: what it was asked is asked of the other."""
    text = "one two three four five six seven eight"
    good = FakeModel(mode="scripted", text=text, delay_ms=1)
    bad = FakeModel(faults=[Fault("500")])
    with good, bad:
        async with Engine(generate__model=f"openai:fake@{good.url},{bad.url}") as engine:
            asked = [request(f"question {n % 30}") for n in range(50)]
            found = await engine.generate_many(asked)
        assert [r.text for r in found if isinstance(r, Completion)] == [text] * 50
        assert good.statistics().completed == 30


async def test_each_error_of_a_server_is_its_requests_own() -> None:
    with FakeModel(faults=[Fault("500", first=1)]) as fake:
        async with Engine(
            generate__model=f"openai:fake@{fake.url}", generate__retries=0, generate__connections=1
        ) as engine:
            found = await engine.generate_many([request("a"), request("b"), request("a")])
    assert [type(one) for one in found] == [ModelRefused, Completion, ModelRefused]


async def test_without_a_model() -> None:
    async with Engine() as engine:
        with pytest.raises(BadSettings, match="no model"):
            await engine.generate_many([request("a")])


async def test_the_slots_a_server_tells_are_taken_at_once() -> None:
    with FakeModel(
        mode="scripted", text="a b c d", delay_ms=2, slots=3, reports_slots=True
    ) as fake:
        async with Engine(generate__model=f"openai:fake@{fake.url}") as engine:
            await engine.generate_many([request(str(n)) for n in range(30)])
            assert engine.resources.model is not None
            (server,) = engine.resources.model.server_statistics().servers
            assert server.limit == 3
            assert fake.statistics().most_running <= 4  # how many are let in before it has told


async def test_waiting_in_a_batch_is_not_waiting_for_a_token() -> None:
    """The clock of the first token begins with a place at the server."""
    with FakeModel(mode="scripted", text="a", ttft_ms=30, slots=1, reports_slots=True) as fake:
        model = f"openai:fake@{fake.url}"
        async with Engine(
            generate__model=model,
            generate__connections=1,
            generate__first_token_seconds=0.2,
            generate__retries=0,
        ) as engine:
            found = await engine.generate_many([request(str(n)) for n in range(20)])
    assert all(isinstance(one, Completion) for one in found)
