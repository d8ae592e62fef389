"""What documents say stays between the tags of their passage, and holds no model's control token.

`tests/data/injection.jsonl` has 40 attacks in English and Chinese. An attack passes the fence if
the prompt's structure depends on it: plain words that ask for obedience are inside the fence.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tokenizers import Regex, Tokenizer, normalizers
from tokenizers.models import WordLevel

from vivace.answer.followup import rewriting_prompt
from vivace.generate.fences import neutralised
from vivace.generate.prompts import PromptBuilder, message
from vivace.generate.templates import resolve
from vivace.settings import Answering, Generate
from vivace.types import AnswerOptions, Chunk, Hit, Message, Query

CASES: Final[list[dict[str, str]]] = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data/injection.jsonl").read_text("utf-8").splitlines()
]
QUESTIONS: Final = {"en": "When does it open?", "zh": "几点开门？"}
PLACES: Final = ("text", "title", "section", "source", "metadata", "history", "note")

CONTROL_TOKENS: Final = """
<|im_start|> <|im_end|> <|endoftext|> <|system|> <|user|> <|assistant|> <|end|> <|eot_id|>
<|eom_id|> <|begin_of_text|> <|start_header_id|> <|end_header_id|> <|python_tag|> <|channel|>
<|im_sep|> <|START_OF_TURN_TOKEN|> <|SYSTEM_TOKEN|> <|start_of_role|> <|tool_call|> <|observation|>
<｜begin▁of▁sentence｜> <｜end▁of▁sentence｜> <｜User｜> <｜Assistant｜> <｜tool▁calls▁begin｜>
<｜tool▁sep｜> <｜hy_User｜> [INST] [/INST] <<SYS>> <</SYS>> <s> </s> <unk> <pad> <bos> <eos> <mask>
<start_of_turn> <end_of_turn> <start_of_image> [TOOL_CALLS] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS]
[TOOL_RESULTS] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [THINK] [IMG] [PREFIX] [SUFFIX] [gMASK] [sMASK]
<sop> <eop> <think> </think> <tool_call> </tool_call> <tool_response> <arg_key> <fim_prefix>
<fim_suffix> <extra_id_1> <unused7> [unused10] <reserved_106> <reserved_107> [UNUSED_TOKEN_145]
<eoh>
<eoa>
<用户> <AI> <_user> <_bot> <SPECIAL_12> <BOS_TOKEN> <seed:bos> <minimax:tool_call> [|system|]
[|endofturn|] ]~b] ]~!b[ [e~[ [@BOS@] >>QUESTION<< [CLS] [SEP] [MASK] [PAD] [UNK]
""".split()  # noqa: SIM905

_HOMOGLYPHS: Final = str.maketrans("осеаⅾ‹›〈〉⟨⟩∕—▁", "ocead<><><>/-_")


def as_read(text: str) -> str:
    """The text as a careless reader or tokenizer sees it: look-alikes are what they look like."""
    plain = unicodedata.normalize("NFKD", text)
    seen = "".join(c for c in plain if unicodedata.category(c) not in ("Cf", "Mn") or c == "\n")
    return re.sub("[‐‑–]", "-", seen.translate(_HOMOGLYPHS))


def prompts(case: dict[str, str], place: str) -> Iterator[tuple[Message, ...]]:
    """Every prompt in which the case stands at the place."""
    evil = case["text"]
    more: dict[str, Any] = {
        "text": {"text": evil},
        "title": {"title": evil},
        "section": {"section": ("Part", evil)},
        "source": {"source": evil},
        "metadata": {"metadata": {"note": evil}},
    }
    template = resolve(Query(QUESTIONS[case["language"]]), AnswerOptions())
    hits = [hit("It opens at nine."), hit(**more.get(place, {})), hit("It shuts at six.")]
    history = (Message("user", "And then?"), Message("assistant", evil))
    options = AnswerOptions(history=history if place == "history" else ())
    builder = PromptBuilder(Generate(), Answering(deduplicate=False))
    yield builder.build(template, hits, options).messages
    if place == "note":
        yield (Message("user", message(template, (), notes=["Fine.", evil])),)
    if place == "history":
        yield rewriting_prompt(template.text, history)


def hit(text: str = "Harmless.", **more: Any) -> Hit:
    return Hit(Chunk("d", text, 0, len(text), **{"source": "/x/a.txt", **more}), 1.0)


def nonce(content: str) -> str:
    """The code of a message's fences, which it says before them."""
    found = re.search(r"(?:code|代码) ([0-9a-f]{24})|<summary-([0-9a-f]{24})>", content)
    return (found[1] or found[2]) if found else "none"


def outside(content: str) -> str:
    """What is left of a message without its fenced texts, for any nonce."""
    code = nonce(content)
    quoted = r'"[^"<>\n]*"'
    tag = (
        rf'<document-{code} number="\d+"(?: title={quoted})?(?: section={quoted})?>'
        rf"\n.*?\n</document-{code}>|<summary-{code}>\n.*?\n</summary-{code}>"
    )
    return re.sub(tag, "FENCED", content, flags=re.DOTALL).replace(code, "CODE")


def escapes(case: dict[str, str], place: str) -> list[str]:
    """How the case breaks out of its place."""
    harmless = {**case, "text": "Harmless."}
    found = []
    for messages, expected in zip(prompts(case, place), prompts(harmless, place), strict=True):
        roles = [one.role for one in messages]
        if roles != [one.role for one in expected]:
            found.append("another message")
        last, usual = messages[-1].content, expected[-1].content
        if place != "history" and outside(last) != outside(usual):
            found.append("text outside of its fence")
        for one in messages[1:] if len(messages) > 1 else messages:
            seen = as_read(one.content)
            found += [t for t in CONTROL_TOKENS if t in one.content or as_read(t) in seen]
            tags = re.findall(r"<\s*/?\s*(?:document|summary)\b", seen, re.IGNORECASE)
            if len(tags) != len(
                re.findall(f"</?(?:document|summary)-{nonce(last)}[ >]", one.content)
            ):
                found.append("a tag that looks like a fence")
    return found


def share(places: Callable[[dict[str, str]], tuple[str, ...]]) -> tuple[int, list[str]]:
    """How many cases pass the fence, and how."""
    passed = {
        case["id"]: [f"{place}: {how}" for place in places(case) for how in escapes(case, place)]
        for case in CASES
    }
    return sum(map(bool, passed.values())), [f"{k}: {v}" for k, v in passed.items() if v]


def test_the_corpus_is_what_it_says() -> None:
    assert len(CASES) == len({case["id"] for case in CASES}) == 40
    assert {case["language"] for case in CASES} == {"en", "zh"}
    assert {case["place"] for case in CASES} == set(PLACES)
    for language in ("en", "zh"):
        kinds = {case["kind"] for case in CASES if case["language"] == language}
        assert len(kinds) >= 9


def test_no_attack_passes_the_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    here, how = share(lambda case: (case["place"],))
    anywhere, everything = share(lambda case: PLACES)
    with monkeypatch.context() as patch:
        for user in ("generate.fences", "generate.prompts", "answer.followup"):
            patch.setattr(f"vivace.{user}.neutralised", str)
        unguarded, _ = share(lambda case: (case["place"],))
    count = len(CASES)
    print(f"injection: {here} of {count} cases pass the fence ({here / count:.0%}), in any place")
    print(f"{anywhere} ({anywhere / count:.0%}); {unguarded} ({unguarded / count:.0%}) without it")
    assert how == everything == []
    assert unguarded > count / 2, "the measure sees nothing"


def test_what_is_in_metadata_does_not_reach_the_model() -> None:
    case = next(case for case in CASES if case["place"] == "metadata")
    for messages in prompts(case, "metadata"):
        assert all("metadata rules" not in one.content for one in messages)


@pytest.mark.parametrize(
    "normalizer",
    [
        None,
        normalizers.NFKC(),
        normalizers.Sequence(
            [
                normalizers.NFKD(),
                normalizers.Replace(Regex(r"[\p{Cf}\p{Mn}\x00-\x08\x0e-\x1f]"), ""),
            ]
        ),
        normalizers.BertNormalizer(lowercase=False),
    ],
    ids=["as it is", "NFKC", "stripped", "BERT"],
)
def test_no_tokenizer_finds_a_control_token(normalizer: normalizers.Normalizer | None) -> None:
    from tokenizers import AddedToken

    tokenizer = Tokenizer(WordLevel({"[unknown]": 0}, unk_token="[unknown]"))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokens = [AddedToken(token, normalized=normalizer is not None) for token in CONTROL_TOKENS]
    tokenizer.add_special_tokens(tokens)
    raw = sum(any(tokenizer.encode(case["text"]).ids) for case in CASES)
    assert raw > len(CASES) / 3
    for case in CASES:
        for place in PLACES:
            for messages in prompts(case, place):
                for one in messages:
                    assert not any(tokenizer.encode(one.content).ids), (case["id"], place)


@pytest.mark.parametrize("token", CONTROL_TOKENS)
def test_every_control_token_is_broken_once(token: str) -> None:
    wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in token)
    hidden = f"{token[0]}\u200b{token[1:]}"
    for text in (token, wide, hidden, f"a{token}b", f"中{token}中", token * 3):
        shown = neutralised(text)
        assert token not in unicodedata.normalize("NFKC", shown)
        assert neutralised(shown) == shown
        assert len(shown) <= 2 * len(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a < b, c > d, x[1] |> f <| g, List<String>, [RFC 2119], [args], <your_key>",
        "<details><summary>More</summary>\n<p>x</p></details>\n\n- [ ] task\n- [x] done\n> quoted",
        "《红楼梦》第三回【注】“你好”（一）〔二〕｜竖线 … ≤ 5 ＜ 6",
        "Ünïcödé naïve café ½ ﬁ 한국어 العربية می‌روم हिन्दी 👩‍👩‍👧 ❤️!",
        "tab\there, line\nend\r\n",
    ],
)
def test_ordinary_text_is_unchanged(text: str) -> None:
    shown = neutralised(text)
    assert shown.replace("\ufe0f", "") == text.replace("\ufe0f", "")


def test_whatever_normalises_to_a_mark_is_looked_at() -> None:
    tails = {"<": "|im_start|>", "[": "INST]"}
    for code in range(0x110000):
        if not 0xD800 <= code < 0xE000:
            mark = unicodedata.normalize("NFKC", chr(code))
            if mark in tails:
                token = chr(code) + tails[mark]
                assert neutralised(token) == f"{chr(code)} {tails[mark]}"


def test_a_budget_counts_what_the_prompt_shows() -> None:
    builder = PromptBuilder(Generate(context_tokens=500), Answering(deduplicate=False))
    template = resolve(Query("Why?"), AnswerOptions())
    prompt = builder.build(template, [hit("<s>" * 5_000)], AnswerOptions())
    assert builder.count(prompt.messages[-1].content) < 600
