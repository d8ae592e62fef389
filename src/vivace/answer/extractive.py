"""An answer without a language model: the sentences that answer best, quoted and cited."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from math import log

import numpy as np

from vivace.answer.templated import AnswerRequest, TemplateAnswerer
from vivace.errors import EmbeddingError
from vivace.generate.templates import DEFAULT, NOT_FOUND, Templates, answer_language
from vivace.protocols import Embedder
from vivace.settings import Settings
from vivace.text.language import language, without_asking
from vivace.text.sentences import sentences
from vivace.text.terms import terms
from vivace.types import Answer, Citation, Delta, Hit, Query, Scores, SearchResult, Span

_MOST_SENTENCES = 60
_LONGEST = 600
"""Characters; a longer sentence (a table, a minified line) is quoted up to here."""
_NEAR_BEST = 0.8
"""Further sentences are quoted only when they score this share of the best one."""
_HIT_SHARE = 0.15
"""Of a sentence's score that is the score of its passage."""

FOUND = 0.4
"""A sentence answers from this likeness to the question, the mean of cosine and covered words, or
covered words alone. Calibrated: of questions that the documents answer 97 % reach it in English
(SQuAD) and 90 % in Chinese (CMRC 2018), of questions about something else 2 % and 10 %."""

_MARKUP = re.compile(r"^(#{1,6}\s|[|>]|```|[-=*_]{3,}\s*$)")

_INTRODUCTION = {
    "en": "These are the documents' own words; no language model wrote them:\n",
    "zh": "以下是文档原文，并非由语言模型撰写：\n",
}


@dataclass(frozen=True, slots=True)
class _Sentence:
    hit: Hit
    start: int
    """In the document."""
    end: int
    text: str


class Extractive(TemplateAnswerer):
    """Quotes the passages, and says that no model wrote the answer."""

    name = "extractive"

    def __init__(
        self, embedder: Embedder, settings: Settings, templates: Templates | None = None
    ) -> None:
        super().__init__(settings, templates)
        self._embedder = embedder

    async def begin(self, request: AnswerRequest) -> AsyncIterator[Delta]:
        return self.quotes(request, await self.passages(request, request.template.text))

    async def quotes(self, request: AnswerRequest, result: SearchResult) -> AsyncIterator[Delta]:
        """The answer sentence by sentence; the last delta carries the whole of it.

        The options change nothing: they are for models. `degraded` says so where a template or a
        target language was asked for.
        """
        query, template = request.query, request.template
        code = answer_language(query.text)
        read = min(self.settings.answer.passages, len(result.hits))
        degraded = result.degraded
        if template.name != DEFAULT or request.options.target_language:
            wanted = "translation" if template.name == DEFAULT else template.name
            degraded = (*degraded, f"without a language model: quotes, no {wanted}")
        chosen, note = await self._best(query, result.hits[:read])
        answer = Answer(
            NOT_FOUND[code],
            result.hits,
            found=bool(chosen),
            generator=self.name,
            degraded=(*degraded, *note),
            read=read,
        )
        if not chosen:
            yield Delta(answer.text)
            yield Delta(answer=answer)
            return
        text = _INTRODUCTION[code]
        yield Delta(text)
        citations, spans = [], []
        for number, sentence in enumerate(chosen, start=1):
            # a source's line breaks are not the reader's; the citation keeps the exact text
            quote = " ".join(sentence.text.split())
            line = f"\n“{quote}” [{number}]"
            start = len(text) + 2
            spans.append(Span(start, start + len(quote), number))
            citations.append(
                Citation(number, sentence.hit.chunk, sentence.start, sentence.end, sentence.text)
            )
            text += line
            yield Delta(line)
        yield Delta(
            answer=replace(answer, text=text, citations=tuple(citations), spans=tuple(spans))
        )

    async def _best(
        self, query: Query, hits: Sequence[Hit]
    ) -> tuple[list[_Sentence], tuple[str, ...]]:
        """The sentences to quote, in reading order, and a note where the embedder failed."""
        candidates = _candidates(hits)
        likeness = _coverage(query.text, candidates)
        note: tuple[str, ...] = ()
        if candidates and self._embedder.reads(language(query.text)):
            texts = [query.text, *(sentence.text for sentence in candidates)]
            try:
                vectors = (await self._embedder.embed(texts, kind="query")).vectors
                likeness = (likeness + vectors[1:] @ vectors[0]) / 2
            except EmbeddingError as error:
                note = (f"sentences chosen by words alone: {error.what}",)
        return _choose(candidates, likeness, self.settings.answer.sentences), note


def _choose(candidates: Sequence[_Sentence], likeness: Scores, most: int) -> list[_Sentence]:
    answers = np.flatnonzero(likeness >= FOUND)
    if not len(answers):
        return []
    top = max(sentence.hit.score for sentence in candidates) or 1.0
    prior = np.array([sentence.hit.score / top for sentence in candidates], np.float32)
    scores = (1 - _HIT_SHARE) * likeness + _HIT_SHARE * prior
    best = float(scores[answers].max())
    near = [int(at) for at in answers if scores[at] >= _NEAR_BEST * best]
    first: dict[str, int] = {}
    for at in sorted(near, key=lambda at: -scores[at]):
        first.setdefault(candidates[at].text, at)
    return [candidates[at] for at in sorted(list(first.values())[:most])]


def _candidates(hits: Sequence[Hit]) -> list[_Sentence]:
    found: list[_Sentence] = []
    places: set[tuple[str, int, int]] = set()
    for hit in hits:
        for start, end in sentences(hit.chunk.text):
            end = min(end, start + _LONGEST)
            text = hit.chunk.text[start:end]
            place = (hit.chunk.document_id, hit.chunk.start + start, hit.chunk.start + end)
            # neighbouring chunks overlap: the same sentence is one candidate
            if place in places or _MARKUP.match(text) or not any(c.isalnum() for c in text):
                continue
            places.add(place)
            found.append(_Sentence(hit, place[1], place[2], text))
    return found[:_MOST_SENTENCES]


def _coverage(question: str, candidates: Sequence[_Sentence]) -> Scores:
    """The share of the question's terms in each sentence, weighted by how rare they are here."""
    wanted = set(terms(without_asking(question)))
    held = [wanted.intersection(terms(sentence.text)) for sentence in candidates]
    total = len(held) + 1
    weights = {t: log(1 + total / (1 + sum(t in words for words in held))) for t in wanted}
    whole = sum(weights.values()) or 1.0
    return np.array([sum(weights[t] for t in words) / whole for words in held], np.float32)
