"""Engines that share what they remember: whatever is behind them, they answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cache.changing import engine, settings_of
from tests.support.services import Valkey
from vivace.engine import Engine
from vivace.types import Decision, Document


def hits(made: Engine, tier: str) -> int:
    return made.resources.caching.trace.counters().get(f"cache.{tier}.hits", 0)


async def filled(made: Engine, folder: Path) -> None:
    docs = await made.open(folder)
    await docs.add([Document("leave", "The notice period is six weeks.")])


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
async def test_another_engine_finds_what_one_has_made(
    kind: str, tmp_path: Path, valkey: Valkey
) -> None:
    cache = {"redis": valkey.url} if kind == "redis" else {"sql": str(tmp_path / "cache.db")}
    settings = settings_of(cache={**cache, "tier_ms": 5_000})
    async with engine(settings, "s", "m") as made:
        await filled(made, tmp_path / "c")
        first = await (await made.open(tmp_path / "c")).ask("notice period")
        assert first.usage is not None
        assert not first.usage.free
    async with engine(settings, "s", "m") as made:
        again = await (await made.open(tmp_path / "c")).ask("notice period")
        assert again.text == first.text
        assert again.usage is not None
        assert again.usage.free
        # the answer; the vector is not kept if the channel began while it was made
        assert hits(made, kind) >= 1
        await made.resources.caching.clear()
    async with engine(settings, "s", "m") as made:
        docs = await made.open(tmp_path / "c")
        anew = await docs.ask("notice period")
        assert anew.usage is not None
        assert not anew.usage.free


async def test_a_tier_that_is_not_there_fails_nothing(tmp_path: Path) -> None:
    settings = settings_of(cache={"redis": "redis://:secret@127.0.0.1:1", "sql": "/proc/none.db"})
    async with engine(settings, "s", "m") as made:
        await filled(made, tmp_path / "c")
        docs = await made.open(tmp_path / "c")
        first, again = await docs.ask("notice period"), await docs.ask("notice period")
        assert first.text == again.text
        assert again.usage is not None
        assert again.usage.free  # of the memory
        assert "secret" not in str(made.resources.caching.trace.counters())


async def test_a_change_of_the_policy_can_be_looked_up(tmp_path: Path) -> None:
    async with engine(settings_of(), "s", "m") as made:
        await filled(made, tmp_path / "c")
        docs = await made.open(tmp_path / "c")
        made.record(Decision("cache.policy", "s3fifo", "lru", "lru finds 3.0 points more."))
        (decision,) = [one for one in await docs.decisions() if one.what == "cache.policy"]
        assert (decision.before, decision.after) == ("s3fifo", "lru")
