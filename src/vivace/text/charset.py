"""Which characters are these bytes? Told by how plausible what they decode to is as writing.

The order is: a byte order mark, UTF-16 by its zero bytes, ASCII, ISO-2022-JP by its escapes, UTF-8,
and then the East Asian encodings against each other, which nearly all decode one another's bytes
without an error. Their readings are scored by character: the commonest characters of the language
an encoding is used for, then the first level of its standard (common by the standard's own making),
then the rest. A reading that is not clearly plausible is none: wrong characters are worse than an
error.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from vivace.text import frequent

SAMPLE: Final = 1 << 16
"""Bytes that are scored; the rest of a text only has to decode."""
PLAUSIBLE: Final = 0.6
"""Least mean score of a reading. Real text has over 1.2, the readings that are wrong under 0.3; see
docs/decisions/0009."""
_DECLARED: Final = 0.7
"""What an encoding that the file names itself is given ahead. Files do lie, but not at random."""
_RIVAL: Final = 0.15
_RIVAL_SHORT: Final = 0.8
"""A reading must be better than the next one by the first, and by the second over its characters:
a few characters can look common by accident."""
_OVERRULES: Final = 0.9
"""Least mean score with which a reading is believed against a single-byte encoding that the file
names: of 16 characters or more, text of other alphabets had at most 0.7."""
_ACCIDENT: Final = 4.0
"""What is needed more, over the reading's characters, where the file or Latin letters speak against
it: two or three characters can all be common ones by accident."""
_PRIOR: Final = {"gb18030": 1.0, "big5hkscs": 0.5, "cp950": 0.5, "cp932": 0.5}
"""What is met more often, in a text of one character; in longer ones it fades."""

_FEW: Final = 3

_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LABELS: Final = {
    "utf-8": "utf-8",
    "ascii": "utf-8",
    "us-ascii": "utf-8",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "gb18030": "gb18030",
    "x-gbk": "gb18030",
    "cp936": "gb18030",
    "big5": "big5hkscs",
    "big5-hkscs": "big5hkscs",
    "cp950": "cp950",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "sjis": "cp932",
    "x-sjis": "cp932",
    "windows-31j": "cp932",
    "cp932": "cp932",
    "euc-jp": "euc_jp",
    "iso-2022-jp": "iso2022_jp",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
    "cp949": "cp949",
    "utf-16": "utf-16-le",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
    "latin1": "cp1252",
    "iso-8859-1": "cp1252",
    **{f"windows-125{n}": f"cp125{n}" for n in range(9)},
    **{f"iso-8859-{n}": f"iso8859_{n}" for n in (*range(2, 12), *range(13, 17))},
    "koi8-r": "koi8_r",
    "koi8-u": "koi8_u",
}
"""Names that files give, as the web reads them, and Python's codec for each."""

_CONTROL: Final = re.compile("[\0-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f-\x9f\ufffe\uffff]")
_NOT_ASCII: Final = re.compile("[^\0-\x7f]")
_FOREIGN: Final = re.compile("[^\0-\x7f]+")
_BESIDE_LATIN: Final = re.compile("[A-Za-z][^\0-\x7f]|[^\0-\x7f][A-Za-z]")
_NO_LATIN_WORD: Final = re.compile(rb"[\x80-\xff]{6}")
"""So many accented letters in a row has no word in Latin letters."""
_LATIN: Final = re.compile("[\u00a0-\u024f\u2010-\u2122]")


@dataclass(frozen=True, slots=True)
class Decoded:
    """The text without a byte order mark, its line ends as they were; `encoding` a codec's name."""

    text: str
    encoding: str


class Undecodable(ValueError):
    """The bytes are no text in any encoding known here, or in several alike. Says why."""


def decode(data: bytes, declared: str = "") -> Decoded:
    """The text of the bytes. `declared` is the encoding that the file itself names, if it does.

    Raises:
        Undecodable: no reading is plausible.
    """
    encoding = detect(data, declared)
    mark = next((mark for mark, _ in _BOMS if data.startswith(mark)), b"")
    try:
        text = str(memoryview(data)[len(mark) :], encoding)
    except UnicodeDecodeError as error:
        at = error.start + len(mark)
        raise Undecodable(
            f"is {encoding} up to offset {at}, where byte 0x{data[at]:02x} is not"
        ) from None
    return Decoded(text, encoding)


