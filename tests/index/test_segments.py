"""A segment's folder: written in a stream, mapped, and never opened as something else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from vivace.errors import BadInput, BadVectors, CorruptIndex
from vivace.index import segments
from vivace.index.files import damaged, entry
from vivace.index.flat import FlatIndex
from vivace.index.segments import CODES, IDS, VECTORS, SegmentFiles, open_segment
from vivace.testing.conformance import questions, vectors
from vivace.types import Float16Vectors, Metric

N, DIM = 3_000, 32


def written(folder: Path, family: str, *, n: int = N, metric: Metric = "cosine") -> SegmentFiles:
    ids = np.arange(5, 5 + n)
    return segments.write(folder, ids, [vectors(n)], dim=DIM, metric=metric, family=family)


@pytest.mark.parametrize("family", segments.available())
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_opened_it_answers_as_built(tmp_path: Path, family: str, metric: Metric) -> None:
    made = written(tmp_path / "s", family, metric=metric)
    assert damaged(tmp_path / "s", made.files) == []
    assert {e.name for e in made.files} == {p.name for p in (tmp_path / "s").iterdir()}
    again = msgspec.json.decode(msgspec.json.encode(made), type=SegmentFiles)
    assert again == made
    opened = open_segment(tmp_path / "s", again)
    flat = FlatIndex.build(np.arange(5, 5 + N), vectors(N), metric=metric)
    built = segments.build(flat, family)
    assert (opened.family, opened.metric) == (family, metric)
    for allow in (None, np.arange(N) % 3 == 0):
        found = opened.search(questions(9), 12, allow=allow)
        expected = built.search(questions(9), 12, allow=allow)
        assert found.ids.tolist() == expected.ids.tolist()
        assert found.scores.tolist() == expected.scores.tolist()


def test_the_rows_stand_in_the_file_as_faiss_writes_them(tmp_path: Path) -> None:
    import faiss

    written(tmp_path / "s", "flat")
    flat = FlatIndex.build(np.arange(5, 5 + N), vectors(N))
    faiss.write_index(flat.native, str(tmp_path / "theirs"))
    assert (tmp_path / "s" / VECTORS).read_bytes() == (tmp_path / "theirs").read_bytes()
    flat.save(tmp_path / "ours")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_parts_are_asked_for_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "s" / VECTORS

    def parts() -> Iterator[Float16Vectors]:
        for at in range(0, N, 100):
            if at:
                assert path.stat().st_size >= 2 * DIM * at, "the parts before are written"
            yield vectors(N)[at : at + 100]

    made = segments.write(tmp_path / "s", np.arange(N), parts(), dim=DIM, metric="ip")
    assert (open_segment(tmp_path / "s", made).vectors == vectors(N)).all()


@pytest.mark.parametrize("family", segments.available())
def test_every_flipped_byte_is_named(tmp_path: Path, family: str) -> None:
    folder = tmp_path / "s"
    made = written(folder, family, n=60)
    for described in made.files:
        path = folder / described.name
        data = path.read_bytes()
        for at in {*range(0, len(data), 499), *range(0, min(82, len(data)), 3), len(data) - 1}:
            path.write_bytes(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
            assert damaged(folder, made.files) == [path.name], at
        path.write_bytes(data)
    assert damaged(folder, made.files) == []


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("flat", IDS),
        ("flat", VECTORS),
        ("pq", VECTORS),
        *((f, CODES) for f in segments.available() if f != "flat"),
    ],
)
def test_cut_missing_and_foreign_files_do_not_open(tmp_path: Path, family: str, name: str) -> None:
    folder = tmp_path / "s"
    made = written(folder, family)
    path = folder / name
    data = path.read_bytes()
    for cut in [*range(0, len(data), 4096), 1, 7, 80, 81, 82, len(data) - 1]:
        path.write_bytes(data[:cut])
        with pytest.raises(CorruptIndex, match=name):
            open_segment(folder, made)
        assert damaged(folder, made.files) == [name]
    path.unlink()
    with pytest.raises(CorruptIndex, match=name):
        open_segment(folder, made)
    assert damaged(folder, made.files) == [name]
    path.write_bytes(b"\0" * len(data))
    with pytest.raises(CorruptIndex, match=name):
        open_segment(folder, made)
    other = written(tmp_path / "other", family, n=N - 1)
    path.write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(CorruptIndex, match=name):
        open_segment(folder, made)
    assert [e.name for e in other.files] == [e.name for e in made.files]


def test_another_metric_or_kind_does_not_open(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    made = written(folder, "pq")
    for wrong in (
        msgspec.structs.replace(made, metric="l2"),
        msgspec.structs.replace(made, dim=16),
        msgspec.structs.replace(made, n=N + 1),
        msgspec.structs.replace(made, family="mystery"),
    ):
        with pytest.raises(CorruptIndex):
            open_segment(folder, wrong)
    (folder / CODES).write_bytes((folder / VECTORS).read_bytes())
    with pytest.raises(CorruptIndex, match=CODES):
        open_segment(folder, made)


def test_what_cannot_be_a_segment_is_refused(tmp_path: Path) -> None:
    ids, base = np.arange(10), vectors(10)
    with pytest.raises(BadInput, match="mystery"):
        segments.write(tmp_path / "a", ids, [base], dim=DIM, metric="ip", family="mystery")
    for number, parts in enumerate(([base[:9]], [base, base[:1]], [base[:, :5]], [base * np.nan])):
        with pytest.raises(BadVectors):
            segments.write(tmp_path / str(number), ids, parts, dim=DIM, metric="ip")
    with pytest.raises(BadVectors):
        segments.write(tmp_path / "c", ids[::-1], [base], dim=DIM, metric="ip")
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError):
        segments.write(tmp_path / "there", ids, [base], dim=DIM, metric="ip")


@pytest.mark.parametrize(
    ("family", "params"),
    [
        (family, params)
        for family in segments.available()
        for params in segments.of_family(family).candidates(N, DIM)
    ],
)
def test_sizes_are_as_estimated(tmp_path: Path, family: str, params: dict[str, int]) -> None:
    n, dim = 6_000, 128
    index = segments.of_family(family)
    made = segments.write(
        tmp_path / "s",
        np.arange(n),
        [vectors(n, dim)],
        dim=dim,
        metric="cosine",
        family=family,
        params=params,
    )
    assert [entry(tmp_path / "s" / e.name) for e in made.files] == list(made.files)
    taken = open_segment(tmp_path / "s", made).footprint
    expected = index.estimate_bytes(n, dim, **params)
    assert taken.resident == pytest.approx(expected.resident, rel=0.1)
    assert taken.mapped == expected.mapped
    on_disk = sum(e.bytes for e in made.files)
    assert taken.total == pytest.approx(on_disk, rel=0.1)
