"""Where do the sentences begin and end?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.text.sentences import sentences


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    "parts",
    [
        ["It rains.", "It pours!", "Does it?", "Yes."],
        ["Dr. Smith met Mrs. Jones at No. 5 on Jan. 3 in St. Louis.", "They left."],
        ["He left the U.S. Army in the U.K. for good.", "He came back."],
        ["She lives in the U.S.", "The rent is low."],
        ["Use a list, e.g. this one, i.e. yours, etc.", "The end."],
        ["It is by J. R. R. Tolkien.", "I read it."],
        ["It was by J. A. Hobson and me."],
        ["It was you and I.", "Then it stopped."],
        ["Pi is 3.14 in file.txt at 10.0.0.1.", "Good."],
        ["I said no.", "He said yes."],
        ["He waited... and waited.", "Then...", "Nothing."],
        ["He waited… and left."],
        ['"Really?" he asked.', '"Yes!"', "(It was so.)", "“Fine.”", "End."],
        ["Rome fell.[12]", "It was late.[3][4]", "So."],
        ["What?!", "No way!!!", "Oh."],
        ["it is small.", "it stays small."],
        ["Acme Inc. makes them.", "Acme Co. Ltd.", "The maker."],
        ["1. First things first.", "Then the rest."],
        ["It grew to 42.", "Then it stopped."],
        ["It is No. 5.", "I said so.", "He left the U.K.", "Then."],
        ["See Fig. 3 for it.", "See the fig.", "It is ripe."],
        ["Visit www.example.com today.", "Bye."],
    ],
)
def test_english_text_is_split_at_sentence_ends(parts: list[str]) -> None:
    assert split(" ".join(parts)) == parts


@pytest.mark.parametrize(
    "parts",
    [
        ["今天下雨。", "你带伞了吗？", "没有！"],
        ["我想……", "算了；", "好吧。"],
        ["他说：“你好！”", "然后走了。", "「真的？」", "（见图1。）", "完。"],
        ["“真的吗？”，她问。", "是。"],
        ["价格是3.5元。", "成立于2001年.", "由于原因"],
        ["它叫GPT.好"],  # as likely a dot within a name
        ["1.由于天气"],
        ["真的!", "好"],
    ],
)
def test_chinese_text_is_split_at_sentence_ends(parts: list[str]) -> None:
    assert split("".join(parts)) == parts


def test_a_blank_line_always_ends_a_sentence() -> None:
    long = "a line that is much longer than a heading would be, without any stop"
    assert split(f"{long}\n\n{long}\n \t\n{long} e.g.\n\nX") == [long, long, f"{long} e.g.", "X"]


def test_a_wrapped_line_goes_on() -> None:
    text = "This sentence has been wrapped by an editor at some column\nand it goes on. Next one."
    assert split(text) == [text[:-10], "Next one."]
    chinese = "这一行文字很长，被编辑器在某一列之后自动换行，所以还没有结束\n这里才结束。"
    assert split(chinese) == [chinese]


@pytest.mark.parametrize(
    "below",
    [
        "- item",
        "* item",
        "• item",
        "1. item",
        "(2) item",
        "a) item",
        "一、项目",
        "# Heading",
        "| a | b |",
        "> quoted",
        "```python",
        "    code()",
        "\tcode()",
    ],
)
def test_structure_below_ends_a_line(below: str) -> None:
    above = "a line that is much longer than a heading would be, without any stop"
    assert split(f"{above}\n{below}") == [above, below.strip()]


@pytest.mark.parametrize("above", ["Short heading", "短标题", "# x" * 30, "| a" * 30, "> b" * 30])
def test_short_and_marked_lines_end(above: str) -> None:
    assert split(f"{above}\nand the text below it") == [above, "and the text below it"]


def test_rows_of_cells_end() -> None:
    row = "a cell with much text in it | another cell with much text in it"
    assert split(f"{row}\n{row}") == [row, row]


def test_a_stop_at_the_end_of_a_line_may_end_the_line_only() -> None:
    assert split("Made by Acme e.g.\nlower") == ["Made by Acme e.g.", "lower"]


def test_only_the_range_is_read() -> None:
    text = "One. Two is here. Three."
    assert [text[a:b] for a, b in sentences(text, 5)] == ["Two is here.", "Three."]
    assert [text[a:b] for a, b in sentences(text, 4, 11)] == ["Two is"]
    assert sentences(text, 4, 5) == sentences(text, 99) == []
    assert sentences(text, 18, 10_000) == [(18, 24)]


def test_blank_text_has_no_sentences() -> None:
    assert sentences("") == sentences(" \n\n\t") == []
    assert split("...") == ["..."]


@given(
    st.one_of(
        st.text(), st.text(alphabet='aB1.!?。；… \n\t"”)[]#|-e,g你，'), st.text(alphabet="a.\n ")
    ),
    st.integers(0, 5),
    st.integers(0, 30) | st.none(),
)
def test_spans_cover_everything_but_whitespace(text: str, start: int, end: int | None) -> None:
    position = start
    for first, last in sentences(text, start, end):
        assert text[position:first].strip() == ""
        assert first < last
        assert text[first:last] == text[first:last].strip()
        position = last
    assert text[position:end].strip() == ""


@pytest.mark.parametrize(
    "text",
    [
        "word " * 400_000,
        "x" * 2_000_000,
        "\n" * 1_000_000,
        ("\n" + " " * 1_000 + "a") * 1_000,
        "." + ")[" * 500_000,
        "." * 2_000_000,
        "[1" * 500_000,
    ],
)
def test_hostile_text_takes_linear_time(text: str) -> None:
    # Quadratic time would run into the timeout of every test.
    assert len(sentences(text)) <= 1_001


def test_real_paragraphs_fall_into_sentences_of_a_sensible_length(data: Path) -> None:
    lengths: list[int] = []
    for line in (data / "qa/squad2dev_en/corpus.jsonl").read_text("utf-8").splitlines():
        lengths.extend(end - start for start, end in sentences(json.loads(line)["text"]))
    assert 110 < sum(lengths) / len(lengths) < 190
    assert sum(length < 15 for length in lengths) < 0.01 * len(lengths)
