"""Made-up models of every kind of data, exported with metadata inside."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekd.export.metadata import write_metadata
from edgekd.export.onnx import export_onnx
from edgekd.export.tflite import export_tflite
from edgekd.models.spec import build, save_weights
from edgekd.models.tensors import ModelSpec, TensorSpec, classifier, image_input
from edgekd.quantize.onnx import quantize_onnx
from edgekd.quantize.tflite import cast_tflite_fp16, quantize_tflite, quantize_tflite_dynamic

LABELS = ("apple", "crème brûlée", "d, e", " f", "日本")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "fine", "film", "dull", "story", "##s", "!"]
SPECS = {
    "image": classifier(
        "zoo:shallow_cnn", (image_input((16, 12, 3), (0.3, 0.4, 0.5), (0.2, 0.25, 0.3)),), LABELS, {"width": 0.5}
    ),
    "sound": classifier(
        "zoo:ds_cnn", (TensorSpec("waveform", "float32", (2_000,), "NC", "waveform", (-1.0, 1.0), sample_rate=4_000),),
        LABELS, {"width": 0.25},
    ),
    "text": classifier(
        "zoo:tiny_transformer",
        (
            TensorSpec("input_ids", "int32", (8,), "NC", "tokens", vocabulary=len(WORDS)),
            TensorSpec("attention_mask", "int32", (8,), "NC", "mask"),
        ),
        LABELS, {"layers": 1, "hidden": 16},
    ),
    "features": classifier(
        "zoo:mlp", (TensorSpec("features", "float32", (3,), "NC", "features", None, (1.0, -20.0, 300.0), (0.5, 4.0, 70.0)),),
        LABELS, {"hidden": 8},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A folder of files of one network: ``plain.PRECISION.FORMAT``, and with their metadata ``PRECISION.FORMAT``."""

    folder: Path
    spec: ModelSpec
    files: dict[str, str] = field(default_factory=dict)

    def describe(self, name: str, **changes: Any) -> Path:
        """Write the file ``plain.NAME`` with its metadata to ``NAME``, and return its path."""
        out = self.folder / name
        told = {"name": "a name", "task": "classification", "license_name": "Apache-2.0", "files": self.files, **changes}
        write_metadata(str(self.folder / f"plain.{name}"), out.suffix[1:], str(out), self.spec.to_json(), **told)
        return out


def make(kind: str, folder: Path, onnx: bool = False) -> Made:
    """Export a made-up network for data of ``kind`` as fp32, fp16 and int8 TFLite files, or as fp32 and int8 ONNX."""
    spec = SPECS[kind]
    torch.manual_seed(3)
    weights = folder / "weights.safetensors"
    save_weights(build(spec).eval(), weights)
    suffix = "onnx" if onnx else "tflite"
    fp32, int8 = (str(folder / f"plain.{precision}.{suffix}") for precision in ("fp32", "int8"))
    random = np.random.default_rng(0)
    (export_onnx if onnx else export_tflite)(spec.to_json(), str(weights), fp32)
    if kind == "text":
        quantize_tflite_dynamic(fp32, int8)
    else:
        samples = {each.name: random.normal(size=(16, *each.shape)).astype(np.float32) for each in spec.inputs}
        np.savez(folder / "calibration.npz", allow_pickle=False, **samples)
        (quantize_onnx if onnx else quantize_tflite)(fp32, str(folder / "calibration.npz"), int8)
    if not onnx:
        cast_tflite_fp16(fp32, str(folder / f"plain.fp16.{suffix}"))
    return Made(folder, spec, _tokenizer(folder) if kind == "text" else {})


def _tokenizer(folder: Path) -> dict[str, str]:
    from tokenizers import BertWordPieceTokenizer

    vocabulary, tokenizer = folder / "vocab.txt", folder / "tokenizer.json"
    vocabulary.write_text("".join(f"{word}\n" for word in WORDS))
    made = BertWordPieceTokenizer(str(vocabulary), lowercase=True)
    made.enable_truncation(8)
    made.enable_padding(length=8, pad_id=0, pad_token="[PAD]")
    made.save(str(tokenizer))
    return {"tokenizer.json": str(tokenizer), "vocab.txt": str(vocabulary)}
