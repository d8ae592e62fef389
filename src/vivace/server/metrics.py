"""GET /metrics: what traces, limits, caches and model servers count, as Prometheus text.

Labels hold kinds, routes, and the names and URLs of servers, never a user's words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias, TypeVar

from vivace.cache.statistics import AccessPattern, CacheCounts
from vivace.engine.caching import Caching
from vivace.run.balance import ServerStatistics
from vivace.run.breaker import BreakerState
from vivace.run.endpoints import EndpointsStatistics
from vivace.run.limit import ConcurrencyLimit, LimitStatistics
from vivace.server.state import AppState
from vivace.trace import Histogram

T = TypeVar("T")
Family: TypeAlias = tuple[str, str, str, Callable[[T], float]]
"""A metric's name without its prefix, its type, its description, and how to read its value."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_UP: Final = {BreakerState.CLOSED: 1.0, BreakerState.HALF_OPEN: 0.5, BreakerState.OPEN: 0.0}
_CACHE_KIND: Final[Sequence[Family[CacheCounts]]] = (
    ("hits_total", "counter", "Lookups that found a value", lambda c: c.hits),
    ("misses_total", "counter", "Lookups that found none", lambda c: c.misses),
    ("shared_total", "counter", "Misses that got what another computed", lambda c: c.shared),
    ("sets_total", "counter", "Values that were stored", lambda c: c.sets),
    ("evicted_total", "counter", "Values evicted for others", lambda c: c.evicted),
    ("refused_total", "counter", "Values that were not admitted", lambda c: c.refused),
    ("expired_total", "counter", "Values whose lifetime was over", lambda c: c.expired),
    ("stale_total", "counter", "Hits that are being revalidated", lambda c: c.stale),
    ("saved_seconds_total", "counter", "What computing hits had taken", lambda c: c.saved / 1e3),
    ("entries", "gauge", "Values that are stored", lambda c: c.entries),
    ("bytes", "gauge", "Memory of the values that are stored", lambda c: c.bytes),
)
_CACHE_PATTERN: Final[Sequence[Family[AccessPattern]]] = (
    ("pattern_skew", "gauge", "Zipf exponent of the keys requested", lambda p: p.skew),
    ("pattern_recency", "gauge", "Requests for recently used keys", lambda p: p.recency),
    ("pattern_scan", "gauge", "Requests for keys not seen lately", lambda p: p.scan),
    ("pattern_reuse", "gauge", "Median requests between two of a key", lambda p: p.reuse),
)
_ENDPOINT: Final[Sequence[Family[ServerStatistics]]] = (
    ("in_use", "gauge", "Requests running at a server", lambda s: s.in_use),
    ("idle_connections", "gauge", "Connections kept for the next request", lambda s: s.idle),
    ("bound", "gauge", "Most requests at once", lambda s: s.bound),
    ("weight", "gauge", "Share of the requests, relative to the others", lambda s: s.weight),
    (
        "closed",
        "gauge",
        "1 while in use, 0.5 on trial, 0 ejected",
        lambda s: _UP[s.state],
    ),
    ("latency_seconds", "gauge", "Mean time to the first byte", lambda s: s.latency),
    ("started_total", "counter", "Requests begun", lambda s: s.started),
    ("failed_total", "counter", "Requests that the server failed", lambda s: s.failed),
    ("dropped_total", "counter", "Requests given up before the first byte", lambda s: s.dropped),
    ("ejections_total", "counter", "Times a server was ejected", lambda s: s.ejections),
    ("waited_total", "counter", "Requests that waited for a slot", lambda s: s.waited),
    ("wait_seconds_total", "counter", "Seconds they waited", lambda s: s.wait_seconds),
)
_ENDPOINTS: Final[Sequence[Family[EndpointsStatistics]]] = (
    ("waiting", "gauge", "Requests that wait for a slot at any server", lambda s: s.waiting),
    ("refused_total", "counter", "Requests refused: all ejected, or too many waited",
     lambda s: s.refused),
)  # fmt: skip
_LIMIT: Final[Sequence[Family[LimitStatistics]]] = (
    ("limit", "gauge", "Requests of a kind that may run at once", lambda s: s.limit),
    ("in_flight", "gauge", "Requests of a kind that run", lambda s: s.in_flight),
    ("queued", "gauge", "Requests of a kind that wait", lambda s: s.queued),
    ("admitted_total", "counter", "Requests that were admitted", lambda s: s.admitted),
)


