"""Only the user who made a collection can read it, whatever the process's umask is."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from vivace import settings
from vivace.engine import Engine
from vivace.settings import Settings

PARTS = {"store.db", "ops.db", "write.lock", "terms", "segments", "manifest.json"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings.load(
        home=str(tmp_path_factory.mktemp("new") / "home"),
        index__seal_chunks=16,
        index__family="pq",
        embed__workers=1,
        cache__sql="sqlite",
    )


@pytest.fixture(scope="module")
def made(config: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection with every kind of file, made under a umask that hides nothing."""
    source = tmp_path_factory.mktemp("source")
    for number in range(20):
        (source / f"{number}.md").write_text(f"# Rule {number}\n\nThe notice is {number} weeks.\n")

    async def fill() -> Path:
        async with Engine(config) as engine:
            docs = await engine.open("handbook")
            await docs.ingest(source)
            await docs.search("notice period")
            await docs.delete([(source / "3.md").as_posix()])
            await docs.compact()
            folder = Path((await docs.info()).path)
            assert loose(folder) == {}, "while it is open"
            return folder

    before = os.umask(0)
    try:
        return asyncio.run(fill())
    finally:
        os.umask(before)


@pytest.fixture
def older(made: Path, tmp_path: Path) -> Path:
    """A collection as version 0.1 made it: readable by everybody."""
    folder = tmp_path / "older"
    shutil.copytree(made, folder)
    loosen(folder)
    with closing(sqlite3.connect(folder / "store.db")) as db:
        assert db.execute("DELETE FROM meta WHERE key = 'private'").rowcount == 1
        db.commit()
    return folder


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def loosen(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def loose(folder: Path) -> dict[str, str]:
    """What other users may do with the folder and all that is in it."""
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
    return {path.name: oct(mode) for path, mode in modes.items() if mode & 0o077}


def search(config: Settings, folder: Path) -> int:
    async def found() -> int:
        async with Engine(config) as engine:
            docs = await engine.open(folder, create=False)
            return len((await docs.search("notice period")).hits)

    return asyncio.run(found())


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "vivace.store"]


def test_a_new_collection_is_the_users_own(made: Path, config: Settings) -> None:
    assert {path.name for path in made.iterdir()} >= PARTS
    assert loose(made) == {}
    assert (Path(config.home) / "cache.db").exists()
    assert loose(Path(config.home)) == {}


@pytest.mark.usefixtures("open_umask")
def test_a_folder_that_stood_empty_becomes_the_users_own(config: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir(mode=0o777)

    async def make() -> None:
        async with Engine(config) as engine:
            await engine.open(folder)

    asyncio.run(make())
    assert loose(folder) == {}


def test_an_older_collection_is_tightened_with_one_line(
    config: Settings, older: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert search(config, older)
    assert loose(older) == {}
    (line,) = lines(caplog)
    assert line.startswith(f"{older}: other users of this machine could read")
    caplog.clear()
    assert search(config, older)
    assert lines(caplog) == []


def test_rights_that_are_given_later_stay(
    config: Settings, older: Path, caplog: pytest.LogCaptureFixture
) -> None:
    search(config, older)
    loosen(older)
    caplog.clear()
    search(config, older)
    assert {older.name, "store.db", "manifest.json"} <= loose(older).keys()
    assert lines(caplog) == []


def test_what_links_in_a_collection_lead_to_keeps_its_rights(
    config: Settings, older: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    loosen(outside)
    (older / "folder").symlink_to(outside)
    (older / "file").symlink_to(outside / "file")
    search(config, older)
    assert loose(outside).keys() == {"outside", "file"}


def test_the_collection_of_another_user_stays_as_it_is(
    config: Settings, older: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: older.stat().st_uid + 1)
    assert search(config, older)
    assert {older.name, "store.db"} <= loose(older).keys()
    assert lines(caplog) == []
    monkeypatch.undo()
    assert search(config, older)
    assert loose(older) == {}, "its own user opens it"
