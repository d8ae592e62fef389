"""BM25 over our own terms, in an index of tantivy.

Tantivy ranks by textbook BM25 (k1 = 1.2, b = 0.75; Robertson et al., "Okapi at TREC-3", 1994). Its
segment files end in a CRC-32 that it does not check when it opens them; `damage` does.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np

from vivace.errors import CorruptIndex
from vivace.index import matches
from vivace.index.files import FILE_MODE, FOLDER_MODE, checksum
from vivace.types import Bitmap, Ids, Matches

STATE = "vivace.json"
META = "meta.json"
"""Tantivy's list of its segments, which has no checksum of its own."""
_PARTS = ("fast", "fieldnorm", "idx", "pos", "store", "term")
"""Suffixes of a segment's files with our schema; deletions have one more."""
FORMAT = 1
_HEAP_BYTES = 32_000_000
_MAX_TERMS = 512
"""Most distinct terms of a query that are searched; more cost more than they help."""
_FEW_ALLOWED = 1_000
_FOOTER_MAGIC = 1337


@dataclass(frozen=True, slots=True)
class TermStatistics:
    """What BM25 needs of an index; includes deleted chunks until tantivy merges them away."""

    chunks: int
    tokens: float
    """The sum of the chunks' lengths."""
    frequencies: Mapping[str, int]
    """The number of chunks that contain each term."""


_SERIALS: Final = count(1)


class TermSearcher:
    """An immutable, committed state of a term index."""

    def __init__(self, schema: Any, searcher: Any) -> None:
        self.serial = next(_SERIALS)
        """Unique in this process."""
        self._schema = schema
        self._searcher = searcher
        self._size: tuple[int, float] | None = None

    def __len__(self) -> int:
        return int(self._searcher.num_docs)

    def ids(self) -> Ids:
        """The ids of all its chunks, ascending; for verification, slow."""
        from tantivy import Query

        if not len(self):
            return np.empty(0, np.int64)
        hits = self._searcher.search(Query.all_query(), len(self), count=False).hits
        found = self._searcher.fast_field_values("id", [address for _, address in hits])
        return np.sort(np.array(found, np.int64))

    def statistics(self, terms: Sequence[str]) -> TermStatistics | None:
        """For these terms; None if no chunk contains any of them. Takes microseconds."""
        found = {term: int(self._searcher.doc_freq("terms", term)) for term in distinct(terms)}
        if self._size is None:
            held = (term for term in found if found[term])
            self._size = next(filter(None, map(self._measured, held)), None)
        return TermStatistics(*self._size, found) if self._size and any(found.values()) else None

    def _measured(self, term: str) -> tuple[int, float] | None:
        """Chunks and tokens, from tantivy's explanation of a score of the term; None if there is
        none.

        Tantivy exposes the numbers that it scores with in no other way.
        """
        query = self._term(term)
        hits = self._searcher.search(query, 1, count=False).hits
        if not hits:
            return None
        explained = json.loads(query.explain(self._searcher, hits[0][1]).to_json())
        values = {note["description"]: note["value"] for note in _notes(explained)}
        chunks = int(values["N, total number of docs"])
        return chunks, chunks * values["avgdl, average length of field"]

    def search(
        self,
        terms: Sequence[str],
        k: int,
        *,
        allow: Bitmap | None = None,
        boosts: Mapping[str, float] | None = None,
    ) -> Matches:
        """The k best by BM25 as one row, shorter than k if fewer match.

        `boosts` multiply a term's part of the score.
        """
        if k < 1 or not terms or not len(self):
            return matches.empty(1, 0)
        query = self._query(terms, boosts or {})
        if allow is None:
            return self._top(query, k)
        allowed = int(np.count_nonzero(allow))
        if allowed <= _FEW_ALLOWED:
            if not allowed:
                return matches.empty(1, 0)
            return self._top(self._among(query, np.flatnonzero(allow)), k)
        width = k * max(1, round(1.5 * len(self) / allowed))
        while True:
            found = self._top(query, width)
            ids = found.ids[0]
            keep = (ids < len(allow)) & allow[np.minimum(ids, len(allow) - 1)]
            if np.count_nonzero(keep) >= k or len(ids) < width:
                return Matches(found.ids[:, keep][:, :k], found.scores[:, keep][:, :k])
            width *= 4

    def _query(self, terms: Sequence[str], boosts: Mapping[str, float]) -> Any:
        from tantivy import Occur, Query

        # looked up once: an import in a function takes as long as making a term's query
        of_term, schema, should = Query.term_query, self._schema, Occur.Should
        parts = []
        for term, times in distinct(terms).items():
            part, boost = of_term(schema, "terms", term, "freq"), times * boosts.get(term, 1.0)
            parts.append((should, Query.boost_query(part, boost) if boost != 1.0 else part))
        return Query.boolean_query(parts)

    def _term(self, term: str) -> Any:
        from tantivy import Query

        return Query.term_query(self._schema, "terms", term, "freq")

    def _among(self, query: Any, ids: Ids) -> Any:
        from tantivy import Occur, Query

        these = Query.term_set_query(self._schema, "id", ids.tolist())
        return Query.boolean_query(
            [(Occur.Must, query), (Occur.Must, Query.const_score_query(these, 0.0))]
        )

    def _top(self, query: Any, k: int) -> Matches:
        # tantivy allocates memory for as many hits as requested
        hits = self._searcher.search(query, min(k, len(self)), count=False).hits
        if not hits:
            return matches.empty(1, 0)
        scores, addresses = zip(*hits, strict=True)
        ids = self._searcher.fast_field_values("id", list(addresses))
        return Matches(np.array([ids], np.int64), np.array(scores, np.float32).reshape(1, -1))


