"""How much of the bare embedder's throughput does a whole ingest keep?

    python -m benchmarks.ingest [--documents N] [--rounds N] [--json]

Both work on the same chunks with the same threads, one after the other in every round: the bare
embedder gets them as one list; the ingest reads the file, chunks it, embeds, writes every document
durably to a new collection and indexes it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path

from benchmarks.report import DATA, show
from vivace.engine import Engine
from vivace.ingest.chunking import indexed_text


async def measure(documents: int, rounds: int) -> dict[str, object]:
    bare, whole = [], []
    with tempfile.TemporaryDirectory(prefix="vivace-bench-") as temporary:
        folder = Path(temporary)
        corpus = DATA / "qa" / "squad2dev_en" / "corpus.jsonl"
        with corpus.open() as lines:
            (folder / "corpus.jsonl").write_text("".join(islice(lines, documents)))
        async with Engine() as engine:
            await engine.resources.embedder.embed(["warm up"], kind="query")
            chunks: list[str] = []
            for number in range(rounds):
                docs = await engine.open(folder / f"c{number}")
                start = time.perf_counter()
                report = await docs.ingest(folder / "corpus.jsonl")
                whole.append(report.chunks / (time.perf_counter() - start))
                if not chunks:
                    for document, _ in await docs.list():
                        chunks += [
                            indexed_text(chunk, index_title=False)
                            for chunk in await docs.chunks(document.id)
                        ]
                start = time.perf_counter()
                await engine.resources.embedder.embed(chunks, kind="passage")
                bare.append(len(chunks) / (time.perf_counter() - start))
    ratios = [a / b for a, b in zip(whole, bare, strict=True)]
    return {
        "chunks": len(chunks),
        "bare_chunks_per_s": [round(value, 1) for value in bare],
        "ingest_chunks_per_s": [round(value, 1) for value in whole],
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(value, 3) for value in ratios],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1216)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    show(asyncio.run(measure(options.documents, options.rounds)), as_json=options.json)
