"""The built-in embedder: all-MiniLM-L6-v2 as our own int8 ONNX file, run on this machine.

`scripts/build_model.py` makes the files in `minilm/` and explains why a text's vector depends
neither on the other texts of its batch nor on the processor.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from vivace.embed.local import Encoded, LocalTokenEmbedder, Text
from vivace.errors import EmbeddingError
from vivace.run.threads import NATIVE, Cores
from vivace.text.language import language
from vivace.types import Vector, Vectors

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

FOLDER: Final = Path(__file__).with_suffix("")
NAME: Final = "all-MiniLM-L6-v2/int8-row/1"
DIM: Final = 384
MAX_TOKENS: Final = 256
"""The two special tokens included."""
BUDGET_CHARS: Final = 1_600
"""Most texts times longest text of a forward pass of several, in characters: eight questions, two
passages. Texts per CPU-second on Zen 3, alone, by two and by eight: questions 228, 241, 274;
passages of 160 tokens 22.5, 22.7, 17.9, and a question has to wait for the running batch."""

_TINY: Final = np.float32(1e-12)
_BROKEN: Final = "Install vivace again: `pip install --force-reinstall --no-deps vivace`"


class _File(msgspec.Struct, frozen=True):
    sha256: str
    bytes: int


class _Manifest(msgspec.Struct, frozen=True):
    files: dict[str, _File]


def check_files(folder: Path = FOLDER, *, hashes: bool = False) -> None:
    """Check every model file's size, or its sha256, against manifest.json.

    Sizes are checked at each start; `hashes` reads all 24 MB.

    Raises:
        EmbeddingError: a file is missing, unreadable, or not the one that was built.
    """
    for name, expected in _manifest(folder).files.items():
        path = folder / name
        try:
            size = path.stat().st_size
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if hashes else expected.sha256
        except OSError as error:
            raise EmbeddingError(f"{path}: {error}", fix=_BROKEN) from error
        if size != expected.bytes:
            raise EmbeddingError(f"{path}: {size} bytes, not {expected.bytes}", fix=_BROKEN)
        if digest != expected.sha256:
            raise EmbeddingError(f"{path}: its sha256 is not the manifest's", fix=_BROKEN)


def _manifest(folder: Path) -> _Manifest:
    path = folder / "manifest.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise EmbeddingError(f"{path}: {error}", fix=_BROKEN) from error


class MiniLM(LocalTokenEmbedder):
    """An `Embedder` of English texts to 384 dimensions, with token vectors; thread-safe.

    For the arguments see `LocalEmbedder`; its threads share one session. The files' sizes are
    checked at once, the model is loaded at the first use (0.2 s).

    Raises:
        EmbeddingError: a model file is missing or of the wrong size.
    """

    name: str = NAME
    dim: int = DIM

    def __init__(
        self, *, workers: int, batch: int, folder: Path = FOLDER, cores: Cores | None = None
    ) -> None:
        check_files(folder)
        self._folder = folder
        self._loading = threading.Lock()
        self._tokens: MiniLMTokenizer | None = None
        self._session: InferenceSession | None = None
        super().__init__(
            workers=workers,
            batch=batch,
            budget=BUDGET_CHARS,
            threads="vivace-embed",
            cores=cores,
        )

    def reads(self, language: str) -> bool:
        return language == "en"

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens; a `TokenCounter`. 3 microseconds a token.

        Raises:
            EmbeddingError: the tokenizer failed.
        """
        tokens = self._load_tokens()
        try:
            return [len(tokens.ids(text)) for text in texts]
        except Exception as error:
            raise EmbeddingError(f"{NAME}: cannot count tokens: {error}", fix=_BROKEN) from error

    def close(self) -> None:
        """Stop the workers; waiting calls fail with EmbeddingError. Idempotent."""
        super().close()
        self._session = None

    def encode(self, items: Sequence[Text]) -> list[Vector]:
        """Embed each text's first 256 tokens. A passage in a language that the model cannot read
        gets a zero vector, without a forward pass.
        """
        vectors = np.zeros((len(items), DIM), np.float32)
        if wanted := _wanted(items):
            (vectors[wanted],) = self._outputs([items[i] for i in wanted], "embedding")[1]
        return list(vectors)

    def encode_tokens(self, items: Sequence[Text]) -> list[Encoded]:
        """As `encode`, with the vectors of those tokens except the two special ones; none for a
        passage in a language that the model cannot read.
        """
        vectors = np.zeros((len(items), DIM), np.float32)
        tokens = [np.zeros((0, DIM), np.float32) if item.tokens else None for item in items]
        if wanted := _wanted(items):
            read = [items[i] for i in wanted]
            lengths, (found, states) = self._outputs(read, "embedding", "tokens")
            vectors[wanted] = found
            for i, length, rows in zip(wanted, lengths, states, strict=True):
                if items[i].tokens:
                    tokens[i] = _unit(rows[1 : length - 1])
        return [Encoded(*pair) for pair in zip(vectors, tokens, strict=True)]

    def _outputs(self, items: list[Text], *names: str) -> tuple[list[int], list[Vectors]]:
        """The number of tokens read of each text, and the model's outputs with these names."""
        from onnxruntime import RunOptions

        tokens, session, options = self._load_tokens(), self._load_session(), RunOptions()

        def stop() -> None:
            options.terminate = True  # takes effect after the present operator

        try:
            with self.stoppable(items, stop):
                feed = tokens.feed([item.text for item in items])
                lengths: list[int] = feed["attention_mask"].sum(1).tolist()
                return lengths, session.run(list(names), feed, options)
        except EmbeddingError:
            raise
        except Exception as error:
            raise EmbeddingError(
                f"{NAME}: {len(items)} texts could not be embedded: {error}", fix=_BROKEN
            ) from error

    def _load_tokens(self) -> MiniLMTokenizer:
        with self._loading:
            if self._tokens is None:
                self._tokens = MiniLMTokenizer(self._folder / "tokenizer.json")
            return self._tokens

    def _load_session(self) -> InferenceSession:
        with self._loading:
            if self._session is None:
                self._session = open_session(self._folder / "model.onnx")
            return self._session


