"""Which indexes are worth building? What formulas can rule out is never built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from vivace.errors import MissingExtra
from vivace.index import segments
from vivace.index.flat import FlatIndex
from vivace.protocols import VectorIndex
from vivace.tune.tuning import Rejected


@dataclass(frozen=True, slots=True)
class Candidate:
    """One build, and the parameters it is searched with in turn."""

    family: str
    params: Mapping[str, int]
    """What the build depends on."""
    searched: tuple[Mapping[str, int], ...]
    """Settings of the family's `search_params`, for each of which nothing is built anew."""
    resident: int
    """Bytes, by the family's formula."""
    seconds: float
    """CPU that building takes, by the family's formula."""


def kind(family: str) -> type[VectorIndex]:
    """The class of a family.

    Raises:
        BadInput: no such family.
        MissingExtra: what it needs is not installed.
    """
    return FlatIndex if family == FlatIndex.family else segments.coded(family)


def installed(
    families: Sequence[str] = segments.FAMILIES,
) -> tuple[list[str], list[Rejected]]:
    """The families that can be used here, and the others with the reason."""
    usable, rejected = [], []
    for family in families:
        try:
            kind(family)
            usable.append(family)
        except MissingExtra as error:
            rejected.append(Rejected(family, {}, str(error)))
    return usable, rejected


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
    cls = kind(family)
    queried = cls.capabilities.search_params
    builds: dict[tuple[tuple[str, int], ...], list[dict[str, int]]] = {}
    for params in cls.candidates(n, dim):
        built = tuple(sorted((key, value) for key, value in params.items() if key not in queried))
        builds.setdefault(built, []).append(
            {key: value for key, value in params.items() if key in queried}
        )
    return [
        Candidate(
            family,
            dict(built),
            tuple(searched),
            cls.estimate_bytes(n, dim, **dict(built)).resident,
            cls.estimate_seconds(n, dim, **dict(built)),
        )
        for built, searched in builds.items()
    ]