def distinct(terms: Sequence[str]) -> dict[str, int]:
    """The terms of a query that are searched, and how often the query repeats each."""
    once = dict.fromkeys(terms, 1)
    if len(once) == len(terms) <= _MAX_TERMS:
        return once
    return dict(Counter(terms).most_common(_MAX_TERMS))


def _notes(explained: Any) -> Iterator[Any]:
    yield explained
    for part in explained.get("details", ()):
        yield from _notes(part)


class TantivyTerms:
    """A term index in a folder of its own. Replaying an interrupted commit is harmless.

    Any thread may read; one thread at a time may add, delete and commit.
    """

    def __init__(self, folder: Path | None, index: Any, epoch: int) -> None:
        self._folder = folder
        self._index = index
        self._writer: Any = None
        self.epoch = epoch
        """The store's epoch that the index shows; later changes have to be replayed."""

    @property
    def in_memory(self) -> bool:
        """Whether it exists in memory only."""
        return self._folder is None

    @classmethod
    def create(cls, folder: Path) -> TantivyTerms:
        """Create an empty index in `folder`, which must be empty or not exist."""
        import tantivy

        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        index = _unwatched(tantivy.Index(_schema(), path=str(folder)))
        terms = cls(folder, index, 0)
        terms._write_state()
        return terms

    @classmethod
    def volatile(cls) -> TantivyTerms:
        """Create an empty index in memory, for folders that cannot be written."""
        import tantivy

        return cls(None, _unwatched(tantivy.Index(_schema())), 0)

    @classmethod
    def open(cls, folder: Path) -> TantivyTerms:
        """Open an index and check every byte of it.

        Raises:
            CorruptIndex: it is missing, damaged, or of another format.
        """
        import tantivy

        epoch = _read_state(folder)
        if bad := damage(folder):
            raise CorruptIndex(f"{folder}: {', '.join(bad)} damaged", fix="It is rebuilt")
        try:
            index = _unwatched(tantivy.Index.open(str(folder)))
            index.searcher()
        except (ValueError, OSError) as error:
            raise CorruptIndex(f"{folder}: {error}", fix="It is rebuilt") from error
        return cls(folder, index, epoch)

    def searcher(self) -> TermSearcher:
        """The last committed state."""
        return TermSearcher(self._index.schema, self._index.searcher())

    def search(self, terms: Sequence[str], k: int, *, allow: Bitmap | None = None) -> Matches:
        return self.searcher().search(terms, k, allow=allow)

    def add(self, chunk_id: int, terms: Sequence[str]) -> None:
        """Index a chunk's terms, replacing those under the same id."""
        import tantivy

        self.delete(chunk_id)
        self._writing().add_document(tantivy.Document(id=chunk_id, terms=" ".join(terms)))

    def delete(self, chunk_id: int) -> None:
        from tantivy import Query

        query = Query.term_query(self._index.schema, "id", chunk_id)
        self._writing().delete_documents_by_query(query)

    def commit(self, epoch: int) -> None:
        """Make all additions and deletions durable and visible, as the state of `epoch`."""
        if self._writer is not None:
            self._writer.commit()
        self.epoch = epoch
        # after the commit: a crash between the two only replays changes that are present already
        self._write_state()
        self._index.reload()

    def follow(self) -> None:
        """Show what another process has committed; does nothing in memory."""
        if self._folder is not None:
            self.epoch = _read_state(self._folder)
            self._index.reload()

    def release(self) -> None:
        """Let another process write, after waiting for running merges."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.wait_merging_threads()
            with suppress(OSError):  # the list of segments then stays without a checksum
                self._write_state(at_rest=True)

    def _writing(self) -> Any:
        if self._writer is None:
            # from now on tantivy's merges change its list of segments at any time
            self._write_state()
            self._writer = self._index.writer(heap_size=_HEAP_BYTES, num_threads=1)
        return self._writer

    def _write_state(self, *, at_rest: bool = False) -> None:
        if self._folder is None:
            return
        listing = zlib.crc32((self._folder / META).read_bytes()) if at_rest else None
        state = {"format": FORMAT, "epoch": self.epoch, "listing_crc32": listing}
        temporary = self._folder / f"{STATE}.new"
        temporary.write_text(json.dumps(state))
        temporary.replace(self._folder / STATE)
        self._make_private()

    def _make_private(self) -> None:
        """Take other users' rights to the files that tantivy has made since."""
        with os.scandir(self._folder or "") as found:
            for file in found:
                with suppress(OSError):  # a merge removes files; or the owner is another user
                    if file.stat(follow_symlinks=False).st_mode & ~FILE_MODE & 0o777:
                        os.chmod(file.path, FILE_MODE)


