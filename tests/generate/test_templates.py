"""Which template a request asks for, in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from vivace.errors import BadSettings
from vivace.generate.templates import (
    NOT_FOUND,
    built_in,
    classify,
    load,
    resolve,
    split_translation,
)
from vivace.types import AnswerOptions, Query


@pytest.mark.parametrize("name", sorted(built_in()))
@pytest.mark.parametrize("code", ["en", "zh"])
def test_every_template_has_both_languages(name: str, code: str) -> None:
    wording = built_in()[name].wording(code)
    assert wording.instructions
    assert wording.ask
    made = resolve(Query("问题" if code == "zh" else "question"), AnswerOptions(template="qa"))
    assert made.language == code
    assert "{" not in made.instructions + made.labelled_text


@pytest.mark.parametrize(
    ("question", "template", "target"),
    [
        ("How long is the notice period?", "qa", ""),
        ("What does the summary say?", "qa", ""),
        ("谁写了这个函数？", "qa", ""),
        ("为什么要总结？", "qa", ""),
        ("Please summarize the handbook in three sentences", "summary", ""),
        ("Give me a short summary of the handbook", "summary", ""),
        ("请把员工手册总结成三点", "summary", ""),
        ("Translate to French: The notice period is six weeks.", "translation", "French"),
        (
            'Could you translate "Good day" to Simplified Chinese?',
            "translation",
            "Simplified Chinese",
        ),
        ("把试用期的规定翻译成德语", "translation", "德语"),
        ("Write a function that parses dates", "code", ""),
        ("请帮我编写一个 Python 脚本", "code", ""),
    ],
)
def test_requests_are_classified_by_their_words(question: str, template: str, target: str) -> None:
    assert classify(question) == (template, target)
    if template != "qa":
        # only auto classifies
        assert resolve(Query(question), AnswerOptions()).name == "qa"
        assert resolve(Query(question), AnswerOptions(template="auto")).name == template


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ("Translate into Klingon\nmy hovercraft is full", "my hovercraft is full"),
        ("请把“通知期为六周”翻译成英文", "通知期为六周"),
        ("Translate the part on notice into German", ""),
        ("The notice period is six weeks.", "The notice period is six weeks."),
    ],
)
def test_the_text_of_a_translation_request(request_: str, text: str) -> None:
    assert split_translation(request_).text == text


def test_the_users_files_overlay_the_built_in_ones(tmp_path: Path) -> None:
    (tmp_path / "qa.toml").write_text('[en]\nask = "Asked: "\n')
    haiku = '[en]\ninstructions = "A haiku in {target}."\nask = ""\n'
    (tmp_path / "haiku.toml").write_text(
        'retrieves = "optional"\n' + haiku + haiku.replace("[en]", "[zh]")
    )
    templates = load(str(tmp_path))
    made = resolve(Query("Why?"), AnswerOptions(), templates)
    assert made.labelled_text == "Asked: Why?"
    assert NOT_FOUND["en"] in made.instructions
    assert templates["qa"].zh == built_in()["qa"].zh
    named = resolve(Query("Why?"), AnswerOptions(template="haiku", target_language="fr"), templates)
    assert named.instructions == "A haiku in fr."


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("qa", "[en]\nask = 3\n", "qa.toml"),
        ("new", "[en]\nask = 'x'\n", "new.toml"),
        ("auto", "", "auto"),
        ("qa", "= 3", "qa.toml"),
    ],
)
def test_a_file_that_is_no_template_is_refused_by_name(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / f"{name}.toml").write_text(text)
    with pytest.raises(BadSettings, match=said):
        load(str(tmp_path))
    with pytest.raises(BadSettings, match="no folder"):
        load(str(tmp_path / "none"))
