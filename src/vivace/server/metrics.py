"""GET /metrics: what `trace` holds, as Prometheus text. No label holds a user's words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from vivace.run.limit import ConcurrencyLimit
from vivace.server import cache_metrics
from vivace.server.served import Served
from vivace.trace import Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(served: Served) -> str:
    """All collections together: a collection's name would be a label without a bound."""
    events: Counter[str] = Counter(served.trace.counters())
    spans: dict[str, Histogram] = {}
    for collection in served.collections:
        events.update(collection.trace.counters())
        for name, histogram in collection.trace.histograms().items():
            spans.setdefault(name, Histogram()).merge(histogram)
    requests = {
        _request_labels(name): histogram for name, histogram in served.trace.histograms().items()
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
        f"vivace_http_requests_running {served.running.count}",
        *_header("vivace_ready", "gauge", "1 while requests are served"),
        f"vivace_ready {int(served.accepting)}",
        *recall_rows([collection.trace.gauges() for collection in served.collections]),
        *_admission(served.limits),
        *cache_metrics.rows(served.caching),
    ]
    return "\n".join(lines) + "\n"


def recall_rows(gauges: Iterable[Mapping[str, float]]) -> Iterator[str]:
    """Of the collection that finds least, as far as its recall is known."""
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
    gauges = {
        "limit": "Requests of a kind that may run at once",
        "in_flight": "Requests of a kind that run",
        "queued": "Requests of a kind that wait",
    }
    for field, help in gauges.items():
        yield from _header(f"vivace_admission_{field}", "gauge", help)
        for kind, row in rows.items():
            yield f'vivace_admission_{field}{{kind="{kind}"}} {getattr(row, field)}'
    yield from _header("vivace_admission_admitted_total", "counter", "Requests that were let in")
    for kind, row in rows.items():
        yield f'vivace_admission_admitted_total{{kind="{kind}"}} {row.admitted}'
    yield from _header("vivace_admission_refused_total", "counter", "Requests turned away")
    for kind, row in rows.items():
        for reason, n in sorted(row.refused.items()):
            yield f'vivace_admission_refused_total{{kind="{kind}",reason="{reason}"}} {n}'


def _request_labels(name: str) -> str:
    route, _, status = name.rpartition(" ")
    return f'route="{route}",status="{status}"'


def _header(name: str, kind: str, help: str) -> list[str]:
    return [f"# HELP {name} {help}", f"# TYPE {name} {kind}"]


def _histograms(name: str, help: str, by_labels: Mapping[str, Histogram]) -> Iterator[str]:
    yield from _header(name, "histogram", help)
    for labels, histogram in sorted(by_labels.items()):
        for bound, count in histogram.cumulative():
            yield f'{name}_bucket{{{labels},le="{bound:.6g}"}} {count}'
        yield f'{name}_bucket{{{labels},le="+Inf"}} {histogram.count}'
        yield f"{name}_sum{{{labels}}} {histogram.seconds:.6f}"
        yield f"{name}_count{{{labels}}} {histogram.count}"
