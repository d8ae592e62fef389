"""Questions drawn from a corpus: their kinds, what is taken out, and that they are repeatable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vivace
from vivace.engine import Engine
from vivace.settings import load
from vivace.sync import BlockingCollection
from vivace.text.terms import terms
from vivace.tune import pseudo
from vivace.tune.docstrings import is_code
from vivace.tune.pseudo import TermRarity, UniqueNames, without_words
from vivace.types import Chunk, Document

PROSE = (
    "The notice period is six weeks to the end of a quarter for every employee of the company. "
    "Whoever has served for more than ten years may ask for a longer period in writing. "
    "The works council has to be heard before any dismissal, and its answer goes into the file. "
    "Holidays that were not taken are paid out with the last salary, less what was advanced."
)
CODE = '''def percentile(values, q):
    """The value at or under which a share of the values lies."""
    ordered = sorted(values)
    place = max(0, int(q * len(ordered)) - 1)
    return ordered[place] if ordered else 0.0
'''
CHINESE = (
    "试用期为三个月，从员工入职之日起开始计算。"
    "员工在试用期内离职，需要提前三天以书面形式通知公司。"
    "公司每年为全体员工安排一次免费的健康检查，费用由公司承担。"
    "加班需要部门经理事先批准，没有批准的加班不计算工资。"
)


def store_of(path: Path, documents: list[Document]) -> BlockingCollection:
    docs = vivace.open(path)
    docs.add(documents)
    return docs


def drawn(docs: BlockingCollection, seed: int = 0) -> list[pseudo.PseudoQuestion]:
    store = docs.collection.corpus.store
    names = UniqueNames()
    for chunk, _ in store.texts():
        names.add(chunk)
    return pseudo.drawn(store, names, seed=seed)


def test_a_sentence_is_asked_of_its_chunk_without_most_of_its_words(tmp_path: Path) -> None:
    with store_of(tmp_path / "c", [Document("a", PROSE), Document("z", CHINESE)]) as docs:
        found = drawn(docs)
        assert found == drawn(docs)
        assert {item.kind for item in found} == {"sentence"}
        assert {item.group for item in found} == {"a", "z"}
        for item in found:
            whole = {"a": PROSE, "z": CHINESE}[item.group]
            assert item.text in whole
            (rest,) = item.rest.values()
            assert set(item.rest) == item.chunks
            # less of the question is left in the passage, and nothing else is gone
            asked = set(terms(item.text))
            assert len(asked & set(terms(rest))) < len(asked)
            before, after = whole.split(item.text)
            assert rest.startswith(before)
            assert rest.endswith(after)


def test_a_docstring_is_asked_of_the_code_without_it(tmp_path: Path) -> None:
    with store_of(tmp_path / "c", [Document("m.py", CODE)]) as docs:
        (item,) = drawn(docs)
        assert (item.kind, item.text) == (
            "docstring",
            "The value at or under which a share of the values lies.",
        )
        (rest,) = item.rest.values()
        assert "sorted(values)" in rest
        assert "at or under" not in rest


def test_a_docstring_that_goes_on_in_other_chunks_is_wholly_out(tmp_path: Path) -> None:
    notes = "".join(
        f"    Remark {n}: the weights of the rows were counted by hand in {1900 + n}, and\n"
        f"    nobody has found a reason since why they should be counted once more.\n\n"
        for n in range(30)
    )
    said = "Balance the rows by the weights that were counted for them."
    body = "    rows = sorted(rows, key=weight)\n    return rows[: len(rows) // 2]\n"
    code = f'def balance(rows):\n    """{said}\n\n{notes}    """\n{3 * body}'
    with store_of(tmp_path / "c", [Document("balance.py", code)]) as docs:
        chunks = docs.collection.corpus.store.chunks_of("balance.py")
        assert len(chunks) > 4
        (item,) = drawn(docs)  # none of a sentence of the notes
    assert (item.kind, item.text) == ("docstring", said)
    assert "Remark" not in "".join(item.rest.values())
    assert item.chunks == {chunks[-1].id}  # the only one with enough of the code


def test_a_comment_is_asked_of_the_code_below_it(tmp_path: Path) -> None:
    code = (
        "function area(shape) {\n  // the sum over all triangles of the polygon\n"
        "  let total = 0;\n  for (const t of shape.triangles()) {\n    total += t.area();\n"
        "  }\n  return total;\n}\n"
    )
    with store_of(tmp_path / "c", [Document("area.js", code)]) as docs:
        (item,) = drawn(docs)
        assert (item.kind, item.text) == ("comment", "the sum over all triangles of the polygon")
        assert "polygon" not in "".join(item.rest.values())


def test_a_heading_is_asked_where_it_names_one_place(tmp_path: Path) -> None:
    guide = tmp_path / "guide.md"
    guide.write_text(f"# Ending an employment contract\n\n{PROSE}\n")
    for name in "ab":
        (tmp_path / f"{name}.md").write_text(f"# Some further remarks\n\n{PROSE} {name}\n")
    with vivace.open(tmp_path / "c") as docs:
        docs.ingest(tmp_path)
        asked = {
            item.text: item
            for seed in range(8)
            for item in drawn(docs, seed)
            if item.kind == "heading"
        }
        assert set(asked) == {"Ending an employment contract"}
        (item,) = asked.values()
        assert all("Ending an" not in rest for rest in item.rest.values())


def test_a_title_that_is_the_name_of_a_file_is_no_question() -> None:
    names = UniqueNames()
    chunk = Chunk("d", PROSE, title="report-final-v2.txt")
    names.add(chunk)
    assert list(pseudo.headings(chunk, names)) == []
    better = Chunk("e", PROSE, title="Ending an employment contract")
    names.add(better)
    assert [made.text for made in pseudo.headings(better, names)] == [better.title]


@pytest.mark.parametrize("text", [PROSE, CHINESE, "", "one line"])
def test_prose_is_not_taken_for_code(text: str) -> None:
    assert not is_code(text)
    assert is_code(CODE)


def test_a_word_is_removed_everywhere_or_nowhere() -> None:
    rng = np.random.default_rng(3)
    text = "the cat and the dog and the cat"
    left = without_words(text, 0.5, rng).split()
    for word in set(text.split()):
        assert left.count(word) in (0, text.split().count(word))
    assert without_words(text, 0.0, rng) == text
    assert without_words(CHINESE, 1.0, rng).strip("，。") == without_words(CHINESE, 1.0, rng).strip(
        "，。"
    )


def test_the_share_of_a_score_that_the_rest_of_a_text_keeps() -> None:
    rarity = TermRarity()
    for text in (PROSE, CODE, "the company and its council"):
        rarity.add(text)
    assert rarity.share("notice period", PROSE, PROSE) == 1.0
    assert rarity.share("notice period", PROSE, "nothing of it") == 0.0
    assert rarity.share("unheard of", PROSE, PROSE) == 0.0
    less = rarity.share("notice council", PROSE, PROSE.replace("notice", ""))
    assert 0 < less < 1
    assert rarity.of("notic") > rarity.of("council")


async def test_a_question_that_the_model_cannot_read_has_no_vector(tmp_path: Path) -> None:
    async with Engine(load()) as engine:
        docs = await engine.open(tmp_path / "c")
        await docs.add([Document("a", PROSE), Document("z", CHINESE)])
        found = await pseudo.labelled(docs.corpus.store, engine.resources.embedder)
        by = {question.language: question for question, _ in found}
        assert set(by) == {"en", "zh"}
        assert by["zh"].vector is None
        assert by["en"].vector is not None
        (other,) = by["en"].remainders.values()
        assert other.vector is not None
        assert 0 <= other.share < 1
