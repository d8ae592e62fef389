"""A flipped byte, a cut or missing file, a manifest from the future, an old backup.

Whatever file a collection has is damaged here: the files are found in its folder, not listed. What
is derived is rebuilt and answers as before; of the store's damage an error tells. Nothing ever
answers wrongly.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.collection import known
from vivace.engine import Collection, Engine
from vivace.errors import StoreError, VivaceError

PAGE = 4096
SMALL = 32 * PAGE
VERSIONS = {number: number % 2 for number in range(40) if number != 7}
GONE = [known.word(7, 0), known.word(1, 0)]

Damage = Callable[[Path], None]


@pytest.fixture(scope="module", params=["flat", "pq"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def engine(family: str) -> AsyncIterator[Engine]:
    async with known.engine(family) as engine:
        yield engine


@pytest.fixture(scope="module")
def templates() -> dict[str, Path]:
    return {}


@pytest.fixture
async def template(
    engine: Engine,
    family: str,
    templates: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A closed collection that has been changed many times; made once a family."""
    if family not in templates:
        folder = tmp_path_factory.mktemp(f"template-{family}") / "collection"
        docs = await engine.open(folder)
        for number in range(0, 40, 4):
            await known.put(docs, dict.fromkeys(range(number, number + 4), 0))
        await known.put(docs, {number: 1 for number in VERSIONS if number % 2})
        await docs.delete("d7")
        await docs.rebuild()  # leaves a decision in ops.db
        await known.put(docs, {3: 1})
        await known.agrees(docs, VERSIONS, gone=GONE, exact=family == "flat")
        await docs.close()
        templates[family] = folder
    return templates[family]


def files(folder: Path) -> list[Path]:
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


def folders(folder: Path) -> list[Path]:
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_dir())


def derived(name: Path) -> bool:
    return not name.name.startswith("store.db")


async def survives(
    engine: Engine, template: Path, tmp_path: Path, name: Path, damage: Damage, *, mend: bool = True
) -> None:
    """Damage one file of a copy, and hold what is answered against what is known.

    With `mend`, it is written to and rebuilt after that, and nothing may be left wrong.
    """
    folder = tmp_path / "damaged"
    shutil.copytree(template, folder)
    damage(folder / name)
    exact = engine.settings == known.settings("flat")
    try:
        docs = await engine.open(folder, create=False)
        try:
            try:
                assert await known.state(docs) == VERSIONS
            except AssertionError:
                # the pages of SQLite's own indexes have no checksum: a look-up by a damaged one
                # may miss its row, which only a whole check can tell
                if derived(name) or not await docs.verify():
                    raise
            await known.agrees(docs, VERSIONS, gone=GONE, exact=exact)
            if mend and derived(name):
                await mended(docs)
        finally:
            await docs.close()
    except VivaceError as error:
        # only the store's own damage may cost an answer, and says what and what to do
        if derived(name) or not (isinstance(error, StoreError) and error.what and error.fix):
            raise
    finally:
        shutil.rmtree(folder)


async def mended(docs: Collection) -> None:
    await known.put(docs, {3: 2})
    await known.put(docs, {3: 1})
    await docs.rebuild()
    left = [finding for finding in await docs.verify() if "has been rebuilt" not in finding.fix]
    assert left == []


def flipped(at: int) -> Damage:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 0x41
        path.write_bytes(data)

    return damage


def cut(size: int) -> Damage:
    def damage(path: Path) -> None:
        with path.open("rb+") as file:
            file.truncate(size)

    return damage


async def flip(engine: Engine, template: Path, tmp_path: Path, places: int) -> None:
    rng = random.Random(7)
    for name in files(template):
        size = (template / name).stat().st_size
        if not size:
            continue
        for at in sorted({0, size - 1, *(rng.randrange(size) for _ in range(places))}):
            work = survives(engine, template, tmp_path, name, flipped(at), mend=at == size - 1)
            await told(work, f"{name} at {at}")


async def told(work: Awaitable[None], what: str) -> None:
    """Await, and say what was damaged when it fails."""
    try:
        await work
    except BaseException as error:
        error.add_note(what)
        raise


