"""An answer that a model writes from the passages, with its citations checked."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from vivace.answer import citations, summaries
from vivace.answer.citations import Checked
from vivace.answer.extractive import Extractive
from vivace.answer.grounding import grounded_aside
from vivace.answer.refusal import likelihood
from vivace.answer.standalone import standalone
from vivace.answer.templated import AnswerRequest, TemplateAnswerer
from vivace.errors import BadQuery, GenerationError
from vivace.generate import prompts
from vivace.generate.prompts import Prompt
from vivace.generate.templates import NOT_FOUND, ResolvedTemplate, Templates
from vivace.protocols import Generator
from vivace.run.streams import closing
from vivace.settings import Generate, Settings
from vivace.text.tokens import counter, fewest
from vivace.trace import Trace
from vivace.types import (
    Answer,
    AnswerOptions,
    Chunk,
    Delta,
    Hit,
    Message,
    Query,
    SearchResult,
    Support,
    Usage,
)

Documents: TypeAlias = Callable[[Sequence[str]], Awaitable[Sequence[Sequence[Chunk]]]]

_READ_SHARE = 0.8
"""Of the fewest tokens that a prompt can have: a server that counted less did not read it all."""
_NEAR_BEST = 0.8
"""Of the best hit's score; a document without one so good is not what a summary is asked of."""
_SMALL = 200
"""Tokens: a shorter prompt is never cut, and its count says little."""


class Prompted(TemplateAnswerer):
    """Answers that a `Generator` writes.

    Where the model fails before its first token, `quoting` answers instead and `degraded` says why.
    After the first token the error is raised: two half answers are worse than none.

    Args:
        templates: the kinds of answers there are; the built-in ones unless given.
        documents: all chunks of the documents of these ids, in reading order, for summaries;
            without it they are written from the hits.
        trace: counts how follow-up questions were rewritten.
    """

    def __init__(
        self,
        generator: Generator,
        settings: Settings,
        *,
        quoting: Extractive | None = None,
        templates: Templates | None = None,
        documents: Documents | None = None,
        trace: Trace | None = None,
    ) -> None:
        super().__init__(settings, templates)
        self.name = generator.name
        self._generator = generator
        self._answering = settings.answer
        self._settings = settings.generate
        self._quoting = quoting
        self._documents = documents
        self._trace = trace or Trace()
        self._count = counter(self._settings.tokenizer)

    async def begin(self, request: AnswerRequest) -> AsyncIterator[Delta]:
        """The model's text as it comes; the last delta carries the whole answer.

        Raises:
            BadQuery: the text to translate has no room in a prompt.
            GenerationError: from the stream: the model failed after its first token, or nothing
                quotes instead.
        """
        query, history = request.searched, request.options.history
        if history and self._settings.standalone and request.template.reads != "nothing":
            text = await standalone(query.text, history, self._generator, self._trace)
            query = query if text == query.text else replace(query, text=text)
        result = await self.passages(request, query)
        self._check(request.template)
        return self._written(request, result)

    async def _written(self, request: AnswerRequest, result: SearchResult) -> AsyncIterator[Delta]:
        query, task, options = request.query, request.template, request.options
        hits = result.hits[: self._answering.passages]
        found = likelihood(task.text, hits) if task.reads == "passages" else None
        refused = (
            task.reads == "passages"
            and not options.history
            and (not hits or (found is not None and found < self._answering.refuse_below))
        )
        if refused or (task.reads == "documents" and not hits):
            # nothing to read: the model could only make something up
            text = NOT_FOUND[task.language]
            yield Delta(text)
            yield Delta(
                answer=Answer(
                    text, result.hits, found=False, degraded=result.degraded, answerable=found
                )
            )
            return
        prompt, deltas = await self._begun(task, query, result, options)
        parts: list[str] = []
        last = Delta()
        try:
            async with closing(deltas):
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
            answer = await self._answer("".join(parts), task, prompt, result, last)
            if options.target_language:
                answer = replace(answer, support=())  # its words are not the documents'
            yield Delta(answer=replace(answer, answerable=found))
            return
        reason = f"the model did not answer, so documents are quoted instead: {failure.what}"
        degraded = replace(result, degraded=(*result.degraded, reason))
        async with closing(self._quoting.quotes(request, degraded)) as deltas:
            async for delta in deltas:
                yield delta

    def _check(self, task: ResolvedTemplate) -> None:
        most = self._settings.context_tokens
        if task.reads == "nothing" and (tokens := self._count(task.text)) > most:
            raise BadQuery(
                f"the text has about {tokens:,} tokens, more than {most:,}",
                fix="Ask for it in parts, or raise generate.context_tokens",
            )

    async def _begun(
        self, task: ResolvedTemplate, query: Query, result: SearchResult, options: AnswerOptions
    ) -> tuple[Prompt, AsyncIterator[Delta]]:
        """What is read, and the model's answer to it."""

        def ask(messages: Sequence[Message], most: int | None = None) -> AsyncIterator[Delta]:
            return self._ask(messages, options, most)

        settings = self._settings
        hits = () if task.reads == "nothing" else result.hits[: self._answering.passages]
        whole_documents = task.reads == "documents" and self._documents is not None
        prompt = prompts.build(
            query,
            () if whole_documents else hits,
            options,
            system=settings.system,
            budget=settings.context_tokens,
            task=task,
            answering=self._answering,
            count=self._count,
        )
        if not whole_documents:
            return prompt, ask(prompt.messages)
        assert self._documents is not None
        ids = chosen(result.hits, self._answering.documents)
        excerpts = summaries.passages(await self._documents(ids))
        told, *history, _ = prompt.messages
        groups = summaries.parted(excerpts, settings.context_tokens, prompts.price(self._count))
        one = summaries.Summarising(
            ask,
            task,
            told,
            tuple(history),
            self._answering,
            settings.context_tokens,
            self._count,
        )
        read = tuple(excerpt for group in groups for excerpt in group)
        return replace(prompt, excerpts=read), summaries.stream(one, groups)

    def _ask(
        self, messages: Sequence[Message], options: AnswerOptions, most: int | None = None
    ) -> AsyncIterator[Delta]:
        settings = self._settings
        temperature = options.temperature
        least = min(options.max_tokens or settings.max_tokens, settings.max_tokens)
        return self._generator.stream(
            messages,
            max_tokens=min(most, settings.max_tokens) if most else least,
            temperature=settings.temperature if temperature is None else temperature,
        )

    async def _answer(
        self, text: str, task: ResolvedTemplate, prompt: Prompt, result: SearchResult, last: Delta
    ) -> Answer:
        checked = citations.check(text, prompt.excerpts)
        notes = [*result.degraded, *last.degraded]
        if prompt.forgotten:
            notes.append(f"the {prompt.forgotten} oldest messages had no room in the prompt")
        if checked.unknown:
            numbers = ", ".join(map(str, checked.unknown))
            notes.append(f"the answer cites {numbers}, which no passage has")
        if last.finish_reason == "length":
            notes.append("the answer was cut at the most tokens allowed")
        found = bool(checked.citations) or not says_not_found(text)
        support: tuple[Support, ...] = ()
        if found and self._answering.ground and task.reads in ("passages", "documents"):
            support = await grounded_aside(text, prompt.excerpts)
        if unsupported := sum(not one.supported for one in support):
            notes.append(f"{unsupported} of {len(support)} sentences: no passage supports them")
        hits, read = _read(result.hits, prompt, checked, task)
        if task.reads != "documents" or read is None:
            notes += _cut_prompt(prompt, last.usage)
        return Answer(
            text,
            hits,
            checked.citations,
            checked.spans,
            found=found,
            generator=self.name,
            degraded=tuple(notes),
            usage=last.usage,
            cost=cost(last.usage, self._settings),
            finish_reason=last.finish_reason,
            read=read,
            support=support,
            cached="exact" if last.usage is not None and last.usage.free else "",
        )


