"""What do compressed token vectors keep of late interaction, and what do they cost?

    python -m benchmarks.maxsim [--questions N] [--cache FILE] [--json]

Every paragraph of squad2dev_en is one chunk of a new collection, with its token signs. Each
question's 20 best by the .5 max-norm hybrid are ranked again by `(1-w) * fused/max + w *
maxsim/max`, with token vectors in float16, as signs, and as signs of neighbours' means; recall@1 in
points, and what reranking adds with its 95 % interval (paired bootstrap over questions). Then the
milliseconds of `maxsim` on one thread for 10, 20 and 50 candidates, of real questions on their own
candidates, the three ways taking turns: `p50` and the fastest tenth `p10`, by the clock, and `cpu`,
the median of the thread's own time. `--cache` keeps the embeddings in a file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

# before numpy is loaded, as its BLAS asks only once: `maxsim` is one thread without it, but what it
# is compared with is not
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import DATA, show
from vivace.embed.passages import token_signs
from vivace.engine import Engine
from vivace.protocols import CandidateSource, Embedder, EmbedsTokens, Kind
from vivace.retrieve.fusion import candidates, fuse
from vivace.retrieve.maxsim import maxsim
from vivace.text.terms import terms
from vivace.types import Chunk, Embedded, Fusion, Ids, Scores, Vectors

SET: Final = DATA / "qa" / "squad2dev_en"
WEIGHTS: Final = (0.5, 0.7)
DEPTH: Final = 20
WIDTH: Final = 50
TIMED: Final = 200
"""Questions."""


@dataclass(slots=True)
class Known:
    """An embedder of texts whose token vectors are known, so that nothing is embedded twice."""

    inner: Embedder
    of: dict[str, tuple[Vectors, Vectors]]
    name: str
    dim: int

    def reads(self, language: str) -> bool:
        return self.inner.reads(language)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self.inner.count_tokens(texts)

    async def embed(self, texts: Sequence[str], *, kind: Kind) -> Embedded:
        return Embedded(np.stack([self.of[text][0] for text in texts]))

    async def embed_tokens(self, texts: Sequence[str], *, kind: Kind) -> Embedded:
        tokens = tuple(self.of[text][1].astype(np.float32) for text in texts)
        return Embedded((await self.embed(texts, kind=kind)).vectors, tokens)

    def close(self) -> None:
        self.inner.close()


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its tokens, and its fused candidates, the best first."""

    tokens: Vectors
    ids: Ids
    fused: Scores
    relevant: frozenset[int]


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SET / name).read_text("utf-8").splitlines()]


async def embedded(
    embedder: Embedder, texts: Sequence[str], kind: Kind, cache: Path | None
) -> dict[str, tuple[Vectors, Any]]:
    """Vector and float16 token vectors by text."""
    file = cache.with_suffix(f".{kind}.{len(texts)}.npz") if cache else None
    if file is None or not file.exists():
        assert isinstance(embedder, EmbedsTokens)
        vectors, tokens = [], list[NDArray[np.float16]]()
        for at in range(0, len(texts), 32):
            found = await embedder.embed_tokens(texts[at : at + 32], kind=kind)
            vectors.append(found.vectors)
            tokens += [rows.astype(np.float16) for rows in found.tokens or ()]
        rows = np.concatenate(vectors)
        if file is not None:
            lengths = [len(states) for states in tokens]
            np.savez(file, vectors=rows, tokens=np.concatenate(tokens), lengths=lengths)
    else:
        with np.load(file) as kept:
            rows = kept["vectors"]
            tokens = np.split(kept["tokens"], np.cumsum(kept["lengths"])[:-1])
    return {text: (row, states) for text, row, states in zip(texts, rows, tokens, strict=True)}


def _ranked(asked: Asked, scores: Scores, weight: float) -> Ids:
    """The candidates' ids with the first `DEPTH` in their new order."""
    fused = asked.fused[:DEPTH]
    blended = (1 - weight) * fused / fused.max() + weight * scores / scores.max()
    order = np.argsort(-blended, kind="stable")
    return np.concatenate([asked.ids[:DEPTH][order], asked.ids[DEPTH:]])


def _hits(asked: Sequence[Asked], rankings: Sequence[Ids]) -> NDArray[np.float64]:
    """1 or 0 a question: is the first one right?"""
    pairs = zip(asked, rankings, strict=True)
    return np.array([float(int(ids[0]) in question.relevant) for question, ids in pairs])


def _interval(differences: NDArray[np.float64]) -> list[float]:
    drawn = np.random.default_rng(0).integers(0, len(differences), (2_000, len(differences)))
    low, high = np.percentile(differences[drawn].mean(axis=1), [2.5, 97.5])
    return [round(100 * float(low), 2), round(100 * float(high), 2)]


def by_halves(question: Vectors, chunks: Sequence[NDArray[np.float16]]) -> Scores:
    """As `maxsim`, of the vectors themselves."""
    best = [(question @ rows.astype(np.float32).T).max(axis=1).mean() for rows in chunks]
    return np.array(best, np.float32)


def _milliseconds(
    asked: Sequence[Asked], ways: dict[str, tuple[Callable[..., Scores], dict[int, Any]]]
) -> dict[str, dict[str, dict[str, float]]]:
    """By way and number of candidates."""
    taken: dict[str, dict[str, list[tuple[float, float]]]] = {name: {} for name in ways}
    for question in asked[:TIMED]:
        for count in (10, 20, 50):
            ids = question.ids[:count].tolist()
            if len(ids) < count:
                continue
            for name, (score, of) in ways.items():
                chunks = [of[row] for row in ids]
                start, cpu = time.perf_counter(), time.thread_time()
                score(question.tokens, chunks)
                spent = (time.perf_counter() - start, time.thread_time() - cpu)
                taken[name].setdefault(str(count), []).append(spent)
    return {
        name: {count: _times(spent) for count, spent in by_count.items()}
        for name, by_count in taken.items()
    }


