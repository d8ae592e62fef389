"""Do two answers say the same?"""

from __future__ import annotations

from typing import Final

from vivace.text.terms import words
from vivace.types import Answer

_ALIKE: Final = 0.5
"""Share of their words."""


def same_answer(one: Answer, other: Answer) -> bool:
    """Whether two answers say the same, as far as their words show.

    Both found something, with the same numbers, and either cite a passage in common or share half
    of their words. An answer in other words and from other passages counts as another: so the
    bound errs to the safe side, except where one word turns an answer of many.
    """
    if one.found != other.found:
        return False
    if not one.found or one.text == other.text:
        return True
    ours, theirs = set(words(one.text)), set(words(other.text))
    if {w for w in ours if w.isdigit()} != {w for w in theirs if w.isdigit()}:
        return False
    cited = {c.chunk.id for c in one.citations} & {c.chunk.id for c in other.citations}
    return bool(cited) or len(ours & theirs) >= _ALIKE * max(len(ours | theirs), 1)
