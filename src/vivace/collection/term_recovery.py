"""The keyword side as the store has it: opened, caught up, or built anew."""

from __future__ import annotations

from pathlib import Path

from vivace.collection.keywords import FAILURES, Keywords, Lost
from vivace.errors import CollectionLocked, StoreUnwritable
from vivace.settings import Index
from vivace.store.lock import WriteLock
from vivace.store.store import Store
from vivace.trace import Trace


def opened(
    store: Store, folder: Path, settings: Index, trace: Trace, lock: WriteLock, lost: Lost
) -> Keywords:
    """The index on the disk where it can be used or mended; one in memory where it cannot."""
    found = Keywords.open(store, folder, settings, lost)
    if (
        found is not None
        and not found.unfinished
        # a tail may be behind it, but not for ever
        and store.count(since=found.shown) <= settings.terms_chunks
    ):
        return found
    try:
        lock.acquire()
    except (CollectionLocked, StoreUnwritable):
        return found or volatile(store, folder, settings)
    try:
        return mended(found, store, folder, settings, trace)
    finally:
        lock.release()


def begun(
    keywords: Keywords, store: Store, folder: Path, settings: Index, trace: Trace, lost: Lost
) -> Keywords:
    """The index on the disk at the store's epoch, before it is written to. Inside the lock."""
    if keywords.in_memory:
        found = Keywords.open(store, folder, settings, lost)
        return mended(found, store, folder, settings, trace)
    if keywords.unfinished or keywords.shown < store.epoch():
        return mended(keywords, store, folder, settings, trace)
    return keywords


def mended(
    found: Keywords | None, store: Store, folder: Path, settings: Index, trace: Trace
) -> Keywords:
    """The index on the disk at the store's epoch, built anew without one. Inside the lock."""
    try:
        keywords = found or Keywords.anew(store, folder, settings)
        try:
            with store.reading():
                keywords.replay()
        finally:
            keywords.release()
        return keywords
    except FAILURES:
        trace.count("terms.unwritable")
        return volatile(store, folder, settings)


def volatile(store: Store, folder: Path, settings: Index) -> Keywords:
    """The store's terms in memory: for folders that cannot be written, or not now."""
    keywords = Keywords.volatile(store, folder, settings)
    with store.reading():
        keywords.replay()
    return keywords
