"""Bring your own chunks and vectors, filter by metadata, ask for many things at once.

python examples/own_vectors.py
"""

import asyncio
import tempfile
from pathlib import Path

import numpy as np

import vivace


async def main() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(1000, 64)).astype(np.float32)
    chunks = [
        vivace.Chunk(f"doc-{n}", f"Passage number {n}", metadata={"part": n % 10})
        for n in range(1000)
    ]
    with tempfile.TemporaryDirectory() as temporary:
        async with vivace.Engine(embed__model="given:64") as engine:
            docs = await engine.open(Path(temporary) / "collection")
            await docs.add(chunks, vectors)
            query = vivace.Query("", k=3, vector=vectors[42], filters={"part": {"$in": [2, 3]}})
            for hit in (await docs.search(query)).hits:
                print(f"{hit.score:.3f} {hit.chunk.document_id} {dict(hit.stages)}")


if __name__ == "__main__":
    asyncio.run(main())
