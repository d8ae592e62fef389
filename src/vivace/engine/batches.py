"""Many questions to a collection in one call."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vivace.engine.contents import Contents
from vivace.errors import VivaceError
from vivace.generate.batch import Progress, run_batch
from vivace.generate.templates import with_wishes
from vivace.types import Answer, AnswerOptions, Message, Metadata, Query

if TYPE_CHECKING:
    from vivace.engine.engine import Engine

_DEFAULTS = AnswerOptions()


class Batches(Contents):
    """The part of a `Collection` that answers many questions, by its way to answer one."""

    _engine: Engine

    @abstractmethod
    async def ask(
        self,
        question: str | Query,
        *,
        k: int = 10,
        filters: Metadata | None = None,
        options: AnswerOptions = _DEFAULTS,
        template: str = "",
        target_language: str = "",
        messages: Sequence[Message] = (),
    ) -> Answer: ...

    async def answer_many(
        self,
        questions: Sequence[str | Query],
        k: int = 10,
        *,
        filters: Metadata | None = None,
        options: AnswerOptions = _DEFAULTS,
        template: str = "",
        target_language: str = "",
        progress: Progress | None = None,
    ) -> list[Answer | VivaceError]:
        """One answer or error a question, in order; one failure does not lose the others.

        Equal questions are asked once, unless the temperature is above zero. Whoever waits for a
        single answer goes first.

        Args:
            progress: called on the event loop whenever a question has been answered.
        """
        options = with_wishes(options, template, target_language, ())
        wanted = [q if isinstance(q, Query) else Query(q, k, filters) for q in questions]
        settings = self._settings.generate
        temperature = settings.temperature if options.temperature is None else options.temperature
        alike = not temperature or settings.coalesce_sampled

        async def answer(number: int) -> Answer:
            return await self.ask(wanted[number], options=options)

        first: dict[object, int] = {}
        keys = [
            first.setdefault((repr(query), id(query.vector)) if alike else at, at)
            for at, query in enumerate(wanted)
        ]
        return await run_batch(keys, answer, parallel=self._engine.parallel, progress=progress)
