"""What an outage of a cache tier costs a request, and how soon the tier serves again.

    python -m benchmarks.tiers [--outage NAME]... [--seconds 3] [--tier-ms 30] [--json]

Real servers on loopback under a steady load of requests that the memory cannot answer and whose
computation costs nothing, so that a request's time is what the tiers add to it. For each outage:
percentiles before, during and after, requests that failed or got a wrong value, and the seconds
from the server's return to the first of 40 reads in a row that it answered (of writes, where it
refused those). `none` is the same load without a tier.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.report import show
from tests.support.outages import OUTAGES, outage_of
from vivace.cache.adaptation import make_policy
from vivace.cache.memory import Memory
from vivace.cache.namespace import CacheNamespace
from vivace.cache.tiers.loading import load
from vivace.protocols import CacheTier
from vivace.trace import Trace

_KEYS: Final = 20_000
_PAUSE: Final = 0.02
_BAD: Final = ("errors", "timeouts", "refused", "skipped")
_BAD_WRITES: Final = tuple(f"write_{what}" for what in _BAD)
_STREAK: Final = 40
"""Answered reads without a bad one between them: the tier has recovered where they begin."""


def namespace(tiers: Sequence[CacheTier] = (), seconds: float = 0.03) -> CacheNamespace[bytes]:
    """Of a memory that keeps nothing: every request is the tiers'."""
    memory = Memory(0, make_policy("lru", 0), tiers=tiers, tier_seconds=seconds, lease_seconds=0)
    return memory.namespace("bytes", encode=bytes, decode=bytes)


class Load:
    """Callers that ask at a steady pace, and what each of their requests took."""

    def __init__(self, cache: CacheNamespace[bytes], seed: int = 1) -> None:
        self._cache = cache
        self._draw = np.random.default_rng(seed)
        self.took: list[float] = []
        self.failed = 0

    async def caller(self) -> None:
        while True:
            key = b"%d" % int(self._draw.zipf(1.3) % _KEYS)
            value = (b"value of %s, " % key) * 200

            async def compute(value: bytes = value) -> bytes:
                return value

            began = time.perf_counter()
            try:
                self.failed += await self._cache.get_or_compute(key, compute, ttl=600.0) != value
            except Exception:  # what is being counted
                self.failed += 1
            self.took.append(time.perf_counter() - began)
            await asyncio.sleep(_PAUSE * self._draw.uniform(0.5, 1.5))

    def phase(self) -> dict[str, float]:
        """What the requests since the last call took, in milliseconds."""
        took, self.took = np.array(self.took) * 1e3, []
        p50, p99 = np.quantile(took, (0.5, 0.99))
        return {
            "requests": len(took),
            "p50_ms": round(float(p50), 3),
            "p99_ms": round(float(p99), 3),
            "max_ms": round(float(took.max()), 3),
        }


async def _alone(seconds: float, callers: int) -> dict[str, float]:
    load_ = Load(namespace())
    tasks = [asyncio.create_task(load_.caller()) for _ in range(callers)]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return load_.phase()


async def _recovery(good: Callable[[], int], bad: Callable[[], int]) -> float | None:
    """Seconds from now to the beginning of the first streak; None if there is none in 30 s."""
    returned = since = time.monotonic()
    good_then, bad_then = good(), bad()
    while time.monotonic() < returned + 30:
        await asyncio.sleep(0.01)
        if bad() != bad_then:
            since, good_then, bad_then = time.monotonic(), good(), bad()
        elif good() >= good_then + _STREAK:
            return since - returned
    return None


async def _outage(name: str, seconds: float, callers: int, tier_ms: float) -> dict[str, Any]:
    trace = Trace()
    with outage_of(name) as outage, tempfile.TemporaryDirectory() as home:
        (tier,) = load(outage.settings(tier_ms), Path(home), trace)

        def counted(*what: str) -> int:
            counters = trace.counters()
            return sum(counters.get(f"cache.{tier.name}.{one}", 0) for one in what)

        load_ = Load(namespace([tier], tier.seconds))
        tasks = [asyncio.create_task(load_.caller()) for _ in range(callers)]
        await asyncio.sleep(1.0)  # connections are made
        load_.phase()
        await asyncio.sleep(seconds)
        before = load_.phase()
        await asyncio.to_thread(outage.strike)
        await asyncio.sleep(seconds)
        during = load_.phase()
        await asyncio.to_thread(outage.mend)
        recovery = await _recovery(
            lambda: counted("written") if outage.refuses else counted("hits", "misses"),
            lambda: counted(*(_BAD_WRITES if outage.refuses else _BAD)),
        )
        await asyncio.sleep(seconds)
        after = load_.phase()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await tier.close()
    prefix = f"cache.{tier.name}."
    counters = {key.removeprefix(prefix): n for key, n in sorted(trace.counters().items())}
    return {
        "outage": name,
        "failed": load_.failed,
        "before": before,
        "during": during,
        "after": after,
        "recovery_s": None if recovery is None else round(recovery, 3),
        "counters": counters,
    }


async def _main(arguments: argparse.Namespace) -> dict[str, Any]:
    alone = await _alone(arguments.seconds, arguments.callers)
    rows = []
    for name in arguments.outage or list(OUTAGES):
        row = await _outage(name, arguments.seconds, arguments.callers, arguments.tier_ms)
        for quantile in ("p50_ms", "p99_ms"):
            added = row["during"][quantile] - alone[quantile]
            row[f"added_{quantile}"] = round(added, 3)
        rows.append(row)
        if not arguments.json:
            print(
                f"{name:18} failed {row['failed']}  added p50 {row['added_p50_ms']:.2f} ms  "
                f"p99 {row['added_p99_ms']:.2f} ms  recovery {row['recovery_s']} s"
            )
    return {"tier_ms": arguments.tier_ms, "callers": arguments.callers, "none": alone, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--outage", action="append", choices=list(OUTAGES))
    parser.add_argument("--seconds", type=float, default=3.0, help="of each phase")
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--tier-ms", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    show(asyncio.run(_main(arguments)), as_json=arguments.json)


if __name__ == "__main__":
    main()
