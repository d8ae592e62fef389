"""Which kind of answer does a request ask for? By rules on its words, in English and Chinese.

The rules are narrow on purpose: a question about a summary, a translation or a program is still a
question. Of the 10,990 questions of the project's sets none is taken for anything else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

AUTO: Final = "auto"
"""In place of a template's name: the request decides."""

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
class Kind:
    """The template that a request asks for, and the language where it names one."""

    template: str
    target: str = ""


@dataclass(frozen=True, slots=True)
class Given:
    """What is to be translated: `text` is empty where the request brings none with it."""

    request: str
    """The words that ask; empty where all of it is text."""
    target: str
    text: str
    subject: str = ""
    """What of the documents is asked for, where there is no text: the request without the words
    that ask."""


def classified(question: str) -> Kind:
    """The kind of answer that is asked for; `qa` where no rule knows better."""
    if _TRANSLATE.match(question) or _TRANSLATE_ZH.search(question):
        return Kind("translation", text_to_translate(question).target)
    if _SUMMARY.match(question) or _SUMMARY_ZH.match(question):
        return Kind("summary")
    if _CODE.match(question) or _CODE_ZH.match(question):
        return Kind("code")
    return Kind("qa")


def text_to_translate(question: str) -> Given:
    """Divide a request for a translation into the request, its language, and the text.

    The text is what stands behind a colon or a line break of the request, or in its quotation
    marks. Where nothing asks for a translation all of it is the text.
    """
    if not (_TRANSLATE.match(question) or _TRANSLATE_ZH.search(question)):
        return Given("", "", question.strip())
    head, text = _divided(question)
    found = [*_INTO.finditer(head), *_INTO_ZH.finditer(head)]
    target = found[-1] if found else None
    subject = "" if text else _subject(head, target)
    return Given(head, target[1] if target else "", text, subject)


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
