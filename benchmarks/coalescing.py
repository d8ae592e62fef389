"""Many requests at once: never ask twice, keep every slot of the model server busy, and no more.

    python -m benchmarks.coalescing [--requests N] [--tokens N] [--json]

`batch`: requests of which 40 % are duplicates go through `Engine.generate_many` to the fake model
server (`vivace fake-llm`, in this process), of 8 slots whose speed falls past 8. Power 1: each
stream is slower by as much as there are too many; power 2: by the square, so that the throughput
falls, too. `told`: the server tells its slots as llama.cpp does. Against the ideal schedule, which
knows all: unique requests over slots, times what one takes alone (measured before). `fixed_64` is
no limit but the 64 connections. After a `change` the slots are others when half is done.

`shared`: readers of one request, some of whom come late; then all but one leave, then all. Seconds
until the server has seen the cancellation, in milliseconds. `cpu`: microseconds of the process for
each token and reader, the fake server's included, with and without `Coalesced`.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from itertools import count
from typing import Any

from benchmarks.report import show
from vivace.engine import Engine
from vivace.generate.coalesce import Coalesced
from vivace.generate.names import load
from vivace.generate.prompts import PromptBuilder
from vivace.generate.templates import resolve
from vivace.protocols import Generator
from vivace.settings import Answering, Generate
from vivace.testing.fake_llm import FakeModel
from vivace.types import (
    AnswerOptions,
    BatchProgress,
    Chunk,
    Completion,
    Delta,
    Hit,
    Message,
    Query,
    Request,
)

SLOTS = 8
_fresh = count()


def requests(number: int, seed: int) -> list[Request]:
    """60 % of them unique, the rest drawn from those, in any order."""
    draw = random.Random(seed)
    unique = [
        Request((Message("user", f"question {next(_fresh)}"),)) for _ in range(number * 6 // 10)
    ]
    asked = unique + draw.choices(unique, k=number - len(unique))
    draw.shuffle(asked)
    return asked


def scripted(options: argparse.Namespace, **more: Any) -> FakeModel:
    text = " ".join(["word"] * ((options.tokens + 1) // 2))
    behaviour = {"slots": SLOTS, "ttft_ms": options.ttft_ms, "delay_ms": options.delay_ms}
    return FakeModel(mode="scripted", text=text, **{**behaviour, **more})


async def alone(fake: FakeModel) -> float:
    """Seconds of one request with the server to itself."""
    took = []
    async with Engine(generate__model=f"openai:fake@{fake.url}") as engine:
        for _ in range(3):
            start = time.perf_counter()
            await engine.generate_many(requests(2, 0)[:1])
            took.append(time.perf_counter() - start)
    return min(took)


async def batch(
    options: argparse.Namespace,
    power: float,
    *,
    told: bool = False,
    slots: int = SLOTS,
    change: int = 0,
    fixed: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    asked = requests(options.requests, seed)
    unique = len(set(asked))
    with scripted(options, slots=slots, slowdown=power, reports_slots=told) as fake:
        one = await alone(fake)
        before = fake.statistics().requests
        at = unique // 2

        def progress(now: BatchProgress) -> None:
            if change and now.asked == at:
                fake.change(slots=change)

        async with Engine(generate__model=f"openai:fake@{fake.url}") as engine:
            assert engine.resources.model is not None
            if fixed:
                for server in engine.resources.model.server_statistics().servers:
                    engine.resources.model.endpoints.balance.set_capacity(server.name, server.bound)
            start = time.perf_counter()
            found = await engine.generate_many(asked, progress=progress)
            took = time.perf_counter() - start
            (server,) = engine.resources.model.server_statistics().servers
        upstream = fake.statistics().requests - before
    ideal = unique / slots * one if not change else (at / slots + (unique - at) / change) * one
    answered = sum(isinstance(completion, Completion) for completion in found)
    return {
        "seconds": round(took, 2),
        "ideal_seconds": round(ideal, 2),
        "ratio": round(took / ideal, 3),
        "unique": unique,
        "upstream": upstream,
        "answered": answered,
        "limit_at_the_end": server.limit,
    }


async def order(options: argparse.Namespace) -> bool:
    """Whether each request got the answer to its own question: the grounded fake answers by it."""
    draw = random.Random(0)
    asked = []
    builder = PromptBuilder(Generate(), Answering())
    template = resolve(Query("What is the code of the vault?"), AnswerOptions())
    for n in draw.choices(range(60), k=200):
        hit = Hit(Chunk("d", f"The code of the vault is X{n}Y."), 1.0)
        prompt = builder.build(template, [hit], AnswerOptions())
        asked.append((f"X{n}Y", Request(prompt.messages)))
    with FakeModel() as fake:
        async with Engine(generate__model=f"openai:fake@{fake.url}") as engine:
            found = await engine.generate_many([request for _, request in asked])
    return all(
        isinstance(completion, Completion) and code in completion.text
        for (code, _), completion in zip(asked, found, strict=True)
    )


# -- one stream, many readers --------------------------------------------------------------------


async def whole(stream: AsyncIterator[Delta]) -> str:
    return "".join([delta.text async for delta in stream])


async def shared(options: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    with scripted(options) as fake:
        behind = load(Generate(model=f"openai:fake@{fake.url}"))
        assert behind is not None
        model = Coalesced(behind)

        def ask(messages: Sequence[Message]) -> AsyncIterator[Delta]:
            return model.stream(messages, max_tokens=10_000, temperature=0.0)

        def hundred() -> tuple[Sequence[Message], list[asyncio.Task[str]]]:
            asked = (Message("user", f"question {next(_fresh)}"),)
            return asked, [asyncio.create_task(whole(ask(asked))) for _ in range(80)]

        try:
            lasts = (options.ttft_ms + options.tokens * options.delay_ms) / 1e3
            asked, tasks = hundred()
            for _ in range(20):
                await asyncio.sleep(lasts / 40)
                tasks.append(asyncio.create_task(whole(ask(asked))))
            texts = await asyncio.gather(*tasks)
            figures["readers"] = len(texts)
            figures["identical"] = len(set(texts)) == 1 and len(texts[0]) > 0
            figures["upstream"] = fake.statistics().requests
            asked, tasks = hundred()
            await asyncio.sleep(lasts / 2)
            for task in tasks[1:]:
                task.cancel()
            figures["one_left_of_80_whole"] = await tasks[0] == texts[0]
            figures["upstream_cancelled_by_79"] = fake.statistics().cancelled
            gone = []
            for _ in range(10):
                asked, tasks = hundred()
                await asyncio.sleep(lasts / 4)
                cancelled = fake.statistics().cancelled
                start = time.perf_counter()
                for task in tasks:
                    task.cancel()
                until = asyncio.to_thread(fake.wait, lambda now: now.cancelled > cancelled)  # noqa: B023
                await until
                gone.append((time.perf_counter() - start) * 1e3)
            figures["all_left_to_cancelled_ms"] = [round(ms, 1) for ms in sorted(gone)]
        finally:
            await model.close()
    return figures


async def cpu(options: argparse.Namespace) -> dict[str, float]:
    """The same streams with and without, in turn."""
    found: dict[str, list[float]] = {"without": [], "one_reader": [], "hundred_readers": []}
    with scripted(options, delay_ms=2, ttft_ms=0) as fake:
        behind = load(Generate(model=f"openai:fake@{fake.url}"))
        assert behind is not None
        behind.endpoints.balance.set_capacity(fake.url, 64)
        with_it = Coalesced(behind)

        async def spent(model: Generator, streams: int, readers: int) -> float:
            asked = [(Message("user", f"question {next(_fresh)}"),) for _ in range(streams)]
            start = time.thread_time()
            streaming = [
                whole(model.stream(one, max_tokens=10_000, temperature=0.0))
                for one in asked
                for _ in range(readers)
            ]
            await asyncio.gather(*streaming)
            tokens: int = streams * readers * options.tokens
            return (time.thread_time() - start) / tokens * 1e6

        try:
            for _ in range(7):
                found["without"].append(await spent(behind, 20, 1))
                found["one_reader"].append(await spent(with_it, 20, 1))
                found["hundred_readers"].append(await spent(with_it, 1, 100))
        finally:
            await with_it.close()
    return {name: round(statistics.median(values[1:]), 2) for name, values in found.items()}


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {"order_kept": await order(options)}
    for power in (1, 2):
        figures[f"batch_power_{power}"] = {
            "learned": await batch(options, power),
            "told": await batch(options, power, told=True),
            "fixed_64": await batch(options, power, fixed=True) if power == 1 else None,
            **{
                f"{slots}_to_{change}_{'told' if told else 'learned'}": await batch(
                    options, power, slots=slots, change=change, told=told
                )
                for slots, change in ((8, 4), (8, 16), (4, 8), (16, 8))
                for told in (False, True)
            },
        }
    figures["shared"] = await shared(options)
    figures["cpu_us_a_token_and_reader"] = await cpu(options)
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=61)
    parser.add_argument("--ttft-ms", type=float, default=100)
    parser.add_argument("--delay-ms", type=float, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    show(asyncio.run(measure(options)), as_json=options.json)
