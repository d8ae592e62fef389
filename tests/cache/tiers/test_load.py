from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vivace.cache.tiers.loading import load
from vivace.errors import BadSettings, MissingExtra
from vivace.settings.tree import Cache


async def test_none_by_default(tmp_path: Path) -> None:
    assert load(Cache(), tmp_path) == []


async def test_the_nearest_is_first_and_nothing_is_asked_yet(tmp_path: Path) -> None:
    tiers = load(Cache(redis="redis://127.0.0.1:1", sql="sqlite"), tmp_path)
    assert [tier.name for tier in tiers] == ["redis", "sqlite"]
    assert not (tmp_path / "cache.db").exists()
    await tiers[1].set(b"k", b"v")
    assert await tiers[1].get(b"k") == (b"v", None)
    for tier in tiers:
        await tier.close()
    assert (tmp_path / "cache.db").exists()


@pytest.mark.parametrize(
    "settings",
    [
        Cache(redis="hunter2"),
        Cache(redis="redis://"),
        Cache(redis="http://:hunter2@host"),
        Cache(redis="redis://:hunter2@host:nope/0"),
        Cache(redis="redis://:hunter2@host?max_connections=hunter2"),
        Cache(redis="redis+cluster://:hunter2@host"),
        Cache(redis="rediss://:hunter2@host?ssl_cert_reqs=none"),
        Cache(redis="rediss://:hunter2@host/0?a=b&ssl_cert_reqs=Optional"),
        Cache(redis="rediss://:hunter2@host?ssl_check_hostname=False"),
        Cache(redis="rediss://:hunter2@host?ssl_check_hostname="),
        Cache(sql="mysql://me:hunter2@host/x"),
        Cache(sql="postgresql://"),
        Cache(sql="postgresql://me:hunter2@host:nope/x"),
    ],
)
async def test_an_error_for_a_bad_address_does_not_show_it(settings: Cache, tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"cache\.(redis|sql)") as caught:
        load(settings, tmp_path)
    assert "hunter2" not in str(caught.value)
    assert caught.value.fix
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("settings", "package", "module"),
    [
        (Cache(redis="redis://h"), "redis", "vivace.cache.tiers.redis"),
        (Cache(sql="postgresql://h/x"), "asyncpg", "vivace.cache.tiers.postgres"),
    ],
)
async def test_a_missing_extra_is_named(
    settings: Cache, package: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == package or name == module:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r"vivace\[(redis|postgres)\]"):
        load(settings, tmp_path)
