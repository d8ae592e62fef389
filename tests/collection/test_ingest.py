"""What gets in, what is skipped, what is re-embedded, and what a bad file costs."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.collection.conftest import HashEmbedder
from vivace.engine import Collection, Engine
from vivace.errors import CollectionLocked, EmbeddingError, StoreUnwritable
from vivace.settings import load
from vivace.store.connections import WriteLock
from vivace.types import Document, IngestProgress


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("# Cats\n\nCats purr loudly at night.\n\n# Dogs\n\nDogs bark.\n")
    (folder / "b.txt").write_text("Trains run on rails.")
    (folder / "c.jsonl").write_text(
        '{"id": "j1", "text": "Boats float.", "metadata": {"kind": "boat"}}\n'
        '{"id": "j2", "text": "Planes fly."}\n'
    )
    (folder / ".hidden").write_text("secret")
    (folder / "photo.xyz").write_bytes(b"\0")
    return folder


async def texts(docs: Collection, question: str) -> list[str]:
    return [hit.chunk.text for hit in (await docs.search(question)).hits]


async def test_a_folder_is_ingested_and_searched(docs: Collection, folder: Path) -> None:
    seen: list[IngestProgress] = []
    report = await docs.ingest(folder, progress=seen.append)
    assert (report.documents, report.chunks, report.errors) == (4, 5, ())
    assert sorted(Path(s.source).name for s in report.skipped) == [".hidden", "photo.xyz"]
    assert seen[-1].documents == 4
    first = (await docs.search("do cats purr")).hits[0]
    assert "purr" in first.chunk.text
    assert first.chunk.section == ("Cats",)
    assert set(first.stages) == {"bm25", "cosine"}
    document = await docs.get(first.chunk.document_id)
    assert document is not None
    assert document.text[first.chunk.start : first.chunk.end] == first.chunk.text


async def test_unchanged_documents_are_skipped(
    docs: Collection, folder: Path, embedder: HashEmbedder
) -> None:
    await docs.ingest(folder)
    epoch = (await docs.info()).epoch
    embedder.embedded.clear()
    report = await docs.ingest(folder)
    assert (report.documents, report.unchanged) == (0, 4)
    assert embedder.embedded == []
    assert (await docs.info()).epoch == epoch


async def test_only_changed_chunks_are_embedded(
    docs: Collection, folder: Path, embedder: HashEmbedder
) -> None:
    await docs.ingest(folder)
    before = {c.text: c.id for c in await docs.chunks((folder / "a.md").as_posix())}
    embedder.embedded.clear()
    text = (folder / "a.md").read_text().replace("Dogs bark.", "Dogs bark a lot.")
    (folder / "a.md").write_text("Preface.\n\n" + text)
    report = await docs.ingest(folder)
    assert (report.documents, report.unchanged, report.embedded) == (1, 3, 2)
    assert len(embedder.embedded) == 2
    after = {c.text: c.id for c in await docs.chunks((folder / "a.md").as_posix())}
    kept = next(text for text in after if "purr" in text)
    assert after[kept] == before[kept]
    assert await texts(docs, "bark a lot") != []
    document = await docs.get((folder / "a.md").as_posix())
    assert document is not None
    for chunk in await docs.chunks(document.id):
        assert document.text[chunk.start : chunk.end] == chunk.text


async def test_another_chunk_size_chunks_again(
    docs: Collection, folder: Path, engine: Engine
) -> None:
    await docs.ingest(folder)
    await docs.close()
    other = Engine(engine.settings.__class__(home=engine.settings.home))
    again = await other.open(folder.parent / "collection")
    assert (await again.ingest(folder)).documents == 4
    await other.close()


async def test_prune_removes_what_is_gone(docs: Collection, folder: Path) -> None:
    await docs.ingest(folder)
    (folder / "b.txt").unlink()
    (folder / "c.jsonl").write_text('{"id": "j2", "text": "Planes fly."}\n')
    assert (await docs.ingest(folder)).removed == 0
    report = await docs.ingest(folder, prune=True)
    assert report.removed == 2
    assert sorted(d.title or d.id for d, _ in await docs.list()) == ["Cats", "j2"]
    assert all("rails" not in text for text in await texts(docs, "trains rails"))


async def test_a_link_that_leads_out_is_not_indexed_and_no_longer_kept(
    engine: Engine, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "passwd").write_text("the administrator has a secret shell")
    (folder / "evil.txt").symlink_to(tmp_path / "passwd")
    async with Engine(load(ingest={"links": "anywhere"})) as before:
        everywhere = await before.open(tmp_path / "before")
        await everywhere.ingest(folder)
        assert "the administrator has a secret shell" in await texts(everywhere, "secret shell")
        await everywhere.close()
    for name, removed in (("before", 1), ("new", 0)):
        docs = await engine.open(tmp_path / name)
        report = await docs.ingest(folder, prune=True)
        assert report.removed == removed
        (evil,) = (one for one in report.skipped if one.source.endswith("evil.txt"))
        assert "leads out" in evil.reason
        assert all("secret" not in text for text in await texts(docs, "secret shell"))


async def test_prune_spares_what_could_not_be_read(docs: Collection, folder: Path) -> None:
    await docs.ingest(folder)
    (folder / "b.txt").write_bytes(b"\xff\xfe broken")
    report = await docs.ingest(folder, prune=True)
    assert len(report.errors) == 1
    assert report.removed == 0
    assert await docs.get((folder / "b.txt").as_posix()) is not None


async def test_a_bad_file_is_one_error(docs: Collection, folder: Path) -> None:
    (folder / "bad.txt").write_bytes(b"caf\xe9")
    (folder / "lines.jsonl").write_text('{"id": 1, "text": "ok"}\nnot json\n')
    report = await docs.ingest([folder, folder / "missing.txt"])
    assert report.documents == 5
    reasons = {Path(f.source).name: f for f in report.errors}
    assert set(reasons) == {"bad.txt", "lines.jsonl:2", "missing.txt"}
    assert all(f.reason and f.fix for f in report.errors)


async def test_a_huge_text_file_is_refused(docs: Collection, tmp_path: Path) -> None:
    path = tmp_path / "huge.txt"
    with path.open("wb") as file:
        file.truncate(100 << 20)
    report = await docs.ingest(path)
    assert report.documents == 0
    assert "ingest.max_file_mib" in report.errors[0].fix


async def test_two_versions_in_one_ingest_the_last_wins(docs: Collection, tmp_path: Path) -> None:
    lines = [f'{{"id": "x", "text": "Version {n} is here."}}\n' for n in range(40)]
    (tmp_path / "v.jsonl").write_text("".join(lines))
    await docs.ingest(tmp_path / "v.jsonl")
    document = await docs.get("x")
    assert document is not None
    assert document.text == "Version 39 is here."
    assert (await docs.info()).chunks == 1


async def test_a_failing_embedder_keeps_what_was_acknowledged(
    docs: Collection, folder: Path, embedder: HashEmbedder
) -> None:
    await docs.ingest(folder / "b.txt")
    embedder.broken = True
    with pytest.raises(EmbeddingError, match="broken"):
        await docs.ingest(folder)
    embedder.broken = False
    assert (await docs.info()).documents == 1
    assert (await docs.ingest(folder)).documents == 3


async def test_cancelled_it_leaves_whole_documents_and_no_lock(
    docs: Collection, folder: Path, embedder: HashEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding = asyncio.Event()

    async def never(*_: object, **__: object) -> None:
        embedding.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(embedder, "embed", never)
        task = asyncio.create_task(docs.ingest(folder))
        await embedding.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await docs.info()).documents == 0
    assert (await docs.ingest(folder)).documents == 4


async def test_a_second_writer_gets_a_clear_error_and_readers_work(
    docs: Collection, folder: Path, tmp_path: Path
) -> None:
    await docs.ingest(folder)
    other = WriteLock(tmp_path / "collection")
    other.acquire()
    assert other.held
    with pytest.raises(CollectionLocked, match=r"another process \(pid \d+\)"):
        await docs.ingest(folder)
    assert await texts(docs, "trains") != []
    other.release()
    assert (await docs.ingest(folder)).unchanged == 4


async def test_a_lock_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(StoreUnwritable, match="cannot be written"):
        WriteLock(tmp_path / "nowhere").acquire()


async def test_concurrent_ingests_of_one_process_share_the_lock(
    docs: Collection, folder: Path
) -> None:
    reports = await asyncio.gather(
        docs.ingest(folder / "a.md"), docs.ingest(folder / "b.txt"), docs.ingest(folder / "c.jsonl")
    )
    assert sum(report.documents for report in reports) == 4
    assert (await docs.info()).documents == 4


async def test_titles_are_indexed_only_when_set(
    engine: Engine, embedder: HashEmbedder, tmp_path: Path
) -> None:
    document = Document("a", "It runs on rails.", "Locomotive")
    plain = await engine.open(tmp_path / "plain")
    await plain.add([document])
    assert embedder.embedded == ["It runs on rails."]
    assert (await plain.search("locomotive")).hits[0].stages["bm25"] == 0
    other = Engine(load(ingest={"index_title": True}))
    titled = await other.open(tmp_path / "titled")
    await titled.add([document])
    assert embedder.embedded[-1] == "Locomotive\nIt runs on rails."
    assert (await titled.search("locomotive")).hits[0].stages["bm25"] > 0
    await other.close()
    # a rebuild from the store indexes what was indexed
    shutil.rmtree(tmp_path / "titled" / "terms")
    again = await engine.open(tmp_path / "titled")
    assert (await again.search("locomotive")).hits[0].stages["bm25"] > 0


def move(source: Path, target: Path) -> None:
    source.rename(target)


async def test_prune_spares_what_is_away(docs: Collection, folder: Path, tmp_path: Path) -> None:
    await docs.ingest(folder)
    move(folder, tmp_path / "away")
    report = await docs.ingest(folder, prune=True)
    assert len(report.errors) == 1
    assert report.removed == 0
    move(tmp_path / "away", folder)
    (folder / "b.txt").unlink()
    (folder / "sub").mkdir()
    report = await docs.ingest([folder / "sub" / "..", folder / "sub"], prune=True)
    assert report.removed == 1


@pytest.mark.parametrize("window", [1, 256])
async def test_of_many_versions_the_last_read_wins(
    engine: Engine, tmp_path: Path, window: int
) -> None:
    settings = load(ingest={"commit_chunks": window}, chunk={"tokens": 16, "overlap": 0})
    other = Engine(settings)
    docs = await other.open(tmp_path / "versions")
    first = "This sentence is the first of them all here. " * 3
    await docs.add([Document("x", first)])
    later = "Another sentence has taken the place of that. " * 3
    for versions in ([later, first], [first, later, first], [later, first + later, later]):
        await docs.add([Document("x", text) for text in versions])
        document = await docs.get("x")
        assert document is not None
        assert document.text == versions[-1]
        chunks = await docs.chunks("x")
        assert all(document.text[c.start : c.end] == c.text for c in chunks)
    await other.close()
