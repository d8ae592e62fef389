"""All live rows of a collection under one exact index, for whoever judges other indexes by it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import numpy as np

from vivace.collection.dense import Dense, Segment, live_ids, live_vectors
from vivace.errors import CorruptIndex, StoreUnwritable
from vivace.index import segments
from vivace.index.flat import FlatIndex

_IN_MEMORY = 64 << 20
"""Bytes of rows up to which they are copied together in memory, not into a file."""
_ASIDE = "tuning-"
_LEFT_SECONDS = 86_400
"""Age at which nobody uses a copy any more."""


@contextmanager
def whole(dense: Dense, sealed: Path, home: Path, *, dim: int) -> Iterator[FlatIndex]:
    """An exact index over the live rows, while the block runs.

    A single sealed segment without removed rows is mapped as it is. Others are copied together; if
    they are many, into a file below `home` that is mapped and removed at the end, so that memory
    holds one part of them at a time.

    Raises:
        StoreUnwritable: `home` cannot be written, and would have to be.
    """
    if len(dense.segments) == 1 and not dense.segments[0].removed:
        flat = _mapped(dense.segments[0], sealed)
        if flat is not None:
            yield flat
            return
    empty = np.empty(0, np.int64)
    ids = np.concatenate([empty, *(live_ids(s, dense.live) for s in dense.segments)])
    if 2 * dim * len(ids) <= _IN_MEMORY:
        parts = [np.empty((0, dim), np.float16), *live_vectors(dense.segments, dense.live)]
        yield FlatIndex.build(ids, np.concatenate(parts), metric=dense.metric)
        return
    _remove_leftovers(home)
    try:
        folder = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=home))
    except OSError as error:
        raise _unwritable(home, error) from error
    try:
        vectors = live_vectors(dense.segments, dense.live)
        try:
            written = segments.write(
                folder / "rows", ids, vectors, dim=dim, metric=dense.metric, family="flat"
            )
        except OSError as error:
            raise _unwritable(home, error) from error
        copied = segments.open_segment(folder / "rows", written)
        assert isinstance(copied, FlatIndex)
        yield copied
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(home: Path) -> None:
    """Remove what a process that was killed meanwhile has left."""
    for path in home.glob(f"{_ASIDE}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _mapped(segment: Segment, sealed: Path) -> FlatIndex | None:
    """The segment's rows as an exact index; None where they can only be copied."""
    if isinstance(segment.index, FlatIndex):
        return segment.index
    if segment.sealed is None:
        return None
    described = msgspec.structs.replace(segment.sealed.files, family="flat", params={})
    try:
        flat = segments.open_segment(sealed / segment.sealed.name, described)
    except (CorruptIndex, OSError):  # merged away meanwhile: what is open still holds
        return None
    return flat if isinstance(flat, FlatIndex) else None


def _unwritable(home: Path, error: OSError) -> StoreUnwritable:
    return StoreUnwritable(
        f"{home} cannot be written: {error.strerror}",
        fix="Check its permissions and that there is room for a copy of the vectors",
    )
