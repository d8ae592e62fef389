"""An answer that a model writes from the passages, with its citations checked."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from vivace.answer.citations import check_citations
from vivace.answer.extractive import Extractive
from vivace.answer.followup import standalone_question
from vivace.answer.grounding import grounded, likelihood
from vivace.answer.summaries import SummaryWriter, grouped_by_budget, whole_documents
from vivace.answer.templated import AnswerRequest, TemplateAnswerer
from vivace.errors import BadQuery, GenerationError
from vivace.generate.prompts import Prompt, PromptBuilder
from vivace.generate.templates import NOT_FOUND, Templates
from vivace.protocols import Generator
from vivace.run.streams import closing
from vivace.settings import Generate, Settings
from vivace.text.tokens import fewest
from vivace.trace import Trace
from vivace.types import (
    Answer,
    Chunk,
    Citation,
    Delta,
    Hit,
    Message,
    SearchResult,
    Support,
    Usage,
)

Documents: TypeAlias = Callable[[Sequence[str]], Awaitable[Sequence[Sequence[Chunk]]]]
"""All chunks of the documents with these ids, in reading order."""

_READ_SHARE: Final = 0.8
"""Of the fewest tokens that a prompt can have: a server that counted fewer did not read it all."""
_NEAR_BEST: Final = 0.8
"""Of the best hit's score: only documents with a hit this good are summarised."""
_GROUNDED: Final = ("passages", "documents")
"""What is read where every sentence has to rest on it."""
_SMALL: Final = 200
"""Tokens: a shorter prompt is never cut, and its count says little."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one answer is written from."""

    request: AnswerRequest
    result: SearchResult
    answerable: float | None
    prompt: Prompt
    deltas: AsyncIterator[Delta]
    """The model's reply to the prompt."""


class Prompted(TemplateAnswerer):
    """Answers that a `Generator` writes.

    Where the model fails before its first token, `quoting` answers instead and `degraded` says why.
    After the first token the error is raised: two half answers are worse than none.

    Args:
        documents: for summaries; without it they are written from the hits.
        trace: counts how follow-up questions were rewritten.
    """

    def __init__(
        self,
        generator: Generator,
        settings: Settings,
        templates: Templates | None = None,
        *,
        quoting: Extractive | None = None,
        documents: Documents | None = None,
        trace: Trace | None = None,
    ) -> None:
        super().__init__(settings, templates)
        self.name = generator.name
        self._generator = generator
        self._prompts = PromptBuilder(settings.generate, settings.answer)
        self._quoting = quoting
        self._documents = documents
        self._trace = trace or Trace()

    async def begin(self, request: AnswerRequest) -> AsyncIterator[Delta]:
        """Search, then the model's text as it comes; the last delta carries the whole answer.

        Raises:
            BadQuery: the text to translate has no room in a prompt.
            GenerationError: from the stream: the model failed after its first token, or nothing
                quotes instead.
        """
        result = await self.passages(request, await self._standalone(request))
        template, answering = request.template, self.settings.answer
        self._check_room(request)
        hits = result.hits[: answering.passages]
        answerable = None
        refused = template.reads == "documents" and not hits
        if template.reads == "passages":
            answerable = likelihood(template.text, hits)
            unlikely = answerable is None or answerable < answering.refuse_below
            refused = unlikely and not request.options.history
        if refused:
            # nothing to read: the model could only make something up
            return _not_found(template.language, result, answerable)
        prompt, deltas = await self._ask(request, result)
        return self._written(_Reading(request, result, answerable, prompt, deltas))

    async def _standalone(self, request: AnswerRequest) -> str:
        """The question to search for; the model rewrites a follow-up."""
        text, history = request.template.text, request.options.history
        if request.template.reads == "nothing" or not self.settings.generate.standalone:
            return text
        return await standalone_question(text, history, self._generator, self._trace)

    def _check_room(self, request: AnswerRequest) -> None:
        if request.template.reads != "nothing":
            return
        tokens, most = self._prompts.count(request.template.text), self._prompts.budget
        if tokens > most:
            raise BadQuery(
                f"the text has about {tokens:,} tokens, more than {most:,}",
                fix="Ask for it in parts, or raise generate.context_tokens",
            )

    async def _ask(
        self, request: AnswerRequest, result: SearchResult
    ) -> tuple[Prompt, AsyncIterator[Delta]]:
        """The prompt, and the model's reply to it."""
        generate, answering = self.settings.generate, self.settings.answer
        template, options, prompts = request.template, request.options, self._prompts
        temperature = generate.temperature if options.temperature is None else options.temperature
        most = min(options.max_tokens or generate.max_tokens, generate.max_tokens)

        def ask(messages: Sequence[Message], max_tokens: int | None = None) -> AsyncIterator[Delta]:
            limit = min(max_tokens, generate.max_tokens) if max_tokens else most
            return self._generator.stream(messages, max_tokens=limit, temperature=temperature)

        if template.reads != "documents" or self._documents is None:
            prompt = prompts.build(template, result.hits[: answering.passages], options)
            return prompt, ask(prompt.messages)
        documents = await self._documents(_near_best(result.hits, answering.documents))
        groups = grouped_by_budget(whole_documents(documents), prompts.budget, prompts.cost)
        opening = prompts.opening(template, options)
        writer = SummaryWriter(ask, template, opening, prompts, answering)
        read = tuple(excerpt for group in groups for excerpt in group)
        dropped = len(options.history) - len(opening) + 1
        return Prompt(opening, read, dropped), writer.stream(groups)

    async def _written(self, reading: _Reading) -> AsyncIterator[Delta]:
        parts: list[str] = []
        last = Delta()
        try:
            async with closing(reading.deltas) as deltas:
                async for delta in deltas:
                    if delta.text:
                        parts.append(delta.text)
                        yield delta if not delta.finish_reason else Delta(delta.text)
                    if delta.finish_reason:
                        last = delta
        except GenerationError as error:
            if parts or self._quoting is None:
                raise
            failure = error
        else:
            yield Delta(answer=await self._answer("".join(parts), reading, last))
            return
        result = reading.result
        reason = f"the model did not answer, so documents are quoted instead: {failure.what}"
        degraded = replace(result, degraded=(*result.degraded, reason))
        async with closing(self._quoting.quotes(reading.request, degraded)) as deltas:
            async for delta in deltas:
                yield delta

    async def _answer(self, text: str, reading: _Reading, last: Delta) -> Answer:
        template, prompt, usage = reading.request.template, reading.prompt, last.usage
        checked = check_citations(text, prompt.excerpts)
        notes = [*reading.result.degraded, *last.degraded]
        if prompt.dropped:
            notes.append(f"the {prompt.dropped} oldest messages had no room in the prompt")
        if checked.unknown:
            numbers = ", ".join(map(str, checked.unknown))
            notes.append(f"the answer cites {numbers}, which no passage has")
        if last.finish_reason == "length":
            notes.append("the answer was cut at the most tokens allowed")
        found = bool(checked.citations) or not says_not_found(text)
        support: tuple[Support, ...] = ()
        # words in another language cannot be compared with the documents'
        comparable = found and not reading.request.options.target_language
        if comparable and self.settings.answer.ground and template.reads in _GROUNDED:
            support = await grounded(text, prompt.excerpts)
        if unsupported := sum(not one.supported for one in support):
            notes.append(f"{unsupported} of {len(support)} sentences: no passage supports them")
        if template.reads == "documents":
            hits, read = _cited_first(reading.result.hits, checked.citations)
        else:
            hits = reading.result.hits
            read = max((excerpt.rank + 1 for excerpt in prompt.excerpts), default=0)
            notes += _cut_prompt(prompt, usage)
        return Answer(
            text,
            hits,
            checked.citations,
            checked.spans,
            found=found,
            generator=self.name,
            degraded=tuple(notes),
            usage=usage,
            cost=cost(usage, self.settings.generate),
            finish_reason=last.finish_reason,
            read=read,
            support=support,
            answerable=reading.answerable,
            cached="exact" if usage is not None and usage.free else "",
        )


