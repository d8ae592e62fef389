"""What is remembered, as Prometheus text. Labels hold kinds of values, never a user's words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from vivace.cache.statistics import CacheCounts
from vivace.engine.caching import Caching

_OF_A_KIND: Final[Sequence[tuple[str, str, str, Callable[[CacheCounts], float]]]] = (
    ("hits_total", "counter", "What was asked for and remembered", lambda c: c.hits),
    ("misses_total", "counter", "What was asked for and not remembered", lambda c: c.misses),
    ("shared_total", "counter", "Misses that got what another computed", lambda c: c.shared),
    ("sets_total", "counter", "Values that were kept", lambda c: c.sets),
    ("evicted_total", "counter", "Values that gave way to others", lambda c: c.evicted),
    ("refused_total", "counter", "Values that were not let in", lambda c: c.refused),
    ("expired_total", "counter", "Values whose time was over", lambda c: c.expired),
    ("stale_total", "counter", "Hits that are being made again", lambda c: c.stale),
    ("saved_seconds_total", "counter", "What computing hits had taken", lambda c: c.saved / 1e3),
    ("entries", "gauge", "Values that are kept", lambda c: c.entries),
    ("bytes", "gauge", "Memory of the values that are kept", lambda c: c.bytes),
)  # fmt: skip


def rows(caching: Caching | None) -> Iterator[str]:
    """The lines of an engine's caches; none where it has none."""
    found = None if caching is None else caching.statistics()
    if caching is None or found is None:
        return
    for name, kind, help, of in _OF_A_KIND:
        yield from _header(f"vivace_cache_{name}", kind, help)
        for label, counts in found.kinds.items():
            yield f'vivace_cache_{name}{{kind="{label}"}} {of(counts):.12g}'
    yield from _header("vivace_cache_capacity_bytes", "gauge", "Most memory of values")
    yield f'vivace_cache_capacity_bytes{{policy="{found.policy}"}} {found.capacity}'
    if caching.room is not None:
        yield from _header("vivace_cache_semantic_bytes", "gauge", "Memory of semantic answers")
        yield f"vivace_cache_semantic_bytes {caching.room.nbytes}"
    yield from _header("vivace_cache_saved_tokens_total", "counter", "Not asked of the model again")
    yield f"vivace_cache_saved_tokens_total {caching.tokens_saved}"
    events = sorted(caching.trace.counters().items())
    if events:
        yield from _header("vivace_cache_tier_events_total", "counter", "Of L2 and L3")
    for event, count in events:
        yield f'vivace_cache_tier_events_total{{event="{event.removeprefix("cache.")}"}} {count}'


def _header(name: str, kind: str, help: str) -> tuple[str, str]:
    return f"# HELP {name} {help}", f"# TYPE {name} {kind}"