@pytest.mark.timeout(300)
async def test_a_flipped_byte(engine: Engine, template: Path, tmp_path: Path) -> None:
    await flip(engine, template, tmp_path, 2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_many_flipped_bytes(engine: Engine, template: Path, tmp_path: Path) -> None:
    await flip(engine, template, tmp_path, 60)


@pytest.mark.timeout(300)
async def test_a_cut_file(engine: Engine, template: Path, tmp_path: Path) -> None:
    for name in files(template):
        size = (template / name).stat().st_size
        if not derived(name) or size <= SMALL:
            for at in sorted({*range(0, min(size, SMALL), PAGE), max(0, size - 1)} - {size}):
                work = survives(engine, template, tmp_path, name, cut(at), mend=at == 0)
                await told(work, f"{name} at {at}")


async def test_a_missing_file(engine: Engine, template: Path, tmp_path: Path) -> None:
    for name in files(template):
        await told(survives(engine, template, tmp_path, name, Path.unlink), str(name))


async def test_a_missing_folder(engine: Engine, template: Path, tmp_path: Path) -> None:
    for name in folders(template):
        await told(survives(engine, template, tmp_path, name, shutil.rmtree), str(name))


@pytest.mark.timeout(300)
async def test_what_is_damaged_is_named(engine: Engine, template: Path, tmp_path: Path) -> None:
    """By `verify`, wherever opening has not mended it before, which is a decision."""
    for name in files(template):
        if name.parts[0] not in ("segments", "manifest.json", "terms", "store.db"):
            continue
        size = (template / name).stat().st_size
        if not size or name.name.startswith((".", "meta.json.lock")):
            continue
        folder = tmp_path / "damaged"
        shutil.copytree(template, folder)
        flipped(size // 2)(folder / name)
        try:
            docs = await engine.open(folder, create=False)
            findings = await docs.verify()
            decisions = [d.reason for d in await docs.decisions() if d.what == "rebuild"]
            await docs.close()
            assert findings or name.name == "store.db", f"{name} is damaged and nothing says so"
            assert all(f.where and f.what and f.fix for f in findings)
            assert all(decisions)
        except StoreError:
            if derived(name):
                raise
        finally:
            shutil.rmtree(folder)


@pytest.mark.parametrize("there", ["nothing", "some", "all"])
async def test_terms_that_were_being_made_are_no_damage(
    engine: Engine, family: str, template: Path, tmp_path: Path, there: str
) -> None:
    """As a crash in the middle of a rebuild leaves them."""
    folder = tmp_path / "collection"
    shutil.copytree(template, folder)
    (folder / "terms.making").touch()
    if there == "nothing":
        shutil.rmtree(folder / "terms")
    elif there == "some":
        for name in ("shown.json", "vivace.json"):
            (folder / "terms" / name).unlink()
    docs = await engine.open(folder)
    await known.agrees(docs, VERSIONS, gone=GONE, exact=family == "flat")
    assert await docs.verify() == []
    await docs.close()
    assert known.unnamed(folder) == []


async def test_a_manifest_from_the_future(engine: Engine, template: Path, tmp_path: Path) -> None:
    if not (template / "manifest.json").exists():
        pytest.skip("there are no manifests yet")

    def damage(path: Path) -> None:
        value = json.loads(path.read_text())
        for key in ("format", "oldest"):
            assert key in value
            value[key] = 999
        path.write_text(json.dumps(value))

    await survives(engine, template, tmp_path, Path("manifest.json"), damage)


class TestAnOldBackup:
    """The store put back as it was earlier, beside indexes that know more."""

    @pytest.fixture
    async def folder(self, engine: Engine, template: Path, tmp_path: Path) -> Path:
        """Written on after the backup, which lies in `backup.db`."""
        folder = tmp_path / "collection"
        shutil.copytree(template, folder)
        shutil.copy(folder / "store.db", tmp_path / "backup.db")
        docs = await engine.open(folder)
        await known.put(docs, dict.fromkeys(range(50, 70), 0))
        await docs.delete(["d2", "d4"])
        await known.put(docs, {6: 5})
        await docs.close()
        return folder

    def restore(self, folder: Path) -> None:
        shutil.copy(folder.parent / "backup.db", folder / "store.db")
        for log in folder.glob("store.db-*"):
            log.unlink()

    async def test_it_is_what_is_answered(self, engine: Engine, folder: Path, family: str) -> None:
        self.restore(folder)
        docs = await engine.open(folder, create=False)
        gone = [*GONE, known.word(50, 0), known.word(6, 5)]
        assert await known.state(docs) == VERSIONS
        await known.agrees(docs, VERSIONS, gone=gone, exact=family == "flat")
        await docs.close()

    async def test_written_on_to_the_same_epoch(
        self, engine: Engine, folder: Path, family: str
    ) -> None:
        """Another history of the same length must not pass for the one the indexes show."""
        aside = folder.parent / "aside"
        shutil.copytree(folder, aside)
        self.restore(folder)
        for name in ("terms", "segments"):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "manifest.json").unlink(missing_ok=True)
        docs = await engine.open(folder)
        await known.put(docs, dict.fromkeys(range(80, 100), 0))
        await docs.delete(["d8", "d10"])
        await known.put(docs, {12: 5})
        epoch = (await docs.info()).epoch
        await docs.close()
        shutil.copy(folder / "store.db", aside / "store.db")
        docs = await engine.open(aside, create=False)
        assert (await docs.info()).epoch == epoch
        versions = {**VERSIONS, **dict.fromkeys(range(80, 100), 0), 12: 5}
        del versions[8], versions[10]
        gone = [*GONE, known.word(50, 0), known.word(6, 5), known.word(8, 0)]
        assert await known.state(docs) == versions
        await known.agrees(docs, versions, gone=gone, exact=family == "flat")
        await docs.close()
