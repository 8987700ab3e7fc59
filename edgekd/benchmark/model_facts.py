"""What a measurement must know of a model file beforehand; read in a child process, for the file may be anyone's."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.errors import ModelError, UsageError
from edgekd.names import did_you_mean
from edgekd.safe.child import run_in_child
from edgekd.safe.files import sha256_file
from edgekd.safe.model_files import check_file

FORMATS = {".onnx": "onnx", ".ort": "ort", ".tflite": "tflite"}
_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class ModelInput:
    """An input of an ONNX file; open sizes of ``shape`` are ``None``."""

    name: str
    shape: tuple[int | None, ...]

    def shape_of_batch_1(self) -> tuple[int, ...]:
        """Return the shape with 1 for every open size."""
        return tuple(1 if each is None else each for each in self.shape)


@dataclass(frozen=True)
class ModelFacts:
    """Of one file.

    Attributes:
        path, kind, sha256, size_bytes: The file; ``onnx``, ``ort`` or ``tflite``.
        inputs: Of an ONNX file.
        quantized: Whether an ONNX file has QuantizeLinear operators.
        half: Whether most weights of an ONNX file have 16 bits.
    """

    path: Path
    kind: str
    sha256: str
    size_bytes: int
    inputs: tuple[ModelInput, ...] = ()
    quantized: bool = False
    half: bool = False

    @property
    def is_open(self) -> bool:
        """Whether an input has an open size."""
        return any(None in each.shape for each in self.inputs)


def kind_of(path: Path) -> str:
    """Return the format of a file by its ending.

    Raises:
        UsageError: There is no such file, it is empty, or its ending is another.
    """
    try:
        check_file(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "name an .onnx, .ort or .tflite file") from None
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        close = did_you_mean(path.suffix.lower(), FORMATS)
        raise UsageError(f"{path} ends in '{path.suffix}', allowed: {', '.join(FORMATS)}{close}")
    return kind


def model_facts(path: Path) -> ModelFacts:
    """Read what a measurement must know of a file.

    Raises:
        UsageError: There is no such file, or its ending is another.
        ModelError: It is broken, or keeps weights in other files.
    """
    kind = kind_of(path)
    digest, size = sha256_file(path), path.stat().st_size
    if kind != "onnx":
        with path.open("rb") as file:
            start = file.read(8)
        if start[4:8] != (b"TFL3" if kind == "tflite" else b"ORTM"):
            raise ModelError(f"{path} is no {'TFLite' if kind == 'tflite' else 'ORT'} file", "copy or export it again")
        return ModelFacts(path, kind, digest, size)
    with tempfile.TemporaryDirectory(prefix="edgekd-facts-") as folder:
        found: dict[str, Any] = run_in_child(
            "edgekd.benchmark.model_facts:onnx_facts", {"path": str(path)}, log=Path(folder, "log"), timeout_s=_TIMEOUT_S
        )
    inputs = tuple(ModelInput(name, tuple(shape)) for name, shape in found["inputs"])
    return ModelFacts(path, kind, digest, size, inputs, found["quantized"], found["half"])


def onnx_facts(path: str) -> dict[str, Any]:
    """Return the facts of an ONNX file as plain data. Runs in a child process.

    Raises:
        ModelError: It is no ONNX file, or keeps weights in other files.
    """
    import onnx

    from edgekd.safe.model_files import check_onnx

    total = check_onnx(Path(path))
    if total > Path(path).stat().st_size:
        raise ModelError(f"{path} keeps weights in other files, and one file is sent to a device", "save it as one file")
    model = onnx.load(path, load_external_data=False)
    weights = {each.name for each in model.graph.initializer}
    bits: dict[bool, int] = {True: 0, False: 0}
    for each in model.graph.initializer:
        bits[each.data_type == onnx.TensorProto.FLOAT16] += each.ByteSize()
    inputs = [
        (each.name, [size.dim_value if size.HasField("dim_value") and size.dim_value > 0 else None
                     for size in each.type.tensor_type.shape.dim])
        for each in model.graph.input if each.name not in weights
    ]  # fmt: skip
    return {"inputs": inputs, "quantized": any(node.op_type == "QuantizeLinear" for node in model.graph.node),
            "half": bits[True] > bits[False]}  # fmt: skip
