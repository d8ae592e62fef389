"""Makes `collection-0.1.tar.xz` with a Vivace 0.1; run it with that version on the path.

git worktree add /tmp/0.1 4bf13ed
PYTHONPATH=/tmp/0.1/src python tests/data/make_collection_0_1.py
"""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

import vivace
from vivace.settings import load
from vivace.types import Document

HERE = Path(__file__).parent
ANIMALS = ["fox", "heron", "otter", "badger", "owl", "hare", "stoat", "newt"]
PLACES = ["the river", "an old barn", "the high moor", "a quiet wood"]
CITIES = ["北京", "上海", "成都", "西安", "广州"]
FOODS = ["面条", "饺子", "豆腐"]


def documents() -> list[Document]:
    english = [
        Document(
            f"en-{animal}-{at}",
            f"The {animal} lives near {place}. It sleeps by day and hunts at night.",
            title=animal.title(),
            metadata={"lang": "en", "place": at},
        )
        for animal in ANIMALS
        for at, place in enumerate(PLACES)
    ]
    chinese = [
        Document(
            f"zh-{city}-{at}",
            f"{city}的{food}很有名。游客常常在老城的小店里吃{food}。",
            title=city,
            metadata={"lang": "zh", "food": at},
        )
        for city in CITIES
        for at, food in enumerate(FOODS)
    ]
    return english + chinese


def main() -> None:
    settings = load(index={"seal_chunks": 30, "terms_chunks": 40}, tune={"recall": 0.9})
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "collection-0.1"
        with vivace.open(folder, settings=settings) as docs:
            every = documents()
            docs.add(every[:40])
            docs.tune(families=["pq"], budget_seconds=2)
            docs.add(every[40:])
            docs.delete(["en-newt-3", "zh-广州-2"])
            for question in ("Where does the otter live?", "成都的豆腐", "owl in a barn"):
                docs.search(question)
            print(docs.info(), docs.plan, len(docs.decisions()), docs.verify())
        for path in folder.rglob("*"):
            if path.name.endswith(("-wal", "-shm")):
                print("left over:", path)
        with tarfile.open(HERE / "collection-0.1.tar.xz", "w:xz", preset=9) as archive:
            archive.add(folder, folder.name)


if __name__ == "__main__":
    main()
