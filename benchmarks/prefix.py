"""What share of the tokens that could come from a server's prefix cache does come from it?

    python -m benchmarks.prefix [--limit N] [--json]

Conversations of four turns over squad2dev_en and cmrc_zh are asked of the fake model server, whose
cache keeps blocks of 16 tokens. `ours` is the prompt as it is sent: instructions, conversation,
passages, question. `passages_first` has the same parts with the passages and the question's nonce
in the first message before the instructions, as many templates do; `nonce_first` has only a code of
the request there, as a date or a session id would be. Possible is what a prompt has in common with
an earlier one: its instructions after the first question of a language, and the messages of its
conversation that were sent before, which its newest answer was not, and the words that lead to the
passages, in whole blocks.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Sequence
from os.path import commonpath
from typing import Any, TypeAlias

from benchmarks.report import show
from benchmarks.retrieved import Question, retrieved
from vivace.generate.names import load
from vivace.generate.prompts import PromptBuilder
from vivace.generate.templates import resolve
from vivace.settings import Answering, Generate
from vivace.testing import grounded
from vivace.testing.fake_llm import FakeModel
from vivace.testing.fake_wire import BLOCK
from vivace.types import AnswerOptions, Message, Query

TURNS = 4
Layout: TypeAlias = Callable[[Sequence[Message], str], tuple[Message, ...]]


def ours(messages: Sequence[Message], _: str) -> tuple[Message, ...]:
    return tuple(messages)


def passages_first(messages: Sequence[Message], _: str) -> tuple[Message, ...]:
    told, *history, last = messages
    passages, _, question = last.content.rpartition("\n\n")
    return (
        Message("system", f"{passages}\n\n{told.content}"),
        *history,
        Message("user", question),
    )


def nonce_first(messages: Sequence[Message], code: str) -> tuple[Message, ...]:
    told, *rest = messages
    return (Message("system", f"Request {code}\n\n{told.content}"), *rest)


LAYOUTS: dict[str, Layout] = {
    "ours": ours,
    "passages_first": passages_first,
    "nonce_first": nonce_first,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=80, help="questions of a set")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    show(asyncio.run(measure(options.limit)), as_json=options.json)


async def measure(limit: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"turns": TURNS, "block": BLOCK}
    for name in ("squad2dev_en", "cmrc_zh"):
        questions = (await retrieved(name))[:limit]
        figures[name] = {n: await cached(questions, layout) for n, layout in LAYOUTS.items()}
    return figures


async def cached(questions: Sequence[Question], layout: Layout) -> dict[str, Any]:
    possible = 0
    with FakeModel() as fake:
        model = load(Generate(model=f"openai:fake@{fake.url}"))
        assert model is not None
        try:
            builder = PromptBuilder(Generate(), Answering(deduplicate=False))
            history: tuple[Message, ...] = ()
            before = ""
            for number, question in enumerate(questions):
                if number % TURNS == 0:
                    history = ()
                options = AnswerOptions(history=history)
                template = resolve(Query(question.text), options)
                prompt = builder.build(template, question.hits[:5], options)
                last = prompt.messages[-1].content
                lead = Message("user", commonpath([before, last]))
                same = [prompt.messages[0], lead] * (number > 0) + list(history[:-2])
                before = last
                possible += BLOCK * (sum(map(tokens, same)) // BLOCK)
                text = ""
                messages = layout(prompt.messages, f"{hash(question.id) & 0xFFFFFFFFFFFF:012x}")
                async for delta in model.stream(messages, max_tokens=200, temperature=0):
                    text += delta.text
                # a client sends back what was asked and answered, not our passages
                history = (*history, Message("user", question.text), Message("assistant", text))
        finally:
            await model.close()
        counts = fake.statistics()
    return {
        "prompt_tokens": counts.prompt_tokens,
        "possible": possible,
        "cached": counts.cached_tokens,
        "share_of_possible": round(counts.cached_tokens / possible, 4),
        "share_of_prompt": round(counts.cached_tokens / counts.prompt_tokens, 4),
    }


def tokens(message: Message) -> int:
    """As the fake server counts them: the role is one."""
    return 1 + len(grounded.tokens(message.content))


if __name__ == "__main__":
    main()
