"""Which kinds of answers can be asked for, and in which words?

Templates are data: the built-in ones are files of this package, `wordings/NAME.toml`. A folder of
the user's own (`answer.templates`) may hold files of the same names, whose keys replace the
built-in ones, and files of other names, which are further templates.

A request names its template, or leaves the choice to rules on its words (`auto`). The rules are
narrow on purpose: a question about a summary, a translation or a program is still a question. They
take none of the 10,990 questions of the project's sets for anything else.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

import msgspec

from vivace.errors import BadInput, BadSettings
from vivace.text.language import ZH, language
from vivace.types import AnswerOptions, Query

Retrieves: TypeAlias = Literal["passages", "optional", "documents", "given", "nothing"]
"""What the model reads:

- `passages`: the hits of a search; without hits there is no answer
- `optional`: the hits of a search, if any
- `documents`: the whole documents of the hits
- `given`: a text in the request (then `nothing` is searched), else `passages`
- `nothing`
"""
DEFAULT: Final = "qa"
AUTO: Final = "auto"
"""In place of a template's name: the request's words decide."""
NOT_FOUND: Final = {"en": "The documents do not say.", "zh": "文档中没有提到。"}
"""The answer where the documents do not hold it, by the question's language."""
_BUILT_IN: Final = Path(__file__).parent / "wordings"
_LANGUAGE: Final = {"en": "English", "zh": "中文"}
_LONGEST_TARGET: Final = 60


