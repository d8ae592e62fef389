"""What keeps the words of documents from being taken for anything else in a prompt?

Passages stand between tags that carry a digest of them all. Two things would break out of that: the
control tokens of chat templates, which a model's tokenizer reads as the end of a turn wherever they
stand, and tags that look like ours. Both get a visible break, in the prompt only: citations are of
the documents' own text. What a passage says in plain words is the model's to judge: it is told that
documents are data.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from vivace.types import Chunk

TAG: Final = "document-"
"""A passage's fence is a tag of this and the request's nonce."""
NOTES: Final = "summary-"
"""The fence of the summary of a part, which a model has written."""

# -- fences -------------------------------------------------------------------------------------

_LONGEST_ATTRIBUTE: Final = 200
_NO_MARKUP: Final = str.maketrans({'"': "'", "＂": "'", "<": "(", ">": ")", "＜": "(", "＞": ")"})


class Fenced(NamedTuple):
    """The texts of one prompt, each between its tags."""

    nonce: str
    notes: tuple[str, ...]
    passages: tuple[str, ...]


def fenced(passages: Sequence[tuple[int, Chunk, str]], notes: Sequence[str]) -> Fenced:
    """Fence passages, each with its number, its chunk and as much of its text as is shown; and
    notes."""
    notes = [neutralised(note) for note in notes]
    shown = [(attributes(number, chunk), neutralised(text)) for number, chunk, text in passages]
    nonce = _nonce([*notes, *(part for pair in shown for part in pair)])
    return Fenced(
        nonce,
        tuple(f"<{NOTES}{nonce}>\n{note}\n</{NOTES}{nonce}>" for note in notes),
        tuple(f"<{TAG}{nonce} {named}>\n{text}\n</{TAG}{nonce}>" for named, text in shown),
    )


def attributes(number: int, chunk: Chunk) -> str:
    """What a passage's opening tag says of it."""
    named = [f'number="{number}"']
    if name := _attribute(chunk.title or chunk.source.rsplit("/", 1)[-1]):
        named.append(f'title="{name}"')
    if section := _attribute(" / ".join(chunk.section)):
        named.append(f'section="{section}"')
    if chunk.page is not None:
        named.append(f'page="{chunk.page}"')
    return " ".join(named)


def _attribute(text: str) -> str:
    """A document's own words as an attribute that they cannot leave: untrusted, like its text."""
    return neutralised(" ".join(text.split())[:_LONGEST_ATTRIBUTE]).translate(_NO_MARKUP)


def _nonce(texts: Sequence[str]) -> str:
    """96 bits of a digest of everything between and in the tags, which none of it contains.

    To close its fence, a text would have to hold the digest of itself and of the passages beside
    it: with every 24 characters of 16,000 a guess, some 2**82 trials. So nothing need be random,
    and the same passages make the same prompt, whose answer can be cached.
    """
    digest = blake2b(digest_size=12)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data))
        digest.update(data)
    while any(digest.hexdigest() in text for text in texts):
        digest.update(b"again")
    return digest.hexdigest()


# -- control tokens -----------------------------------------------------------------------------

_OPENING: Final = re.compile(
    "[][<>＜＞﹤﹥［］﹇﹈‹›〈〉〈〉︿﹀⟨⟩❮❯❬❭❰❱˂˃ᐸᐳ≮≯【】︻︼〔〕︹︺﹝﹞⟦⟧\U0001f12a\U0001f240-\U0001f248]"
)
"""What a control token or a tag begins with, or looks as if it did."""
_MARK: Final = re.compile("[][<>]")
"""The same in ASCII."""
_LOOKS: Final = str.maketrans(
    "‹〈⟨❮❬❰˂ᐸ›〉⟩❯❭❱˃ᐳ∣ǀ│┃❘⏐¦【〔⟦】〕⟧▁ˍ‐‒–—−⁄∕⧸╱оОсСеЕтТмМуУаАѕЅԁոսοΟτΤεΕυᴅᴏᴄᴜᴍᴇɴᴛ",
    "<<<<<<<<>>>>>>>>|||||||[[[]]]__-----////oOcCeEtTmMyYaAsSdnuoOtTeEudocument",
    "\u200c\u200d" + "".join(map(chr, (*range(0x300, 0x370), *range(0xFE00, 0xFE10)))),
)
"""Look-alikes that are left of a text in NFKD; joiners, accents and variants are dropped."""
_WINDOW: Final = 200
"""Characters looked at from a mark on; a control token has at most half as many."""

