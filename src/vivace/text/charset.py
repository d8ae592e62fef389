"""Detects the encoding of bytes by how plausible the decoded text is.

It tries, in order: a byte order mark, UTF-16 by its zero bytes, ASCII, ISO-2022-JP by its escapes,
UTF-8, and then the East Asian encodings, nearly all of which decode one another's bytes without an
error. Their readings are scored by character: the commonest characters of the encoding's language
score most, then the first level of its standard, then the rest. A reading that is not clearly
plausible is rejected: wrong characters are worse than an error.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

SAMPLE: Final = 1 << 16
"""Bytes that are scored; the rest of the text only has to decode."""
PLAUSIBLE: Final = 0.6
"""Least mean score of a reading. Real text has over 1.2, wrong readings under 0.3; see
docs/decisions/0009."""
_DECLARED: Final = 0.7
"""Bonus of the encoding that the file itself names. Files may be wrong, but not at random."""
_RIVAL: Final = 0.15
_RIVAL_SHORT: Final = 0.8
"""A reading must beat the next one by the first, plus the second divided by its characters: a few
characters can be common by accident."""
_OVERRULES: Final = 0.9
"""Least mean score with which a reading overrules a single-byte encoding that the file names: text
of other alphabets with 16 characters or more had at most 0.7."""
_ACCIDENT: Final = 4.0
"""Further score needed, divided by the reading's characters, if the file's own name for its
encoding or Latin letters contradict it: two or three characters can all be common by accident."""
_PRIOR: Final = {"gb18030": 1.0, "big5hkscs": 0.5, "cp950": 0.5, "cp932": 0.5}
"""Bonus of frequent encodings for a text of one character; divided by the characters."""

_FEW: Final = 3

COMMON: Final = 2.2
"""Score of a character of these lists in its own encoding. About 400 characters make two thirds of
modern Chinese text, and a wrong decoding hits them by chance only. The lists are the heads of the
usual frequency lists; they need not be exact."""

SIMPLIFIED: Final = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里"
    "用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实"
    "日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政"
    "美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员"
    "解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件"
    "计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象"
    "完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运请告单组元"
    "标项目价您测试例图页章节网用户件号码址版始终输密服务器库索引查询型算法合部门客支持络程序源语言向量词"
    "型字符默录添删改显示选择功能模块片段答案检维护录置快优略策省县市镇村街区职姓龄籍"
)

TRADITIONAL: Final = frozenset(
    "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過發後作裡"
    "裏用道行所然家種事成方多經麼去法學如都同現當沒動面起看定天分還進好小部其些主樣理心她本前開但因只從想"
    "實日軍者意無力它與長把機十民第公此已工使情明性知全三又關點正業外將兩高間由問很最重並物手應戰向頭文體"
    "政美相見被利什二等產或新己制身果加西斯月話合回特代內信表化老給世位次度門任常先海通教兒原東聲提立及比"
    "員解水名真論處走義各入幾口認條平系氣題活爾更別打女變四神總何電數安少報才結反受目太量再感建務做接必場"
    "件計管期市直德資命山金指克許統區保至隊形社便空決治展馬科司五基眼書非則聽白卻界達光放強即像難且權思王"
    "象完設式色路記南品住告類求據程北邊死張該交規萬取拉格望覺術領共確傳師觀清今切院讓識候帶導爭運請單組元"
    "標項目價您測試例圖頁章節網戶號碼址版始終輸密服器庫索引查詢型算客支持絡序源語言量詞字符默錄添刪改顯示"
    "選擇功模塊片段答案檢維護置快繁灣臺台灣縣鎮村街職姓齡籍優略策"
)

JAPANESE: Final = frozenset(
    "日一国人年大十二本中長出三時行見月分後前生五間上東四今金九入学高円子外八六下来気小七山話女北午百書先"
    "名川千水半男西電校語土木聞食車何南万毎白天母火右読友左休父雨新会社自的者同事業市部員合定内回取体理化"
    "最立発方用主代実動場対力手目問成表性度当家住所齢佐藤田中村井伊鈴渡辺橋木林加吉太郎京都阪県区町番号電"
    "文字漢道作使込設売買店品料約平安全開始終了必要可能結果情報機械言葉意味使関係数知私思彼達"
)

HANGUL: Final = frozenset(
    "이다는의에을를가고하은한지도로사인기아어자대시스그나리수해일서라정전부과보있것들만주원안장공성여상비조소"
    "우유제요면세구오게국회연관미적동신문중마거할개무생물위방학교차까니습모되선경영행화호래심와더년월말같습당"
)

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
"""Python's codec for each name of an encoding, as browsers interpret it."""

