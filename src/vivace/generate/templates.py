"""What kinds of answers can be asked for, and in which words: templates, which are data.

The built-in ones are files of this package, `wordings/NAME.toml`. A folder of the user's own
(`answer.templates`) may hold files of the same names, of which each key replaces ours, and files of
other names, which are templates of their own.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

import msgspec

from vivace.errors import BadInput, BadSettings
from vivace.generate.classify import AUTO, classified, text_to_translate
from vivace.text.language import ZH, language
from vivace.types import AnswerOptions, Message, Query

Retrieves: TypeAlias = Literal["passages", "optional", "documents", "given", "nothing"]
"""What is read: `passages`, what a search finds, and without any there is no answer; `optional`,
the same, and there is; `documents`, the documents of what it finds, whole; `given`, a text in the
request, and where it holds none what a search finds; `nothing`."""
DEFAULT: Final = "qa"
NOT_FOUND: Final = {"en": "The documents do not say.", "zh": "文档中没有提到。"}
"""What an answer says when the documents do not hold it, by the question's language."""
_BUILT_IN: Final = Path(__file__).parent / "wordings"
_TONGUE: Final = {"en": "English", "zh": "中文"}
_LONGEST_TARGET: Final = 60


class Wording(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A template in one language. `{target}` and `{not_found}` are filled in, nothing else is."""

    instructions: str
    """The system message."""
    ask: str
    """Stands before what the user asks."""
    structure: str = ""
    """Further instructions, on how the answer is built: with `answer.structure`."""
    given: str = ""
    """Instead of `ask`, before a text that the request brings with it."""
    merge: str = ""
    """Instead of `ask`, where summaries become one."""
    refine: str = ""
    """Instead of `ask`, where a summary goes on."""


class Template(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of answer. Immutable: what a request changes is a `ResolvedTemplate`."""

    retrieves: Retrieves
    en: Wording
    zh: Wording

    def wording(self, code: str) -> Wording:
        return self.zh if code == ZH else self.en


Templates: TypeAlias = Mapping[str, Template]


@dataclass(frozen=True, slots=True)
class ResolvedTemplate:
    """What a request asks for: a template's name and words, in a language, for a target."""

    name: str
    wording: Wording
    language: str
    """`en` or `zh`: of the instructions."""
    target: str
    """The language of the answer, as the instructions name it."""
    reads: Retrieves
    text: str
    """What stands behind `ask`: the question, or the text to translate."""

    @property
    def instructions(self) -> str:
        return self.filled(self.wording.instructions)

    @property
    def structure(self) -> str:
        return self.filled(self.wording.structure)

    @property
    def asked(self) -> str:
        """What the user asks, labelled."""
        given = self.reads == "nothing" and self.wording.given
        return self.filled(given or self.wording.ask) + self.text

    def filled(self, words: str) -> str:
        words = words.replace("{not_found}", NOT_FOUND[self.language])
        return words.replace("{target}", self.target)


def asked_in(question: str) -> str:
    """The language in which to answer: `zh` for a Chinese question, `en` for any other."""
    return "zh" if language(question) == ZH else "en"


def load(folder: str = "") -> Templates:
    """The built-in templates under those of `folder`.

    Raises:
        BadSettings: there is no such folder, or a file of it is no template; names it.
    """
    if not folder:
        return built_in()
    found = {name: _read(path) for name, path in _files(_BUILT_IN)}
    given = Path(folder).expanduser()
    if not given.is_dir():
        raise BadSettings(
            f"answer.templates: {folder} is no folder", fix="Make it, or leave the setting out"
        )
    made = {name: _template(path, value) for (name, path), value in _values(_BUILT_IN)}
    for (name, path), value in _values(given):
        if name == AUTO:
            raise BadSettings(
                f"{path}: {AUTO} means that the question decides", fix="Choose another name"
            )
        made[name] = _template(path, _over(found.get(name, {}), value))
    return MappingProxyType(made)


@cache
def built_in() -> Templates:
    return MappingProxyType(
        {name: _template(path, value) for (name, path), value in _values(_BUILT_IN)}
    )


def resolve(
    query: Query, options: AnswerOptions, templates: Templates | None = None
) -> ResolvedTemplate:
    """What is asked for.

    Raises:
        BadInput: there is no such template, or no language to translate into.
    """
    templates = built_in() if templates is None else templates
    name, target = options.template, _target(options.target_language)
    if name == AUTO:
        kind = classified(query.text)
        name, target = kind.template, target or kind.target
    if name not in templates:
        known = ", ".join([*sorted(templates), AUTO])
        raise BadInput(f"there is no template {name!r}", fix=f"Choose one of: {known}")
    template = templates[name]
    code, text, reads = asked_in(query.text), query.text, template.retrieves
    if reads == "given":
        found = text_to_translate(query.text)
        target = target or found.target
        reads = "nothing" if found.text else "passages"
        text = found.text or found.subject or query.text
        if found.text and not found.request:
            code = "en" if not target or target.isascii() else "zh"
        if not target and not found.request:
            raise BadInput(
                "no language to translate into", fix="Say target_language, or --to LANGUAGE"
            )
    return ResolvedTemplate(
        name, template.wording(code), code, target or _TONGUE[code], reads, text
    )


def with_wishes(
    options: AnswerOptions, template: str, target_language: str, messages: Sequence[Message]
) -> AnswerOptions:
    """`options` with what else was said: messages of the role system join its instructions."""
    if not (template or target_language or messages):
        return options
    told = [m.content for m in messages if m.role in ("system", "developer")]
    turns = [m for m in messages if m.role not in ("system", "developer")]
    return replace(
        options,
        history=(*options.history, *turns),
        system="\n\n".join(filter(None, [options.system, *told])),
        template=template or options.template,
        target_language=target_language or options.target_language,
    )


def _target(given: str) -> str:
    """A caller's name of a language as one plain line: it stands among the instructions."""
    target = " ".join(given.split())
    if len(target) > _LONGEST_TARGET or not all(c.isalnum() or c in " -()_'," for c in target):
        raise BadInput(
            f"target_language: {target[:_LONGEST_TARGET]!r} names no language",
            fix="Give its name or code, e.g. French, fr, 法语",
        )
    return target


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    yield from ((path.stem, path) for path in sorted(folder.glob("*.toml")))


def _values(folder: Path) -> Iterator[tuple[tuple[str, Path], dict[str, Any]]]:
    for name, path in _files(folder):
        yield (name, path), _read(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadSettings(f"{path}: {error}", fix="Mend the file or remove it") from error


def _over(below: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    """`value` laid over `below`, a table key by key."""
    made = dict(below)
    for key, item in value.items():
        under = made.get(key)
        tables = isinstance(item, Mapping) and isinstance(under, Mapping)
        made[key] = _over(under, item) if tables else item  # type: ignore[arg-type]
    return made


def _template(path: Path, value: Mapping[str, Any]) -> Template:
    try:
        return msgspec.convert(value, Template)
    except msgspec.ValidationError as error:
        raise BadSettings(
            f"{path}: {error}",
            fix="A template has `retrieves`, and `instructions` and `ask` under [en] and [zh]",
        ) from error