def _times(spent: Sequence[tuple[float, float]]) -> dict[str, float]:
    clock, cpu = np.array(spent).T * 1_000
    p10, p50 = np.percentile(clock, [10, 50])
    times = {"p50": p50, "p10": p10, "cpu": np.median(cpu)}
    return {name: round(float(value), 3) for name, value in times.items()}


def _reading(store_signs: Callable[[list[int]], Any], asked: Sequence[Asked]) -> float:
    """Median milliseconds of getting the signs of the 20 best."""
    taken = []
    for question in asked[:TIMED]:
        start = time.perf_counter()
        store_signs(question.ids[:DEPTH].tolist())
        taken.append(1_000 * (time.perf_counter() - start))
    return round(statistics.median(taken), 3)


def _judged() -> dict[str, set[str]]:
    """Relevant documents by question."""
    qrels: dict[str, set[str]] = {}
    for line in (SET / "qrels.tsv").read_text("utf-8").splitlines():
        question, document, relevance = line.split("\t")
        if relevance.isdigit() and int(relevance):
            qrels.setdefault(question, set()).add(document)
    return qrels


def _asked(
    source: CandidateSource, text: str, known: tuple[Vectors, Any], relevant: frozenset[int]
) -> Asked:
    """The question through the hybrid, as `retrieve.pipeline` does it."""
    vector, tokens = known
    row = vector[None]
    both = candidates(source.keyword(terms(text), WIDTH), source.dense(row, WIDTH))
    both.cosine[both.dense :] = source.similarity(row, both.ids[both.dense :])
    fused = fuse(both.bm25, both.cosine, Fusion())
    order = np.lexsort((both.ids, -fused))
    return Asked(tokens.astype(np.float32), both.ids[order], fused[order], relevant)


async def measure(questions: int, cache: Path | None) -> dict[str, Any]:
    corpus, queries = _lines("corpus.jsonl"), _lines("queries.jsonl")[:questions]
    qrels, engine = _judged(), Engine()
    with tempfile.TemporaryDirectory(prefix="vivace-bench-") as folder:
        async with engine:
            inner = engine.resources.embedder
            texts = [document["text"] for document in corpus]
            passages = await embedded(inner, texts, "passage", cache)
            asks = await embedded(inner, [query["text"] for query in queries], "query", cache)
            known = Known(inner, passages, inner.name, inner.dim)
            engine.resources = replace(engine.resources, embedder=known)
            docs = await engine.open(Path(folder) / "squad")
            await docs.add([Chunk(document["id"], document["text"]) for document in corpus])
            info = await docs.info()
            snapshot, store = docs.corpus.snapshot(), docs.corpus.store
            chunks = snapshot.chunks(store.ids().tolist())
            place = {chunk.document_id: row for row, chunk in chunks.items()}
            asked = []
            for query in queries:
                relevant = frozenset(place[document] for document in qrels[query["id"]])
                text = query["text"]
                asked.append(_asked(snapshot, text, asks[text], relevant))
            stored = snapshot.signs(chunks)
            reading = {
                "store": _reading(store.signs, asked),
                "memory": _reading(snapshot.signs, asked),
            }
    halves = {row: passages[chunk.text][1] for row, chunk in chunks.items()}
    pooled = {
        row: token_signs(rows.astype(np.float32), pooled=True) for row, rows in halves.items()
    }
    ways: dict[str, tuple[Callable[..., Scores], dict[int, Any]]] = {
        "float16": (by_halves, halves),
        "signs": (maxsim, stored),
        "pooled": (maxsim, pooled),
    }
    return {
        "chunks": info.chunks,
        "questions": len(asked),
        "tokens_a_chunk": round(statistics.mean(map(len, halves.values())), 1),
        "tokens_a_question": round(statistics.mean(len(q.tokens) for q in asked), 1),
        "bytes_a_chunk": {
            name: round(statistics.mean(rows.nbytes for rows in of.values()))
            for name, (_, of) in ways.items()
        },
        "stored_bytes_a_chunk": round(info.signs_bytes / info.chunks),
        **_quality(asked, ways),
        "milliseconds": _milliseconds(asked, ways),
        "milliseconds_reading_20": reading,
    }


def _quality(
    asked: Sequence[Asked], ways: dict[str, tuple[Callable[..., Scores], dict[int, Any]]]
) -> dict[str, Any]:
    plain = _hits(asked, [question.ids for question in asked])
    reranked: dict[str, dict[str, Any]] = {}
    for name, (score, of) in ways.items():
        scores = [score(q.tokens, [of[row] for row in q.ids[:DEPTH].tolist()]) for q in asked]
        reranked[name] = {}
        for weight in WEIGHTS:
            ranked = [_ranked(*pair, weight) for pair in zip(asked, scores, strict=True)]
            hits = _hits(asked, ranked)
            reranked[name][str(weight)] = {
                "recall@1": round(100 * float(hits.mean()), 2),
                "added": round(100 * float((hits - plain).mean()), 2),
                "interval": _interval(hits - plain),
            }
    return {"hybrid_recall@1": round(100 * float(plain.mean()), 2), "reranked": reranked}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=1_000_000)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    show(asyncio.run(measure(options.questions, options.cache)), as_json=options.json)