def detect(data: bytes, declared: str = "") -> str:
    """The codec that reads the bytes, told from their first 64 KiB.

    Raises:
        Undecodable: no reading is plausible.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return encoding
    if b"\0" in data[:SAMPLE]:
        return _wide(data)
    nul = data.find(b"\0")
    if nul >= 0:
        raise Undecodable(f"has a NUL byte at offset {nul}, so it is not a text file")
    codec = _LABELS.get(declared.strip().lower(), "")
    head = data[:SAMPLE]
    if data.isascii():
        return "iso2022_jp" if _is_iso_2022_jp(head) else "utf-8"
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return _legacy(head, codec, f"byte 0x{data[error.start]:02x} at offset {error.start}")
    return "gb18030" if _is_short_chinese(data, text) else "utf-8"


def _wide(data: bytes) -> str:
    """UTF-16 without a mark: the zero bytes of its Latin characters stand on one side only."""
    nul = data.find(b"\0")
    head = data[: SAMPLE & ~1]
    if len(data) % 2 == 0:
        even, odd = head[::2].count(0), head[1::2].count(0)
        encoding = "utf-16-be" if even > odd else "utf-16-le"
        text = _sample(head, encoding)
        if min(even, odd) * 20 <= max(even, odd) and text and not _CONTROL.search(text):
            likely = sum(map(_everyday, text))
            if 2 * likely >= len(text):
                return encoding
    raise Undecodable(f"has a NUL byte at offset {nul}, so it is not a text file")


def _everyday(char: str) -> bool:
    """Whether writing is mostly made of such characters; ideographs by accident are rare ones."""
    return (
        char < "\u0530"
        or "\u2010" <= char < "\u2040"
        or "\u3000" <= char < "\u3100"
        or "\uac00" <= char <= "\ud7a3"
        or char in frequent.SIMPLIFIED
        or char in frequent.TRADITIONAL
        or char in frequent.JAPANESE
        or char in _PUNCTUATION
    )


def _is_iso_2022_jp(data: bytes) -> bool:
    if not re.search(rb"\x1b\$[@B]", data):
        return False
    text = _sample(data, "iso2022_jp")
    return text is not None and not _CONTROL.search(text)


def _is_short_chinese(data: bytes, text: str) -> bool:
    """Whether valid UTF-8 is more likely two or three characters of GB 18030.

    One GB 2312 character in five is valid UTF-8 of two bytes, two in a row one in twenty-five:
    only a file of a few characters can be both, and Latin letters beside others are Latin.
    """
    if len(data) - len(text) > _FEW or _LATIN.search(text):  # so many bytes more than characters
        return False
    if any(char >= "\u0800" for char in _NOT_ASCII.findall(text)):
        return False
    other = _sample(data, "gb18030")
    return other is not None and score(other, "gb18030") >= frequent.COMMON


def _legacy(data: bytes, declared: str, why_not_utf_8: str) -> str:
    readings = {encoding: _sample(data, encoding) for encoding in _SCORES}
    scores: dict[str, float] = {}
    overruled, may_be_latin = False, _NO_LATIN_WORD.search(data) is None
    for encoding, text in readings.items():
        if text is not None:
            found, doubt = score(text, encoding), _ACCIDENT / max(1, _foreign(text))
            overruled = overruled or found >= _OVERRULES + doubt
            if not (may_be_latin and _BESIDE_LATIN.search(text)):
                found += _PRIOR.get(encoding, 0.0) / max(1, _foreign(text))
            elif found < PLAUSIBLE + doubt and encoding != declared:
                continue  # accented letters of a Latin word
            scores[encoding] = found + (_DECLARED if encoding == declared else 0.0)
    if not overruled and declared not in _SCORES and declared not in ("", "utf-8"):
        text = _sample(data, declared)
        if text is not None and not _CONTROL.search(text):
            return declared
    ranked = sorted(scores, key=scores.__getitem__, reverse=True)
    if ranked:
        best = ranked[0]
        needed = _RIVAL + _RIVAL_SHORT / max(1, _foreign(readings[best] or ""))
        rivals = [e for e in ranked[1:] if readings[e] != readings[best]]
        ahead = scores[best] - max((scores[e] for e in rivals), default=-9.0)
        if scores[best] >= PLAUSIBLE and ahead >= needed:
            return best
    raise Undecodable(f"is not UTF-8 ({why_not_utf_8}), and no other encoding reads like writing")


def _foreign(text: str) -> int:
    return sum(map(len, _FOREIGN.findall(text)))


def _sample(data: bytes, encoding: str) -> str | None:
    """The decoded bytes, all or (of a cut sample) all but an unfinished character; None if not."""
    try:
        decoder = codecs.getincrementaldecoder(encoding)()
        return decoder.decode(data, final=len(data) < SAMPLE & ~1)
    except UnicodeDecodeError:
        return None


def score(text: str, encoding: str) -> float:
    """Mean plausibility of the text's characters beyond ASCII, as that encoding's usual readers
    would see them: about 2 for everyday text, under 0 for an accident."""
    table, rest = _table(encoding)
    counts = Counter(_NOT_ASCII.findall(text))
    if _CONTROL.search(text) or not counts:
        return -9.0
    total = sum(n * table.get(char, rest(char)) for char, n in counts.items())
    return total / sum(counts.values())


def _block(codec: str, leads: range, trails: range) -> set[str]:
    data = (bytes((lead, trail)) for lead in leads for trail in trails)
    return set("".join(pair.decode(codec, "ignore") for pair in data))


_HALF_KANA: Final = -1.5
_RARE: Final = -2.0
_PUNCTUATION: Final = "，。、；：？！“”‘’（）《》「」『』【】〔〕〈〉—…～·・％　＋－／＝＜＞￥"


def _rest(char: str) -> float:
    """What is in no list: ideographs beyond the standard's first level, symbols, other scripts."""
    code = ord(char)
    if 0xE000 <= code < 0xF900 or code > 0x2FFFF:
        return -5.0  # private use: an accident
    if 0xFF61 <= code <= 0xFF9F:
        return _HALF_KANA
    if 0xFF00 <= code < 0xFF61 or 0x2010 <= code < 0x2600 or 0x3000 <= code < 0x3040:
        return 0.3
    return _RARE


