"""Which part of the passages a prompt shows, and that citations still point at the right place."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vivace.answer.citations import check_citations
from vivace.generate.compression import (
    Excerpt,
    compress,
    deduplicated,
    ends_first,
    select_excerpts,
    truncate,
    whole_passages,
    within_budget,
)
from vivace.generate.prompts import PromptBuilder
from vivace.generate.templates import resolve
from vivace.settings import Answering, Generate
from vivace.types import AnswerOptions, Chunk, Hit, Query

COST = PromptBuilder(Generate(), Answering()).cost
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
        excerpts = whole_passages([hit(text), hit(text.upper(), 0.5, 900)])
        budget = sum(map(COST, excerpts)) // 3
        made = compress(question, excerpts, budget, COST)
        assert kept in made[0].text
        assert sum(map(COST, made)) <= budget
        assert len(made[0].text) < len(text)


def test_a_citation_of_compressed_text_has_the_documents_offsets() -> None:
    excerpt = whole_passages([hit(TEXT)])[0]
    sentences = excerpt.sentences()
    kept = excerpt.keeping([sentences[0], sentences[2], sentences[3]])
    assert kept.text == (
        "The hotel has forty rooms. … The notice period is six weeks. Guests may bring dogs."
    )
    (citation,) = check_citations("The notice period is six weeks [1].", [kept]).citations
    assert citation.text == "The notice period is six weeks."
    assert TEXT[citation.start - 100 : citation.end - 100] == citation.text
    (citation,) = check_citations("Breakfast is from seven [1].", [kept]).citations
    assert citation.text.startswith("The hotel")  # no shown sentence is like it: all of them


@given(st.text(max_size=300), st.integers(0, 400), st.text(max_size=40))
def test_compression_shows_spans_of_the_passage_within_the_budget(
    text: str, budget: int, question: str
) -> None:
    excerpts = whole_passages([hit(text), hit(TEXT, 0.7, 900)])
    made = compress(question, excerpts, budget, COST)
    assert len(made) == 1 or sum(map(COST, made)) <= budget
    for excerpt in made:
        assert list(excerpt.spans) == sorted(excerpt.spans)
        for start, end in excerpt.spans:
            assert excerpt.chunk.text[start:end] in excerpt.text


def test_repeated_sentences_are_shown_once() -> None:
    tail = TEXT[TEXT.index("Guests") :]
    made = deduplicated(
        whole_passages([hit(TEXT), hit(f"{tail} It closes at nine.", 0.5), hit(tail, 0.2)])
    )
    assert [excerpt.text for excerpt in made] == [TEXT, "It closes at nine."]
    assert [excerpt.rank for excerpt in made] == [0, 1]


def test_ends_first_puts_the_best_at_both_ends() -> None:
    ranks = [e.rank for e in ends_first(whole_passages([hit("x")] * 5))]
    assert ranks == [0, 2, 4, 3, 1]


def test_the_budget_is_filled_by_rank_and_the_best_truncated() -> None:
    excerpts = whole_passages([hit(TEXT), hit(TEXT, 0.5)])
    assert within_budget(excerpts, COST(excerpts[0]), COST) == excerpts[:1]
    (short,) = within_budget(excerpts, 40, COST)
    assert TEXT.startswith(short.text)
    split = Excerpt(excerpts[0].chunk, ((0, 10), (20, 30)))
    ((start, end),) = truncate(split, COST(split) // 2, COST).spans
    assert start == 0
    assert 0 < end <= 10


def test_each_step_is_switched_by_a_setting() -> None:
    hits = [hit(TEXT), hit(TEXT, 0.5), hit("Other. Text.", 0.4)]
    off = Answering(deduplicate=False)
    assert select_excerpts("notice?", hits, off, 9999, COST) == whole_passages(hits)
    assert len(select_excerpts("notice?", hits, Answering(), 9999, COST)) == 2
    on = Answering(deduplicate=False, order="ends", compress=0.5)
    made = select_excerpts("notice period?", hits, on, 9999, COST)
    assert sum(map(COST, made)) <= sum(map(COST, whole_passages(hits))) / 2


def test_structure_is_the_end_of_the_instructions() -> None:
    def told(**more: bool) -> str:
        answering = Answering(**more)  # type: ignore[arg-type]
        options = AnswerOptions()
        template = resolve(Query("q"), options)
        return PromptBuilder(Generate(), answering).build(template, [], options).messages[0].content

    assert told(structure=True).startswith(told())
    assert "Begin with the direct answer" in told(structure=True)
