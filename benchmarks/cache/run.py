"""How much of a stream does each policy find, and what does an access cost?

    python -m benchmarks.cache [TRACE...] [--capacity 0.01,0.1] [--plot FILE.svg] [--json]

A TRACE is a file of uint32 keys (`.zst` or plain), a name of `$VIVACE_TEST_DATA/traces`, or several
one after the other, `a+b`, each with keys of its own; without one, all of the folder and six mixes.
A capacity is that share of the stream's different keys, and 256 at least; every key weighs one.
Beside our policies: `belady`, who knows the future, and the libraries theine, cachebox (LRU) and
cachetools (LRU), asked from Python as we are. `adaptive` is `cache.policy = "auto"`;
`of_best_fixed` is its hit ratio by the best of lru, lfu, s3fifo, arc and wtinylfu. `ns_per_access`
has everything that is between two keys: for ours a set in place of the values, for the libraries
their get and set. The plot is of the first trace at the first capacity.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.cache import plot, replays, traces
from benchmarks.cache.replays import Replayed
from benchmarks.report import circumstances
from vivace.cache.adaptation import POLICIES, Adaptive, fixed_policy

BEST_OF = ("lru", "lfu", "s3fifo", "arc", "wtinylfu")
LEAST = 256
PARTS = 60
"""Of a stream, in the plot."""
_THEIRS = {
    "belady": replays.belady,
    "theine": replays.theine,
    "cachebox": replays.cachebox,
    "cachetools": replays.cachetools,
}


def measure(name: str, keys: list[int], share: float) -> tuple[dict[str, Any], dict[str, Replayed]]:
    """One line of the result, and what each of ours did along the stream."""
    capacity = max(LEAST, int(share * len(set(keys))))
    adaptive = Adaptive(capacity)
    found = {
        **{one: replays.ours(fixed_policy(one, capacity), keys, PARTS) for one in POLICIES},
        "adaptive": replays.ours(adaptive, keys, PARTS),
    }
    along = dict(found)
    found |= {one: replay(keys, capacity) for one, replay in _THEIRS.items()}
    ratios = {one: it.hits / len(keys) for one, it in found.items()}
    best = max(ratios[one] for one in BEST_OF)
    row = {
        "trace": name,
        "capacity": share,
        "entries": capacity,
        "requests": len(keys),
        **{one: round(ratio, 4) for one, ratio in ratios.items()},
        "of_best_fixed": _of(ratios["adaptive"], best),
        "of_theine": _of(ratios["adaptive"], ratios["theine"]),
        "of_cachebox": _of(ratios["adaptive"], ratios["cachebox"]),
        "switches": adaptive.switches,
        "live": adaptive.live,
        "ns_per_access": {one: round(it.nanoseconds) for one, it in found.items()},
    }
    return row, along


def _of(ratio: float, other: float) -> float | None:
    """None where the other found next to nothing."""
    return round(ratio / other, 4) if other > 1e-3 else None


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    def figures(key: str, chosen: list[dict[str, Any]]) -> dict[str, float]:
        values = [row[key] for row in chosen if row[key] is not None]
        return {"mean": round(mean(values), 4), "min": min(values)} if values else {}

    mixes = [row for row in rows if "+" in row["trace"]]
    alone = [row for row in rows if "+" not in row["trace"]]
    return {
        "of_best_fixed": figures("of_best_fixed", rows),
        "of_best_fixed_mixes": figures("of_best_fixed", mixes),
        "of_best_fixed_alone": figures("of_best_fixed", alone),
        "of_theine": figures("of_theine", rows),
        "of_cachebox": figures("of_cachebox", rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cache", description=__doc__)
    parser.add_argument("traces", nargs="*", metavar="TRACE")
    parser.add_argument("--capacity", default="0.01,0.1", help="shares of the different keys")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for name in options.traces or traces.names():
        keys = traces.read(name)
        for share in map(float, options.capacity.split(",")):
            row, along = measure(Path(name).name.removesuffix(".u32.zst"), keys, share)
            rows.append(row)
            print({k: v for k, v in row.items() if k != "ns_per_access"}, file=sys.stderr)
            if options.plot and len(rows) == 1:
                _draw(options.plot, name, row, along, len(keys))
    print({**summary(rows), "circumstances": circumstances()}, file=sys.stderr)
    if options.json:
        print(json.dumps(rows))


def _draw(
    file: Path, name: str, row: dict[str, Any], along: dict[str, Replayed], requests: int
) -> None:
    shown = (*BEST_OF, "adaptive")
    ends, at = [], 0
    for part in name.split("+")[:-1]:
        at += len(traces.read(part))
        ends.append(at / requests)
    title = f"Hit ratio along {row['trace']}, {row['entries']} entries"
    file.write_text(plot.along(title, {one: along[one].over_time for one in shown}, ends))
