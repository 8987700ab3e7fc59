"""The programs of a kit, written from the real inputs and outputs of its artifact."""

from __future__ import annotations

import hashlib
import math
import shlex
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd.kit.choice import Choice
from edgekd.kit.literals import FILTERS, Code, only_code
from edgekd.kit.preprocessing import image_size
from edgekd.kit.run_folder import Golden, GoldenTensor, ReportedArtifact, Tensor

CPP_TYPES = {
    "float32": "float", "float64": "double", "int8": "std::int8_t", "uint8": "std::uint8_t", "int16": "std::int16_t",
    "int32": "std::int32_t", "int64": "std::int64_t",
}  # fmt: skip
"""Types of inputs and outputs that programs can feed and compare."""
_TFLITE_TYPES = {
    "float32": "kTfLiteFloat32", "float64": "kTfLiteFloat64", "int8": "kTfLiteInt8", "uint8": "kTfLiteUInt8",
    "int16": "kTfLiteInt16", "int32": "kTfLiteInt32", "int64": "kTfLiteInt64",
}  # fmt: skip
_TEMPLATES = {
    "android": ("GoldenTest.kt", "build.gradle.kts"),
    "ios": ("GoldenTests.swift", "Podfile"),
    "raspberry-pi": ("model.py", "check.py", "predict.py", "check.cpp", "CMakeLists.txt"),
    "jetson": ("model.py", "check.py", "predict.py"),
}
_RAW = {  # what predict.py takes
    "image": ("image", "photo.jpg", "pillow"), "waveform": ("sound", "sound.wav", None),
    "tokens": ("text", '"some text"', "tokenizers"), "features": ("row", "NUMBER,NUMBER,...", None),
}  # fmt: skip


@dataclass(frozen=True)
class DataFile:
    """A file that programs read: its path as the program names it, and its content."""

    name: str
    content: bytes


def programs(
    target: str, run_name: str, choice: Choice, golden: Golden, data: list[DataFile], golden_json: str
) -> dict[str, str]:
    """Return the text files of a kit by name, without ``PREPROCESSING.md``.

    Args:
        target: For example ``android``.
        run_name: The recipe's name.
        choice: The artifact, and why it is this one.
        golden: Its golden vectors.
        data: Every file that programs read: the artifact first, then golden inputs and outputs in their order, then others.
        golden_json: Where the kit has ``golden.json``.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("edgekd.kit"), autoescape=False, undefined=StrictUndefined, finalize=only_code,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    templates.filters |= FILTERS | {"code": Code}
    context = _context(target, run_name, choice, golden, data, golden_json)
    names = (*_TEMPLATES[target], "README.md")
    return {name: templates.get_template(f"{name}.j2").render(context) for name in names}


def _context(
    target: str, run_name: str, choice: Choice, golden: Golden, data: list[DataFile], golden_json: str
) -> dict[str, Any]:
    artifact = choice.artifact
    meaning = artifact.inputs[0].meaning
    what, argument, package = _RAW[meaning]
    ranked = next((number for number, each in enumerate(artifact.outputs) if each.meaning == "logits"), None)
    labels = next((each.labels for each in artifact.outputs if each.labels is not None), None) or []
    runtime, runtime_package = ("ONNX Runtime", "onnxruntime") if artifact.format == "onnx" else ("LiteRT", "ai-edge-litert")
    in_programs = data[: 1 + len(golden.inputs) + len(golden.outputs)]
    samples = [
        {"id": each.id, "top1": each.top1, "margin": each.margin, "name": _label(each.top1, labels)} for each in golden.samples
    ]
    if any(each.top1 is None or each.margin is None for each in golden.samples):
        ranked = None
    return {
        "target": target,
        "run": run_name,
        "artifact": artifact,
        "reason": choice.reason,
        "rule": golden.rule,
        "golden_json": golden_json,
        "engine": "tensorrt" if target == "jetson" else artifact.format,
        "runtime": runtime,
        "packages": " ".join(each for each in ("numpy", runtime_package, package) if each),
        "meaning": meaning,
        "what": what,
        "argument": argument,
        "size": image_size(artifact.inputs[0]) if meaning == "image" else None,
        "trtexec": trtexec(artifact),
        "hashes": {each.name: hashlib.sha256(each.content).hexdigest() for each in data},
        "files": [
            {
                "name": each.name, "flat_name": each.name.rpartition("/")[2], "size": len(each.content),
                "crc32": zlib.crc32(each.content), "sha256": hashlib.sha256(each.content).hexdigest(),
            }
            for each in in_programs
        ],
        "samples": samples,
        "tolerances": [each.tolerance for each in golden.outputs],
        "inputs": [_tensor(told, each, False) for told, each in zip(artifact.inputs, golden.inputs, strict=True)],
        "outputs": [
            _tensor(told, each, number == ranked)
            for number, (told, each) in enumerate(zip(artifact.outputs, golden.outputs, strict=True))
        ],
    }  # fmt: skip


def _label(index: int | None, labels: list[str]) -> str:
    return labels[index] if index is not None and 0 <= index < len(labels) else ""


class _TensorFields(dict[str, Any]):
    """A tensor in templates: Python programs get the dictionary itself; the names that only other languages use are attributes.

    Jinja finds attributes and keys alike.
    """

    def __init__(self, fields: dict[str, Any], **others: Any) -> None:
        super().__init__(fields)
        self.__dict__.update(others)


def _tensor(told: Tensor, golden: GoldenTensor, is_ranked: bool) -> _TensorFields:
    count = math.prod(told.sample_shape)
    return _TensorFields(
        {
            "name": told.name, "index": golden.index, "file": golden.file, "shape": told.sample_shape, "dtype": told.dtype,
            "meaning": told.meaning, "layout": told.layout, "value_range": told.value_range, "mean": told.mean,
            "std": told.std, "scale": told.scale, "zero_point": told.zero_point, "sample_rate": told.sample_rate,
            "ranked": is_ranked,
        },
        count=count, bytes=count * np.dtype(told.dtype).itemsize, cpp_type=CPP_TYPES[told.dtype],
        tflite_type=_TFLITE_TYPES[told.dtype],
    )  # fmt: skip


def trtexec(artifact: ReportedArtifact) -> str:
    """Return the command that builds an engine of an ONNX file with TensorRT."""
    shapes = ",".join(f"{each.name}:{'x'.join(map(str, each.sample_shape))}" for each in artifact.inputs)
    precision = "--int8" if artifact.precision.startswith("int8") else "--noTF32"
    plan = artifact.file_name.removesuffix(".onnx") + ".plan"
    return shlex.join(["trtexec", f"--onnx={artifact.file_name}", f"--saveEngine={plan}", f"--shapes={shapes}", precision])
