"""Logs queries to the store, in batches and off the path of the answer."""

from __future__ import annotations

import json
import threading
import time
from collections import deque

from vivace.errors import StoreError
from vivace.settings import QueryLog
from vivace.store.store import LoggedQuery, Store
from vivace.trace import Trace
from vivace.types import Query, SearchResult

_BATCH = 64
_MOST_WAITING = 10_000
_PAUSE = 1.0
"""Seconds between two writes, during which the database's write lock is free: questions answered
from memory come by ten thousands a second, and other processes want to write too."""
_HITS = 20


class QueryLogWriter:
    """Logs queries with their hits. A query that cannot be written is counted (`queries.lost`)."""

    def __init__(self, store: Store, settings: QueryLog, trace: Trace) -> None:
        self._store = store
        self._settings = settings
        self._trace = trace
        self._waiting: deque[tuple[float, Query, SearchResult, float]] = deque(maxlen=_MOST_WAITING)
        self._lock = threading.Lock()
        self._ended = float("-inf")

    def record(self, query: Query, result: SearchResult, seconds: float) -> bool:
        """Remember a query; returns whether it is time to `flush`."""
        if not self._settings.log:
            return False
        if len(self._waiting) == self._waiting.maxlen:
            self._trace.count("queries.lost")
        self._waiting.append((time.time(), query, result, seconds))
        return len(self._waiting) >= _BATCH and time.monotonic() - self._ended >= _PAUSE

    def flush(self) -> None:
        """Write the remembered queries. Blocks: call it on a thread."""
        with self._lock:
            entries = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if not entries:
                return
            try:
                self._store.log_queries([_row(*entry) for entry in entries], self._settings.keep)
                self._trace.count("queries.logged", len(entries))
            except (StoreError, UnicodeError):
                self._trace.count("queries.lost", len(entries))
            finally:
                self._ended = time.monotonic()


def _row(when: float, query: Query, result: SearchResult, seconds: float) -> LoggedQuery:
    hits = json.dumps([[hit.chunk.id, round(hit.score, 4)] for hit in result.hits[:_HITS]])
    text = query.text.encode("utf-8", "replace").decode()
    return when, text, query.k, query.user, hits, seconds * 1e3
