"""Recall, speed, build time and bytes of ours and of others, chosen by one rule.

python -m benchmarks.ann --base B.npy --queries Q.npy --neighbours N.npy --recall 0.95 --json

Ours are `vivace` and, with the extra, `vivace+graph`: what the tuner chooses on two thirds of the
questions. The others are swept by hand on the same two thirds and chosen by the same rule: the
lower end of recall's interval over the floor, then least CPU. All are scored on the last third,
one question a call on one thread, taking turns; medians of the rounds.

--grow N grows sentence vectors to N rows (SYNTHETIC, see benchmarks/grown.py) and finds their
neighbours; --scale N,N,... does so for each N, and prints a table, and with --plot draws it.
With --json the last line is the list, the line before the circumstances.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import grown
from benchmarks.ann import data
from benchmarks.ann.baselines import MAKERS
from benchmarks.ann.contestants import ours, rows_on_disk
from benchmarks.ann.data import Contest
from benchmarks.ann.judging import Entrant, entrant, scored
from benchmarks.ann.plot import by_size
from benchmarks.report import DATA, circumstances
from vivace.index import segments

OURS = {"vivace": False, "vivace+graph": True}
"""Whether the graph may be chosen."""


def main() -> None:
    options = _options()
    results = []
    with tempfile.TemporaryDirectory(prefix="vivace-ann-data-") as temporary:
        folder = Path(options.folder or temporary)
        for size in options.scale or [options.grow]:
            results += _contest(options, size, folder)
    if options.plot:
        Path(options.plot).write_text(by_size(results), "utf-8")
    if options.json:
        print(json.dumps({"circumstances": circumstances(), "seed": data.SEED}))
        print(json.dumps(results))
    else:
        _table(results)


def _contest(options: argparse.Namespace, size: int | None, folder: Path) -> list[dict[str, Any]]:
    contest = _read(options, size, folder)
    entrants = _entrants(contest, options)
    results = scored(contest, entrants)
    del entrants
    gc.collect()
    return results


def _read(options: argparse.Namespace, size: int | None, folder: Path) -> Contest:
    base, queries = data.read(options.base), data.read(options.queries)
    neighbours = np.load(options.neighbours) if options.neighbours and size is None else None
    if size is not None:
        base = grown.vectors(size, folder) if size > len(base) else base[:size]
    return data.contest(
        base,
        queries,
        neighbours,
        metric=options.metric,
        k=options.k,
        floor=options.recall,
    )


def _entrants(contest: Contest, options: argparse.Namespace) -> list[Entrant]:
    found = []
    with rows_on_disk(contest) as flat:
        for name, graph in OURS.items():
            families = tuple(f for f in segments.FAMILIES if graph or f != "graph")
            if not _wanted(options, name) or (graph and not _has_graph()):
                continue
            _say(f"{name}: tuning {contest.rows} rows")
            made = ours(contest, flat, name, families, options.budget, options.builds)
            found.append(entrant(contest, made, swept=False))
            _say(f"{name}: {found[-1].setting}, recall {found[-1].recall.mean:.4f}")
        for name, (library, make) in MAKERS.items():
            if not _wanted(options, name) or find_spec(library) is None:
                continue
            _say(f"{name}: building")
            found.append(entrant(contest, make(contest), swept=True))
            _say(f"{name}: {found[-1].setting}, recall {found[-1].recall.mean:.4f}")
    return found  # what is mapped stays mapped after its file is gone


def _wanted(options: argparse.Namespace, name: str) -> bool:
    return not options.only or name in options.only


def _has_graph() -> bool:
    return "graph" in segments.FAMILIES and find_spec("rabitqlib") is not None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _table(results: list[dict[str, Any]]) -> None:
    print(
        f"{'rows':>9} {'name':24} {'recall':>7} {'p50 ms':>8} {'p95 ms':>8} {'CPU ms':>8}"
        f" {'qps':>8} {'build s':>8} {'MB res.':>8} {'mapped':>8}  setting"
    )
    for item in results:
        print(
            f"{item['rows']:9} {item['name']:24} {item['recall']:7.4f} {item['p50_ms']:8.4f}"
            f" {item['p95_ms']:8.4f} {item['cpu_ms']:8.4f} {item['qps']:8.0f}"
            f" {item['build_seconds']:8.1f} {item['bytes_resident'] / 1e6:8.1f}"
            f" {item['bytes_mapped'] / 1e6:8.1f}  {item['setting']}"
            f"{'' if item['recall'] >= item['floor'] else '  UNDER THE FLOOR'}"
        )
    print(json.dumps(circumstances()), file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ann",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    ann = DATA / "ann"
    add = parser.add_argument
    add("--base", type=Path, default=ann / "sentences40k.base.f16.npy")
    add("--queries", type=Path, default=ann / "sentences40k.queries.f16.npy")
    add("--neighbours", type=Path, help="exact, best first; found where not given")
    add("--metric", choices=("cosine", "ip", "l2"), default="cosine")
    add("--recall", type=float, default=0.95, help="the floor")
    add("-k", type=int, default=10)
    add("--grow", type=int, metavar="N", help="sentence vectors grown, or cut, to N rows")
    add(
        "--scale",
        "--sizes",
        type=_sizes,
        metavar="N,N,...",
        help="as --grow for each of these sizes",
    )
    add("--plot", metavar="FILE.svg", help="p50, build time and bytes over the rows")
    add("--folder", help="where grown vectors are kept; default: a temporary folder")
    add("--budget", type=float, default=120, metavar="S", help="seconds of a tuning")
    add("--builds", type=int, default=8, metavar="N", help="most builds of a tuning")
    names = [*OURS, *MAKERS]
    add("--only", type=lambda text: text.split(","), metavar="NAME,...", help=", ".join(names))
    add("--json", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.only or ()) - set(names):
        parser.error(f"--only: no {', '.join(sorted(unknown))} among {', '.join(names)}")
    return options


def _sizes(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