def render(state: AppState) -> str:
    """The page, over all collections: a collection's name would be an unbounded label."""
    events: Counter[str] = Counter(state.trace.counters())
    spans: dict[str, Histogram] = {}
    for collection in state.collections:
        events.update(collection.trace.counters())
        for name, histogram in collection.trace.histograms().items():
            spans.setdefault(name, Histogram()).merge(histogram)
    requests = {
        _request_labels(name): histogram for name, histogram in state.trace.histograms().items()
    }
    lines = [
        *_histograms("vivace_http_request_seconds", "Of whole responses", requests),
        *_histograms(
            "vivace_span_seconds",
            "Of the steps of a search or an answer",
            {f'span="{name}"': histogram for name, histogram in spans.items()},
        ),
        *_header("vivace_events_total", "counter", "What happened, by kind"),
        *(f'vivace_events_total{{event="{name}"}} {n}' for name, n in sorted(events.items())),
        *_header("vivace_http_requests_running", "gauge", "Requests being answered"),
        f"vivace_http_requests_running {state.in_flight.count}",
        *_header("vivace_http_connections", "gauge", "Open connections"),
        f"vivace_http_connections {state.connections.count}",
        *_header("vivace_http_unread_bytes", "gauge", "Memory of requests that are not complete"),
        f"vivace_http_unread_bytes {state.bodies.held}",
        *_header("vivace_ready", "gauge", "1 while requests are served"),
        f"vivace_ready {int(state.accepting)}",
        *recall_rows([collection.trace.gauges() for collection in state.collections]),
        *_admission(state.limits),
        *cache_rows(state.caching),
        *endpoint_rows(state.server_statistics()),
    ]
    return "\n".join(lines) + "\n"


def recall_rows(gauges: Iterable[Mapping[str, float]]) -> Iterator[str]:
    """The lowest recall of a collection, among those whose recall is known."""
    known = [each for each in gauges if each.get("recall.queries")]
    if not known:
        return
    worst = min(known, key=lambda each: each["recall.mean"])
    yield from _header(
        "vivace_recall", "gauge", "Recall@10 of live questions (lowest collection), 95 % interval"
    )
    for bound in ("low", "mean", "high"):
        yield f'vivace_recall{{bound="{bound}"}} {worst[f"recall.{bound}"]:.4f}'
    yield from _header("vivace_recall_samples", "gauge", "Live questions that it rests on")
    yield f"vivace_recall_samples {worst['recall.queries']:g}"


def _admission(limits: Mapping[str, ConcurrencyLimit]) -> Iterator[str]:
    rows = {kind: limit.statistics() for kind, limit in limits.items()}
    labelled = [(f'kind="{kind}"', row) for kind, row in rows.items()]
    for family in _LIMIT:
        yield from _family("vivace_admission_", family, labelled)
    yield from _header("vivace_admission_refused_total", "counter", "Requests turned away")
    for kind, row in rows.items():
        for reason, n in sorted(row.refused.items()):
            yield f'vivace_admission_refused_total{{kind="{kind}",reason="{reason}"}} {n}'


def cache_rows(caching: Caching | None) -> Iterator[str]:
    """The lines of an engine's caches; none where it has none."""
    found = None if caching is None else caching.statistics()
    if caching is None or found is None:
        return
    kinds = [(f'kind="{kind}"', counts) for kind, counts in found.kinds.items()]
    for family in _CACHE_KIND:
        yield from _family("vivace_cache_", family, kinds)
    yield from _header("vivace_cache_capacity_bytes", "gauge", "Most memory of values")
    yield f'vivace_cache_capacity_bytes{{policy="{found.policy}"}} {found.capacity}'
    if found.pattern is not None:
        for each in _CACHE_PATTERN:
            labelled = [(f'policy="{found.live}"', found.pattern)]
            yield from _family("vivace_cache_", each, labelled)
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


def endpoint_rows(sets: Mapping[str, EndpointsStatistics]) -> Iterator[str]:
    """The lines of sets of model servers, by purpose: `generate`, `embed`, `rerank`."""
    if not sets:
        return
    servers = [
        (f'for="{purpose}",server="{_escaped(server.name)}"', server)
        for purpose, found in sets.items()
        for server in found.servers
    ]
    for family in _ENDPOINT:
        yield from _family("vivace_endpoint_", family, servers)
    for of_set in _ENDPOINTS:
        rows = [(f'for="{purpose}"', found) for purpose, found in sets.items()]
        yield from _family("vivace_endpoints_", of_set, rows)


def _family(prefix: str, family: Family[T], rows: Iterable[tuple[str, T]]) -> Iterator[str]:
    """One metric: its header, and a sample for each row of labels and statistics."""
    name, kind, description, value = family
    yield from _header(f"{prefix}{name}", kind, description)
    for labels, statistics in rows:
        yield f"{prefix}{name}{{{labels}}} {value(statistics):.12g}"


def _histograms(name: str, description: str, by_labels: Mapping[str, Histogram]) -> Iterator[str]:
    yield from _header(name, "histogram", description)
    for labels, histogram in sorted(by_labels.items()):
        for bound, count in histogram.cumulative():
            yield f'{name}_bucket{{{labels},le="{bound:.6g}"}} {count}'
        yield f'{name}_bucket{{{labels},le="+Inf"}} {histogram.count}'
        yield f"{name}_sum{{{labels}}} {histogram.seconds:.6f}"
        yield f"{name}_count{{{labels}}} {histogram.count}"


def _header(name: str, kind: str, description: str) -> tuple[str, str]:
    return f"# HELP {name} {description}", f"# TYPE {name} {kind}"


def _request_labels(name: str) -> str:
    route, _, status = name.rpartition(" ")
    return f'route="{route}",status="{status}"'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
