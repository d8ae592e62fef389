"""Hostile text costs no more than its size: the interpreter's steps are counted, not seconds."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from markdown_it import MarkdownIt

from vivace.ingest.chunking import split
from vivace.ingest.formats import read
from vivace.ingest.markdown import headings
from vivace.ingest.prose import outline
from vivace.ingest.sandbox import Sandbox
from vivace.settings import Parse
from vivace.types import Document

SIZE = 12_000
MOST_STEPS = 40
"""For each character. Prose takes 3."""


def steps(function: Callable[[], object]) -> int:
    """Lines of Python that run."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def lengths(texts: Sequence[str]) -> list[int]:
    return [1 + len(text) // 4 for text in texts]


def require_linear(work: Callable[[str], object], unit: str, before: str = "") -> None:
    def text(size: int) -> str:
        return before + unit * (size // len(unit))

    once = steps(lambda: work(text(SIZE)))
    twice = steps(lambda: work(text(2 * SIZE)))
    assert twice <= 2.2 * once + 1_000
    assert once <= MOST_STEPS * SIZE


MARKDOWN = {
    "headings": "# h\n",
    "headings of all levels": "# a\n## b\n### c\n#### d\n##### e\n###### f\n",
    "open front matter": "a: b\n",
    "rules": "---\n",
    "underlined headings": "a\n===\n",
    "a long paragraph": "a\n",
    "emphasis": "*a **b ",
    "stars": "*",
    "brackets": "[",
    "links": "[a](",
    "quotations": ">",
    "spaced quotations": "> ",
    "quotations of all depths": "".join(">" * n + "\n" for n in range(60)),
    "list marks": "- ",
    "list items": "- a\n",
    "list items of all depths": "".join(" " * n + "- a\n" for n in range(0, 80, 2)),
    "headings in lists": "- # h\n",
    "numbers": "1. ",
    "table rows": "|a|b|\n",
    "bars": "|",
    "delimiter rows": "|a|\n|-|\n",
    "fences": "```\n",
    "long fences": "`",
    "fences of all lengths": "".join("`" * n + "\n" for n in range(3, 80)),
    "tags": "<a ",
    "attributes": " a",
    "comments": "<!--\n",
    "code": "    a\n",
    "definitions": "[a]: b\n",
    "headings of emphasis": "# " + "*a " * 300 + "\n",
    "headings of brackets": "# " + "[" * 900 + "\n",
    "headings of code": "# " + "".join("`" * n + " " for n in range(40)) + "\n",
    "empty lines": "\n",
    "tabs": "\t",
}


@pytest.mark.parametrize("unit", MARKDOWN.values(), ids=MARKDOWN)
@pytest.mark.parametrize("before", ["", "---\n", "- ", "> a\n", "<a", "a | b\n--|--\n"])
def test_finding_headings_is_linear(unit: str, before: str) -> None:
    require_linear(headings, unit, before)


SENTENCES = {
    "lines": "a\n",
    "paragraphs": "a\n\n",
    "stops": ".",
    "stops and letters": "a. ",
    "initials": "A. ",
    "stops before small letters": "! b ",
    "closed stops": '."',
    "cells": "a | ",
    "ideographs": "中",
    "ideographs with stops": "中。",
    "one word": "a",
    "words": "ab ",
    "spaces": " ",
    "empty lines": "\n",
}


@pytest.mark.parametrize("unit", SENTENCES.values(), ids=SENTENCES)
def test_chunking_is_linear(unit: str) -> None:
    def work(text: str) -> object:
        return split(Document("a", "x" + text), lengths, tokens=200, overlap=32)

    require_linear(work, unit)


def test_chunking_many_headings_is_linear() -> None:
    def work(text: str) -> object:
        document = Document("a", text, sections=outline(headings(text)))
        return split(document, lengths, tokens=200, overlap=32)

    require_linear(work, "# h\n")
    require_linear(work, "".join(f"{'#' * (1 + n % 6)} h\n" for n in range(60)))


FILES = {
    "rows.csv": (",\n", "a"),
    "cells.csv": ("a,", ""),
    "quotes.csv": ('"', ""),
    "a quotation.csv": ("a\n", '"'),
    "names.csv": ("1,", "a,b\n"),
    "objects.jsonl": ('{"text": "a"}\n', ""),
    "bad lines.jsonl": ("x\n", '{"text": "a"}\n'),
    "empty lines.jsonl": ("\n", '{"text": "a"}\n'),
    "one line.jsonl": ("[", '{"text": "a", "x": '),
    "array.json": ("1,", "[1,"),
}


@pytest.mark.parametrize("name", FILES)
def test_reading_tables_and_json_is_linear(tmp_path: Path, name: str) -> None:
    unit, before = FILES[name]
    path = tmp_path / name.replace(" ", "_")

    def work(text: str) -> object:
        path.write_text(text + "1]" if name == "array.json" else text)
        return list(read(path, max_bytes=1 << 20))

    require_linear(work, unit, before)


# -- whole files ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    sandbox = Sandbox(Parse(workers=1))
    yield sandbox
    sandbox.close()


def test_300_000_headings_are_a_document(tmp_path: Path, sandbox: Sandbox) -> None:
    (tmp_path / "a.md").write_text("# h\n" * 300_000)
    (document,) = sandbox.read(tmp_path / "a.md")
    assert isinstance(document, Document)
    assert len(document.sections) == 300_000
    chunks = split(document, lengths, tokens=200, overlap=32)
    assert len(chunks) == 3_000
    assert chunks[-1].end == 1_199_999


@pytest.mark.parametrize(
    "text",
    [
        "---\n" + "a: b\n" * 2_000_000,
        "---\n" + "a: b\n" * 2_000_000 + "---\n",
        "*a **b " * 1_500_000,
        "[" * 10_000_000,
        "> " * 5_000_000,
    ],
    ids=["open front matter", "front matter", "emphasis", "brackets", "quotations"],
)
def test_10_mb_of_markdown_are_a_document(tmp_path: Path, sandbox: Sandbox, text: str) -> None:
    (tmp_path / "a.md").write_text(text)
    (document,) = sandbox.read(tmp_path / "a.md")
    assert isinstance(document, Document)
    assert document.text == text


# -- the headings are CommonMark's ----------------------------------------------------------------

FRAGMENTS = [
    *["# h", "## g x", "a", "b c", "===", "---", "- ", "x", "* y", "1. z", "2. w", "10) k", "+"],
    *["> q", ">", "> - ", "- > ", "- - ", "- # l", "> # m", "> ---", "> ===", " > ", " -", "1."],
    *["    code", "  ", "   ", "    ", "  # i", "    # j", "\t", "\tx", "- \t# t", "* * *", "_ _"],
    *["```", "~~~", "```py", "<div>", "</div>", "<!-- c", "-->", "<b>", "<a href='x'>", "<?x"],
    *["<script>", "</script>", "\\", "[a]: b", "# a #", "中文", "# 中 *文*", "\u3000x", "?>"],
]
WHOLE_LINES = ["a | b", "--|--", "| a |", "|---|", ":-:|", "a\\|b", "-|", "| a | b |", "|:-|-:|"]


def reference(text: str) -> list[tuple[int, int, str]]:
    """The same by a complete parser, whose time is not linear."""
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    found = []
    tokens = MarkdownIt("commonmark").enable("table").disable("reference").parse(text)
    for at, token in enumerate(tokens):
        if token.type == "heading_open" and token.level == 0 and token.map:
            plain = "".join(
                " " if child.type in ("softbreak", "hardbreak") else child.content
                for child in tokens[at + 1].children or ()
                if child.type != "html_inline"
            )
            found.append((starts[token.map[0]], int(token.tag[1:]), " ".join(plain.split())))
    return found


def test_headings_are_those_of_a_complete_parser() -> None:
    chance = random.Random(17)

    def line() -> str:
        if chance.random() < 0.25:
            return chance.choice([*WHOLE_LINES, "", ""])
        parts = chance.choices(FRAGMENTS, k=chance.choice((1, 1, 1, 2, 3)))
        return " " * chance.choice((0, 0, 0, 1, 2, 3, 4, 5)) + "".join(parts)

    for _ in range(2_500):
        text = "\n".join(line() for _ in range(chance.randint(1, 9)))
        assert headings(text) == reference(text), text


def test_headings_of_real_documents_are_those_of_a_complete_parser() -> None:
    root = Path(__file__).parents[2]
    texts = [path.read_text("utf-8") for path in (*root.glob("*.md"), *root.glob("docs/**/*.md"))]
    assert len(texts) > 20
    for text in texts:
        assert headings(text) == reference(text)
        assert headings(text)
