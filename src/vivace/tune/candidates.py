"""Which indexes are worth building? What formulas can rule out is never built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from vivace.errors import MissingExtra
from vivace.index import segments
from vivace.index.flat import FlatIndex
from vivace.tune.tuning import Rejected


@dataclass(frozen=True, slots=True)
class Candidate:
    """One build."""

    family: str
    params: Mapping[str, int]
    resident: int
    """Bytes, by the family's formula."""
    seconds: float
    """CPU that building takes, by the family's formula."""


def installed(
    families: Sequence[str] = segments.FAMILIES,
) -> tuple[list[str], list[Rejected]]:
    """The families that can be used here, and the others with the reason."""
    there = segments.available()
    lacking = [family for family in families if segments.of_family(family).family not in there]
    why = str(MissingExtra("rabitqlib", "graph"))
    return [f for f in families if f in there], [Rejected(f, {}, why) for f in lacking]


def listed(n: int, dim: int, families: Sequence[str]) -> list[Candidate]:
    """Everything to be built, in the order of promise: each family's likeliest before any second,
    and among equals what builds soonest first. `flat` needs no build and is not among them."""
    by_family = [_of(family, n, dim) for family in families if family != FlatIndex.family]
    by_family.sort(key=lambda found: min((c.seconds for c in found), default=0.0))
    return [
        candidate for turn in zip_longest(*by_family) for candidate in turn if candidate is not None
    ]


def affordable(
    candidates: Sequence[Candidate], memory_bytes: int | None
) -> tuple[list[Candidate], list[Rejected]]:
    """Those whose formula keeps to the memory, and the others with the reason."""
    kept, rejected = [], []
    for candidate in candidates:
        if memory_bytes is None or candidate.resident <= memory_bytes:
            kept.append(candidate)
            continue
        reason = (
            f"would hold {megabytes(candidate.resident)} in memory, "
            f"where {megabytes(memory_bytes)} are allowed"
        )
        rejected.append(Rejected(candidate.family, dict(candidate.params), reason))
    return kept, rejected


def megabytes(size: int) -> str:
    return f"{size / 1e6:.3g} MB"


def _of(family: str, n: int, dim: int) -> list[Candidate]:
    cls = segments.of_family(family)
    return [
        Candidate(
            family,
            params,
            cls.estimate_bytes(n, dim, **params).resident,
            cls.estimate_seconds(n, dim, **params),
        )
        for params in cls.candidates(n, dim)
    ]
