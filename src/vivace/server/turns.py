"""From a chat's messages to a question, its history and the caller's own instructions."""

from __future__ import annotations

from dataclasses import dataclass

from vivace.server.errors import BadRequest
from vivace.server.wire import ChatMessage, ChatRequest
from vivace.types import AnswerOptions, Message


@dataclass(frozen=True, slots=True)
class Asked:
    question: str
    options: AnswerOptions


def asked(request: ChatRequest) -> Asked:
    """The last user message is the question, what was said before it is history.

    Raises:
        BadRequest: there is no question, or something is asked for that is not done here.
    """
    _check(request)
    turns: list[Message] = []
    instructions: list[str] = []
    for number, message in enumerate(request.messages):
        text = _text(message, number)
        if message.role in ("system", "developer"):
            instructions.append(text)
        else:
            turns.append(Message(message.role, text))
    if not turns or turns[-1].role != "user":
        raise BadRequest(
            "messages: the last one is not the user's",
            fix="End with the question, as a message of the role user",
            param="messages",
        )
    return Asked(
        turns[-1].content,
        AnswerOptions(
            history=tuple(turns[:-1]),
            system="\n\n".join(filter(None, instructions)),
            max_tokens=request.max_completion_tokens or request.max_tokens,
            temperature=request.temperature,
            template=request.template,
            target_language=request.target_language,
        ),
    )


def _check(request: ChatRequest) -> None:
    """Refuse what a client would otherwise wait for in vain."""
    if request.n not in (None, 1):
        raise BadRequest("n: one answer a request", fix="Ask again for another", param="n")
    if request.response_format is not None and request.response_format.type != "text":
        raise BadRequest(
            "response_format: answers are text with citations",
            fix="Leave it out",
            param="response_format",
        )


def _text(message: ChatMessage, number: int) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    for part in message.content:
        if part.type != "text":
            raise BadRequest(
                "messages: only text can be read",
                fix="Leave images, sound and files out",
                param=f"messages[{number}].content",
            )
    return "\n".join(part.text for part in message.content)
