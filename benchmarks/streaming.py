"""What does the server add to a model server's streams?

    python -m benchmarks.streaming [--model URL] [--streams N] [--rounds N] [--json]

Fifty clients stream answers of 200 tokens, first from the model server alone, then through Vivace,
which looks up passages for every question first. Their starts are spread over the time an answer
takes, as those of people are; `--burst` starts them all at once. The fake's own time to first token
is zero unless `--ttft-ms` is given: it is shorter for a prompt with a cached prefix, which ours has
and a bare question has not. The model server is `vivace
fake-llm`, unless the address of another one that answers with as many tokens is given.

CPU a token is the slope between short and long answers, so that it holds no search; the whole of a
request divided by its tokens is printed beside it, and what clients spend: the official SDK, and
LangChain's chat model where `langchain-openai` is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from benchmarks.http import UNCACHED, prepare, questions
from benchmarks.report import show
from benchmarks.wire import Client, Process, last_core, leave, quantile, vivace

SHORT = 20
PATH = "/chat/completions"


@dataclass(frozen=True)
class Passed:
    """What the streams of one pass took."""

    first: list[float]
    """Seconds to the first token, by stream."""
    texts: int
    """Pieces of text that arrived."""


async def stream(
    address: str, model: str, asked: Iterator[str], options: argparse.Namespace, tokens: int
) -> Passed:
    """Two answers for each client, one after the other."""
    lasts = (options.ttft_ms + tokens * options.delay_ms) / 1e3
    first: list[float] = []
    texts = 0

    async def client(number: int) -> None:
        nonlocal texts
        await asyncio.sleep(0 if options.burst else lasts * number / options.streams)
        async with Client(address) as connection:
            for _ in range(2):
                value = {
                    "model": model,
                    "stream": True,
                    "messages": [{"role": "user", "content": next(asked)}],
                }
                seconds, found = await connection.stream(PATH, json.dumps(value).encode())
                first.append(seconds)
                texts += found

    await asyncio.gather(*(client(number) for number in range(options.streams)))
    return Passed(first, texts)


async def sdk_microseconds(address: str, model: str, asked: Iterator[str], streams: int) -> float:
    """CPU of this process for each token that the official SDK streams from the model server."""
    import openai

    async with openai.AsyncOpenAI(base_url=address, api_key="none", timeout=60) as client:

        async def answer() -> int:
            chunks = await client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": next(asked)}], stream=True
            )
            return sum([bool(c.choices and c.choices[0].delta.content) async for c in chunks])

        return await _microseconds(answer, streams)


async def langchain_microseconds(
    address: str, model: str, asked: Iterator[str], streams: int
) -> float | None:
    """The same of LangChain's chat model; None where it is not installed (nothing asks for it)."""
    try:
        chat = import_module("langchain_openai").ChatOpenAI
    except ImportError:
        return None
    client = chat(base_url=address, api_key="none", model=model, timeout=60)

    async def answer() -> int:
        return sum([bool(chunk.content) async for chunk in client.astream(next(asked))])

    return await _microseconds(answer, streams)


async def _microseconds(answer: Callable[[], Awaitable[int]], streams: int) -> float:
    await answer()  # the first one warms up
    start = time.process_time()
    texts = sum(await asyncio.gather(*(answer() for _ in range(streams))))
    return (time.process_time() - start) / texts * 1e6


def fake(tokens: int, options: argparse.Namespace) -> tuple[str, ...]:
    return (
        *("fake-llm", "--mode", "scripted", "--tokens", str(tokens)),
        *("--ttft-ms", str(options.ttft_ms), "--delay-ms", str(options.delay_ms)),
        *("--slots", str(2 * options.streams)),
    )


async def measure(options: argparse.Namespace) -> dict[str, object]:
    core = last_core()
    added: dict[float, list[float]] = {0.5: [], 0.99: []}
    through: dict[float, list[float]] = {0.5: [], 0.99: []}
    whole, slopes, kernel = [], [], []
    with tempfile.TemporaryDirectory(prefix="vivace-bench-") as temporary, ExitStack() as stack:
        where = await prepare(Path(temporary), options.documents)
        leave(core)

        def serve(url: str) -> Process:
            model = f"generate.model=openai:{options.name}@{url}"
            arguments = ("serve", "--collection", where, "--port", "0", *UNCACHED, "--set", model)
            return stack.enter_context(vivace(*arguments, core=core))

        def model_server(tokens: int) -> str:
            url: str = stack.enter_context(vivace(*fake(tokens, options))).first_line["url"]
            return url

        long_url = options.model or model_server(options.tokens)
        long = serve(long_url)
        short = None if options.model else serve(model_server(SHORT))
        asked = questions()

        async def through_vivace(server: Process, tokens: int) -> tuple[Passed, float]:
            """What the streams took, and the CPU seconds the server spent on them."""
            before = server.cpu_seconds()
            address = f"{server.first_line['address']}/v1"
            passed = await stream(address, "vivace", asked, options, tokens)
            return passed, server.cpu_seconds() - before

        for server in filter(None, (long, short)):
            await through_vivace(server, SHORT)
        for _ in range(options.rounds):
            alone = await stream(long_url, options.name, asked, options, options.tokens)
            in_kernel = long.kernel_seconds()
            passed, cpu = await through_vivace(long, options.tokens)
            kernel.append((long.kernel_seconds() - in_kernel) / passed.texts * 1e6)
            whole.append(cpu / passed.texts * 1e6)
            for q in added:
                through[q].append(quantile(passed.first, q) * 1e3)
                added[q].append((quantile(passed.first, q) - quantile(alone.first, q)) * 1e3)
            if short is not None:
                few, less = await through_vivace(short, SHORT)
                slopes.append((cpu - less) / (passed.texts - few.texts) * 1e6)
        of_client = (long_url, options.name, asked, options.streams)
        sdk = await sdk_microseconds(*of_client)
        langchain = await langchain_microseconds(*of_client)
    return {
        "streams": options.streams,
        "tokens": options.tokens,
        "burst": options.burst,
        **{f"added_first_token_p{q * 100:g}_ms": _middle(added[q]) for q in added},
        **{f"first_token_p{q * 100:g}_ms": _middle(through[q]) for q in through},
        "engine_cpu_us_a_token": _middle(slopes) if slopes else None,
        "engine_cpu_us_a_token_with_search": _middle(whole),
        "of_that_in_the_kernel": _middle(kernel),
        "openai_sdk_client_cpu_us_a_token": round(sdk, 1),
        "langchain_client_cpu_us_a_token": None if langchain is None else round(langchain, 1),
        "rounds_added_p99_ms": [round(value, 2) for value in added[0.99]],
        "rounds_cpu_us_a_token": [round(value, 1) for value in slopes],
    }


def _middle(values: list[float]) -> float:
    return round(statistics.median(values), 2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", metavar="URL", help="a model server's address, ending in /v1")
    parser.add_argument("--name", default="fake", help="the model's name there")
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--ttft-ms", type=float, default=0)
    parser.add_argument("--delay-ms", type=float, default=20)
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--burst", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    show(asyncio.run(measure(options)), as_json=options.json)
