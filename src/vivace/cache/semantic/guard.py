"""Do two questions that lie near each other ask the same? What an embedding hardly sees.

A number, a date, a negation, a unit, a name, who does what to whom: one word of a question changes
its answer and hardly moves its vector. So words are compared, not vectors. English and Chinese; a
question in another language is let through only where it is the same text.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import Final

import Stemmer

from vivace.cache.semantic import lexicon
from vivace.text.language import EN, ZH, language
from vivace.text.terms import SIMPLIFIED

_TOKEN: Final = re.compile(
    r"[a-z]+(?:['’][a-z]+)?[+#]*|\d+(?:[.,:/-]\d+)*(?:st|nd|rd|th)?|[^\W_]+|[%$€£¥₹+*/=<>^]"
)
_CAPITAL: Final = re.compile(r"(?<=[^.?!:]\s)[\"'(]?([A-Z][\w'’.+#-]*)|\b([A-Z][A-Z0-9]+)\b")
_BEST_WAY: Final = re.compile(
    r"\bwhat(?:'s|’s| is| are)?\s+(?:the |some |a )?(?:best |good |possible )?ways?\s+"
    r"(?:to|of|for|i can|one can|you can)\b"
)
_CAPITALS: Final = re.compile(r"\bU\.S\.(?:A\b\.?)?|\b(?:US|IT|WHO|AM|PM)\b")
"""Names that would be pronouns and the like if they were written small."""
_RAISED: Final = re.compile("[²³¹⁰-⁹₀-₉¼-¾⅐-⅞]")
_FACTORIAL: Final = re.compile(r"\d!+$")
_INNER_CAPITAL: Final = re.compile(r"\b\w+[A-Z]\w*")
_STEMS_KEPT: Final = 20_000


@dataclass(frozen=True, slots=True)
class Form:
    """A question as the guard compares it; made once of each that is kept."""

    text: str
    """As `exact_text` gives it: equal ones are the same question."""
    language: str
    asks: str
    """What kind of answer it wants: who, when, how many, yes or no, ..."""
    words: tuple[str, ...]
    """Content in its order, written alike. `#` marks a number, `@` a unit or date, `!` a negation,
    `~` a word that turns an answer."""
    bag: tuple[str, ...]
    """The same, sorted."""
    names: frozenset[str]
    """Of the words those that are written as names."""


class _Local(threading.local):
    """A stemmer and its memory a thread: two threads in one stemmer corrupt its buffer."""

    def __init__(self) -> None:
        self.stemmer = Stemmer.Stemmer("english", 0)
        self.known: dict[str, str] = {}


_LOCAL: Final = _Local()


def form(text: str) -> Form:
    """How the guard sees a question. Some 15 microseconds."""
    of = language(text)
    if of == ZH:
        return _chinese(text)
    if of == EN:
        return _english(text)
    folded = folded_text(text)
    return Form(exact_text(text), of, "", (folded,), (folded,), frozenset())


def exact_text(text: str) -> str:
    """One width, script and kind of blank, without what ends a sentence: equal ones ask the same.

    Small letters, but for words with a capital behind their first letter: US is not us, nor mW MW.
    Punctuation inside stays: C is not C++, nor 3.5 35.
    """
    return " ".join(
        word if word[1:] != word[1:].lower() else word.casefold() for word in _even(text).split()
    )


def folded_text(text: str) -> str:
    """As `exact_text`, in one case."""
    return " ".join(_even(text).casefold().split())


def _even(text: str) -> str:
    if not text.isascii():
        text = _RAISED.sub(_written_out, text)
        text = unicodedata.normalize("NFKC", text).translate(_FOLDS)
    text = text.rstrip("?.。 ")
    return text if _FACTORIAL.search(text) else text.rstrip("?!.。 ")


def _written_out(found: re.Match[str]) -> str:
    """10² is not 102, nor 1½ 11/2."""
    sign = found[0]
    raised = unicodedata.decomposition(sign).startswith(("<super>", "<sub>"))
    return ("^" if raised else " ") + unicodedata.normalize("NFKC", sign)


def difference(one: Form, other: Form) -> str:
    """Why the two may not be taken for one question, in a word; empty where nothing speaks
    against it. Symmetric. Microseconds."""
    if one.text == other.text:
        return ""
    if one.language != other.language:
        return "language"
    if one.language not in (EN, ZH):
        return "unread"
    if one.asks != other.asks:
        return "asks"
    if one.words == other.words:
        if not one.words:
            return "nothing"
        if bool(_FACTORIAL.search(one.text)) != bool(_FACTORIAL.search(other.text)):
            return "number"
        return "unit" if _cased_otherwise(one.text, other.text) else ""
    if one.bag == other.bag:
        return "order"
    ours, theirs = Counter(one.bag), Counter(other.bag)
    mine, yours = list((ours - theirs).elements()), list((theirs - ours).elements())
    for word in sorted((*mine, *yours)):  # so that the reason does not depend on who asks whom
        kind = _KINDS.get(word[0])
        if kind:
            return kind
        if word in one.names or word in other.names:
            return "name"
    return "word" if mine and yours else "addition"


def _cased_otherwise(one: str, other: str) -> bool:
    """Whether both have a word with capitals inside that are not the same ones."""
    theirs = {word.lower(): word for word in _INNER_CAPITAL.findall(other)}
    return any(theirs.get(word.lower(), word) != word for word in _INNER_CAPITAL.findall(one))


_KINDS: Final = {"#": "number", "@": "unit", "!": "negation", "~": "turn"}


# -- English ------------------------------------------------------------------------------------

_HAS_DIGIT: Final = re.compile(r"\d")
_ORDINAL: Final = re.compile(r"(\d+)(?:st|nd|rd|th)$")


def _english(text: str) -> Form:
    plain = folded_text(text)
    if not text.isupper() and _CAPITALS.search(text):
        plain = folded_text(_CAPITALS.sub(_named_word, text))
    plain = _BEST_WAY.sub("how to ", plain.replace("’", "'"))
    tokens = _TOKEN.findall(plain)
    known = _LOCAL.known
    words = []
    for token in tokens:
        word = known.get(token)
        if word is None:
            word = _canonical(token)
        if word:
            words.append(word)
    names = (
        frozenset(filter(None, (_canonical(token) for token in _named(text))))
        if not text.islower()
        else frozenset()
    )
    return Form(exact_text(text), EN, _asks(tokens), tuple(words), tuple(sorted(words)), names)


def _named_word(found: re.Match[str]) -> str:
    return f"{found[0].replace('.', '')}x "


def _named(text: str) -> list[str]:
    found = []
    for inner, acronym in _CAPITAL.findall(text):
        found += _TOKEN.findall((inner or acronym).casefold().removesuffix("'s"))
    return found


def _canonical(token: str) -> str:
    """The word that stands for it; "" for one that only asks or binds."""
    known = _LOCAL.known
    if len(known) > _STEMS_KEPT:
        known.clear()
    found = known.get(token)
    if found is None:
        found = known[token] = _looked_up(token)
    return found


def _looked_up(token: str) -> str:
    token = token.removesuffix("'s").removesuffix("'")
    if token in lexicon.NEGATIONS or token.endswith("n't"):
        return "!"
    if token in lexicon.NUMBERS:
        return "#" + lexicon.NUMBERS[token].lstrip("#")
    if token in lexicon.UNITS:
        return "@" + lexicon.UNITS[token]
    if token in lexicon.DATES:
        return "@" + lexicon.DATES[token]
    if token in lexicon.TURNS:
        return "~" + token
    if token in lexicon.EMPTY or token in lexicon.ASKS or token in lexicon.MODALS:
        return ""
    if _HAS_DIGIT.search(token):
        found = _ORDINAL.match(token)
        return "#" + (found[1] if found else token.replace(",", ""))
    word = lexicon.SAME.get(token, token)
    stem: str = _LOCAL.stemmer.stemWord(word)
    return lexicon.SAME.get(stem, stem)


def _asks(tokens: list[str]) -> str:
    asks, tense = "", ""
    for at, token in enumerate(tokens[:12]):
        token = token.partition("'")[0]
        if not asks:
            asks = lexicon.ASKS.get(token, "")
            if asks == "how" and at + 1 < len(tokens) and tokens[at + 1] in lexicon.DEGREES:
                asks = "how " + tokens[at + 1]
            elif not at and token in lexicon.AUXILIARIES:
                asks = "whether " + lexicon.MODALS.get(token, "")
        tense = tense or lexicon.TENSES.get(token, "")
    return f"{asks} {tense}".strip()


# -- Chinese ------------------------------------------------------------------------------------

_FOLDS: Final[dict[int, str | int]] = {
    **SIMPLIFIED,
    ord("’"): "'",
    ord("“"): '"',
    ord("”"): '"',
    ord("。"): ".",
}
_ASKING: Final = re.compile(lexicon.ASKING_ZH)
_HOW: Final = re.compile(lexicon.HOW_ZH)
_WHAT: Final = re.compile(lexicon.WHAT_ZH)
_A_NOT_A: Final = re.compile("([\u4e00-\u9fff])[不没]\\1|是否|有无|能否|可否")
_ASKS_ZH: Final = (
    ("why", re.compile("为什么|为何|为啥|干嘛|怎么会|什么原因|原因")),
    (
        "when",
        re.compile("什么时候|何时|几点|几月|几号|啥时候|哪年|哪天|哪一年|多久|多长时间|什么时间"),
    ),
    ("who", re.compile("谁|哪位|什么人|哪个人")),
    ("where", re.compile("哪里|哪儿|何处|在哪|什么地方|哪个地方|到哪|去哪")),
    ("how many", re.compile("多少|几[个只次岁天年米块元层]|多[大高远长重]")),
    (
        "whether",
        re.compile("吗|是不是|能不能|可不可以|会不会|有没有|要不要|好不好|是否|能否|可否|有无|么$"),
    ),
    ("how", _HOW),
    ("what", re.compile("什么|哪|啥")),
)
_ZH_TOKEN: Final = re.compile(r"[a-z]+[+#]*|\d+(?:[.:/-]\d+)*|[\u3400-\u9fff]|[^\W_]+")
_ZH_NUMBER: Final = re.compile("[〇零一二三四五六七八九十百千万亿两]+")
_ZH_DIGITS: Final = {c: str(v) for v, c in enumerate("〇一二三四五六七八九")} | {
    "零": "0",
    "两": "2",
}


def _chinese(text: str) -> Form:
    folded = folded_text(text)
    asks = next((name for name, found in _ASKS_ZH if found.search(folded)), "")
    plain = _ASKING.sub("", _A_NOT_A.sub(lambda found: found[1] or "", folded))
    plain = _WHAT.sub("", _HOW.sub("", plain))
    plain = _ZH_NUMBER.sub(_digits, plain)
    words = tuple(filter(None, map(_character, _ZH_TOKEN.findall(plain))))
    return Form(exact_text(text), ZH, asks, words, tuple(sorted(words)), frozenset())


def _character(token: str) -> str:
    if token in lexicon.EMPTY_ZH:
        return ""
    if token in lexicon.NEGATIONS_ZH:
        return "!" + token
    if token[0].isdigit():
        return "#" + token
    if token in lexicon.UNITS_ZH:
        return "@" + token
    return "~" + token if token in lexicon.TURNS_ZH else token


def _digits(found: re.Match[str]) -> str:
    number = found[0]
    if all(c in _ZH_DIGITS for c in number):
        return "".join(_ZH_DIGITS[c] for c in number)
    return number
