"""Is the fusion that pseudo-labels choose as good as the one that real labels choose?

`python -m benchmarks.fusion [--sets squad2dev_en ...] [--folder DIR] [--json]`. Collections are
made below --folder once and kept there. A set's fusion is chosen by questions made of its corpus
alone, and judged by its real labels, beside the default and the best that these labels can pick.

`own_code` is this project's own functions, `stdlib_code` 2,000 of Python's, `numpy_code` 1,500 of
NumPy's: half of those that have a docstring keep it in the collection, the others lose it, and it
is the question they answer. `chunkeval_en` is judged by chunks: those that hold half of a span.
`cmrc_zh_weak` is Chinese with a dense side that barely reads it (SYNTHETIC: hashed characters).
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import json
import random
import sys
import sysconfig
import tempfile
import textwrap
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import DATA, show
from vivace.engine import Collection, Engine
from vivace.protocols import Embedder, Kind
from vivace.settings import load
from vivace.text.language import language
from vivace.text.terms import terms
from vivace.tune import labels, pseudo, quality, replay
from vivace.tune.docstrings import QuestionKind
from vivace.tune.labels import LabelledQuestion
from vivace.tune.metrics import difference
from vivace.tune.replay import CandidatePool, Gains
from vivace.types import Chunk, Embedded, Fusion, Stages, Vectors

SETS = (
    "squad2dev_en",
    "cranfield_en",
    "cmrc_zh",
    "cmrc_zh_weak",
    "own_code",
    "stdlib_code",
    "numpy_code",
    "chunkeval_en",
)
DEFAULT = Fusion()
MOST = 1_000
_DIM = 384
_NOT_OURS = ("site-packages", "test", "tests", "idlelib", "encodings")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fusion", description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="vivace-fusion-"))
    rows = []
    for name in args.sets:
        rows.append(asyncio.run(_row(name, folder)))
        print(json.dumps(rows[-1]), file=sys.stderr)
    show({"results": rows}, as_json=args.json)


async def _row(name: str, folder: Path) -> dict[str, Any]:
    weak = name.endswith("_weak")
    model = f"given:{_DIM}" if weak else "builtin"
    settings = load(queries__log=False, tune__guard=False, cache__memory_mib=0, embed__model=model)
    async with Engine(settings) as engine:
        docs = await engine.open(folder / name)
        where = _data(name, folder)
        if not (await docs.info()).documents:
            await _filled(docs, where, weak)
        judged = [item for item in labels.read(where) if item.query.text.strip()]
        order = np.random.default_rng(0).permutation(len(judged))[:MOST]
        judged = [judged[at] for at in order.tolist()]
        texts = [item.query.text for item in judged]
        vectors = await _asked(engine, texts, weak)
        asked = [
            LabelledQuestion(item.query.text, chunks=_holding(docs, item.spans), vector=vector)
            if item.spans
            else LabelledQuestion(item.query.text, item.relevant, vector=vector)
            for item, vector in zip(judged, vectors, strict=True)
        ]
        made, kinds = await _made(docs, engine, weak)
        source = docs.snapshot()
        chosen = quality.choose(
            made,
            replay.gather(source, made),
            Stages(fusion={"": DEFAULT}),
            source="pseudo",
            kinds=kinds,
        )
        return {"set": name, **_judged(chosen, asked, replay.gather(source, asked))}


def _judged(
    chosen: quality.Quality, asked: list[LabelledQuestion], pools: list[CandidatePool]
) -> dict[str, Any]:
    main = max(chosen.questions, key=lambda name: chosen.questions[name])
    how = quality.fusion_of(chosen.stages, main)
    every = [DEFAULT, *(other for other in quality.FUSIONS if other != DEFAULT)]
    gains = {other: replay.replay(pools, other) for other in every}
    best = max(every, key=lambda other: float(gains[other].mean()))
    its = difference(gains[how] - gains[DEFAULT])
    lost = difference(gains[how] - gains[best])
    made = {
        quality.named(row.fusion): round(100 * row.ndcg, 2)
        for row in chosen.tried
        if (row.stage, row.language) == ("fusion", main)
    }
    real = {quality.named(other): round(100 * float(gains[other].mean()), 2) for other in every}
    shared = [name for name in made if name in real]
    agree = np.nan
    if shared:
        agree = np.corrcoef([made[n] for n in shared], [real[n] for n in shared])[0, 1]
    return {
        "chosen": quality.named(how),
        "best": quality.named(best),
        "ndcg": {n: real[quality.named(h)] for n, h in (("chosen", how), ("best", best))}
        | {"default": real[quality.named(DEFAULT)]},
        "to_default": [round(100 * value, 2) for value in (its.mean, its.low, its.high)],
        "to_best": [round(100 * value, 2) for value in (lost.mean, lost.low, lost.high)],
        "to_best_picked_on_the_other_half": round(100 * _across(gains, how), 2),
        "worse_than_default": its.worse,
        "correlation": None if np.isnan(agree) else round(float(agree), 3),
        "questions": len(asked),
        "made": dict(chosen.kinds),
        "reason": chosen.reason,
        "pseudo": made,
        "real": real,
    }


def _across(gains: dict[Fusion, Gains], how: Fusion) -> float:
    """The choice less what one half of the real labels picks, on the other half; both ways.

    The best of twenty on the very labels that it is judged by looks better than it is.
    """
    lost = []
    for half in (0, 1):
        picked = max(gains, key=lambda other: float(gains[other][half::2].mean()))
        lost.append(float((gains[how] - gains[picked])[1 - half :: 2].mean()))
    return float(np.mean(lost))


def _holding(docs: Collection, spans: Sequence[tuple[str, int, int]]) -> frozenset[int]:
    """The chunks that hold at least half of a span."""
    return frozenset(
        chunk.id
        for document, start, end in spans
        for chunk in _chunks(docs, document)
        if 2 * (min(end, chunk.end) - max(start, chunk.start)) >= end - start
    )


@cache
def _chunks(docs: Collection, document: str) -> list[Chunk]:
    return docs.corpus.store.chunks_of(document)


async def _made(
    docs: Collection, engine: Engine, weak: bool
) -> tuple[list[LabelledQuestion], list[QuestionKind]]:
    embedder: Embedder = Hashed() if weak else engine.resources.embedder
    found = await pseudo.labelled(docs.corpus.store, embedder)
    return [question for question, _ in found], [kind for _, kind in found]


async def _asked(engine: Engine, texts: list[str], weak: bool) -> list[Any]:
    if weak:
        return list(hashed(texts))
    read = engine.resources.embedder.reads
    embedded = await engine.resources.embedder.embed(texts, kind="query")
    pairs = zip(texts, embedded.vectors, strict=True)
    return [vector if read(language(text)) else None for text, vector in pairs]


async def _filled(docs: Collection, where: Path, weak: bool) -> None:
    if not weak:
        await docs.ingest(where / "corpus.jsonl")
        return
    rows = [json.loads(line) for line in (where / "corpus.jsonl").read_text("utf-8").splitlines()]
    chunks = [Chunk(row["id"], row["text"], 0, len(row["text"])) for row in rows]
    await docs.add(chunks, hashed([chunk.text for chunk in chunks]))


class Hashed:
    """An `Embedder` that reads everything, badly."""

    name = f"given:{_DIM}"
    dim = _DIM

    def reads(self, language: str) -> bool:
        return True

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    async def embed(self, texts: Sequence[str], *, kind: Kind) -> Embedded:
        return Embedded(hashed(texts))

    def close(self) -> None: ...


def hashed(texts: Sequence[str]) -> Vectors:
    """(n, 384) of unit length: a count of hashed terms, in which common ones drown the rest."""
    rows = np.zeros((len(texts), _DIM), np.float32)
    for row, text in zip(rows, texts, strict=True):
        for term in terms(text):
            row[zlib.crc32(term.encode()) % _DIM] += 1
    unit: Vectors = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return unit


# -- code -------------------------------------------------------------------------------------


def _data(name: str, folder: Path) -> Path:
    """The data set's folder; those of code are written first."""
    if name == "own_code":
        return _code(Path(__file__).parents[1] / "src", folder / "own_code.set", 3_000)
    if name == "stdlib_code":
        return _code(Path(sysconfig.get_path("stdlib")), folder / "stdlib_code.set", 2_000)
    if name == "numpy_code":
        return _code(Path(np.__file__).parent, folder / "numpy_code.set", 1_500)
    return DATA / "qa" / name.removesuffix("_weak")


