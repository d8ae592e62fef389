"""Which part of the passages a prompt shows, and that citations still point at the right place."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vivace.answer.citations import check
from vivace.generate.compression import compress
from vivace.generate.excerpts import Excerpt, whole
from vivace.generate.optimise import cut, deduplicated, ends_first, shaped, within
from vivace.generate.prompts import build, price
from vivace.settings import Answering
from vivace.types import AnswerOptions, Chunk, Hit, Query

TEXT = (
    "The hotel has forty rooms. Breakfast is served from seven. The notice period is six weeks. "
    "Guests may bring dogs. The garden is open in summer."
)
ZH = "酒店有四十个房间。早餐七点开始。通知期为六周。客人可以带狗。花园夏天开放。"


def hit(text: str, score: float = 1.0, start: int = 100) -> Hit:
    return Hit(Chunk("d", text, start, start + len(text), id=start), score)


def test_sentences_that_bear_on_the_question_are_kept() -> None:
    for text, question, kept in (
        (TEXT, "How long is the notice period?", "The notice period is six weeks."),
        (ZH, "通知期有多长？", "通知期为六周。"),
    ):
        excerpts = whole([hit(text), hit(text.upper(), 0.5, 900)])
        budget = sum(map(price(), excerpts)) // 3
        made = compress(question, excerpts, budget, price())
        assert kept in made[0].text
        assert sum(map(price(), made)) <= budget
        assert len(made[0].text) < len(text)


def test_a_citation_of_compressed_text_has_the_documents_offsets() -> None:
    excerpt = whole([hit(TEXT)])[0]
    sentences = excerpt.sentences()
    kept = excerpt.keeping([sentences[0], sentences[2], sentences[3]])
    assert kept.text == (
        "The hotel has forty rooms. … The notice period is six weeks. Guests may bring dogs."
    )
    (citation,) = check("The notice period is six weeks [1].", [kept]).citations
    assert citation.text == "The notice period is six weeks."
    assert TEXT[citation.start - 100 : citation.end - 100] == citation.text
    (citation,) = check("Breakfast is from seven [1].", [kept]).citations
    assert citation.text.startswith("The hotel")  # no shown sentence is like it: all of them


@given(st.text(max_size=300), st.integers(0, 400), st.text(max_size=40))
def test_nothing_is_made_up_and_the_budget_holds(text: str, budget: int, question: str) -> None:
    excerpts = whole([hit(text), hit(TEXT, 0.7, 900)])
    made = compress(question, excerpts, budget, price())
    assert len(made) == 1 or sum(map(price(), made)) <= budget
    for excerpt in made:
        assert list(excerpt.spans) == sorted(excerpt.spans)
        for start, end in excerpt.spans:
            assert excerpt.chunk.text[start:end] in excerpt.text


def test_what_was_shown_is_not_shown_again() -> None:
    tail = TEXT[TEXT.index("Guests") :]
    made = deduplicated(whole([hit(TEXT), hit(f"{tail} It closes at nine.", 0.5), hit(tail, 0.2)]))
    assert [excerpt.text for excerpt in made] == [TEXT, "It closes at nine."]
    assert [excerpt.rank for excerpt in made] == [0, 1]


def test_the_best_are_at_both_ends() -> None:
    ranks = [e.rank for e in ends_first(whole([hit("x")] * 5))]
    assert ranks == [0, 2, 4, 3, 1]


def test_the_budget_is_by_rank_and_the_best_is_cut() -> None:
    excerpts = whole([hit(TEXT), hit(TEXT, 0.5)])
    assert within(excerpts, price()(excerpts[0]), price()) == excerpts[:1]
    (short,) = within(excerpts, 40, price())
    assert TEXT.startswith(short.text)
    split = Excerpt(excerpts[0].chunk, ((0, 10), (20, 30)))
    ((start, end),) = cut(split, price()(split) // 2, price()).spans
    assert start == 0
    assert 0 < end <= 10


def test_each_is_on_or_off_by_a_setting() -> None:
    excerpts = whole([hit(TEXT), hit(TEXT, 0.5), hit("Other. Text.", 0.4)])
    off = Answering(deduplicate=False)
    assert shaped("notice?", excerpts, off, 9999, price()) == excerpts
    assert len(shaped("notice?", excerpts, Answering(), 9999, price())) == 2
    on = Answering(deduplicate=False, order="ends", compress=0.5)
    made = shaped("notice period?", excerpts, on, 9999, price())
    assert sum(map(price(), made)) <= sum(map(price(), excerpts)) / 2


def test_structure_is_told_at_the_end_of_the_instructions() -> None:
    def told(**more: bool) -> str:
        answering = Answering(**more)  # type: ignore[arg-type]
        return (
            build(Query("q"), [], AnswerOptions(), budget=99, answering=answering)
            .messages[0]
            .content
        )

    assert told(structure=True).startswith(told())
    assert "Begin with the direct answer" in told(structure=True)
