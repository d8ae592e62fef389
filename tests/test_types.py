"""The arguments of an answer are stated once, and mean the same in every call."""

from __future__ import annotations

import inspect

import pytest

from vivace.types import AnswerArguments, AnswerOptions, Message, resolve_arguments


def test_arguments_extend_the_options() -> None:
    said = [Message("system", "Rhyme."), Message("user", "a"), Message("assistant", "b")]
    earlier = (Message("user", "before"),)
    given = AnswerOptions(earlier, system="Be brief.")
    filters, options = resolve_arguments(
        filters={"lang": "en"}, options=given, template="code", messages=said
    )
    assert filters == {"lang": "en"}
    assert (options.system, options.history) == ("Be brief.\n\nRhyme.", (*earlier, *said[1:]))
    assert (options.template, options.target_language) == ("code", "")
    assert resolve_arguments(options=given)[1] is given


def test_the_typed_arguments_are_those_that_are_resolved() -> None:
    parameters = inspect.signature(resolve_arguments).parameters
    assert list(AnswerArguments.__annotations__) == list(parameters)


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="languge"):
        resolve_arguments(languge="French")  # type: ignore[call-arg]
