"""An answer that a model writes from the passages, with its citations checked."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace

from vivace.errors import GenerationError
from vivace.generate import citations, prompts
from vivace.generate.prompts import NOT_FOUND, Prompt
from vivace.protocols import Answerer, Generator
from vivace.run.streams import closing
from vivace.settings import Answering, Generate
from vivace.text.tokens import fewest
from vivace.types import Answer, Asking, Delta, Query, SearchResult, Usage

_PLAINLY = Asking()
_READ_SHARE = 0.8
"""Of the fewest tokens that a prompt can have: a server that counted less did not read it all."""
_SMALL = 200
"""Tokens: a shorter prompt is never cut, and its count says little."""


class Prompted:
    """An `Answerer` over a `Generator`.

    Where the model cannot answer before its first token, `fallback` answers instead and `degraded`
    says why; after the first token the error is raised, because a half answer followed by another
    one is worse than none.
    """

    def __init__(
        self,
        generator: Generator,
        answering: Answering,
        settings: Generate,
        *,
        fallback: Answerer | None = None,
    ) -> None:
        self.name = generator.name
        self._generator = generator
        self._answering = answering
        self._settings = settings
        self._fallback = fallback

    async def stream(
        self, query: Query, result: SearchResult, asking: Asking = _PLAINLY
    ) -> AsyncIterator[Delta]:
        """The model's text as it comes; the last delta carries the whole answer.

        Raises:
            GenerationError: the model failed after its first token, or there is no fallback.
        """
        prompt = prompts.build(
            query,
            result.hits[: self._answering.passages],
            asking,
            system=self._settings.system,
            budget=self._settings.context_tokens,
        )
        if not prompt.chunks and not asking.history:
            # nothing to read and nothing to refer to: the model could only make something up
            text = NOT_FOUND[prompt.language]
            yield Delta(text)
            yield Delta(answer=Answer(text, result.hits, found=False, degraded=result.degraded))
            return
        parts: list[str] = []
        last = Delta()
        try:
            async with closing(self._ask(prompt, asking)) as deltas:
                async for delta in deltas:
                    if delta.text:
                        parts.append(delta.text)
                        yield delta if not delta.finish_reason else Delta(delta.text)
                    if delta.finish_reason:
                        last = delta
        except GenerationError as error:
            if parts or self._fallback is None:
                raise
            failure = error
        else:
            text = "".join(parts)
            yield Delta(answer=self._answer(text, prompt, result, last))
            return
        reason = f"the model did not answer, so documents are quoted instead: {failure.what}"
        degraded = replace(result, degraded=(*result.degraded, reason))
        async with closing(self._fallback.stream(query, degraded, asking)) as deltas:
            async for delta in deltas:
                yield delta

    def _ask(self, prompt: Prompt, asking: Asking) -> AsyncIterator[Delta]:
        settings = self._settings
        temperature = asking.temperature
        return self._generator.stream(
            prompt.messages,
            max_tokens=min(asking.max_tokens or settings.max_tokens, settings.max_tokens),
            temperature=settings.temperature if temperature is None else temperature,
        )

    def _answer(self, text: str, prompt: Prompt, result: SearchResult, last: Delta) -> Answer:
        checked = citations.check(text, prompt.chunks)
        notes = [*result.degraded, *last.degraded]
        if prompt.forgotten:
            notes.append(f"the {prompt.forgotten} oldest messages had no room in the prompt")
        if checked.unknown:
            numbers = ", ".join(map(str, checked.unknown))
            notes.append(f"the answer cites {numbers}, which no passage has")
        if last.finish_reason == "length":
            notes.append("the answer was cut at the most tokens allowed")
        notes += _cut_prompt(prompt, last.usage)
        return Answer(
            text,
            result.hits,
            checked.citations,
            checked.spans,
            found=bool(checked.citations) or not says_not_found(text),
            generator=self.name,
            degraded=tuple(notes),
            usage=last.usage,
            cost=cost(last.usage, self._settings),
            finish_reason=last.finish_reason,
            read=len(prompt.chunks),
        )


def cost(usage: Usage | None, settings: Generate) -> float | None:
    """What the tokens cost by the prices set; None where none is set or the server told no usage.

    Cached tokens cost what others do unless they have a price of their own.
    """
    prompt, cached, completion = (
        settings.price_prompt,
        settings.price_cached or settings.price_prompt,
        settings.price_completion,
    )
    if usage is None or not (prompt or cached or completion):
        return None
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
