"""What does a look into the memory of a process cost?

    python -m benchmarks.l1 [--entries N] [--policies lru,auto] [--json]

Nanoseconds a `get` that finds its key, and a `get` that does not, of this project's L1 with its
lock, clock, statistics and policy, beside cachebox's LRU, theine's and a dict, in turns in one run:
the median of the rounds. Keys are digests of 16 bytes, drawn from a Zipf distribution (s = 1) over
all entries; everything fits.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, TypeAlias

import cachebox
import numpy as np
import theine

from benchmarks.report import show
from vivace.cache.adaptation import make_policy
from vivace.cache.bounded import ENTRY_BYTES
from vivace.cache.memory import Memory
from vivace.cache.namespace import CacheNamespace

Get: TypeAlias = Callable[[bytes], Any]
ROUNDS = 15
_GETS = 20_000
_WEIGHT = 1_000


def keys(entries: int, name: str) -> list[bytes]:
    return [blake2b(f"{name} {n}".encode(), digest_size=16).digest() for n in range(entries)]


def ours(policy: str, known: Sequence[bytes]) -> CacheNamespace[bytes]:
    capacity = 2 * len(known) * (_WEIGHT + ENTRY_BYTES)
    memory = Memory(capacity, make_policy(policy, capacity), weigh=lambda _: _WEIGHT)
    counts = memory.store.counts("search")
    for key in known:
        memory.store.set(key, key, counts, ttl=86_400, cost=5.0)
    return memory.namespace("search")


def contestants(policies: Sequence[str], known: Sequence[bytes]) -> dict[str, Get]:
    boxed: cachebox.LRUCache[bytes, bytes] = cachebox.LRUCache(2 * len(known))
    there: theine.Cache[bytes, bytes] = theine.Cache(2 * len(known))
    for key in known:
        boxed[key] = key
        there.set(key, key)
    found: dict[str, Get] = {"dict": dict(zip(known, known, strict=True)).get}
    found |= {f"vivace {name}": ours(name, known).get_local for name in policies}
    return found | {"cachebox": boxed.get, "theine": lambda key: there.get(key)[0]}


def nanoseconds(get: Get, asked: Sequence[bytes]) -> float:
    start = time.perf_counter_ns()
    for key in asked:
        get(key)
    return (time.perf_counter_ns() - start) / len(asked)


def measure(entries: int, policies: Sequence[str]) -> dict[str, Any]:
    known, unknown = keys(entries, "known"), keys(entries, "unknown")
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, entries + 1)
    drawn = rng.choice(entries, _GETS, p=weights / weights.sum()).tolist()
    asked = {"hit": [known[n] for n in drawn], "miss": [unknown[n] for n in drawn]}
    caches = contestants(policies, known)
    took: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for name, get in caches.items():
            for what, some in asked.items():
                took.setdefault((name, what), []).append(nanoseconds(get, some))
    figures = {
        name: {what: round(statistics.median(took[name, what])) for what in asked}
        for name in caches
    }
    return {"entries": entries, "ns_per_get": figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=8_192)
    parser.add_argument("--policies", default="lru")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    show(measure(options.entries, options.policies.split(",")), as_json=options.json)


if __name__ == "__main__":
    main()