class Wording(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A template in one language. `{target}` and `{not_found}` are filled in, nothing else is."""

    instructions: str
    """The system message."""
    ask: str
    """Precedes the user's request."""
    structure: str = ""
    """Further instructions, on the structure of the answer: with `answer.structure`."""
    given: str = ""
    """Instead of `ask`, before a text that the request brings with it."""
    merge: str = ""
    """Instead of `ask`, where several summaries become one."""
    refine: str = ""
    """Instead of `ask`, where a summary is continued."""


class Template(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of answer."""

    retrieves: Retrieves
    en: Wording
    zh: Wording

    def wording(self, code: str) -> Wording:
        return self.zh if code == ZH else self.en


Templates: TypeAlias = Mapping[str, Template]


@dataclass(frozen=True, slots=True)
class ResolvedTemplate:
    """The template of one request, with the request's language, target language and text."""

    name: str
    wording: Wording
    language: str
    """`en` or `zh`: of the instructions."""
    target: str
    """The language of the answer, as the instructions name it."""
    reads: Retrieves
    text: str
    """What follows `ask`: the question, or the text to translate."""

    @property
    def instructions(self) -> str:
        return self.fill(self.wording.instructions)

    @property
    def structure(self) -> str:
        return self.fill(self.wording.structure)

    @property
    def labelled_text(self) -> str:
        """The text behind its label."""
        given = self.reads == "nothing" and self.wording.given
        return self.fill(given or self.wording.ask) + self.text

    def fill(self, words: str) -> str:
        words = words.replace("{not_found}", NOT_FOUND[self.language])
        return words.replace("{target}", self.target)


def resolve(
    query: Query, options: AnswerOptions, templates: Templates | None = None
) -> ResolvedTemplate:
    """The template that a request asks for.

    Raises:
        BadInput: there is no such template, or no language to translate into.
    """
    templates = built_in() if templates is None else templates
    name, target = options.template, _target(options.target_language)
    if name == AUTO:
        name, named = classify(query.text)
        target = target or named
    if name not in templates:
        known = ", ".join([*sorted(templates), AUTO])
        raise BadInput(f"there is no template {name!r}", fix=f"Choose one of: {known}")
    template = templates[name]
    code, text, reads = answer_language(query.text), query.text, template.retrieves
    if reads == "given":
        found = split_translation(query.text)
        target = target or found.target
        reads = "nothing" if found.text else "passages"
        text = found.text or found.subject or query.text
        if found.text and not found.request:
            code = "en" if not target or target.isascii() else "zh"
        if not target and not found.request:
            raise BadInput(
                "no language to translate into", fix="Say target_language, or --to LANGUAGE"
            )
    wording = template.wording(code)
    return ResolvedTemplate(name, wording, code, target or _LANGUAGE[code], reads, text)


def answer_language(question: str) -> str:
    """The language of the instructions and the answer: `zh` for a Chinese question, else `en`."""
    return "zh" if language(question) == ZH else "en"


def _target(given: str) -> str:
    """The name of a language as one plain line: it becomes part of the instructions."""
    target = " ".join(given.split())
    if len(target) > _LONGEST_TARGET or not all(c.isalnum() or c in " -()_'," for c in target):
        raise BadInput(
            f"target_language: {target[:_LONGEST_TARGET]!r} names no language",
            fix="Give its name or code, e.g. French, fr, 法语",
        )
    return target


def load(folder: str = "") -> Templates:
    """The built-in templates, overlaid with those of `folder`.

    Raises:
        BadSettings: there is no such folder, or one of its files is no template; names it.
    """
    if not folder:
        return built_in()
    given = Path(folder).expanduser()
    if not given.is_dir():
        raise BadSettings(
            f"answer.templates: {folder} is no folder", fix="Make it, or leave the setting out"
        )
    tables = _tables(_BUILT_IN)
    for name, (path, table) in _tables(given).items():
        if name == AUTO:
            raise BadSettings(
                f"{path}: {AUTO} means that the question decides", fix="Choose another name"
            )
        tables[name] = path, _overlaid(tables[name][1] if name in tables else {}, table)
    return _templates(tables)


@cache
def built_in() -> Templates:
    return _templates(_tables(_BUILT_IN))


def _tables(folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """The TOML files of a folder by their names."""
    return {path.stem: (path, _read(path)) for path in sorted(folder.glob("*.toml"))}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadSettings(f"{path}: {error}", fix="Repair the file or remove it") from error


def _overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the keys of `above`; tables are merged key by key."""
    made = dict(below)
    for key, item in above.items():
        under = made.get(key)
        tables = isinstance(item, Mapping) and isinstance(under, Mapping)
        made[key] = _overlaid(under, item) if tables else item  # type: ignore[arg-type]
    return made


def _templates(tables: Mapping[str, tuple[Path, Mapping[str, Any]]]) -> Templates:
    return MappingProxyType({name: _template(*table) for name, table in tables.items()})


def _template(path: Path, value: Mapping[str, Any]) -> Template:
    try:
        return msgspec.convert(value, Template)
    except msgspec.ValidationError as error:
        raise BadSettings(
            f"{path}: {error}",
            fix="A template has `retrieves`, and `instructions` and `ask` under [en] and [zh]",
        ) from error


# -- rules on the request's words ----------------------------------------------------------------

_PLEASE: Final = (
    r"^\W*(?:(?:please|kindly|now|then|ok|okay|hi|hello|can you|could you|would you|will you"
    r"|i (?:want|need|would like) you to|i'd like you to|help me(?: to)?|let's)\b[\s,]*)*"
)
_SUMMARY: Final = re.compile(
    _PLEASE + r"(?:summari[sz]e\b|sum up\b|tl;?dr\b"
    r"|(?:(?:give|write|make|create|produce)\s+(?:me\s+|us\s+)?)?(?:an?|the)?\s*"
    r"(?:(?:short|brief|concise|one-page|executive|quick)\s+)*(?:summary|synopsis|abstract)\s+of\b"
    r"|(?:give|write|make)\s+(?:me\s+|us\s+)?(?:an?|the)\s+(?:\w+\s+)?(?:summary|overview)\b)",
    re.IGNORECASE,
)
_TRANSLATE: Final = re.compile(_PLEASE + r"(?:translate|render)\b", re.IGNORECASE)
_CODE: Final = re.compile(
    _PLEASE + r"(?:write|implement|create|generate|code|give me|show me|make)\s"
    r"(?:[^\n.?!]{0,50}\s)?(?:function|script|program|class|method|subroutine|regex"
    r"|regular expression|(?:sql )?query|snippet|unit tests?|code|decorator|algorithm)\b",
    re.IGNORECASE,
)
_PLEASE_ZH: Final = (
    r"^\W*(?:请|麻烦|劳驾|帮我|帮忙|给我|能否|可否|能不能|可以|你|您|替我|用中文|用英文|[\s,，])*"
)
_SUMMARY_ZH: Final = re.compile(
    _PLEASE_ZH + r"(?:(?:总结|概括|归纳|概述)(?!了|的|者|是)"
    r"|(?:写|做|给出|生成|提供)(?:出)?(?:一下|一个|一份|一段|个|份|段)?[^，。？?]{0,12}(?:摘要|总结|概要|概述)"
    r"|[把将对][^？?]{1,40}?(?:总结|概括|归纳)(?:一下|成|为)?)"
)
_TRANSLATE_ZH: Final = re.compile(
    _PLEASE_ZH + r"(?:翻译|(?:把|将)[\s\S]{1,20000}?(?:翻译|译)[成为到])"
    r"|(?:翻译|译)[成为到][^，。？?]{1,12}[语文话]\s*(?:[:：。]|$)"
)
_CODE_ZH: Final = re.compile(
    _PLEASE_ZH + r"(?:编写|写出|写|实现|生成|创建)(?:一个|一段|一份|个|段)?[^，。？?]{0,30}?"
    r"(?:函数|脚本|程序|代码|类$|类[，。]|方法|正则|查询语句|SQL|算法|单元测试)"
)

_ASKS_ZH: Final = re.compile(_PLEASE_ZH + "(?:翻译(?:一下)?|把|将)")
_INTO: Final = re.compile(
    r"\b(?:in)?to\s+(?:the\s+)?((?:(?:simplified|traditional|brazilian|european|british|american"
    r"|canadian|modern|plain|classical)\s+)?[^\W\d_]{2,20})(?:\s+language)?\s*(?=[:：,.;!?\n\"“]|$)",
    re.IGNORECASE,
)
_INTO_ZH: Final = re.compile(
    r"(?:翻译|译)[成为到]\s*((?:简体|繁体)?[\u4e00-\u9fff]{1,6}?[语文话]|[A-Za-z]{2,20})"
)
_QUOTED: Final = re.compile('“([^”]+)”|「([^」]+)」|"([^"\n]+)"')


@dataclass(frozen=True, slots=True)
class TranslationRequest:
    """A request for a translation, divided. `text` is empty where the request brings none."""

    request: str
    """The words that ask; empty where all of it is the text."""
    target: str
    text: str
    subject: str = ""
    """Where there is no text, the part of the documents that is asked for: the request without the
    words that ask."""


def classify(question: str) -> tuple[str, str]:
    """The template that a request asks for (`qa` where no rule matches), and its target language
    where it names one."""
    if _TRANSLATE.match(question) or _TRANSLATE_ZH.search(question):
        return "translation", split_translation(question).target
    if _SUMMARY.match(question) or _SUMMARY_ZH.match(question):
        return "summary", ""
    if _CODE.match(question) or _CODE_ZH.match(question):
        return "code", ""
    return "qa", ""


def split_translation(question: str) -> TranslationRequest:
    """Divide a request for a translation into the words that ask, the language, and the text.

    The text follows a colon or a line break of the request, or is in its quotation marks. Where
    nothing asks for a translation all of it is the text.
    """
    if not (_TRANSLATE.match(question) or _TRANSLATE_ZH.search(question)):
        return TranslationRequest("", "", question.strip())
    head, text = _divided(question)
    found = [*_INTO.finditer(head), *_INTO_ZH.finditer(head)]
    target = found[-1] if found else None
    subject = "" if text else _subject(head, target)
    return TranslationRequest(head, target[1] if target else "", text, subject)


def _subject(request: str, target: re.Match[str] | None) -> str:
    rest = request if target is None else request[: target.start()] + request[target.end() :]
    rest = _ASKS_ZH.sub("", _TRANSLATE.sub("", rest))
    return rest.strip(" 。.?？!！，,") or request


def _divided(question: str) -> tuple[str, str]:
    end = re.search(r"[:：]\s*|\n+", question)
    quoted = _QUOTED.search(question)
    if quoted and (end is None or quoted.start() < end.start()):
        head = question[: quoted.start()] + " " + question[quoted.end() :]
        return head, next(filter(None, quoted.groups()))
    if end and (text := question[end.end() :].strip()):
        return question[: end.start()], text
    return question, ""
