"""One state of a collection, searchable while later ones are made."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

from vivace.collection.dense import Dense
from vivace.collection.keywords import TermState
from vivace.errors import BadVectors, StoreError
from vivace.store.filters import digest
from vivace.store.store import Store
from vivace.types import (
    Bitmap,
    Chunk,
    Ids,
    Matches,
    Metadata,
    Plan,
    Query,
    Scores,
    Signs,
    Stages,
    Vectors,
)

_FILTERS_KEPT = 32 << 20
"""Bytes of the bitmaps of filters in memory: 32 filters of a million chunks."""
_CHUNKS_KEPT = 4096
"""About 5 MB. Reading ten chunks from SQLite takes 140 microseconds, a fifth of a whole search."""
_SIGNS_KEPT = 32 << 20
"""Bytes of token signs kept in memory: 4,000 chunks of 160 tokens."""
_ROW_BYTES = 250
"""Python's overhead per entry."""


class _SignCache:
    """Token signs read from the store, by chunk id; None for a chunk without signs."""

    __slots__ = ("by_id", "bytes")

    def __init__(self) -> None:
        self.by_id: dict[int, Signs | None] = {}
        self.bytes = 0


class FilterBitmaps:
    """Bitmaps of filters by the filter's digest, bounded in bytes; the least used is dropped.

    `bytes` is what they take now. A bitmap that alone exceeds the bound is not kept. Safe to use
    from several threads.
    """

    def __init__(self, most: int) -> None:
        self.bytes = 0
        self._most = most
        self._bitmaps: OrderedDict[bytes, Bitmap] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> Bitmap | None:
        with self._lock:
            found = self._bitmaps.get(key)
            if found is not None:
                self._bitmaps.move_to_end(key)
            return found

    def put(self, key: bytes, bitmap: Bitmap) -> None:
        with self._lock:
            if key in self._bitmaps or bitmap.nbytes + _ROW_BYTES > self._most:
                return
            self._bitmaps[key] = bitmap
            self.bytes += bitmap.nbytes + _ROW_BYTES
            while self.bytes > self._most:
                _, least = self._bitmaps.popitem(last=False)
                self.bytes -= least.nbytes + _ROW_BYTES


