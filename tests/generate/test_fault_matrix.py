"""Must show 4: every fault has its documented outcome, hangs nothing and leaves nothing behind."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.answer.searches import finding
from vivace import errors
from vivace.answer.prompted import Prompted
from vivace.errors import GenerationError
from vivace.generate.openai import OpenAI
from vivace.run.model_servers import ModelServer
from vivace.settings import Generate, Settings
from vivace.testing.fake_llm import FakeModel
from vivace.testing.faults import KINDS, Fault
from vivace.types import Answer, Chunk, Hit, Message, Query, SearchResult

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
ROW = re.compile(r"\| (\w+) \| (stream|whole) \| (before|after) \| ([\w, ]+) \| (all|one) \|")
ROWS = ROW.findall(PAGE.read_text("utf-8"))
RETRIES = 1
PATIENT = Generate(retries=RETRIES, max_tokens=64)
QUICK = msgspec.structs.replace(PATIENT, first_token_seconds=0.4, between_seconds=0.3)
"""For the faults that only a clock ends."""
TEXT = "The notice period is six weeks to the end of a quarter. " * 30
HITS = tuple(Hit(Chunk(f"d{n}", TEXT, 0, len(TEXT), id=n), 1.0) for n in range(3))


def test_every_fault_has_its_row() -> None:
    rows = {(fault, how, when) for fault, how, when, _, _ in ROWS}
    assert rows == {(f, h, w) for f in KINDS for h in ("stream", "whole") for w in BOTH}
    assert len(ROWS) == len(rows)


BOTH = ("before", "after")


@pytest.fixture(scope="module")
def fakes() -> Iterator[dict[tuple[str, bool], FakeModel]]:
    """A server a fault: they are stopped together, when no client may be left."""
    made = {
        (kind, after): FakeModel(faults=[Fault(kind, after=after)], retry_after=0.01).start()
        for kind in KINDS
        for after in (False, True)
    }
    yield made
    for fake in made.values():
        fake.stop()


def client(fake: FakeModel, *, streaming: bool = True, settings: Generate = PATIENT) -> OpenAI:
    return OpenAI(ModelServer("fake", fake.url), settings, streaming=streaming)


async def answer_of(model: OpenAI) -> Answer:
    prompted = Prompted(model, Settings(generate=PATIENT))
    result = SearchResult(HITS, 1)
    answer = None
    async for delta in prompted.stream(Query("How long is the notice period?"), finding(result)):
        answer = delta.answer or answer
    assert answer is not None
    return answer


async def nothing_left(fake: FakeModel) -> None:
    assert asyncio.all_tasks() == {asyncio.current_task()}
    done = await asyncio.to_thread(fake.wait, lambda s: s.running == 0 and s.connections == 0)
    assert done.requests == done.completed + done.cancelled


@pytest.mark.parametrize(("fault", "how", "when", "outcome", "tries"), ROWS)
async def test_matrix(
    fakes: dict[tuple[str, bool], FakeModel],
    fault: str,
    how: str,
    when: str,
    outcome: str,
    tries: str,
) -> None:
    fake = fakes[fault, when == "after"]
    before = fake.statistics().requests
    settings = QUICK if fault == "slow" else PATIENT
    model = client(fake, streaming=how == "stream", settings=settings)
    try:
        if outcome == "answer, degraded":
            answer = await answer_of(model)
            assert answer.generator == "openai:fake"
            assert any("tokens of a prompt of at least" in note for note in answer.degraded)
        else:
            with pytest.raises(getattr(errors, outcome)) as raised:
                await answer_of(model)
            assert isinstance(raised.value, GenerationError)
            streamed = how == "stream" and when == "after" and fault != "empty"
            assert bool(raised.value.text) is (streamed or fault == "oversized")
    finally:
        await model.close()
    expected = 1 + (RETRIES if tries == "all" else 0)
    assert fake.statistics().requests - before == expected
    await nothing_left(fake)


@pytest.mark.parametrize("how", ["stream", "whole"])
@pytest.mark.parametrize("kind", ["429", "500", "cut"])
async def test_another_try_mends_what_can_be_mended(kind: str, how: str) -> None:
    with FakeModel(faults=[Fault(kind, first=1)], retry_after=0.01) as fake:
        model = client(fake, streaming=how == "stream")
        try:
            assert (await answer_of(model)).found
        finally:
            await model.close()
        assert fake.statistics().requests == 2
        await nothing_left(fake)


@pytest.mark.parametrize("kind", ["429", "500", "cut", "slow", "malformed", "empty", "error"])
@pytest.mark.parametrize("when", BOTH)
async def test_a_failure_beside_others_harms_none_of_them(kind: str, when: str) -> None:
    """Of twelve at once every third fails; the others have whole answers."""
    faults = [Fault(kind, after=when == "after", every=3)]
    with FakeModel(faults=faults, retry_after=0.01, slots=12) as fake:
        # long enough for those that do answer, on any machine
        clock = {"first_token_seconds": 3, "between_seconds": 3} if kind == "slow" else {}
        settings = msgspec.structs.replace(PATIENT, retries=0, **clock)
        model = client(fake, settings=settings)
        try:
            found = await asyncio.gather(
                *(answer_of(model) for _ in range(12)), return_exceptions=True
            )
        finally:
            await model.close()
        failed = [one for one in found if isinstance(one, GenerationError)]
        assert len(failed) == 4
        assert len([one for one in found if isinstance(one, Answer) and one.found]) == 8
        await nothing_left(fake)


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("when", BOTH)
async def test_cancelling_closes_the_connection_at_once(streaming: bool, when: str) -> None:
    with FakeModel(faults=[Fault("slow", after=when == "after")]) as fake:
        model = client(fake, streaming=streaming, settings=Generate())
        task = asyncio.create_task(answer_of(model))
        try:
            await asyncio.to_thread(fake.wait, lambda s: s.running == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gone = await asyncio.to_thread(fake.wait, lambda s: s.connections == s.running == 0)
            assert gone.cancelled == 1
        finally:
            await model.close()
        await nothing_left(fake)


async def test_leaving_a_stream_closes_the_connection_at_once() -> None:
    with FakeModel(mode="scripted", text=" word" * 64, delay_ms=5) as fake:
        model = client(fake)
        try:
            stream = Prompted(model, Settings(generate=PATIENT)).stream(
                Query("q"), finding(SearchResult(HITS, 1))
            )
            assert (await anext(stream)).text
            await stream.aclose()
            gone = await asyncio.to_thread(fake.wait, lambda s: s.connections == s.running == 0)
            assert gone.cancelled == 1
        finally:
            await model.close()
        await nothing_left(fake)


async def test_the_message_says_what_and_never_the_key() -> None:
    with FakeModel(faults=[Fault("500")]) as fake:
        settings = Generate(api_key="sk-secret", retries=0)
        model = client(fake, settings=settings)
        try:
            with pytest.raises(errors.ModelRefused) as raised:
                async for _ in model.stream([Message("user", "x")], max_tokens=1, temperature=0):
                    pass
        finally:
            await model.close()
        assert raised.value.status == 500
        assert "told to refuse" in str(raised.value)
        assert "sk-secret" not in str(raised.value)
