"""How many connections does an aiohttp connector keep for the next request?"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from vivace.run.endpoints import EndpointsStatistics

if TYPE_CHECKING:
    import aiohttp


def with_idle(
    statistics: EndpointsStatistics, session: aiohttp.ClientSession | None
) -> EndpointsStatistics:
    """The statistics of servers named by their URLs, with the session's idle connections.

    aiohttp publishes no such count: this reads the connector's own table, and counts 0 where a
    later version of it has none. Two servers of one host and port share their connections.
    """
    from yarl import URL  # comes with aiohttp, which is only imported where it is used

    idle: Counter[tuple[str | None, int | None]] = Counter()
    table = getattr(session.connector, "_conns", None) if session is not None else None
    for key, kept in list((table or {}).items()):
        idle[key.host, key.port] += sum(protocol.is_connected() for protocol, _ in list(kept))
    servers = []
    for server in statistics.servers:
        url = URL(server.name)
        servers.append(replace(server, idle=idle[url.host, url.port]))
    return replace(statistics, servers=tuple(servers))
