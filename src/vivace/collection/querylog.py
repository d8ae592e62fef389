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


class QueryLog:
    """Remembers questions and what was found. A log that cannot be written is counted."""

    def __init__(self, store: Store, settings: Settings, trace: Trace) -> None:
        self._store = store
        self._settings = settings
        self._trace = trace
        self._waiting: deque[tuple[float, str, int, str, str, float]] = deque(maxlen=_MOST_WAITING)
        self._lock = threading.Lock()

    def record(self, query: Query, result: SearchResult, seconds: float) -> bool:
        """Remember one question; returns whether it is time to `flush`."""
        if not self._settings.log:
            return False
        hits = json.dumps([[hit.chunk.id, round(hit.score, 4)] for hit in result.hits[:20]])
        self._waiting.append((time.time(), query.text, query.k, query.user, hits, seconds * 1e3))
        return len(self._waiting) >= _BATCH

    def flush(self) -> None:
        """Write what waits. Blocks; call it from a thread."""
        with self._lock:
            entries = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if not entries:
                return
            try:
                self._store.log_queries(entries, self._settings.keep)
                self._trace.count("queries.logged", len(entries))
            except StoreError:
                self._trace.count("queries.lost", len(entries))
