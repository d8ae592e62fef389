"""How much of the bare embedder's rate does a whole search keep, with 64 clients at once?

    python -m benchmarks.concurrency [--questions N] [--documents N] [--rounds N] [--json]

Both get the same texts from 64 clients in this process, one pass after the other in every round, in
turns of order: the bare embedder's passes are 64 concurrent `embed` calls of one question, on the
same workers. The floor of the ratio is 0.85, and of p99 the time in which 2 x 64 searches are
answered. Every result is compared with that of the question asked alone: the same passages in the
same order, their scores within 1e-6 (a batch sums in another order: 4e-8 in a vector's component).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from pathlib import Path

from benchmarks.crowd import CLIENTS, Pass, corpus, crowd, questions
from benchmarks.report import show
from benchmarks.wire import quantile
from vivace.engine import Collection, Engine
from vivace.types import SearchResult


def plain(result: SearchResult) -> list[tuple[int, float]]:
    """What has to be identical: which passages, in which order, with which score."""
    return [(hit.chunk.id, hit.score) for hit in result.hits]


def same(one: list[tuple[int, float]], other: list[tuple[int, float]]) -> bool:
    return [row for row, _ in one] == [row for row, _ in other] and all(
        abs(a - b) <= 1e-6 for (_, a), (_, b) in zip(one, other, strict=True)
    )


async def measure(asked: int, documents: int, rounds: int) -> dict[str, object]:
    texts = questions(asked)
    with tempfile.TemporaryDirectory(prefix="vivace-bench-") as folder:
        async with Engine(cache__memory_mib=0) as engine:
            docs = await engine.open(Path(folder) / "crowd")
            await docs.ingest(corpus(Path(folder), documents))
            return await compare(engine, docs, texts, rounds)


async def compare(
    engine: Engine, docs: Collection, texts: list[str], rounds: int
) -> dict[str, object]:
    together: dict[str, list[tuple[int, float]]] = {}

    async def search(text: str) -> None:
        together[text] = plain(await docs.search(text))

    async def embed(text: str) -> None:
        await engine.resources.embedder.embed([text], kind="query")

    searches: list[Pass] = []
    bare: list[Pass] = []
    await crowd(search, texts[: 2 * CLIENTS])
    for number in range(rounds):
        kinds = [(search, searches), (embed, bare)]
        for call, passes in kinds if number % 2 else reversed(kinds):
            passes.append(await crowd(call, texts))
    alone = {text: plain(await docs.search(text)) for text in set(texts)}
    ratios = [a.rate / b.rate for a, b in zip(searches, bare, strict=True)]
    throughput = statistics.median(one.rate for one in searches)
    return {
        "clients": CLIENTS,
        "throughput": round(throughput, 1),
        "embedder_batched_rate": round(statistics.median(one.rate for one in bare), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "p50_ms": round(1e3 * statistics.median(quantile(one.each, 0.5) for one in searches), 1),
        "p99_ms": round(1e3 * statistics.median(quantile(one.each, 0.99) for one in searches), 1),
        "bound_ms": round(2 * CLIENTS / throughput * 1e3, 1),
        "identical": all(same(together[text], alone[text]) for text in alone),
        "to_the_last_bit": sum(together[text] == alone[text] for text in alone) / len(alone),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=1_500)
    parser.add_argument("--documents", type=int, default=1_204)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = asyncio.run(measure(options.questions, options.documents, options.rounds))
    show(figures, as_json=options.json)
