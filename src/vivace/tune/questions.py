"""The questions a tuning is judged by, with their true neighbours, some of them held out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vivace.errors import BadInput
from vivace.protocols import VectorIndex
from vivace.tune import measure
from vivace.tune.intervals import Recalls
from vivace.types import Ids, Matches, Vectors

MOST = 1_500
"""Questions beyond which a tuning learns little more."""
LEAST = 12
_REPEATS = 3
"""Questions with the same neighbours that count."""
_FIRST = 48


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions `vectors` (q, dim) and their true neighbours."""

    vectors: Vectors
    true: Matches
    groups: list[bytes]
    """A name for each; those that share one have the same neighbours and vary together."""

    def __len__(self) -> int:
        return len(self.vectors)

    def recalls(self, found: Matches, first: int, last: int) -> Recalls:
        """Recalls of the questions from `first` to `last`, of which `found` is the answer."""
        return measure.recalls(found, measure.of(self.true, np.arange(first, last)))


def drawn(
    index: VectorIndex,
    vectors: Vectors,
    k: int,
    *,
    seconds: float,
    seed: int,
    step: Callable[[int, int], None],
) -> tuple[Questions, Ids]:
    """Questions in the order asked with their neighbours, and their places among `vectors`.

    All of them, or so many by chance that finding their neighbours takes about `seconds` of CPU.

    Raises:
        BadInput: too few to say anything.
    """
    if len(vectors) < LEAST:
        raise BadInput(
            f"{len(vectors)} questions are too few to tune by", fix=f"Give {LEAST} or more"
        )
    order = np.random.default_rng(seed).permutation(len(vectors))
    order = order[:MOST]
    first = order[:_FIRST]
    step(0, len(order))
    began = time.thread_time()
    some = index.exact(vectors[first], k)
    each = (time.thread_time() - began) / len(first)
    order = order[: max(_FIRST, int(seconds / max(each, 1e-9)))]
    rest = order[len(first) :]
    true = some
    if len(rest):
        total = len(order)
        more = measure.exact(index, vectors[rest], k, lambda done: step(done, total))
        true = Matches(np.vstack([some.ids, more.ids]), np.vstack([some.scores, more.scores]))
    back = np.argsort(order)
    true = measure.of(true, back)
    return Questions(vectors[order[back]], true, measure.groups(true)), order[back]


def split(questions: Questions, seed: int) -> tuple[Questions, Questions]:
    """Two thirds to decide by and a third held out, each in an order of chance.

    What has the same neighbours stays together: a question that is asked twice would otherwise be
    on both sides, and the held-out third would no longer be new. Of such a group the first few
    count: a third of all questions being the same would leave little to be sure of the others by.

    Raises:
        BadInput: nearly all questions have the same neighbours.
    """
    places: dict[bytes, list[int]] = {}
    for place, group in enumerate(questions.groups):
        places.setdefault(group, []).append(place)
    counted = sum(min(_REPEATS, len(same)) for same in places.values())
    rng = np.random.default_rng(seed)
    together = [same[:_REPEATS] for same in places.values()]
    held, deciding = list[int](), list[int]()
    for number in rng.permutation(len(together)):
        side = held if 3 * len(held) < counted else deciding
        side += together[number]
    if min(len(held), len(deciding)) < LEAST // 3:
        raise BadInput(
            "nearly all questions have the same nearest vectors, so that none can be held out",
            fix="Give more questions that differ",
        )
    return _of(questions, rng.permutation(deciding)), _of(questions, rng.permutation(held))


def _of(questions: Questions, places: Ids) -> Questions:
    return Questions(
        questions.vectors[places],
        measure.of(questions.true, places),
        [questions.groups[place] for place in places],
    )
