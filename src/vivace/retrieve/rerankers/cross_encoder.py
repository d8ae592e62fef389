"""Cross-encoders on this machine: `fastembed:FOLDER` with an ONNX model, or `fastembed:NAME`.

A cross-encoder reads question and passage together (Nogueira and Cho, "Passage Re-ranking with
BERT", 2019): one forward pass a pair, tens of milliseconds of a core each, so cost grows with the
depth. A folder holds `model.onnx` (or `onnx/model.onnx`) with one output a pair, and
`tokenizer.json`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vivace.errors import BadSettings, MissingExtra, RerankError, VivaceError
from vivace.run.microbatch import MicroBatcher
from vivace.run.threads import NATIVE, Cores
from vivace.settings.masking import shown_value
from vivace.types import Hit, Query, Scores

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

MAX_TOKENS: Final = 512
"""Of a pair, special tokens included: what the usual models were trained on. A smaller limit of the
tokenizer applies. The longer one of question and passage is truncated first."""
QUESTION_CHARS: Final = 2_000
PASSAGE_CHARS: Final = 8_000
"""Characters of each that are tokenised: more than 512 tokens of any prose, and a bound on cost."""
BUDGET_CHARS: Final = 4_000
"""Largest number of pairs times longest pair in a forward pass of several."""
_FILES: Final = ("model.onnx", "onnx/model.onnx")
_FIX: Final = "Check the model's files, or choose another search.rerank"


class Pair(NamedTuple):
    question: str
    passage: str


class CrossEncoder:
    """A cross-encoder on this machine's CPU. A `Reranker`; from any thread and event loop.

    fastembed downloads a model given by name when it is first used; one in a folder is never
    downloaded and needs no fastembed. Single-threaded workers take pairs of similar length from one
    queue.

    Args:
        workers: threads, each with one forward pass at a time.
        batch: most pairs in one forward pass.

    Raises:
        MissingExtra: a model is given by name, and fastembed is not installed.
        BadSettings: there is no such model or folder.
        RerankError: the model cannot be loaded, or is no cross-encoder.
    """

    def __init__(self, model: str, *, workers: int, batch: int, cores: Cores | None = None) -> None:
        folder = Path(model).expanduser()
        self.name = f"fastembed:{folder.resolve().name if folder.is_dir() else model}"
        self._model: Callable[[Sequence[Pair]], Any]
        self._model = _FolderModel(folder) if folder.is_dir() else _by_name(model)
        self._scored([Pair("question", "passage")])  # fails now, not at the first search
        self._batcher: MicroBatcher[Pair, float] = MicroBatcher(
            self._scored,
            workers=workers,
            cap=batch,
            size=lambda pair: len(pair.question) + len(pair.passage),
            budget=BUDGET_CHARS,
            name="vivace-rerank",
            cores=cores,
        )

    async def score(self, query: Query, hits: Sequence[Hit]) -> Scores:
        """The model's number for each hit (n,) float32: a logit for most models.

        Cancelling the call withdraws the pairs that still wait.

        Raises:
            RerankError: the model failed, the deadline passed before all pairs had their turn, or
                the reranker is closed.
        """
        question = _encodable(query.text, QUESTION_CHARS)
        pairs = [Pair(question, _encodable(hit.chunk.text, PASSAGE_CHARS)) for hit in hits]
        try:
            return np.asarray(await self._batcher.run_many(pairs), np.float32)
        except RerankError:
            raise
        except VivaceError as error:
            raise RerankError(f"{self.name}: {error.what}", fix=error.fix) from error

    async def close(self) -> None:
        """Stop the threads after their running batch; waiting calls fail. Idempotent."""
        await asyncio.to_thread(self._batcher.close)

    def _scored(self, pairs: Sequence[Pair]) -> list[float]:
        """The batch function."""
        try:
            found = np.asarray(self._model(pairs), np.float32)
        except Exception as error:  # onnxruntime and tokenizers have no common base class
            raise RerankError(
                f"{self.name}: {len(pairs)} pairs could not be scored: {error}", fix=_FIX
            ) from error
        if found.shape == (len(pairs), 1):
            found = found[:, 0]
        if found.shape != (len(pairs),):
            raise RerankError(
                f"{self.name}: the model gave an output of shape {found.shape} for {len(pairs)} "
                "pairs",
                fix="Choose a reranker: a model with one number a pair",
            )
        if not np.isfinite(found).all():
            raise RerankError(f"{self.name}: the model gave NaN or infinity", fix=_FIX)
        scores: list[float] = found.tolist()
        return scores


class _FolderModel:
    """The model in a folder, run by onnxruntime directly."""

    def __init__(self, folder: Path) -> None:
        file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
        if file is None or not (folder / "tokenizer.json").is_file():
            raise BadSettings(
                f"search.rerank: {folder} holds no model.onnx with a tokenizer.json",
                fix="Name the folder of a cross-encoder that was exported to ONNX",
            )
        self._tokenizer, self._pad = _open_tokenizer(folder / "tokenizer.json")
        self._session = _open_session(file)
        self._inputs = {node.name for node in self._session.get_inputs()}

    def __call__(self, pairs: Sequence[Pair]) -> Any:
        # one pair a call: a batch would start threads of the tokenizer's own
        rows = [self._tokenizer.encode(pair.question, pair.passage) for pair in pairs]
        shape = (len(rows), max(len(row.ids) for row in rows))
        feed: dict[str, NDArray[np.int64]] = {
            "input_ids": np.full(shape, self._pad, np.int64),
            "attention_mask": np.zeros(shape, np.int64),
            "token_type_ids": np.zeros(shape, np.int64),
        }
        for at, row in enumerate(rows):
            length = len(row.ids)
            feed["input_ids"][at, :length] = row.ids
            feed["attention_mask"][at, :length] = 1
            feed["token_type_ids"][at, :length] = row.type_ids
        wanted = {name: value for name, value in feed.items() if name in self._inputs}
        return self._session.run(None, wanted)[0]


def _open_tokenizer(path: Path) -> tuple[Tokenizer, int]:
    """The tokenizer without padding, and the id that rows are padded with."""
    from tokenizers import Tokenizer

    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(path))
        limit = (tokenizer.truncation or {}).get("max_length", MAX_TOKENS)
        tokenizer.enable_truncation(min(int(limit), MAX_TOKENS), strategy="longest_first")
    except Exception as error:  # the library raises nothing more precise
        raise RerankError(f"{path}: {error}", fix=_FIX) from error
    padding = tokenizer.padding
    tokenizer.no_padding()
    if padding:
        return tokenizer, int(padding["pad_id"])
    known = (tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>"))
    return tokenizer, next((pad for pad in known if pad is not None), 0)


def _open_session(path: Path) -> InferenceSession:
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    # one thread a forward pass: the batcher's workers share the cores
    options.intra_op_num_threads = NATIVE
    options.inter_op_num_threads = NATIVE
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the runtime has no common base class
        raise RerankError(f"{path}: {error}", fix=_FIX) from error


def _by_name(name: str) -> Callable[[Sequence[Pair]], Any]:
    try:
        from fastembed.rerank.cross_encoder import TextCrossEncoder
    except ImportError as error:
        raise MissingExtra("fastembed", "models") from error
    known = [model["model"] for model in TextCrossEncoder.list_supported_models()]
    if name.lower() not in {model.lower() for model in known}:
        raise BadSettings(
            f"search.rerank: fastembed has no reranker named {shown_value(name)!r}, and there is no"
            " such folder",
            fix=f"It has, for example, {', '.join(known[:3])}",
        )
    try:
        model = TextCrossEncoder(name, threads=NATIVE, providers=["CPUExecutionProvider"])
    except Exception as error:  # downloads, files and the runtime fail in many ways
        raise RerankError(
            f"fastembed cannot load {name}: {error}",
            fix="Check the network, or name a folder with the model's files",
        ) from error
    return lambda pairs: list(model.rerank_pairs(list(pairs), batch_size=len(pairs)))


def _encodable(text: str, chars: int) -> str:
    """The beginning of a text, without the lone surrogates that a tokenizer refuses."""
    return text[:chars].encode("utf-8", "replace").decode()
