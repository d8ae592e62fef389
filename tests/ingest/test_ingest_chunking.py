"""Which passages does a document fall into?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.errors import BadInput
from vivace.ingest import chunking
from vivace.ingest.chunking import CHARS_A_TOKEN, indexed_text, split
from vivace.ingest.formats import read
from vivace.protocols import TokenCounter
from vivace.types import Chunk, Document, Section


def words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def characters(texts: Sequence[str]) -> list[int]:
    return [len(text) for text in texts]


def document(text: str, *sections: Section) -> Document:
    return Document(id="d", text=text, sections=sections)


def markdown(folder: Path, text: str) -> Document:
    path = folder / "a.md"
    path.write_text(text)
    (found,) = read(path, max_bytes=1 << 20)
    assert isinstance(found, Document)
    return found


def texts(chunks: Sequence[Chunk]) -> list[str]:
    return [chunk.text for chunk in chunks]


def require_whole(whole: Document, chunks: Sequence[Chunk]) -> None:
    """Offsets are exact, in order, and only whitespace is in no chunk."""
    position = 0
    for chunk in chunks:
        assert whole.text[chunk.start : chunk.end] == chunk.text != ""
        assert whole.text[position : chunk.start].strip() == ""
        position = max(position, chunk.end)
    assert whole.text[position:].strip() == ""
    for one, other in pairwise(chunks):
        assert one.start < other.start
        assert one.end < other.end


class TestPacking:
    def test_whole_sentences_up_to_the_budget(self) -> None:
        whole = document("One two. Three four. Five six. Seven eight.")
        assert texts(split(whole, words, tokens=4, overlap=0)) == [
            "One two. Three four.",
            "Five six. Seven eight.",
        ]

    def test_the_last_sentences_are_repeated(self) -> None:
        whole = document("Aa bb. Cc. Dd. Ee ff. Gg hh. Ii.")
        assert texts(split(whole, words, tokens=5, overlap=2)) == [
            "Aa bb. Cc. Dd.",
            "Cc. Dd. Ee ff.",
            "Ee ff. Gg hh. Ii.",
        ]

    def test_a_repetition_that_leaves_no_room_is_shortened(self) -> None:
        whole = document("Aa bb. Cc. Dd. Ee ff gg hh. Ii jj kk ll mm.")
        assert texts(split(whole, words, tokens=5, overlap=2)) == [
            "Aa bb. Cc. Dd.",
            "Dd. Ee ff gg hh.",
            "Ii jj kk ll mm.",
        ]

    def test_the_overlap_is_at_most_half(self) -> None:
        whole = document(" ".join(f"Word{n}." for n in range(100)))
        assert len(split(whole, words, tokens=10, overlap=99)) <= 20

    def test_fields_are_copied(self) -> None:
        whole = Document(
            id="d",
            text="Text.",
            title="T",
            source="s",
            metadata={"k": 1},
            sections=(Section(0, ("H",), 3),),
        )
        assert split(whole, words, tokens=10, overlap=0) == [
            Chunk(
                id=-1,
                document_id="d",
                text="Text.",
                start=0,
                end=5,
                section=("H",),
                page=3,
                title="T",
                source="s",
                metadata={"k": 1},
            )
        ]

    def test_a_document_without_text_has_no_chunks(self) -> None:
        assert split(document(" \n"), words, tokens=10, overlap=0) == []
        assert split(document("", Section(0, ("A",))), words, tokens=10, overlap=0) == []

    @pytest.mark.parametrize(("tokens", "overlap"), [(0, 0), (10, -1)])
    def test_impossible_sizes_are_rejected(self, tokens: int, overlap: int) -> None:
        with pytest.raises(BadInput, match=r"chunking\.tokens"):
            split(document("x"), words, tokens=tokens, overlap=overlap)

    def test_a_wrong_counter_is_noticed(self) -> None:
        with pytest.raises(ValueError, match="zip"):
            split(document("One. Two."), lambda _: [1], tokens=10, overlap=0)


class TestLongSentences:
    def test_are_cut_between_words(self) -> None:
        text = " ".join(f"w{n}" for n in range(1_000))
        chunks = split(document(text), words, tokens=16, overlap=0)
        assert max(words(texts(chunks))) <= 16
        assert " ".join(texts(chunks)) == text
        assert len(chunks) < 90

    def test_are_cut_between_chinese_characters(self) -> None:
        text = "中文" * 1_000
        chunks = split(document(text), characters, tokens=100, overlap=0)
        assert "".join(texts(chunks)) == text
        assert max(characters(texts(chunks))) <= 100

    def test_words_within_chinese_stay_whole(self) -> None:
        text = "中文LangChain" * 100
        for chunk in split(document(text), characters, tokens=50, overlap=0):
            assert chunk.text.count("LangChain") * 9 == sum(c.isascii() for c in chunk.text)

    def test_a_word_over_the_budget_is_cut_within(self) -> None:
        text = "a " + "x" * 1_000 + " b"
        whole = document(text)
        chunks = split(whole, characters, tokens=30, overlap=0)
        require_whole(whole, chunks)
        assert max(characters(texts(chunks))) <= 30

    def test_a_word_that_is_one_token_is_bounded_in_characters(self) -> None:
        chunks = split(document("x" * 10_000), words, tokens=10, overlap=5)
        assert max(characters(texts(chunks))) <= CHARS_A_TOKEN * 10

    def test_a_character_over_the_budget_is_a_chunk(self) -> None:
        whole = document("中文")
        chunks = split(whole, lambda t: [9 * len(x) for x in t], tokens=2, overlap=0)
        assert texts(chunks) == ["中", "文"]


class TestSections:
    def test_a_chunk_is_of_one_section(self) -> None:
        text = "Intro. Aa. Bb. Cc."
        whole = document(text, Section(7, ("A",)), Section(11, ("B",), 2))
        chunks = split(whole, words, tokens=100, overlap=50)
        assert [(c.text, c.section, c.page) for c in chunks] == [
            ("Intro.", (), None),
            ("Aa.", ("A",), None),
            ("Bb. Cc.", ("B",), 2),
        ]

    def test_odd_sections_are_harmless(self) -> None:
        whole = document("Aa. Bb.", Section(4, ("B",)), Section(0), Section(4, ("C",)), Section(99))
        chunks = split(whole, words, tokens=100, overlap=0)
        assert [(c.text, c.section) for c in chunks] == [("Aa.", ()), ("Bb.", ("C",))]

    def test_a_bare_heading_opens_the_section_under_it(self, tmp_path: Path) -> None:
        text = "Title\n=====\n\n# Part\n\n## Sub\n\ntext\n\n## Other\n\n# Last\n\n"
        chunks = split(markdown(tmp_path, text), words, tokens=100, overlap=0)
        assert [(c.text, c.section) for c in chunks] == [
            ("Title\n=====", ("Title",)),
            ("# Part\n\n## Sub\n\ntext", ("Part", "Sub")),
            ("## Other", ("Part", "Other")),
            ("# Last", ("Last",)),
        ]

    def test_a_setext_heading_is_bare_too(self, tmp_path: Path) -> None:
        chunks = split(markdown(tmp_path, "Top\n===\n\n## Sub\ntext"), words, tokens=9, overlap=0)
        assert texts(chunks) == ["Top\n===\n\n## Sub\ntext"]

    def test_headings_alone_still_give_chunks(self, tmp_path: Path) -> None:
        whole = markdown(tmp_path, "# A\n## B\n### C\n# D")
        chunks = split(whole, words, tokens=100, overlap=0)
        assert texts(chunks) == ["# A\n## B\n### C", "# D"]
        require_whole(whole, chunks)

    def test_very_many_sections(self) -> None:
        text = "# a\nA short line below a heading.\n"
        sections = [Section(len(text) * n, ("a",)) for n in range(20_000)]
        chunks = split(document(text * 20_000, *sections), words, tokens=9, overlap=4)
        assert len(chunks) == 20_000

    def test_a_text_of_hardly_anything_but_headings_makes_no_flood_of_chunks(self) -> None:
        parts = [f"# a{n // 500}\n" if n % 500 == 0 else f"## b{n}\n" for n in range(20_000)]
        starts = accumulate(map(len, parts), initial=0)
        sections = [
            Section(start, (f"a{n // 500}", f"b{n}") if n % 500 else (f"a{n // 500}",))
            for n, start in enumerate(starts)
        ]
        whole = document("".join(parts), *sections[:-1])
        chunks = split(whole, words, tokens=500, overlap=0)
        assert len(whole.text) / 450 < len(chunks) <= len(whole.text) / 400 + 1
        require_whole(whole, chunks)
        assert {len(chunk.section) for chunk in chunks} == {0, 1}
        for chunk in chunks:
            if chunk.section:  # it is below all the headings that it names
                assert f"# a{int(chunk.section[0][1:]) + 1}\n" not in chunk.text


class TestCounting:
    def test_sentences_are_counted_in_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(chunking, "BATCH", 10)
        sizes: list[int] = []

        def counter(batch: Sequence[str]) -> list[int]:
            sizes.append(len(batch))
            return words(batch)

        split(document("Word here. " * 95), counter, tokens=8, overlap=0)
        assert sizes == [10] * 9 + [5]
        sizes.clear()
        split(document("word " * 20_000), counter, tokens=8, overlap=0)
        assert max(sizes) == 10


class TestIndexedText:
    @pytest.mark.parametrize(
        ("text", "section", "plain", "titled"),
        [
            ("text", (), "text", "T\ntext"),
            ("text", ("A", "B"), "A > B\ntext", "T > A > B\ntext"),
            ("## B\ntext", ("A", "B"), "A\n## B\ntext", "T > A\n## B\ntext"),
            ("# A\n\n## *B* x\n\ntext", ("A", "B x"), "# A\n\n## *B* x\n\ntext", None),
            ("B\n---\ntext", ("B",), "B\n---\ntext", "T\nB\n---\ntext"),
            ("text", ("T",), "T\ntext", "T\ntext"),
            ("T\ntext", ("T",), "T\ntext", "T\ntext"),
            ("B is more", ("B",), "B\nB is more", "T > B\nB is more"),
            ("", ("B",), "B\n", "T > B\n"),
        ],
    )
    def test_headings_lead(
        self, text: str, section: tuple[str, ...], plain: str, titled: str | None
    ) -> None:
        chunk = Chunk(
            id=-1, document_id="d", text=text, start=0, end=len(text), section=section, title="T"
        )
        assert indexed_text(chunk, index_title=False) == plain
        if titled is not None:
            assert indexed_text(chunk, index_title=True) == titled

    def test_without_title_or_headings(self) -> None:
        chunk = Chunk(id=-1, document_id="d", text="text", start=0, end=4)
        assert indexed_text(chunk, index_title=True) == "text"


@given(
    st.text(alphabet="aB中 .。\n#-x") | st.text(),
    st.lists(st.tuples(st.integers(0, 60), st.lists(st.sampled_from("AB"), max_size=3))),
    st.integers(1, 12),
    st.integers(0, 12),
    st.sampled_from([words, characters]),
)
def test_every_character_is_in_a_chunk_that_fits(
    text: str,
    sections: list[tuple[int, list[str]]],
    tokens: int,
    overlap: int,
    count: TokenCounter,
) -> None:
    whole = document(text, *(Section(start, tuple(path)) for start, path in sections))
    chunks = split(whole, count, tokens=tokens, overlap=overlap)
    require_whole(whole, chunks)
    for chunk in chunks:
        assert len(chunk.text) <= CHARS_A_TOKEN * tokens
        if count is words:
            assert words([chunk.text])[0] <= tokens


@pytest.mark.parametrize("name", ["chunkeval_en", "cmrc_zh"])
def test_real_documents(data: Path, name: str) -> None:
    path = data / "qa" / name / "corpus.jsonl"
    for line in path.read_text("utf-8").splitlines()[:200]:
        whole = document(json.loads(line)["text"])
        chunks = split(whole, words, tokens=150, overlap=32)
        require_whole(whole, chunks)
        assert max(words(texts(chunks))) <= 150


def test_a_real_page(data: Path) -> None:
    (whole,) = read(data / "documents/html/test_wikipedia.html", max_bytes=1 << 20)
    assert isinstance(whole, Document)
    chunks = split(whole, words, tokens=150, overlap=32)
    require_whole(whole, chunks)
    assert indexed_text(chunks[-1], index_title=True).startswith("Microsoft - Wikipedia > ")
