"""Sets of servers as Prometheus text. Labels hold their names and URLs, never a user's words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from vivace.run.breaker import BreakerState
from vivace.run.endpoints import EndpointsStatistics, ServerStatistics

_OF_A_SERVER: Final[Sequence[tuple[str, str, str, Callable[[ServerStatistics], float]]]] = (
    ("in_use", "gauge", "Requests running at a server", lambda s: s.in_use),
    ("idle_connections", "gauge", "Connections kept for the next request", lambda s: s.idle),
    ("bound", "gauge", "Most requests at once", lambda s: s.bound),
    ("weight", "gauge", "Share of the requests, relative to the others", lambda s: s.weight),
    ("closed", "gauge", "1 while a server is used, 0.5 on trial, 0 ejected", lambda s: _up(s)),
    ("latency_seconds", "gauge", "Mean time to the first sign of life", lambda s: s.latency),
    ("started_total", "counter", "Requests begun", lambda s: s.started),
    ("failed_total", "counter", "Requests that failed by the server", lambda s: s.failed),
    ("dropped_total", "counter", "Requests given up before a word", lambda s: s.dropped),
    ("ejections_total", "counter", "Times a server was left alone", lambda s: s.ejections),
    ("waited_total", "counter", "Requests that waited for a place", lambda s: s.waited),
    ("wait_seconds_total", "counter", "What they waited", lambda s: s.wait_seconds),
)
_OF_A_SET: Final[Sequence[tuple[str, str, str, Callable[[EndpointsStatistics], float]]]] = (
    ("waiting", "gauge", "Requests that wait for a place at any server", lambda s: s.waiting),
    ("refused_total", "counter", "Requests refused: all ejected, or too many waited",
     lambda s: s.refused),
)  # fmt: skip


def rows(sets: Sequence[tuple[str, EndpointsStatistics]]) -> Iterator[str]:
    """The lines of sets of servers, each with what it is for: `generate` or `embed`."""
    if not sets:
        return
    for name, kind, help, of_server in _OF_A_SERVER:
        yield from _header(f"vivace_endpoint_{name}", kind, help)
        for purpose, found in sets:
            for server in found.servers:
                labels = f'for="{purpose}",server="{_escaped(server.name)}"'
                yield f"vivace_endpoint_{name}{{{labels}}} {of_server(server):.12g}"
    for name, kind, help, of_set in _OF_A_SET:
        yield from _header(f"vivace_endpoints_{name}", kind, help)
        for purpose, found in sets:
            yield f'vivace_endpoints_{name}{{for="{purpose}"}} {of_set(found):.12g}'


def _header(name: str, kind: str, help: str) -> tuple[str, str]:
    return f"# HELP {name} {help}", f"# TYPE {name} {kind}"


def _up(server: ServerStatistics) -> float:
    return {BreakerState.CLOSED: 1.0, BreakerState.HALF_OPEN: 0.5, BreakerState.OPEN: 0.0}[
        server.state
    ]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
