"""vivace cache stats, clear, warm."""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import msgspec

from vivace.cache.statistics import CacheCounts, CacheStatistics
from vivace.cli.output import json_line, settings_of, table
from vivace.cli.parser import FAILED, OK
from vivace.cli.terminal import say
from vivace.engine import Engine
from vivace.errors import BadInput
from vivace.settings.tree import Cache

_ROW: Final = re.compile(r'^vivace_cache_(\w+)(?:\{kind="(\w+)"\}|\{[^}]*\})? (\S+)$', re.MULTILINE)
_SECONDS: Final = 5.0
_LONGEST_PAGE: Final = 16 << 20
"""Bytes."""
_COLUMNS: Final = ["kind", "entries", "MiB", "hits", "misses", "hit ratio", "evicted", "saved s"]


def run(options: argparse.Namespace) -> int:
    command = {"stats": _stats, "clear": _clear, "warm": _warm}[options.action]
    return asyncio.run(command(options))


async def _stats(options: argparse.Namespace) -> int:
    if options.server:
        found = await asyncio.to_thread(server_statistics, options.server)
        if options.json:
            json_line({"server": options.server, **found})
        else:
            rows = [[kind, *_served_row(values)] for kind, values in found["kinds"].items()]
            table(options.server, _COLUMNS, rows)
            if "pattern_skew" in found:
                say(_pattern(found))
        return OK
    async with Engine(settings_of(options)) as engine:
        docs = await engine.open(options.collection or "default", create=False)
        asked, statistics = await docs.question_counts(), engine.resources.caching.statistics()
        info = await docs.info()
    value: dict[str, Any] = {
        "collection": info.path,
        "memory": _value(statistics),
        "log": {**msgspec.to_builtins(asked), "repeated": round(asked.repeated, 4)},
    }
    if options.json:
        json_line(value)
        return OK
    say(
        f"{info.path}: {asked.questions} questions in the log, {asked.distinct} different ones:"
        f" {asked.repeated:.1%} had been asked before"
    )
    if statistics is None:
        say("no cache: cache.memory_mib is 0")
    else:
        mib = statistics.capacity / (1 << 20)
        say(f"memory of a process that serves it: {mib:g} MiB, policy {statistics.policy}")
        say("what such a process remembers: vivace cache stats --server ADDRESS")
    return OK


async def _clear(options: argparse.Namespace) -> int:
    if options.server:
        raise BadInput(
            "cache clear cannot clear a running server: --server is of cache stats",
            fix="Leave --server out; a server with the same cache.redis forgets, too",
        )
    async with Engine(settings_of(options)) as engine:
        cleared = await engine.resources.caching.clear()
    if options.json:
        json_line({"tiers": cleared.tiers})
    else:
        for tier, empty in cleared.tiers.items():
            said = "everything is forgotten" if empty else "does not answer; nothing is forgotten"
            say(f"{tier}: {said}")
            if tier in cleared.failures:
                say(f"  {cleared.failures[tier]}")
        told = cleared.tiers.get("redis", False)
        others = "now, too" if told else "when it restarts, for nothing tells it (cache.redis)"
        say(f"memory: a running server forgets its own {others}")
    return OK if all(cleared.tiers.values()) else FAILED


async def _warm(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    _check_stays(options, settings.cache)
    async with Engine(settings) as engine:
        docs = await engine.open(options.collection or "default", create=False)
        warmed = await docs.warm(options.limit)
        statistics = engine.resources.caching.statistics()
    # a closed engine has written all that the tiers take
    tiers = _reached(engine.resources.caching.trace.counters())
    value = {**msgspec.to_builtins(warmed), "stays": bool(tiers), "tiers": tiers}
    if options.json:
        json_line({**value, "memory": _value(statistics)})
    else:
        say(f"{warmed.questions} questions asked again, {warmed.failed} failed")
        if tiers:
            say(f"their vectors are in {' and '.join(tiers)}: other processes find them there")
        elif warmed.questions:
            say("nothing of it stays: no tier took anything, and this process ends")
    return OK if tiers or not warmed.questions else FAILED


def _check_stays(options: argparse.Namespace, cache: Cache) -> None:
    """Check that warming leaves something behind: only vectors in a tier outlive this process.

    Raises:
        BadInput: nothing would stay.
    """
    if options.server:
        raise BadInput(
            "cache warm cannot warm a running server: --server is of cache stats",
            fix="Leave --server out, and set the cache.redis or cache.sql that the server has",
        )
    if not (cache.redis or cache.sql):
        raise BadInput(
            "warming would end with this process: it has neither cache.redis nor cache.sql",
            fix="Set the cache.redis or cache.sql that the processes to be warmed have",
        )
    if not cache.memory_mib:
        raise BadInput("nothing is cached: cache.memory_mib is 0", fix="Set cache.memory_mib")
    if not cache.embeddings:
        raise BadInput(
            "warming keeps the vectors of questions, and cache.embeddings is off",
            fix="Set cache.embeddings=true",
        )


def _reached(counters: Mapping[str, int]) -> list[str]:
    """The tiers that hold warmed vectors: written now, or found there."""
    parts = [(name.split("."), count) for name, count in counters.items()]
    there = {part[1] for part, count in parts if part[2:] in (["written"], ["hits"]) and count}
    return sorted(there)


def _value(statistics: CacheStatistics | None) -> dict[str, Any] | None:
    if statistics is None:
        return None
    value: dict[str, Any] = msgspec.to_builtins(statistics)
    total = statistics.total
    return {**value, "bytes": total.bytes, "entries": total.entries, "hit_ratio": total.ratio}


def server_statistics(address: str) -> dict[str, Any]:
    """The cache metrics of a running server, by kind, and those of the whole cache.

    Raises:
        BadInput: no Vivace server answers at the address.
    """
    if not address.startswith(("http://", "https://")):
        address = f"http://{address}"
    try:
        with urlopen(f"{address.rstrip('/')}/metrics", timeout=_SECONDS) as response:
            text = response.read(_LONGEST_PAGE).decode()
    except (URLError, OSError, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()
        raise BadInput(
            f"{address} tells nothing: {error}", fix="Give the address that `vivace serve` prints"
        ) from error
    value: dict[str, Any] = {"kinds": {}}
    for name, kind, number in _ROW.findall(text):
        where = value["kinds"].setdefault(kind, {}) if kind else value
        where[name.removesuffix("_total")] = float(number)
    return value


def _pattern(values: Mapping[str, float]) -> str:
    return (
        f"keys requested: Zipf exponent {values['pattern_skew']:.2f},"
        f" {values['pattern_recency']:.0%} used again soon, {values['pattern_scan']:.0%} not seen"
        f" lately; median distance of two requests for a key: {values['pattern_reuse']:.0f}"
    )


def _served_row(values: dict[str, float]) -> list[str]:
    hits, misses = int(values["hits"]), int(values["misses"])
    ratio = CacheCounts(hits=hits, misses=misses).ratio
    return [
        f"{values['entries']:.0f}",
        f"{values['bytes'] / (1 << 20):.1f}",
        str(hits),
        str(misses),
        f"{ratio:.3f}",
        f"{values['evicted']:.0f}",
        f"{values['saved_seconds']:.1f}",
    ]
