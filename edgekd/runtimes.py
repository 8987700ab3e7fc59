"""Run an artifact in its own runtime: ONNX Runtime or LiteRT's Interpreter.

What a file takes and gives is described as in ``report.json``; :func:`feed` turns raw samples into an
input by that description alone, so judging a file also proves its description.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.models.tensors import TensorSpec

Array = NDArray[Any]
Run = Callable[[dict[str, Array]], dict[str, Array]]
"""From inputs to outputs by name, raw as the runtime takes and gives them."""

RUNTIMES = {"onnx": "onnxruntime", "ort": "onnxruntime", "tflite": "litert"}
_ONNX_TYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(uint8)": "uint8",
    "tensor(int8)": "int8", "tensor(int16)": "int16", "tensor(int32)": "int32", "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}  # fmt: skip


def open_onnx(path: str, threads: int | None = None) -> tuple[Run, list[dict[str, Any]], list[dict[str, Any]]]:
    """Load an ONNX or ``.ort`` file; return how to run it, and its inputs and outputs as the runtime tells them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def details(values: Any) -> list[dict[str, Any]]:
        return [{"name": each.name, "shape": list(each.shape), "dtype": _ONNX_TYPES.get(each.type, each.type),
                 "scale": None, "zero_point": None} for each in values]  # fmt: skip

    inputs, outputs = details(session.get_inputs()), details(session.get_outputs())
    names = [each["name"] for each in outputs]
    return lambda arrays: dict(zip(names, session.run(names, arrays), strict=True)), inputs, outputs


def open_tflite(
    path: str, threads: int | None = None, inner: Sequence[int] = ()
) -> tuple[Run, list[dict[str, Any]], list[dict[str, Any]]]:
    """Load a TFLite file; return how to run it, and its inputs and outputs as the runtime tells them.

    Names are those of the file's first signature, or of its tensors where it has none, as many old files.
    The batch is fixed: larger arrays run in slices of it.

    Args:
        path: The file.
        threads: Of the interpreter; ``None``: its default.
        inner: Indices of inner tensors that are returned as well, by :func:`inner_name`. They are kept, and nothing is
            delegated, for what a delegate computes on its way is not seen.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kept: dict[str, Any] = {}
    if inner:
        kept = {
            "experimental_preserve_all_tensors": True,
            "experimental_op_resolver_type": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        }
    interpreter = Interpreter(path, num_threads=threads, **kept)
    interpreter.allocate_tensors()
    signatures = interpreter.get_signature_list()
    found = {"inputs": interpreter.get_input_details(), "outputs": interpreter.get_output_details()}
    names: dict[int, str] = {}
    if signatures:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        for side in (runner.get_input_details(), runner.get_output_details()):
            by_tensor = {each["name"]: name for name, each in side.items()}
            for each in (*found["inputs"], *found["outputs"]):
                if each["name"] in by_tensor:
                    names[int(each["index"])] = by_tensor[each["name"]]

    def details(values: Any) -> list[dict[str, Any]]:
        rows = []
        for each in values:
            scale, zero_point = each["quantization"]
            quantized = np.issubdtype(each["dtype"], np.integer) and scale
            rows.append({
                "name": names.get(int(each["index"]), each["name"]), "shape": [int(size) for size in each["shape"]],
                "dtype": np.dtype(each["dtype"]).name,
                "scale": float(scale) if quantized else None, "zero_point": int(zero_point) if quantized else None,
            })  # fmt: skip
        return rows

    inputs, outputs = details(found["inputs"]), details(found["outputs"])
    sources = {each["name"]: int(raw["index"]) for each, raw in zip(inputs, found["inputs"], strict=True)}
    targets = {each["name"]: int(raw["index"]) for each, raw in zip(outputs, found["outputs"], strict=True)}
    targets |= {inner_name(index): index for index in inner}
    batch = inputs[0]["shape"][0] if inputs[0]["shape"] else 1

    def run(arrays: dict[str, Array]) -> dict[str, Array]:
        rows: list[dict[str, Array]] = []
        for start in range(0, len(next(iter(arrays.values()))), batch):
            for name, index in sources.items():
                interpreter.set_tensor(index, arrays[name][start : start + batch])
            interpreter.invoke()
            rows.append({name: interpreter.get_tensor(index) for name, index in targets.items()})
        return {name: np.concatenate([row[name] for row in rows]) for name in targets}

    return run, inputs, outputs


def inner_name(index: int) -> str:
    """Return the name of an inner tensor of a TFLite file, which need not have one of its own."""
    return f"tensor:{index}"


def open_artifact(path: str, kind: str, threads: int | None = None) -> tuple[Run, list[dict[str, Any]], list[dict[str, Any]]]:
    """Load a file of format ``kind`` (``onnx``, ``ort`` or ``tflite``) in its runtime with ``threads`` threads."""
    return open_tflite(path, threads) if kind == "tflite" else open_onnx(path, threads)


def describe(found: list[dict[str, Any]], specs: tuple[TensorSpec, ...], kind: str) -> list[dict[str, Any]]:
    """Join what a runtime tells about inputs or outputs with what only the training data knows, in the order of ``specs``."""
    by_name = {each["name"]: each for each in found}
    return [_describe(by_name[spec.name], spec, kind) for spec in specs]


def _describe(found: dict[str, Any], spec: TensorSpec, kind: str) -> dict[str, Any]:
    layout = "NHWC" if spec.layout == "NCHW" and kind == "tflite" else spec.layout
    described = {**found, "layout": layout, "meaning": spec.meaning}
    if spec.value_range is not None:
        described["value_range"] = list(spec.value_range)
    if spec.mean is not None and spec.std is not None:
        described |= {"mean": list(spec.mean), "std": list(spec.std)}
    if spec.sample_rate is not None:
        described["sample_rate"] = spec.sample_rate
    if spec.labels is not None:
        described["labels"] = list(spec.labels)
    return described


def feed(raw: Array, full_scale: float | None, described: dict[str, Any]) -> Array:
    """Turn raw samples into the input that ``described`` asks for.

    Args:
        raw: Raw values, images as ``[n, height, width, channels]``.
        full_scale: Raw value that stands for the top of the value range; ``None``: values are taken as they are.
        described: An entry of an artifact's ``inputs``.
    """
    if described["meaning"] in {"tokens", "mask"}:
        return np.ascontiguousarray(raw, dtype=described["dtype"])
    values: Array = raw.astype(np.float32)
    if full_scale is not None:
        low, high = described["value_range"]
        # Sound is signed, its silence is raw 0; images start there.
        start, span = (0.0, high) if described["meaning"] == "waveform" else (low, high - low)
        values = values / np.float32(full_scale) * np.float32(span) + np.float32(start)
    if "mean" in described:
        values = (values - np.asarray(described["mean"], np.float32)) / np.asarray(described["std"], np.float32)
    if described["layout"] == "NCHW":
        values = values.transpose(0, 3, 1, 2)
    if described["scale"] is None:
        return np.ascontiguousarray(values)
    limits = np.iinfo(described["dtype"])
    steps = np.round(values / np.float32(described["scale"]) + described["zero_point"])
    return np.ascontiguousarray(np.clip(steps, limits.min, limits.max).astype(described["dtype"]))


def real_values(raw: Array, described: dict[str, Any]) -> NDArray[np.float32]:
    """Turn a raw output into real numbers: ``(raw - zero_point) * scale`` for an integer one."""
    if described["scale"] is None:
        return raw.astype(np.float32)
    return (raw.astype(np.float32) - np.float32(described["zero_point"])) * np.float32(described["scale"])
