"""How often may an answer be given again, and how often is it a wrong one?

`python -m benchmarks.semantic PAIRS.tsv [--bound 0.01] [--json]`, of lines `text_a, text_b, label`
(1: the same question) with tabs between. Every first question is answered and kept; then every
second one is asked, in the order of the file. A hit is right if both texts are equal after
normalisation (NFKC, case, punctuation, blanks) or connected by pairs of label 1, else wrong.

What the cache gets to see of the labels: where it answers a question anew although there was a hit
(all of them in the beginning, later those under its threshold and a twentieth of the others), it
is told whether that hit was right, as the product is by comparing both answers. Its threshold
starts from the questions shipped with Vivace, never from the file.

`--model hashed` takes vectors of hashed pairs of characters (SYNTHETIC) for those of a model that
reads every language. `--grow` keeps what was answered anew too, as the product does. `--wrong N`
lists N of the hits that count as wrong, to be read by somebody.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import show
from vivace.cache.semantic.cache import SemanticCache, SemanticEntry
from vivace.cache.semantic.calibration import upper_bound
from vivace.cache.semantic.shadow import SHARE
from vivace.embed.minilm import MiniLM
from vivace.text.language import language
from vivace.trace import Trace
from vivace.types import Answer, Decision, Vector, Vectors

SCOPE = b"benchmark"
ENTRIES = 10_000
TIMED = 2_000
_DIM = 384


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.semantic", description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--bound", type=float, default=0.01)
    parser.add_argument("--share", type=float, default=SHARE, help="of hits answered anew")
    parser.add_argument("--model", choices=("builtin", "hashed"), default="builtin")
    parser.add_argument("--skip", type=int, default=0, help="requests left out at the beginning")
    parser.add_argument("--grow", action="store_true")
    parser.add_argument("--wrong", type=int, default=0)
    parser.add_argument("--vectors", type=Path, help="an .npz to keep the vectors in")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = [line.split("\t") for line in args.pairs.read_text("utf-8").splitlines() if line]
    pairs = [(row[0], row[1], row[2] == "1") for row in rows]
    show(asyncio.run(_run(pairs, args)), as_json=args.json)


async def _run(pairs: list[tuple[str, str, bool]], args: argparse.Namespace) -> dict[str, Any]:
    embed, reads, name = _model(args.model)
    texts = list(dict.fromkeys(text for pair in pairs for text in pair[:2]))
    vectors = await _vectors(texts, embed, args.vectors)
    same = Same(pairs)
    trace = Trace()
    decisions: list[Decision] = []
    kept = SemanticCache(
        args.bound,
        model=name,
        reads=reads,
        embed=embed,
        agrees=lambda one, other: same(one.text, other.text),
        entries=len(texts),
        share=args.share,
        trace=trace,
        decide=decisions.append,
    )
    for of in ("en", "zh"):
        await kept.calibrated(of)
    firsts = list(dict.fromkeys(first for first, _, _ in pairs))
    for text in firsts:
        kept.keep(text, vectors[text], SCOPE, Answer(text, ()), None)
    hits, wrong = 0, []
    asked = [second for _, second, _ in pairs][args.skip :]
    for text in asked:
        answer = await kept.find(text, vectors[text], SCOPE, _valid)
        if answer is None:
            (kept.keep if args.grow else _judged(kept))(
                text, vectors[text], SCOPE, Answer(text, ()), None
            )
            continue
        hits += 1
        if not same(answer.text, text):
            wrong.append((answer.text, text))
    counters = trace.counters()
    statistics = kept.statistics()["languages"]
    rng = random.Random(0)
    figures = {
        "pairs": args.pairs.name,
        "bound": args.bound,
        "model": name,
        "requests": len(asked),
        "hit_rate": hits / len(asked),
        "false_rate": len(wrong) / len(asked),
        "upper_bound": upper_bound(len(wrong), len(asked)),
        **await _timed(kept, firsts, asked, vectors),
        "disabled": _disabled(statistics, asked) or None,
        "equal": counters.get("semantic.equal", 0) / len(asked),
        "false_hits": len(wrong),
        "labels_seen": counters.get("semantic.right", 0) + counters.get("semantic.wrong", 0),
        "labels_wrong": counters.get("semantic.wrong", 0),
        "refused": {
            key.removeprefix("semantic.differs."): count
            for key, count in sorted(counters.items())
            if key.startswith("semantic.differs.")
        },
        "languages": statistics,
        "decisions": [(d.after, d.reason) for d in decisions],
    }
    if args.wrong:
        figures["wrong"] = rng.sample(wrong, min(args.wrong, len(wrong)))
    return figures


def _disabled(languages: dict[str, Any], asked: list[str]) -> str:
    """Why it is off, for each language of at least a twentieth of the requests."""
    shares = Counter(map(language, asked))
    return "; ".join(
        f"{of}: {found['disabled']}"
        for of, found in languages.items()
        if found["disabled"] and shares[of] >= len(asked) / 20
    )


def _judged(kept: SemanticCache) -> Any:
    def judge(text: str, _: Vector, scope: bytes, answer: Answer, __: None) -> None:
        kept.judge(text, scope, answer)

    return judge


async def _valid(_: SemanticEntry) -> bool:
    return True


async def _timed(
    kept: SemanticCache, firsts: list[str], asked: list[str], vectors: dict[str, Vector]
) -> dict[str, Any]:
    """Microseconds of `find` with 10,000 entries (or as many as there are), guard included."""
    kept.clear()
    for text in firsts[:ENTRIES]:
        kept.keep(text, vectors[text], SCOPE, Answer(text, ()), None)
    taken = []
    for text in asked[-TIMED:]:
        begun = time.perf_counter_ns()
        await kept.find(text, vectors[text], SCOPE, _valid)
        taken.append((time.perf_counter_ns() - begun) / 1e3)
    return {
        "decision_us": float(np.median(taken)),
        "decision_mean_us": float(np.mean(taken)),
        "decision_p95_us": float(np.quantile(taken, 0.95)),
        "entries": min(ENTRIES, len(firsts)),
    }


class Same:
    """Whether two questions are the same by the labels: union-find over the pairs of label 1."""

    def __init__(self, pairs: Sequence[tuple[str, str, bool]]) -> None:
        self._parents: dict[str, str] = {}
        for one, other, same in pairs:
            if same:
                self._parents[self._root(_plain(one))] = self._root(_plain(other))

    def __call__(self, one: str, other: str) -> bool:
        return self._root(_plain(one)) == self._root(_plain(other))

    def _root(self, text: str) -> str:
        while (parent := self._parents.get(text, text)) != text:
            self._parents[text] = self._parents.get(parent, parent)
            text = parent
        return text


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = (
        " " if unicodedata.category(c) in ("Po", "Pi", "Pf") and c != "#" else c for c in folded
    )
    return " ".join("".join(kept).split())


def _model(name: str) -> tuple[Any, Any, str]:
    if name == "hashed":

        async def hashed(texts: Sequence[str]) -> Vectors:
            return np.stack([_hashed(text) for text in texts])

        return hashed, lambda _: True, "hashed"
    model = MiniLM(workers=1, batch=8)

    async def embed(texts: Sequence[str]) -> Vectors:
        return (await model.embed(list(texts), kind="query")).vectors

    return embed, model.reads, model.name


def _hashed(text: str) -> Vector:
    vector = np.zeros(_DIM, np.float32)
    plain = _plain(text).replace(" ", "")
    for at in range(len(plain)):
        for size in (1, 2):
            number = zlib.crc32(plain[at : at + size].encode())
            vector[number % _DIM] += 1 if number & 0x10000 else -1
    unit: Vector = vector / max(float(np.linalg.norm(vector)), 1e-9)
    return unit


def _held(path: Path | None) -> dict[str, Vector]:
    if path is None or not path.exists():
        return {}
    held = np.load(path)
    return dict(zip(held["texts"].tolist(), held["vectors"], strict=True))


async def _vectors(texts: list[str], embed: Any, path: Path | None) -> dict[str, Vector]:
    known = _held(path)
    if all(text in known for text in texts):
        return known
    by_length = sorted(texts, key=len)
    rows = []
    for at in range(0, len(texts), 512):
        rows.append(await embed(by_length[at : at + 512]))
        print(f"embedded {at + len(rows[-1]):,} of {len(texts):,}", file=sys.stderr, end="\r")
    vectors = np.concatenate(rows)
    if path is not None:
        np.savez(path, texts=np.array(by_length), vectors=vectors)
    return dict(zip(by_length, vectors, strict=True))


if __name__ == "__main__":
    main()