class Snapshot:
    """A `CandidateSource` and `ChunkReader`: both sides of one epoch, under one live bitmap.

    Chunks are cached; a later state is another snapshot, so they are never stale. Chunks that are
    not cached and have been removed since are not found.
    """

    def __init__(
        self,
        store: Store,
        epoch: int,
        dense: Dense,
        terms: TermState,
        *,
        before: Snapshot | None = None,
    ) -> None:
        self.epoch = epoch
        self._store = store
        self._dense = dense
        self._terms = terms
        # sealing and merging make another snapshot of the same epoch: it keeps the caches
        same = before is not None and before.epoch == epoch
        self._allowed: FilterBitmaps = (
            before._allowed if same and before else FilterBitmaps(_FILTERS_KEPT)
        )
        self._chunks: dict[int, Chunk] = before._chunks if same and before else {}
        self._signs: _SignCache = before._signs if same and before else _SignCache()

    def dense(
        self, vectors: Vectors, k: int, *, allow: Bitmap | None = None, hurried: bool = False
    ) -> Matches:
        """The k nearest of each query (q, dim) float32. `hurried`: see `Dense.search`.

        Raises:
            BadVectors: the dimension is not the collection's.
        """
        self._check(vectors)
        return self._dense.search(vectors, k, allow=allow, hurried=hurried)

    @property
    def approximate(self) -> bool:
        return self._dense.approximate

    def approximate_plan(self, k: int) -> tuple[Plan, tuple[int, int]] | None:
        """See `Dense.approximate_plan`."""
        return self._dense.approximate_plan(k)

    def exact(self, vectors: Vectors, k: int, *, allow: Bitmap | None = None) -> Matches:
        """The k nearest of each query (q, dim) float32 by brute force.

        Raises:
            BadVectors: the dimension is not the collection's.
        """
        self._check(vectors)
        return self._dense.exact(vectors, k, allow=allow)

    def keyword(self, terms: Sequence[str], k: int, *, allow: Bitmap | None = None) -> Matches:
        state = self._terms
        if state.dirty:
            allow = self._dense.restricted(allow)
        return state.tail.search(state.main, terms, k, allow=allow)

    def similarity(self, vector: Vectors, ids: Ids) -> Scores:
        return self._dense.similarity(vector, ids)

    def vectors(self, ids: Ids) -> Vectors:
        """The stored vectors (len(ids), dim) as float32; zeros for an unknown id."""
        return self._dense.vectors(ids, self._store.dim)

    def neighbours(self, chunks: Sequence[Chunk]) -> dict[int, tuple[Chunk | None, Chunk | None]]:
        """By id of each chunk: the chunks before and after it in its document."""
        return self._store.neighbours(chunks)

    def allowed(self, query: Query) -> Bitmap | None:
        if not query.filters:
            return None
        return self._bitmap(query.filters)

    def chunks(self, ids: Iterable[int]) -> dict[int, Chunk]:
        """The chunks that exist now, by id.

        Raises:
            StoreError: the store has lost one, or its row fails its checksum.
        """
        kept = self._chunks
        wanted = list(ids)
        found = {n: kept[n] for n in wanted if n in kept}
        if len(found) < len(wanted):
            missing = [n for n in wanted if n not in found]
            read = self._store.chunks(missing)
            if len(read) < len(missing) and self._store.epoch() == self.epoch:
                lost = [n for n in missing if n not in read and self._is_live(n)]
                if lost:
                    raise StoreError(
                        f"the store has lost chunk {lost[0]}",
                        fix="Run `vivace verify`, and restore a backup",
                    )
            if len(kept) + len(read) > _CHUNKS_KEPT:
                # replaced, not cleared: another thread may be reading the old one
                kept = self._chunks = {}
            kept.update(read)
            found.update(read)
        return found

    def signs(self, ids: Iterable[int]) -> dict[int, Signs]:
        """The token signs of those chunks that have some, by id; read-only.

        They are cached; the others are read from the store by one query.
        """
        kept = self._signs
        wanted = list(ids)
        found = {n: kept.by_id[n] for n in wanted if n in kept.by_id}
        missing = [n for n in wanted if n not in found]
        if missing:
            read = self._store.signs(missing)
            new = {n: read.get(n) for n in missing}
            size = sum(_ROW_BYTES + (s.nbytes if s is not None else 0) for s in new.values())
            if kept.bytes + size > _SIGNS_KEPT:
                # replaced, not cleared: another thread may be reading the old one
                kept = self._signs = _SignCache()
            kept.by_id.update(new)
            kept.bytes += size
            found.update(new)
        return {n: signs for n, signs in found.items() if signs is not None}

    @property
    def reader(self) -> Snapshot:
        """This state as a `ChunkReader`."""
        return self

    @property
    def plan(self) -> Plan | None:
        """The plan that searches follow."""
        return self._dense.plan

    @property
    def shape(self) -> tuple[str, ...]:
        """The names of the sealed segments and of the committed terms, unique in this process.

        Other indexes of the same rows may find other ones: they are approximate, or their
        statistics still count removed chunks.
        """
        sealed = (s.sealed.name for s in self._dense.segments if s.sealed)
        return (*sealed, str(self._terms.main.serial))

    @property
    def stages(self) -> Stages | None:
        """Of the plan that searches follow."""
        plan = self._dense.plan
        return plan.stages if plan is not None else None

    def _check(self, vectors: Vectors) -> None:
        if vectors.shape[1] != self._store.dim:
            raise BadVectors(
                f"the query has {vectors.shape[1]} dimensions",
                fix=f"Give a vector of {self._store.dim}",
            )

    def _is_live(self, chunk_id: int) -> bool:
        live = self._dense.live
        return 0 <= chunk_id < len(live) and bool(live[chunk_id])

    def _bitmap(self, filters: Metadata) -> Bitmap:
        key = digest(filters)
        bitmap = self._allowed.get(key)
        if bitmap is None:
            ids = self._store.matching(filters)
            bitmap = np.zeros(int(ids.max()) + 1 if len(ids) else 0, np.bool_)
            bitmap[ids] = True
            self._allowed.put(key, bitmap)
        return bitmap