def chosen(hits: Sequence[Hit], most: int) -> list[str]:
    """The documents that a summary reads: those with a hit nearly as good as the best."""
    best = hits[0].score if hits else 0.0
    near = [hit.chunk.document_id for hit in hits if hit.score >= _NEAR_BEST * best]
    return list(dict.fromkeys(near))[:most]


def _read(
    hits: tuple[Hit, ...], prompt: Prompt, checked: Checked, task: ResolvedTemplate
) -> tuple[tuple[Hit, ...], int | None]:
    """The answer's hits, and how many of the first were read."""
    if task.reads == "documents":
        # of a long text, the passages that the summary cites; the search's hits behind them
        scores = {hit.chunk.document_id: hit.score for hit in reversed(hits)}
        cited = {c.chunk.id: c.chunk for c in checked.citations}
        first = [Hit(chunk, scores.get(chunk.document_id, 0.0)) for chunk in cited.values()]
        rest = [hit for hit in hits if hit.chunk.id not in cited]
        return (*first, *rest), len(first)
    if task.reads == "nothing":
        return hits, 0
    return hits, max((excerpt.rank + 1 for excerpt in prompt.excerpts), default=0)


def cost(usage: Usage | None, settings: Generate) -> float | None:
    """What the tokens cost by the prices set; None where none is set or the server told no usage.

    Cached tokens cost what others do unless they have a price of their own. A replayed answer
    costs nothing.
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
    """Whether an answer begins with one of the sentences that `NOT_FOUND` asks for."""
    plain = _plain(text)
    return not plain or any(plain.startswith(_plain(said)) for said in NOT_FOUND.values())


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).casefold()


def _cut_prompt(prompt: Prompt, usage: Usage | None) -> list[str]:
    """A note where the server cannot have read the whole prompt.

    Some servers (Ollama at its num_ctx) drop the beginning of a prompt without a word; only their
    count tells.
    """
    sent = sum(fewest(message.content) for message in prompt.messages)
    if usage is None or sent < _SMALL or not 0 < usage.prompt_tokens < _READ_SHARE * sent:
        return []
    return [
        f"the model server read {usage.prompt_tokens:,} tokens of a prompt of at least {sent:,}: "
        "raise its context length, or lower generate.context_tokens"
    ]