def _code(root: Path, out: Path, most: int) -> Path:
    if (out / "qrels.tsv").exists():
        return out
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    found = list(_functions(root))
    rng.shuffle(found)
    corpus: list[dict[str, str]] = []
    queries: list[dict[str, str]] = []
    qrels: list[str] = []
    for number, (name, whole, said, rest) in enumerate(found):
        if len(corpus) == most:
            break
        if not 120 <= len(whole) <= 6_000:
            continue
        first = " ".join(said.split("\n\n")[0].split())
        asked = bool(rest) and len(first) >= 25 and rng.random() < 0.5
        text = textwrap.dedent(rest if asked else whole)
        corpus.append({"id": name, "title": name, "text": text})
        if asked:
            queries.append({"id": f"q{number}", "text": first})
            qrels.append(f"q{number}\t{name}\t1\n")
    (out / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus), "utf-8")
    (out / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries), "utf-8")
    (out / "qrels.tsv").write_text("query_id\tdoc_id\trel\n" + "".join(qrels), "utf-8")
    return out


def _functions(root: Path) -> Iterator[tuple[str, str, str, str]]:
    """Name, source, docstring, and the source without it, of every function below `root`."""
    for path in sorted(root.rglob("*.py")):
        if not set(path.relative_to(root).parts).isdisjoint(_NOT_OURS):
            continue
        try:
            text = path.read_text("utf-8")
            tree = ast.parse(text)
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        lines = text.splitlines(keepends=True)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
                said, rest = ast.get_docstring(node) or "", ""
                if said and len(node.body) > 1:
                    own = node.body[0]
                    kept = lines[first : own.lineno - 1] + lines[own.end_lineno : node.end_lineno]
                    rest = "".join(kept)
                whole = "".join(lines[first : node.end_lineno])
                yield f"{path.relative_to(root)}:{node.name}:{node.lineno}", whole, said, rest


if __name__ == "__main__":
    main()
