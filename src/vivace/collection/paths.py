"""Where collections live."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from vivace.errors import CollectionNotFound
from vivace.ingest.decode import absolute
from vivace.settings import Settings


def collection_path(name: str | Path, settings: Settings) -> Path:
    """The folder of a collection: a path as it is, a bare name under `settings.home`.

    Raises:
        CollectionNotFound: the name is empty or hidden.
    """
    text = str(name)
    if isinstance(name, Path) or "/" in text or text in (".", ".."):
        return resolved(name)
    if not text or text.startswith("."):
        raise CollectionNotFound(f"{text!r} names no collection", fix="Give a name or a path")
    return resolved(settings.home) / "collections" / text


def resolved(path: str | Path) -> Path:
    """The absolute path without "..". An unknown home directory stays `~`."""
    found = Path(path)
    with suppress(RuntimeError):
        found = found.expanduser()
    return absolute(found)