def damage(folder: Path, *, threads: int = 2) -> list[str]:
    """Names of the listed files in `folder` that are missing, cut, or fail their checksum.

    Reads every byte, `threads` files at once.
    """
    try:
        names = _listed(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [META]
    with ThreadPoolExecutor(threads) as pool:
        intact = list(pool.map(_intact, [folder / name for name in names]))
    return [name for name, whole in zip(names, intact, strict=True) if not whole]


def _listed(folder: Path) -> list[str]:
    """The files of the segments in tantivy's list, sorted.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: the list cannot be read, or has
            changed since the index was last released.
    """
    data = (folder / META).read_bytes()
    expected = json.loads((folder / STATE).read_bytes()).get("listing_crc32")
    if expected is not None and expected != zlib.crc32(data):
        raise ValueError(f"{META} fails its checksum")
    names = []
    for segment in json.loads(data)["segments"]:
        stem, deletes = segment["segment_id"].replace("-", ""), segment["deletes"]
        names += [f"{stem}.{part}" for part in _PARTS]
        names += [f"{stem}.{deletes['opstamp']}.del"] if deletes else []
    return sorted(names)


def _intact(path: Path) -> bool:
    """Whether a file's body has the checksum in its footer (JSON, then two lengths)."""
    try:
        with path.open("rb") as file:
            end = file.seek(-8, os.SEEK_END)
            size, magic = struct.unpack("<II", file.read(8))
            body = file.seek(end - size)
            footer = json.loads(file.read(size))
        return bool(magic == _FOOTER_MAGIC and (footer["crc"], body) == checksum(path, body))
    except (OSError, struct.error, ValueError, KeyError, TypeError):
        return False


def _read_state(folder: Path) -> int:
    try:
        state = json.loads((folder / STATE).read_text())
        if state["format"] != FORMAT:
            raise CorruptIndex(f"{folder} has format {state['format']}", fix="It is rebuilt")
        return int(state["epoch"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptIndex(f"{folder}: no readable {STATE}", fix="It is rebuilt") from error


def _unwatched(index: Any) -> Any:
    """The index, set to reload on request only.

    By default a thread of tantivy polls the list of segments twice a second and reloads with a lock
    file in the folder, even after we have released it.
    """
    index.config_reader("Manual")
    return index


def _schema() -> Any:
    import tantivy

    builder = tantivy.SchemaBuilder()
    # "integer": an unsigned field given a Python int kills tantivy's writer thread
    builder.add_integer_field("id", stored=False, indexed=True, fast=True)
    builder.add_text_field("terms", tokenizer_name="whitespace", index_option="freq")
    return builder.build()
