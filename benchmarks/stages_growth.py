"""How does each stage of a search grow with the collection?

    python -m benchmarks.stages_growth [--sizes N,N,...] [--plot FILE.svg] [--folder DIR] [--json]

SYNTHETIC: `benchmarks.grown`'s chunks under real questions' vectors, which are given; without
reranking, one question after another. In every question a word that an eighth of the chunks have,
and one that a single document has.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import grown
from benchmarks.ann.plot import Panels, by_size
from benchmarks.growth import K, engine, settled
from benchmarks.report import show
from vivace.types import Query

SIZES: Final = (1_000, 4_000, 13_000, 40_000, 100_000, 200_000)
_QUESTIONS: Final = 400
_WARM: Final = 100
_AT_ONCE: Final = 2_000


async def measured(folder: Path, cache: Path, size: int) -> dict[str, Any]:
    """p50 of a search and of its stages, in milliseconds."""
    vectors, rows = grown.vectors(size, cache), grown.queries()[:_QUESTIONS]
    async with engine() as e:
        docs = await e.open(folder / str(size))
        for at in range(0, size, _AT_ONCE):
            count = min(_AT_ONCE, size - at)
            chunks = grown.chunks(at // grown.OF_A_DOCUMENT, count)
            await docs.add(chunks, vectors[at : at + count])
        await settled(docs)
        asked = [grown.question(37 * at % (size // 10)) for at in range(len(rows))]
        whole: list[float] = []
        stages: dict[str, list[float]] = defaultdict(list)
        for text, row in zip(asked, rows, strict=True):
            start = time.perf_counter()
            await docs.search(Query(text, K, vector=row))
            whole.append(1e3 * (time.perf_counter() - start))
        for text, row in zip(asked, rows, strict=True):
            result = await docs.search(Query(text, K, vector=row, explain=True))
            for name, stage in result.stages.items():
                stages[name].append(stage.ms)
        parts = {name: _p50(each) for name, each in stages.items()}
    return {"rows": size, "whole": _p50(whole), **parts}


def _p50(values: list[float]) -> float:
    return round(float(np.median(values[_WARM:])), 4)


def picture(results: list[dict[str, Any]]) -> str:
    """A line a stage, and one of the whole, over the number of chunks."""
    items = [
        {"name": name, "rows": result["rows"], "p50_ms": ms}
        for result in results
        for name, ms in result.items()
        if name != "rows"
    ]
    panels: Panels = [("p50, ms", lambda item: float(item["p50_ms"]))]
    return by_size(items, panels=panels, title="Stages of a search by number of chunks")


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages_growth", description=__doc__)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    parser.add_argument("--folder", type=Path, help="keeps the grown vectors between runs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vivace-bench-") as folder:
        places = Path(folder), options.folder or Path(folder)
        sizes = map(int, options.sizes.split(","))
        results = [await measured(*places, size) for size in sizes]
    if options.plot is not None:
        options.plot.write_text(picture(results), "utf-8")
    show({"results": results}, as_json=options.json)


if __name__ == "__main__":
    asyncio.run(main())
