"""What do the caches spare whoever asks, and what do they take?

    python -m benchmarks.caching [--requests N] [--uncached N] [--documents N] [--mib M,M]
        [--tiers MIB] [--json]

Questions of squad2dev_en, drawn from a Zipf distribution (s = 1) over all 2,907, are asked of an
engine with its caches, once for each budget of memory, and the first of the same stream of an
engine without. With `--tiers` the stream is asked twice more, of an engine with so little memory
over a Redis-compatible server (L2) and `cache.db` (L3), and of a second one that begins with an
empty memory and what the first has left in the tiers. The model is the fake server, in a thread of
this process, with `--ttft-ms` to its first token. `CLIENTS` ask at once, each when it has its
answer; after a tenth of the requests `warm` figures begin. Cost is by prices of 1 a million prompt
tokens and 4 a million completion tokens. Uncached latencies do not depend on the length of the
stream; model calls do.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.crowd import corpus, questions
from benchmarks.report import show
from tests.support.services import Valkey
from vivace.engine import Collection, Engine
from vivace.settings import Settings, load
from vivace.testing.fake_llm import FakeModel

CLIENTS = 4
PRICES = {"price_prompt": 1.0, "price_completion": 4.0}


def stream(requests: int, seed: int = 0) -> list[str]:
    """Zipf (s = 1) over the questions, in an order that has nothing to do with their documents'."""
    rng = np.random.default_rng(seed)
    texts = list(dict.fromkeys(questions(10_000)))
    rng.shuffle(texts)
    weights = 1 / np.arange(1, len(texts) + 1)
    return [texts[n] for n in rng.choice(len(texts), requests, p=weights / weights.sum())]


def settings(model: str, mib: float, **tiers: str) -> Settings:
    return load(
        generate={"model": f"openai:fake@{model}", **PRICES},
        cache={"memory_mib": mib, **tiers},
        queries__log=False,
        tune__guard=False,
    )


async def asked(docs: Collection, texts: Sequence[str]) -> tuple[list[float], float]:
    """Milliseconds of each answer, in order, and what they cost."""
    took, cost = [0.0] * len(texts), 0.0
    left = iter(enumerate(texts))

    async def client() -> None:
        nonlocal cost
        for at, text in left:
            start = time.perf_counter()
            answer = await docs.ask(text)
            took[at] = 1e3 * (time.perf_counter() - start)
            cost += answer.cost or 0.0

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return took, cost


def resident() -> int:
    """Bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def latency(took: Sequence[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(took, [50, 95, 99])
    named = {"mean_ms": np.mean(took), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}
    return {name: round(float(value), 3) for name, value in named.items()}


async def passed(
    folder: Path, fake: FakeModel, texts: Sequence[str], mib: float, **tiers: str
) -> dict[str, Any]:
    """One pass of the stream through an engine of its own."""
    async with Engine(settings(fake.url, mib, **tiers)) as engine:
        docs = await engine.open(folder, create=False)
        await docs.ask("What is asked first loads the model?")
        if not tiers:
            await engine.resources.caching.clear()
        gc.collect()
        before, calls = resident(), fake.statistics().requests
        start = time.perf_counter()
        took, cost = await asked(docs, texts)
        seconds = time.perf_counter() - start
        figures: dict[str, Any] = {
            "requests": len(texts),
            "answers_a_second": round(len(texts) / seconds, 1),
            **latency(took),
            "model_calls": fake.statistics().requests - calls,
            "cost": round(cost, 4),
        }
        found = engine.resources.caching.statistics()
        if found is not None:
            total = found.total
            figures |= {
                "warm": latency(took[len(took) // 10 :]),
                "hit_ratio": {k: round(c.ratio, 4) for k, c in found.kinds.items()},
                "shared": {k: c.shared for k, c in found.kinds.items()},
                "entries": {k: c.entries for k, c in found.kinds.items()},
                "mib_by_kind": {k: round(c.bytes / 2**20, 2) for k, c in found.kinds.items()},
                "mib": round(total.bytes / 2**20, 2),
                "budget_mib": mib,
                "evicted": total.evicted,
                "rss_grown_mib": round((resident() - before) / 2**20, 1),
                "tokens_saved": engine.resources.caching.tokens_saved,
                "seconds_saved": round(total.saved / 1e3, 1),
                "policy": found.policy,
            }
        if tiers:
            figures["tiers"] = by_tier(engine.resources.caching.trace.counters())
    return figures


def by_tier(counters: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Of what each tier was asked for, what it had; and what else happened to it."""
    found: dict[str, dict[str, float]] = {}
    for name, count in sorted(counters.items()):
        _, tier, what = name.split(".", 2)
        found.setdefault(tier, {})[what] = count
    for seen in found.values():
        hits = seen.get("hits", 0)
        seen["hit_ratio"] = round(hits / max(1, hits + seen.get("misses", 0)), 4)
    return found


async def over_tiers(
    folder: Path, fake: FakeModel, texts: Sequence[str], mib: float
) -> dict[str, Any]:
    with Valkey() as server:
        tiers = {"redis": server.url, "sql": str(folder.with_name("cache.db"))}
        return {
            f"{mib:g} MiB, L2, L3": await passed(folder, fake, texts, mib, **tiers),
            "the next process": await passed(folder, fake, texts, mib, **tiers),
        }


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    texts = stream(options.requests)
    figures: dict[str, Any] = {
        "clients": CLIENTS,
        "distinct": len(set(texts)),
        "repeated": round(1 - len(set(texts)) / len(texts), 4),
    }
    with (
        tempfile.TemporaryDirectory(prefix="vivace-bench-") as temporary,
        FakeModel(ttft_ms=options.ttft_ms) as fake,
    ):
        folder = Path(temporary) / "collection"
        async with Engine(settings(fake.url, 0)) as engine:
            docs = await engine.open(folder)
            await docs.ingest(corpus(Path(temporary), options.documents))
        figures["uncached"] = await passed(folder, fake, texts[: options.uncached], 0)
        for mib in options.mib.split(","):
            found = await passed(folder, fake, texts, float(mib))
            each = figures["uncached"]["cost"] / figures["uncached"]["requests"]
            found["cost_saved"] = round(1 - found["cost"] / (each * len(texts)), 4)
            figures[f"{mib} MiB"] = found
        if options.tiers:
            figures |= await over_tiers(folder, fake, texts, options.tiers)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--uncached", type=int, default=2_000)
    parser.add_argument("--documents", type=int, default=1_216)
    parser.add_argument("--mib", default="64", help="budgets, with commas")
    parser.add_argument(
        "--tiers", type=float, default=0, metavar="MIB", help="memory over L2 and L3"
    )
    parser.add_argument("--ttft-ms", type=float, default=50.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    show(asyncio.run(measure(options)), as_json=options.json)


if __name__ == "__main__":
    main()
