"""Streams of keys: files of little-endian uint32, compressed by zstd or plain, or mixes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zstandard

from benchmarks.report import DATA

MIXES = (
    ("multi3", "cache2k_web07", "loop"),
    ("mooncake_conversation", "sprite"),
    ("corda", "multi3", "two_pools"),
    ("loop", "sprite", "ps"),
    ("arc_OLTP", "corda"),
    ("cache2k_web07", "mooncake_conversation", "arc_OLTP"),
)
"""The six concatenations. The settings of adaptation were chosen by other ones, and by other
capacities: see `docs/decisions/0030`."""


def names() -> list[str]:
    """All traces of the data folder, then the mixes."""
    found = sorted((DATA / "traces").glob("*.u32.zst"))
    return [path.name.removesuffix(".u32.zst") for path in found] + ["+".join(m) for m in MIXES]


def read(name: str) -> list[int]:
    """A file, a trace of the data folder by name, or several one after the other (`a+b`).

    The keys of each part of a mix are its own.
    """
    keys: list[int] = []
    for part in name.split("+"):
        path = Path(part)
        if not path.exists():
            path = DATA / "traces" / f"{part}.u32.zst"
        data = path.read_bytes()
        if path.suffix == ".zst":
            data = zstandard.ZstdDecompressor().decompress(data, max_output_size=1 << 28)
        # of one type and below 2**30: an int of Python's with one digit
        first = max(keys, default=-1) + 1
        keys += (np.frombuffer(data, "<u4").astype(np.int64) + first).tolist()
    return keys