_FENCE: Final = re.compile(r"<\s*/?\s*(?:documents?\b|summary\s*-)", re.IGNORECASE)
_CONTROL: Final = re.compile(
    r"""
    <\|[^<>\n]{1,80}\|>
    | <<?/?SYS>>
    | </?(?:
        s | unk | pad | bos | eos | cls | sep | mask | sop | eop | eod | eot | eom | eoh | eoa
        | eosys | (?:start|end|begin)_of_[a-z_]+ | fim_[a-z_]+ | file_sep | repo_name
        | _(?:user|bot|system|start|end|pad) | (?:BOS|EOS|PAD)_TOKEN | extra_id_\d+ | unused_?\d+
        | reserved_(?:special_token_)?\d+ | special_\d+ | SPECIAL_\d+ | TOKENS_UNUSED_\d+
        | 0x[0-9A-F]{2} | think(?:ing)? | tool_(?:calls?|response|results?|outputs?)
        | function_(?:calls?|response|results?) | arg_(?:key|value) | (?:seed|minimax):[a-z_/]+
        | image | img | video | audio | box | quad | ref | AI | 用户
      )>
    | >>[A-Z]+<<
    | \[/?(?:
        INST | SYS | SYSTEM_PROMPT | MODEL_SETTINGS | AVAILABLE_TOOLS
        | TOOL_(?:CALLS?|RESULTS?|CONTENT) | CALL_ID | ARGS | THINK | IMG(?:_BREAK|_END)?
        | (?:BEGIN_)?AUDIO | TRANSCRIBE | PREFIX | MIDDLE | SUFFIX | [gs]?MASK | CLS | SEP | PAD
        | UNK | BOS | EOS | @BOS@ | control_\d+ | UNUSED_TOKEN_\d+ | unused\d+
        | \|[^][\n]{1,80}\|
      )\]
    | \]~!?b[][] | \[e~\[
    """,
    re.VERBOSE,
)
"""The control tokens of models' chat templates, and whatever has their form."""

_CONTROL_CHARACTER: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SHOW_NOTHING: Final = (
    "\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\xad\u034f\u061c\u17b4\u17b5\u180b-\u180f\u200b"
    "\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""Characters that can hide words or split a token."""
_JOINERS: Final = "\u200c\u200d\ufe00-\ufe0f"
_LINES: Final = "\x0b\x0c\x1c-\x1e\x85\u2028\u2029"
_HIDDEN: Final = re.compile(f"[{_SHOW_NOTHING}{_JOINERS}{_LINES}]")
_INVISIBLE: Final = re.compile(f"[{_SHOW_NOTHING}]+")
_STRAY_JOINER: Final = re.compile(
    f"(?<![^\x00-\x7f])[{_JOINERS}]+|[{_JOINERS}]+(?![^\x00-\x7f])|[{_JOINERS}]{{2,}}"
)
"""Joiners and variants where no script needs them: beside ASCII, or several of them."""
_LINE_ENDS: Final = re.compile(f"[{_LINES}]")


def neutralised(text: str) -> str:
    """The text without control tokens of models, tags like those of fences, invisible characters.

    A token gets a space behind its first mark, so that `<|im_start|>` becomes `< |im_start|>`; a
    tag's mark becomes a parenthesis. So does what looks like them to a reader, or in a tokenizer's
    normal form. Every other text is unchanged.
    """
    if (_CONTROL_CHARACTER if text.isascii() else _HIDDEN).search(text):
        text = _STRAY_JOINER.sub("", _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text)))
    parts: list[str] = []
    last = 0
    for found in (_MARK if text.isascii() else _OPENING).finditer(text):
        at = found.start()
        if at >= last and (instead := _instead(text, at)):
            parts += (text[last:at], instead)
            last = at + 1
    return "".join([*parts, text[last:]]) if parts else text


def _instead(text: str, at: int) -> str:
    """What replaces the mark at `at`; empty where it begins nothing."""
    seen = [text[at : at + _WINDOW]]
    if not seen[0].isascii():
        seen.append(unicodedata.normalize("NFKD", seen[0]).translate(_LOOKS))
    if any(map(_FENCE.match, seen)):
        return "("
    return text[at] + " " if any(map(_CONTROL.match, seen)) else ""