class MiniLMTokenizer:
    """Turns texts into the model's inputs, one text per call: a batch would start threads."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer: Tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more precise
            raise EmbeddingError(f"{path}: {error}", fix=_BROKEN) from error
        special = [self._tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]")]
        self._first, self._last = (token for token in special if token is not None)

    def ids(self, text: str) -> list[int]:
        """Token ids, without special tokens."""
        try:
            text.encode()
        except UnicodeEncodeError:  # a lone surrogate, which the tokenizer rejects
            text = text.encode("utf-8", "replace").decode()
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def feed(self, texts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        """`input_ids` and `attention_mask`, (n, longest) int64 padded with 0."""
        rows = [[self._first, *self.ids(text)[: MAX_TOKENS - 2], self._last] for text in texts]
        shape = (len(rows), max(map(len, rows)))
        ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        return {"input_ids": ids, "attention_mask": mask}


def open_session(path: Path) -> InferenceSession:
    """The model in a file, loaded for one thread per forward pass.

    Raises:
        EmbeddingError: it cannot be loaded.
    """
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = NATIVE
    options.inter_op_num_threads = NATIVE
    # otherwise shared constants are reported as unused initializers
    options.log_severity_level = 3
    # arena and memory pattern stay on: eight texts of 160 tokens peak at 135 MB resident, and at
    # 250 without the arena, which is no faster either
    try:
        return onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the runtime has no common base class
        raise EmbeddingError(f"{path}: {error}", fix=_BROKEN) from error


def _wanted(items: Sequence[Text]) -> list[int]:
    return [i for i, item in enumerate(items) if item.kind == "query" or readable(item.text)]


def _unit(rows: Vectors) -> Vectors:
    """The rows scaled to unit length; none is zero after the layer norm."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    scaled: Vectors = rows / np.maximum(lengths, _TINY)[:, None]
    return scaled


def readable(text: str) -> bool:
    """Whether the model can read a text: most of its letters are Latin, or it has none."""
    code = language(text)
    if code != "und":
        return code == "en"
    letters = [char for char in text if char.isalpha()]
    return 2 * sum(map(_latin, letters)) >= len(letters)


def _latin(char: str) -> bool:
    return char < "\u0250" or "\u1e00" <= char <= "\u1eff"
