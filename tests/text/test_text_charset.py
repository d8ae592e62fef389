"""Which characters are these bytes?"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from vivace.text.charset import SAMPLE, Undecodable, decode, detect

GB = "gb18030"
CHINESE = "检索系统的性能取决于索引的选择：数据量小的时候，精确搜索就足够了。"
TRADITIONAL = "檢索系統的性能取決於索引的選擇：資料量小的時候，精確搜尋就足夠了。"
JAPANESE = "検索システムの性能は索引の選択によって決まります。データが少ないときは十分です。"
KOREAN = "검색 시스템의 성능은 색인의 선택에 따라 결정됩니다. 데이터가 적을 때는 충분합니다."


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (CHINESE, "utf-8"),
        (CHINESE, GB),
        (CHINESE, "gbk"),
        (TRADITIONAL, GB),
        (TRADITIONAL, "big5"),
        (TRADITIONAL, "cp950"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "cp932"),
        (JAPANESE, "euc_jp"),
        (JAPANESE, "iso2022_jp"),
        (KOREAN, "euc_kr"),
        ("中文", GB),
        ("数据库", GB),
        ("繁體中文", "big5"),
        ("資料", "big5"),
        ("こんにちは", "cp932"),
        ("id,姓名\n1,王小明\n", GB),
        ("Größe, déjà vu, naïve", "utf-8"),
        ("é", "utf-8"),
        ("Привет", "utf-8"),
        ("plain ASCII", "ascii"),
        ("text in Latin letters", "utf-16-le"),
        ("text in Latin letters\n", "utf-16-be"),
        (f"title: {CHINESE}\n", "utf-16-le"),
        ("😀 emoji", "utf-8"),
        ("𠮷野家的牛肉飯", "utf-8"),
    ],
)
def test_text_is_read_as_it_was_written(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)).text == text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_decides(encoding: str) -> None:
    assert decode(CHINESE.encode(encoding)).text == CHINESE


@pytest.mark.parametrize(
    "data",
    [
        "un café noir, déjà bu".encode("cp1252"),
        "Größe und Übermut".encode("latin-1"),
        "Привет, как дела".encode("koi8-r"),
        bytes(range(1, 256)),
        random.Random(3).randbytes(2_000).replace(b"\0", b"x"),
        b"%PDF-1.7\0\xff\xfe binary",
        b"\xff",
        "中文".encode("utf-16")[:-1],
        CHINESE.encode("utf-8")[:-1],
        b"PK\x03\x04" + bytes(100),
    ],
)
def test_what_cannot_be_told_is_an_error(data: bytes) -> None:
    with pytest.raises(Undecodable):
        decode(data)


def test_the_error_says_where() -> None:
    with pytest.raises(Undecodable, match="byte 0xff at offset 5"):
        decode(b"good \xff bad")
    with pytest.raises(Undecodable, match="NUL byte at offset 4"):
        decode(b"text\0")
    late = CHINESE.encode(GB) * 1_000 + b"\xff\xff"
    with pytest.raises(Undecodable, match=f"is gb18030 up to offset {len(late) - 2}"):
        decode(late)


def test_what_the_file_names_is_believed_where_it_is_plausible() -> None:
    assert decode("déjà".encode("latin-1"), "ISO-8859-1").text == "déjà"
    assert decode("Привет".encode("koi8-r"), "koi8-r").text == "Привет"
    assert decode(CHINESE.encode(), "gb2312").encoding == "utf-8"  # a common lie
    assert decode(CHINESE.encode(GB), "utf-8").text == CHINESE
    assert decode(CHINESE.encode(GB), "no-such-thing").text == CHINESE
    with pytest.raises(Undecodable):
        decode(b"\x81\x8d\x8f bad", "windows-1252")


RUSSIAN = "Все люди рождаются свободными и равными в своем достоинстве и правах. "
GREEK = "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια. "
FRENCH = "Tous les êtres humains naissent libres et égaux, où ça, à l'été. "


@pytest.mark.parametrize("declared", ["iso-8859-1", "windows-1251", "koi8-r"])
@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (CHINESE, GB),
        (TRADITIONAL, "big5"),
        (JAPANESE, "cp932"),
        (KOREAN, "euc_kr"),
        (f"<p>API: {CHINESE}</p>", GB),
    ],
)
def test_a_single_byte_encoding_is_not_believed_of_east_asian_text(
    text: str, encoding: str, declared: str
) -> None:
    assert decode(text.encode(encoding), declared).text == text


@pytest.mark.parametrize(
    ("text", "declared"),
    [
        (RUSSIAN, "koi8-r"),
        (RUSSIAN, "windows-1251"),
        (RUSSIAN.upper(), "windows-1251"),
        (RUSSIAN, "iso-8859-5"),
        (GREEK, "windows-1253"),
        (FRENCH, "iso-8859-1"),
        (FRENCH.upper(), "windows-1252"),
    ],
)
def test_text_of_other_alphabets_stays_what_it_is_declared_as(text: str, declared: str) -> None:
    """Wherever it is cut: a part of it can look like a few Chinese characters."""
    data = text.encode(declared)
    chance = random.Random(5)
    for length in (5, 12, 24, len(text)):
        for _ in range(50):
            at = chance.randrange(len(data) - length + 1)
            part = data[at : at + length]
            if not part.isascii():
                assert decode(part, declared).text == text[at : at + length]


@pytest.mark.parametrize(
    "word",
    ["LISTE DES FILMS CRÉÉES", "INFORMAÇÃO", "AÇÕES", "PÄÄ", "MÄÄRÄÄ", "TÖÖ", "ÄÄNI", "naïïf"],
)
def test_accented_letters_of_a_latin_word_are_not_chinese(word: str) -> None:
    with pytest.raises(Undecodable):
        decode(word.encode("cp1252"))
    assert decode(word.encode("cp1252"), "iso-8859-1").text == word


def test_only_the_beginning_is_scored() -> None:
    data = ("x" + CHINESE * 2_000).encode(GB)
    assert len(data) > SAMPLE
    assert detect(data) == GB  # whichever byte of a character the sample ends on
    assert detect(data[1:]) == GB


def test_no_passage_of_some_length_is_read_wrongly(data: Path) -> None:
    """Cut out of real text anywhere; being refused is allowed, being wrong is not."""
    lines = (data / "qa/cmrc_zh/corpus.jsonl").read_text("utf-8").splitlines()
    text = "".join(json.loads(line)["text"] for line in lines[:200])
    chance = random.Random(7)
    refused = 0
    for _ in range(300):
        at = chance.randrange(len(text) - 40)
        passage = text[at : at + 20]
        try:
            assert decode(passage.encode(GB)).text == passage
        except Undecodable:
            refused += 1
    assert refused < 15
