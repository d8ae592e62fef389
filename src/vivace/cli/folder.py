"""A folder's own collection: its name, and taking in what is new."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from vivace.cli.output import ingest_progress
from vivace.engine import Collection
from vivace.errors import BadInput
from vivace.ingest.decode import absolute
from vivace.ingest.formats import known_suffixes
from vivace.types import IngestReport


def collection_of(folder: Path) -> str:
    """The name of a folder's own collection: readable, and different for equal names elsewhere."""
    path = absolute(folder)
    word = re.sub(r"[^\w-]+", "-", path.name).strip("-") or "docs"
    return f"{word}-{hashlib.blake2b(path.as_posix().encode(), digest_size=4).hexdigest()}"


async def take_in(docs: Collection, folder: str) -> IngestReport:
    """Ingest what is new in the folder, and drop what is gone, with progress on stderr.

    Raises:
        BadInput: there is nothing to read in it.
    """
    with ingest_progress("Reading") as progress:
        report = await docs.ingest(folder, prune=True, progress=progress)
    if not (await docs.info()).documents:
        reasons = "; ".join(f"{f.source}: {f.reason}" for f in report.errors[:3])
        raise BadInput(
            f"nothing to read in {folder}" + (f" ({reasons})" if reasons else ""),
            fix=f"Give a folder that holds {known_suffixes()} files",
        )
    return report