_CONTROL: Final = re.compile("[\0-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f-\x9f\ufffe\uffff]")
_NOT_ASCII: Final = re.compile("[^\0-\x7f]")
_FOREIGN: Final = re.compile("[^\0-\x7f]+")
_BESIDE_LATIN: Final = re.compile("[A-Za-z][^\0-\x7f]|[^\0-\x7f][A-Za-z]")
_NO_LATIN_WORD: Final = re.compile(rb"[\x80-\xff]{6}")
"""No word in Latin letters has so many accented letters in a row."""
_LATIN: Final = re.compile("[\u00a0-\u024f\u2010-\u2122]")


@dataclass(frozen=True, slots=True)
class Decoded:
    """The text without a byte order mark, line ends unchanged; `encoding` is a codec's name."""

    text: str
    encoding: str


class Undecodable(ValueError):
    """The bytes are text in no known encoding, or equally plausible in several."""


def decode(data: bytes, declared: str = "") -> Decoded:
    """The text of the bytes. `declared` is the encoding that the file itself names, if any.

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
    """The codec of the bytes, detected in their first 64 KiB.

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
    """UTF-16 without a mark: the zero bytes of Latin characters are at even or odd offsets only."""
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
    """Whether text consists mostly of such characters; accidental ideographs are rare ones."""
    return (
        char < "\u0530"
        or "\u2010" <= char < "\u2040"
        or "\u3000" <= char < "\u3100"
        or "\uac00" <= char <= "\ud7a3"
        or char in SIMPLIFIED
        or char in TRADITIONAL
        or char in JAPANESE
        or char in _PUNCTUATION
    )


def _is_iso_2022_jp(data: bytes) -> bool:
    if not re.search(rb"\x1b\$[@B]", data):
        return False
    text = _sample(data, "iso2022_jp")
    return text is not None and not _CONTROL.search(text)


def _is_short_chinese(data: bytes, text: str) -> bool:
    """Whether valid UTF-8 is more likely two or three characters of GB 18030.

    One in five GB 2312 characters is valid UTF-8 of two bytes, two in a row one in twenty-five:
    only a file of a few characters can be both, and text with Latin letters is Latin.
    """
    if len(data) - len(text) > _FEW or _LATIN.search(text):  # bytes beyond one per character
        return False
    if any(char >= "\u0800" for char in _NOT_ASCII.findall(text)):
        return False
    other = _sample(data, "gb18030")
    return other is not None and score(other, "gb18030") >= COMMON


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
    """The decoded bytes, without a character cut at the sample's end; None if they do not
    decode."""
    try:
        decoder = codecs.getincrementaldecoder(encoding)()
        return decoder.decode(data, final=len(data) < SAMPLE & ~1)
    except UnicodeDecodeError:
        return None


def score(text: str, encoding: str) -> float:
    """Mean plausibility of the text's characters beyond ASCII in the encoding's language: about 2
    for everyday text, below 0 for an accident."""
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
    """Score of what is in no list: rare ideographs, symbols, other scripts."""
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
    table |= dict.fromkeys(TRADITIONAL, 1.2)
    table |= dict.fromkeys(SIMPLIFIED, COMMON)
    return table


def _big5() -> dict[str, float]:
    trails = (*range(0x40, 0x7F), *range(0xA1, 0xFF))
    table: dict[str, float] = {}
    for leads, value in ((range(0xC9, 0xFA), -0.3), (range(0xA4, 0xC7), 0.5)):
        pairs = (bytes((lead, trail)) for lead in leads for trail in trails)
        found = "".join(pair.decode("cp950", "ignore") for pair in pairs)
        table |= {char: value for char in found if "\u4e00" <= char <= "\u9fff"}
    table |= dict.fromkeys(TRADITIONAL, COMMON)
    return table


def _kana() -> dict[str, float]:
    return dict.fromkeys(map(chr, range(0x3041, 0x3094)), 2.0) | dict.fromkeys(
        map(chr, range(0x30A1, 0x30FD)), 1.5
    )


def _japanese() -> dict[str, float]:
    table = dict.fromkeys(_block("euc_jp", range(0xD0, 0xF5), range(0xA1, 0xFF)), -0.5)
    table |= dict.fromkeys(_block("euc_jp", range(0xB0, 0xD0), range(0xA1, 0xFF)), 0.5)
    table |= _kana() | dict.fromkeys(JAPANESE, COMMON)
    return table


def _korean() -> dict[str, float]:
    table = dict.fromkeys(_block("euc_kr", range(0xCA, 0xFE), range(0xA1, 0xFF)), -0.7)
    table |= dict.fromkeys(_block("euc_kr", range(0xB0, 0xC9), range(0xA1, 0xFF)), 0.4)
    table |= dict.fromkeys(HANGUL, COMMON)
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
