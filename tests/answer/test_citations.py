"""Markers in an answer, checked against the passages."""

from __future__ import annotations

import time

import pytest

from vivace.answer.citations import CheckedCitations, check_citations
from vivace.generate.compression import whole_passages
from vivace.types import Chunk, Hit

ONE = "The sky is blue. Grass is green in spring. Snow is white."
TWO = "试用期为三个月。年假为三十天。"
CHUNKS = (Chunk("a", ONE, 100, 100 + len(ONE), id=1), Chunk("b", TWO, 7, 7 + len(TWO), id=2))


def check(answer: str) -> CheckedCitations:
    return check_citations(answer, whole_passages([Hit(chunk, 1.0) for chunk in CHUNKS]))


def spans(answer: str, checked: CheckedCitations) -> list[tuple[str, int]]:
    return [(answer[s.start : s.end], s.citation) for s in checked.spans]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Grass is green [1].", [("Grass is green", 1)]),
        ("Grass is green. [1] Snow, too.", [("Grass is green.", 1)]),
        ("Grass is green.[1] Snow is white [1].", [("Grass is green.", 1), ("Snow is white", 1)]),
        ("Grass [1] is green.", [("Grass [1] is green.", 1)]),
        ("Both [1, 2].", [("Both", 1), ("Both", 2)]),
        ("Both [1][2].", [("Both", 1), ("Both", 2)]),
        ("年假为三十天【2】。", [("年假为三十天", 2)]),
        ("年假为三十天。【2】试用期也有。", [("年假为三十天。", 2)]),
        ("年假为三十天［1、2］。", [("年假为三十天", 1), ("年假为三十天", 2)]),
        ("Nothing is cited.", []),
        ("In [2023] it was so.", []),
        ("[1]", []),
    ],
)
def test_spans_are_the_sentences_that_markers_follow(
    answer: str, expected: list[tuple[str, int]]
) -> None:
    checked = check(answer)
    assert spans(answer, checked) == expected
    assert checked.unknown == ()


def test_a_citation_is_the_sentence_that_supports_the_claim() -> None:
    (one,) = check("In spring the grass turns green [1].").citations
    assert (one.number, one.text) == (1, "Grass is green in spring.")
    assert ONE[one.start - 100 : one.end - 100] == one.text
    (two,) = check("年假是三十天 [2]。").citations
    assert two.text == "年假为三十天。"
    assert TWO[two.start - 7 : two.end - 7] == two.text


def test_two_claims_of_one_passage_are_one_citation_over_both() -> None:
    (one,) = check("The sky is blue [1]. Grass is green [1].").citations
    assert one.text == "The sky is blue. Grass is green in spring."


def test_a_claim_without_support_cites_the_whole_passage() -> None:
    (one,) = check("Elephants never forget [1].").citations
    assert one.text == ONE
    assert one.end - one.start == len(ONE)


def test_numbers_without_a_passage_are_reported_and_not_cited() -> None:
    checked = check("Grass is green [1][7]. So is moss [0].")
    assert [c.number for c in checked.citations] == [1]
    assert checked.unknown == (7, 0)


@pytest.mark.parametrize("answer", ["a{}b [1]", "[1]{}b", "a [1]{}. b"])
def test_a_run_of_spaces_takes_linear_time(answer: str) -> None:
    """Eight times the spaces take eight times the time, not sixty-four."""

    def seconds(spaces: int) -> float:
        text = answer.format(" " * spaces)
        started = time.process_time()
        for _ in range(3):
            check(text)
        return time.process_time() - started

    seconds(1_000)
    assert seconds(32_000) < 30 * max(seconds(4_000), 1e-3)


def test_spaces_before_a_marker_are_not_in_the_span() -> None:
    checked = check("Grass is green   [1]  [2] .\n  [1] Snow.")
    assert spans("Grass is green   [1]  [2] .\n  [1] Snow.", checked)[:2] == [
        ("Grass is green", 1),
        ("Grass is green", 2),
    ]


def test_many_brackets_take_linear_time() -> None:
    assert check("[1" * 20_000 + "[1, " * 20_000).citations == ()