def _gb() -> dict[str, float]:
    table = dict.fromkeys(_block("gb2312", range(0xD8, 0xF8), range(0xA1, 0xFF)), -0.3)
    table |= dict.fromkeys(_block("gb2312", range(0xA4, 0xA6), range(0xA1, 0xFF)), -0.5)
    table |= dict.fromkeys(_block("gb2312", range(0xB0, 0xD8), range(0xA1, 0xFF)), 0.5)
    table |= dict.fromkeys(frequent.TRADITIONAL, 1.2)
    table |= dict.fromkeys(frequent.SIMPLIFIED, frequent.COMMON)
    return table


def _big5() -> dict[str, float]:
    trails = (*range(0x40, 0x7F), *range(0xA1, 0xFF))
    table: dict[str, float] = {}
    for leads, value in ((range(0xC9, 0xFA), -0.3), (range(0xA4, 0xC7), 0.5)):
        pairs = (bytes((lead, trail)) for lead in leads for trail in trails)
        found = "".join(pair.decode("cp950", "ignore") for pair in pairs)
        table |= {char: value for char in found if "\u4e00" <= char <= "\u9fff"}
    table |= dict.fromkeys(frequent.TRADITIONAL, frequent.COMMON)
    return table


def _kana() -> dict[str, float]:
    return dict.fromkeys(map(chr, range(0x3041, 0x3094)), 2.0) | dict.fromkeys(
        map(chr, range(0x30A1, 0x30FD)), 1.5
    )


def _japanese() -> dict[str, float]:
    table = dict.fromkeys(_block("euc_jp", range(0xD0, 0xF5), range(0xA1, 0xFF)), -0.5)
    table |= dict.fromkeys(_block("euc_jp", range(0xB0, 0xD0), range(0xA1, 0xFF)), 0.5)
    table |= _kana() | dict.fromkeys(frequent.JAPANESE, frequent.COMMON)
    return table


def _korean() -> dict[str, float]:
    table = dict.fromkeys(_block("euc_kr", range(0xCA, 0xFE), range(0xA1, 0xFF)), -0.7)
    table |= dict.fromkeys(_block("euc_kr", range(0xB0, 0xC9), range(0xA1, 0xFF)), 0.4)
    table |= dict.fromkeys(frequent.HANGUL, frequent.COMMON)
    return table


_SCORES: Final[Mapping[str, Callable[[], dict[str, float]]]] = {
    "gb18030": _gb,
    "big5hkscs": _big5,
    "cp950": _big5,
    "cp932": _japanese,
    "euc_jp": _japanese,
    "cp949": _korean,
}


@lru_cache(maxsize=len(_SCORES))
def _table(encoding: str) -> tuple[Mapping[str, float], Callable[[str], float]]:
    table = _SCORES[encoding]()
    for char in _PUNCTUATION:
        table[char] = 1.0
    return table, _rest
