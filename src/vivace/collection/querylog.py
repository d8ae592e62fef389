"""The questions asked, written in batches off the path of the answer."""

from __future__ import annotations

import json
import threading
import time
from collections import deque

from vivace.errors import StoreError
from vivace.settings import QueryLog as Settings
from vivace.store.store import Store
from vivace.trace import Trace
from vivace.types import Query, SearchResult

_BATCH = 64
_MOST_WAITING = 10_000
_PAUSE = 1.0
"""Seconds without the database's write lock after each writing: questions that are answered from
memory come by ten thousands a second, and other processes want to write too."""
_HITS = 20


class QueryLog:
    """Remembers questions and what was found. A log that cannot be written is counted."""

    def __init__(self, store: Store, settings: Settings, trace: Trace) -> None:
        self._store = store
        self._settings = settings
        self._trace = trace
        self._waiting: deque[tuple[float, Query, SearchResult, float]] = deque(maxlen=_MOST_WAITING)
        self._lock = threading.Lock()
        self._ended = float("-inf")

    def record(self, query: Query, result: SearchResult, seconds: float) -> bool:
        """Remember one question; returns whether it is time to `flush`."""
        if not self._settings.log:
            return False
        if len(self._waiting) == self._waiting.maxlen:
            self._trace.count("queries.lost")
        self._waiting.append((time.time(), query, result, seconds))
        return len(self._waiting) >= _BATCH and time.monotonic() - self._ended >= _PAUSE

    def flush(self) -> None:
        """Write what waits. Blocks; call it from a thread."""
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


def _row(
    when: float, query: Query, result: SearchResult, seconds: float
) -> tuple[float, str, int, str, str, float]:
    hits = json.dumps([[hit.chunk.id, round(hit.score, 4)] for hit in result.hits[:_HITS]])
    text = query.text.encode("utf-8", "replace").decode()
    return when, text, query.k, query.user, hits, seconds * 1e3
