"""Which terms is a text found by?"""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.text import terms as module
from vivace.text.terms import LONGEST_TERM, holds, plain, terms, words


def test_english_words_are_stemmed_and_stop_words_left_out() -> None:
    assert terms("The companies were running fast, and the company ran.") == [
        "compani",
        "run",
        "fast",
        "compani",
        "ran",
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("the company's plan", "the company plan"),
        ("the company’s plan", "the company's plan"),
        ("U.S. Army", "US army"),
        ("naïve Ångström Đorđe", "naive angstrom dorde"),
        ("nai\u0308ve", "naïve"),
        ("ＡＢＣ １２", "abc 12"),
        ("İstanbul", "istanbul"),
        ("STRASSE", "straße"),
        ("snake_case", "snake case"),
        ("_U.S._", "us"),
        ("ｶﾞｷﾞ", "ガギ"),
        ("l'homme", "l homme"),
    ],
)
def test_spellings_that_mean_the_same_have_the_same_terms(one: str, other: str) -> None:
    assert terms(one) == terms(other) != []


def test_contractions_of_stop_words_are_stop_words() -> None:
    assert terms("It's what they don't want, isn't it") == ["want"]


def test_chinese_gives_characters_and_pairs() -> None:
    assert terms("机器学习") == ["机", "器", "学", "习", "机器", "器学", "学习"]
    assert terms("中") == ["中"]


def test_mixed_text_keeps_each_script_to_its_own_rule() -> None:
    assert terms("使用LangChain的vectors，第3章 the naïve Привет") == [
        *("使", "用", "使用"),
        "langchain",
        "的",
        "vector",
        *("第", "3", "章"),
        "naiv",
        "привет",
    ]
    assert terms("中Привет文") == ["中", "привет", "文"]


def test_japanese_and_korean_are_indexed_like_chinese() -> None:
    assert terms("東京の") == ["东", "京", "の", "东京", "京の"]  # as simplified, here and there
    assert terms("한국") == ["한", "국", "한국"]


def test_words_of_scripts_with_marks_stay_whole() -> None:
    assert terms("हिन्दी में") == ["हिन्दी", "में"]


def test_a_text_of_stop_words_alone_keeps_them() -> None:
    assert terms("To be, or not to be?") == ["to", "be", "or", "not", "to", "be"]
    assert terms("it's") == ["its"]
    assert terms("Who are you, naïve?") == ["naiv"]


def test_text_without_words_has_no_terms() -> None:
    assert terms("") == terms("?! …。") == []


def test_very_long_words_are_cut() -> None:
    assert terms("x" * (2 * LONGEST_TERM + 1)) == ["x" * LONGEST_TERM] * 2 + ["x"]
    assert max(map(len, terms("é" * 1_000))) == LONGEST_TERM
    assert max(map(len, terms("中" + "x" * 1_000))) == LONGEST_TERM
    assert max(map(len, terms("中 " + "x" * 1_000))) == LONGEST_TERM


def test_a_long_run_of_chinese_keeps_every_pair() -> None:
    run = "".join(chr(0x4E00 + number) for number in range(1_000))
    assert len(terms(run)) == 1_999


def test_long_runs_of_combining_marks_are_harmless() -> None:
    # Normalising n marks takes n^2 steps: unbounded, this would take half an hour.
    assert terms("a" + "\u0301\u0327" * 1_000_000)[0] == "a"


def test_remembered_stems_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    stems = module.Stems()
    monkeypatch.setattr(module, "_REMEMBERED_STEMS", len(module.STOP_WORDS) + 10)
    words = [f"word{number}" for number in range(100)]
    assert [stems[word] for word in words] == words
    assert (stems["the"], stems["running"]) == ("", "run")
    assert len(stems) <= len(module.STOP_WORDS) + 10


def test_threads_agree() -> None:
    text = " ".join(f"running{n} companies naïve 机器学习" for n in range(500))
    results: list[list[str]] = []
    threads = [threading.Thread(target=lambda: results.append(terms(text))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [terms(text)] * 4


@given(st.text())
def test_no_term_is_empty_or_has_whitespace(text: str) -> None:
    for term in terms(text):
        assert term
        assert term.split() == [term]


@given(st.text(alphabet="ab 中文é'._A3"), st.text(alphabet="ab 中文é'._A3"))
def test_a_text_has_the_terms_of_its_parts(one: str, other: str) -> None:
    whole = terms(f"{one} word\n{other} word")
    parts = [*terms(f"{one} word"), *terms(f"{other} word")]
    assert whole == parts


def test_traditional_characters_are_found_by_simplified_ones() -> None:
    assert terms("統計學") == terms("统计学")
    assert terms("電腦 and IBM") == terms("电脑 and IBM")
    assert plain("《統計學》，Café_2") == "统计学 cafe 2"


def test_the_table_is_one_for_one() -> None:
    pairs = module.SIMPLIFIED
    assert len(pairs) > 2000
    assert all(isinstance(to, int) and to != of for of, to in pairs.items())


@pytest.mark.parametrize(
    ("phrase", "there"),
    [("red apple", True), ("red app", False), ("ed apple", False), ("苹果", True), ("个苹", True)],
)
def test_a_phrase_ends_with_its_words(phrase: str, there: bool) -> None:
    assert holds(plain("A red apple 一个苹果"), phrase) is there


def test_words_are_terms_without_pairs() -> None:
    assert words("The GPU's 显存不足!") == ["gpu", "显", "存", "不", "足"]
    assert words("檢索 running") == ["检", "索", "run"]
    assert words("The companies were running") == terms("The companies were running")
    assert words("to be") == ["to", "be"]
    assert words("カタカナ é") == ["カ", "タ", "カ", "ナ", "e"]


PIECES = st.sampled_from(
    [
        *"aBst09 '’.,_\n\x1c·—“”…　。＇．＿ａＢ１（中國国カ々é",
        "it's",
        "n't",
        "'s",
        "u.s.",
        "ab" * 40,
    ]
)


@given(st.lists(PIECES, max_size=10).map("".join))
def test_the_fast_way_gives_the_same(text: str) -> None:
    """A word with an accent sends the text the slow way round, and adds its term at the end."""
    slowly = terms(f"{text} évènt")
    assert slowly[-1] == "event"
    if slowly[:-1]:
        assert terms(text) == slowly[:-1]
    else:  # stop words alone, which are left out where there is another word
        assert not terms(f"{text} event")[:-1]