async def _not_found(
    language: str, result: SearchResult, answerable: float | None
) -> AsyncIterator[Delta]:
    text = NOT_FOUND[language]
    yield Delta(text)
    yield Delta(
        answer=Answer(
            text, result.hits, found=False, degraded=result.degraded, answerable=answerable
        )
    )


def _near_best(hits: Sequence[Hit], most: int) -> list[str]:
    """The documents that a summary reads: those with a hit nearly as good as the best."""
    best = hits[0].score if hits else 0.0
    near = [hit.chunk.document_id for hit in hits if hit.score >= _NEAR_BEST * best]
    return list(dict.fromkeys(near))[:most]


def _cited_first(hits: Sequence[Hit], citations: Sequence[Citation]) -> tuple[tuple[Hit, ...], int]:
    """Of a long text, the passages that its summary cites, and how many; then the other hits."""
    scores = {hit.chunk.document_id: hit.score for hit in reversed(hits)}
    cited = {c.chunk.id: c.chunk for c in citations}
    first = [Hit(chunk, scores.get(chunk.document_id, 0.0)) for chunk in cited.values()]
    rest = [hit for hit in hits if hit.chunk.id not in cited]
    return (*first, *rest), len(first)


def cost(usage: Usage | None, settings: Generate) -> float | None:
    """What the tokens cost; None where no price is set or the server reports no usage.

    Cached tokens cost the price of others unless `price_cached` is set. A replayed answer is free.
    """
    prompt, cached, completion = (
        settings.price_prompt,
        settings.price_cached or settings.price_prompt,
        settings.price_completion,
    )
    if usage is None or not (prompt or cached or completion):
        return None
    if usage.free:
        return 0.0
    fresh = usage.prompt_tokens - usage.cached_tokens
    spent = fresh * prompt + usage.cached_tokens * cached + usage.completion_tokens * completion
    return spent / 1_000_000


def says_not_found(text: str) -> bool:
    """Whether an answer begins with a sentence of `NOT_FOUND`, or is empty."""
    plain = _plain(text)
    return not plain or any(plain.startswith(_plain(said)) for said in NOT_FOUND.values())


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).casefold()


def _cut_prompt(prompt: Prompt, usage: Usage | None) -> list[str]:
    """A note where the server cannot have read the whole prompt.

    Some servers (Ollama at its num_ctx) silently drop the beginning of a prompt; only their token
    count shows it.
    """
    sent = sum(fewest(message.content) for message in prompt.messages)
    if usage is None or sent < _SMALL or not 0 < usage.prompt_tokens < _READ_SHARE * sent:
        return []
    return [
        f"the model server read {usage.prompt_tokens:,} tokens of a prompt of at least {sent:,}: "
        "raise its context length, or lower generate.context_tokens"
    ]
