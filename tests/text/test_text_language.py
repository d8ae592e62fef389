"""Which language is this text in?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.text.language import LANGUAGES, language


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("What is retrieval?", "en"),
        ("Où est la bibliothèque française ?", "en"),
        ("for i in range(10): x += 1", "en"),
        ("12345", "en"),
        ("“42”", "en"),
        ("ＡＢＣ", "en"),
        ("检索增强生成是什么？", "zh"),
        ("檢索增強生成", "zh"),
        ("如何在 PostgreSQL 数据库中使用 LangChain?", "zh"),
        ("Elasticsearch是什么", "zh"),
        ("他喜欢の这个字", "zh"),
        ("東京都の人口は何人ですか", "ja"),
        ("한국어 문장입니다", "ko"),
        ("Привет, мир", "und"),
        ("שלום עולם", "und"),
        ("مرحبا بالعالم", "und"),
        ("", "und"),
        (" \n", "und"),
        ("!?…。", "und"),
    ],
)
def test_the_script_most_of_the_text_is_in(text: str, code: str) -> None:
    assert language(text) == code


def test_an_english_paragraph_that_quotes_chinese_names_is_english() -> None:
    text = "The names 邓小平 and 毛泽东 are quoted in this paragraph, which is written in English."
    assert language(text) == "en"


def test_long_text_is_judged_by_its_beginning_middle_and_end() -> None:
    assert language("é" + "word " * 10_000) == "en"
    assert language("title " + "中文" * 100_000 + " end") == "zh"


@given(st.text())
def test_every_text_has_a_known_code(text: str) -> None:
    assert language(text) in LANGUAGES


@pytest.mark.parametrize(("name", "code"), [("squad2dev_en", "en"), ("cmrc_zh", "zh")])
def test_real_paragraphs(data: Path, name: str, code: str) -> None:
    lines = (data / "qa" / name / "corpus.jsonl").read_text("utf-8").splitlines()
    assert {language(json.loads(line)["text"]) for line in lines} == {code}
