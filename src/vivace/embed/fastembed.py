"""Models of the fastembed library: `fastembed:NAME`, or `fastembed:FOLDER` with an ONNX model.

A folder holds `model.onnx` (or `onnx/model.onnx`), `tokenizer.json` and `tokenizer_config.json`, as
sentence-transformers exports models, and perhaps `1_Pooling/config.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vivace.embed.local import LocalEmbedder, Text
from vivace.embed.precomputed import unit_rows
from vivace.errors import BadSettings, EmbeddingError, MissingExtra
from vivace.protocols import Kind
from vivace.run.threads import NATIVE, Cores
from vivace.settings.masking import shown_value
from vivace.text.tokens import estimate
from vivace.types import Vector

BUDGET_CHARS = 4_000
_NONE: Vector = np.zeros(0, np.float32)
_FILES = ("model.onnx", "onnx/model.onnx")
_POOLING = "1_Pooling/config.json"


class FastEmbed(LocalEmbedder):
    """An `Embedder` that runs a model on this machine's CPU through fastembed; thread-safe.

    The library downloads a model given by name at its first use.

    Raises:
        MissingExtra: fastembed is not installed.
        BadSettings: there is no such model or folder.
        EmbeddingError: the model cannot be loaded.
    """

    def __init__(self, model: str, *, workers: int, batch: int, cores: Cores | None = None) -> None:
        try:
            import fastembed  # noqa: F401  (only whether it is there)
        except ImportError as error:
            raise MissingExtra("fastembed", "models") from error
        folder = Path(model).expanduser()
        self._model = _in_folder(folder) if folder.is_dir() else _by_name(model)
        if folder.is_dir():
            # the name depends on the model, not on the folder's place
            self.name = f"fastembed:{folder.resolve().name}/{_digest(folder)}"
        else:
            self.name = f"fastembed:{model}"
        try:
            probe = _encode(self._model, [Text("dimension", "passage")])
        except EmbeddingError as error:
            raise EmbeddingError(f"{self.name}: {error.what}", fix=error.fix) from error
        self.dim = len(probe[0])
        super().__init__(
            workers=workers,
            batch=batch,
            budget=BUDGET_CHARS,
            threads="vivace-fastembed",
            cores=cores,
        )

    def reads(self, language: str) -> bool:
        """True for every language: the library does not list those of a model."""
        return True

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Estimates the model's tokens by script; a `TokenCounter`."""
        return [estimate(text) for text in texts]

    def encode(self, items: Sequence[Text]) -> list[Vector]:
        """See `LocalEmbedder.encode`; questions get the model's own prefix, if any."""
        return _encode(self._model, items)


def _encode(model: Any, items: Sequence[Text]) -> list[Vector]:
    """Vectors of unit length. A batch may mix questions and passages of equal priority."""
    rows: list[Vector] = [_NONE] * len(items)
    for kind in {item.kind for item in items}:
        at = [number for number, item in enumerate(items) if item.kind == kind]
        for number, row in zip(at, _of_kind(model, [items[i].text for i in at], kind), strict=True):
            rows[number] = row
    return rows


def _of_kind(model: Any, texts: Sequence[str], kind: Kind) -> list[Vector]:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    run = model.query_embed if kind == "query" else model.passage_embed
    try:
        rows = np.stack([np.asarray(row, np.float32) for row in run(texts)])
    except Exception as error:  # onnxruntime and tokenizers have no common base class
        raise EmbeddingError(
            f"{len(texts)} texts could not be embedded: {error}",
            fix="Check the model's files, or choose another embed.model",
        ) from error
    return list(unit_rows(rows))


def _by_name(name: str) -> Any:
    from fastembed import TextEmbedding

    known = [model["model"] for model in TextEmbedding.list_supported_models()]
    if name.lower() not in {model.lower() for model in known}:
        raise BadSettings(
            f"embed.model: fastembed has no model named {shown_value(name)!r}, and there is no such"
            " folder",
            fix=f"It has, for example, {', '.join(known[:3])}",
        )
    return _loaded(name)


def _in_folder(folder: Path) -> Any:
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource

    file = _model_file(folder)
    # the library has one list of models by name for the whole process
    name = f"vivace/{hashlib.blake2b(str(folder.resolve()).encode(), digest_size=8).hexdigest()}"
    if name not in {model["model"] for model in TextEmbedding.list_supported_models()}:
        TextEmbedding.add_custom_model(
            model=name,
            pooling=_pooling(folder, file),
            normalization=True,
            sources=ModelSource(hf=name),  # required, but not used: the files are here
            dim=1,  # unknown until the first embedding
            model_file=file.relative_to(folder).as_posix(),
        )
    return _loaded(name, specific_model_path=str(folder))


def _loaded(name: str, **options: Any) -> Any:
    from fastembed import TextEmbedding

    try:
        # one thread per forward pass: the batcher's workers share the cores
        return TextEmbedding(name, threads=NATIVE, providers=["CPUExecutionProvider"], **options)
    except Exception as error:  # downloads, files and the runtime share no base class
        raise EmbeddingError(
            f"fastembed cannot load {options.get('specific_model_path', name)}: {error}",
            fix="Check the network or the folder's files (model.onnx, tokenizer.json, "
            "tokenizer_config.json)",
        ) from error


def _model_file(folder: Path) -> Path:
    for name in _FILES:
        if (folder / name).is_file():
            return folder / name
    raise BadSettings(
        f"embed.model: {folder} holds no {' or '.join(_FILES)}", fix="Name an ONNX model's folder"
    )


def _digest(folder: Path) -> str:
    """A digest of everything that vectors depend on; a file's size would not suffice."""
    whole = hashlib.blake2b(digest_size=8)
    file = _model_file(folder)
    for path in (
        file,
        file.with_name(file.name + "_data"),  # the weights of large models
        folder / "tokenizer.json",
        folder / _POOLING,
    ):
        part = b""
        if path.is_file():
            with path.open("rb") as opened:
                part = hashlib.file_digest(opened, hashlib.blake2b).digest()
        whole.update(part.ljust(hashlib.blake2b().digest_size, b"\0"))
    return whole.hexdigest()


def _pooling(folder: Path, file: Path) -> Any:
    """How token vectors become a text's vector: by the folder, or by the model itself."""
    import onnxruntime
    from fastembed.common.model_description import PoolingType

    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has no common base class
        raise EmbeddingError(f"{file}: {error}", fix="Export the model again") from error
    if len(session.get_outputs()[0].shape) == 2:
        return PoolingType.DISABLED
    path = folder / _POOLING
    try:
        modes = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise EmbeddingError(f"{path}: {error}", fix="Export the model again") from error
    if modes.get("pooling_mode_cls_token"):
        return PoolingType.CLS
    if modes.get("pooling_mode_lasttoken"):
        return PoolingType.LAST_TOKEN
    return PoolingType.MEAN
