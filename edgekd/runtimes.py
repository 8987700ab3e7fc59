"""Run an artifact in its own runtime: ONNX Runtime or LiteRT's Interpreter.

What a file takes and gives is described as in ``report.json``; :func:`feed` turns raw images into an
input by that description alone, so judging a file also proves its description.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.models.tensors import ModelSpec, TensorSpec

Array = NDArray[Any]
Run = Callable[[Array], list[Array]]
"""From the one input to all outputs, raw as the runtime gives them."""

RUNTIMES = {"onnx": "onnxruntime", "tflite": "litert"}


def open_onnx(path: str, threads: int | None = None) -> tuple[Run, list[dict[str, Any]], list[dict[str, Any]]]:
    """Load an ONNX file; return how to run it, and its inputs and outputs as the runtime tells them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def details(values: Any) -> list[dict[str, Any]]:
        kinds = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int8)": "int8"}
        return [{"name": each.name, "shape": list(each.shape), "dtype": kinds[each.type], "scale": None, "zero_point": None}
                for each in values]  # fmt: skip

    inputs, outputs = details(session.get_inputs()), details(session.get_outputs())
    return lambda array: session.run(None, {inputs[0]["name"]: array}), inputs, outputs


def open_tflite(path: str, threads: int | None = None) -> tuple[Run, list[dict[str, Any]], list[dict[str, Any]]]:
    """Load a TFLite file; return how to run it, and its inputs and outputs as the runtime tells them.

    Names are those of the file's one signature. The batch is fixed: a larger array runs in slices of it.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    ((key, _),) = interpreter.get_signature_list().items()
    runner = interpreter.get_signature_runner(key)

    def details(values: dict[str, Any]) -> list[dict[str, Any]]:
        rows = []
        for name, each in values.items():
            scale, zero_point = each["quantization"]
            is_integer = np.issubdtype(each["dtype"], np.integer)
            rows.append({
                "name": name, "shape": [int(size) for size in each["shape"]], "dtype": np.dtype(each["dtype"]).name,
                "scale": float(scale) if is_integer else None, "zero_point": int(zero_point) if is_integer else None,
            })  # fmt: skip
        return rows

    inputs, outputs = details(runner.get_input_details()), details(runner.get_output_details())
    batch = inputs[0]["shape"][0]
    source = interpreter.get_input_details()[0]["index"]
    targets = {each["name"]: each["index"] for each in interpreter.get_output_details()}
    names = {name: each["name"] for name, each in runner.get_output_details().items()}

    def run(array: Array) -> list[Array]:
        rows: list[list[Array]] = []
        for start in range(0, len(array), batch):
            interpreter.set_tensor(source, array[start : start + batch])
            interpreter.invoke()
            rows.append([interpreter.get_tensor(targets[names[each["name"]]]) for each in outputs])
        return [np.concatenate(parts) for parts in zip(*rows, strict=True)]

    return run, inputs, outputs


def open_artifact(path: str, kind: str, threads: int | None = None) -> tuple[Run, list[dict[str, Any]], list[dict[str, Any]]]:
    """Load a file of format ``kind`` (``onnx`` or ``tflite``) in its runtime with ``threads`` threads."""
    return open_onnx(path, threads) if kind == "onnx" else open_tflite(path, threads)


def describe_inputs(found: list[dict[str, Any]], kind: str, spec: ModelSpec) -> list[dict[str, Any]]:
    """Join what the runtime tells about inputs with what only the training data knows: range, mean, std."""
    return [_describe(*pair, kind) for pair in zip(found, spec.inputs, strict=True)]


def describe_outputs(found: list[dict[str, Any]], kind: str, spec: ModelSpec) -> list[dict[str, Any]]:
    """Join what the runtime tells about outputs with their meaning and labels."""
    return [_describe(*pair, kind) for pair in zip(found, spec.outputs, strict=True)]


def _describe(found: dict[str, Any], spec: TensorSpec, kind: str) -> dict[str, Any]:
    layout = "NHWC" if spec.layout == "NCHW" and kind == "tflite" else spec.layout
    described = {**found, "layout": layout, "meaning": spec.meaning}
    if spec.meaning == "image":
        described |= {"value_range": list(spec.value_range or ()), "mean": list(spec.mean or ()), "std": list(spec.std or ())}
    if spec.labels is not None:
        described["labels"] = list(spec.labels)
    return described


def feed(images: NDArray[np.uint8], white: int, described: dict[str, Any]) -> Array:
    """Turn raw images into the input that ``described`` asks for.

    Args:
        images: Raw pixels ``[n, height, width, channels]``, black 0.
        white: Raw value of white.
        described: An entry of an artifact's ``inputs``.
    """
    low, high = described["value_range"]
    values: Array = images.astype(np.float32) / np.float32(white) * np.float32(high - low) + np.float32(low)
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
