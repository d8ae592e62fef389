"""One request for an answer: its template is resolved once, and its passages are searched once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from vivace.generate.templates import ResolvedTemplate, Templates, built_in, resolve
from vivace.protocols import Search
from vivace.retrieve.query import check
from vivace.run.streams import LazyStream
from vivace.settings import Settings
from vivace.types import AnswerOptions, Delta, Query, SearchResult

_DEFAULTS = AnswerOptions()


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """A question with its options, the template they resolve to, and the way to its passages."""

    query: Query
    search: Search
    options: AnswerOptions
    template: ResolvedTemplate


class TemplateAnswerer(ABC):
    """An `Answerer` of requests for any template.

    Args:
        templates: the kinds of answers there are; the built-in ones by default.
    """

    name: str

    def __init__(self, settings: Settings, templates: Templates | None) -> None:
        self.settings = settings
        self.templates = built_in() if templates is None else templates

    def stream(
        self, query: Query, search: Search, options: AnswerOptions = _DEFAULTS
    ) -> LazyStream[Delta]:
        """The answer in pieces; the last delta carries the whole `Answer`.

        Raises:
            BadInput: there is no such template, or no language to translate into.
            BadQuery: the question, or the text to translate, is empty or too long.
        """

        async def begin() -> AsyncIterator[Delta]:
            template = resolve(query, options, self.templates)
            return await self.begin(AnswerRequest(query, search, options, template))

        return LazyStream(begin)

    @abstractmethod
    async def begin(self, request: AnswerRequest) -> AsyncIterator[Delta]:
        """Find the passages, then return the stream of the answer."""

    async def close(self) -> None:  # noqa: B027  # most have nothing to stop
        """Stop background work. Idempotent."""

    async def passages(self, request: AnswerRequest, question: str) -> SearchResult:
        """What a search finds for `question`; nothing where a text is to be translated."""
        query = request.query
        if request.template.reads == "nothing":
            check(query, self.settings.search.max_question_chars)
            return SearchResult((), 0)
        return await request.search(
            query if question == query.text else replace(query, text=question)
        )
