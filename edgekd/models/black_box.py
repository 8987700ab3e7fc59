"""Black-box teachers: ONNX, Keras and TFLite files, opened in their own runtime in a child process.

:func:`open_model` runs in the child, see :mod:`edgekd.safe.worker`, and is free of torch. The child takes real
numbers and gives real numbers: it brings inputs to the file's dtype, quantizes and dequantizes, and cuts a batch
into slices where the file was made for a fixed one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import ModelError
from edgekd.models.keras_file import import_keras
from edgekd.safe.model_files import check_file, check_keras, check_onnx, check_tflite, folder_bytes

Arrays = dict[str, NDArray[Any]]
_NUMBERS = frozenset({
    "float16", "float32", "float64", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "bool",
})  # fmt: skip
_Opened = tuple[Callable[[Arrays], Arrays], list[dict[str, Any]], list[dict[str, Any]], int]


def open_model(kind: str, path: str, allow_code: bool) -> tuple[dict[str, Any], Callable[[Arrays], Arrays]]:
    """Open a model file. Runs in a child process.

    Args:
        kind: ``onnx``, ``keras`` or ``tflite``.
        path: The file, or the folder of a SavedModel.
        allow_code: Whether a Keras file may hold code of its own.

    Returns:
        ``{"inputs": [...], "outputs": [...], "batch": 1 | None, "size_bytes"}``, where each input and output has ``name``,
        ``shape`` without the batch (``None``: any size), ``dtype``, ``scale`` and ``zero_point``; and how to run it.

    Raises:
        ModelError: The file is broken, keeps weights elsewhere, or holds code.
    """
    file = Path(path)
    if kind != "keras" or not file.is_dir():
        check_file(file)
    run, inputs, outputs, size = _OPENERS[kind](file, allow_code)
    _check_numbers(path, inputs, outputs)
    outputs = [each for each in outputs if each["dtype"] in _NUMBERS]
    sizes = {each["shape"][0] for each in inputs if each["shape"] and each["shape"][0] is not None}
    batch = min(sizes) if sizes else None
    described = {
        "inputs": [each | {"shape": each["shape"][1:]} for each in inputs],
        "outputs": [each | {"shape": each["shape"][1:]} for each in outputs],
        "batch": batch, "size_bytes": size,
    }  # fmt: skip

    def answer(arrays: Arrays) -> Arrays:
        count = len(next(iter(arrays.values())))
        rows = []
        for start in range(0, count, batch or count):
            part = {
                each["name"]: as_input(arrays[each["name"]][start : start + (batch or count)], each, batch) for each in inputs
            }
            samples = len(next(iter(part.values())))
            try:
                found = run(part)
            except Exception as error:  # each runtime has exceptions of its own
                shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in part.items())
                raise ModelError(f"{path} failed on {shapes}: {_first_line(error)}") from None
            rows.append({
                each["name"]: _real(found[each["name"]], each)[: count - start]
                for each in outputs if np.ndim(found[each["name"]]) and len(found[each["name"]]) == samples
            })  # fmt: skip
        if not rows[0]:
            raise ModelError(f"{path} has no output with one row per sample")
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    return described, answer


def _check_numbers(path: str, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
    """Refuse a model that takes something else than numbers, or gives nothing but."""
    for each in inputs:
        if each["dtype"] not in _NUMBERS:
            raise ModelError(
                f"{path} takes {each['dtype']} as '{each['name']}', not numbers", "save it without the step that decodes them"
            )
    if not inputs or not any(each["dtype"] in _NUMBERS for each in outputs):
        listed = ", ".join(f"{each['name']} ({each['dtype']})" for each in outputs) or "none"
        raise ModelError(f"{path} has {len(inputs)} inputs, and as outputs {listed}; numbers are needed on both sides")


def as_input(values: NDArray[Any], described: dict[str, Any], batch: int | None) -> NDArray[Any]:
    """Return real ``values`` as an input takes them, padded to a fixed batch with copies of the last.

    Args:
        values: One row per sample.
        described: The input: ``dtype``, ``scale`` and ``zero_point``.
        batch: The fixed batch; ``None``: any.
    """
    dtype = np.dtype(described["dtype"])
    if described["scale"] is not None:
        values = values / np.float32(described["scale"]) + described["zero_point"]
    if np.issubdtype(dtype, np.integer) and not np.issubdtype(values.dtype, np.integer):
        limits = np.iinfo(dtype)
        values = np.clip(np.round(values), limits.min, limits.max)
    values = values.astype(dtype)
    if batch is not None and len(values) < batch:
        values = np.concatenate([values, np.repeat(values[-1:], batch - len(values), axis=0)])
    return np.ascontiguousarray(values)


def _real(values: NDArray[Any], described: dict[str, Any]) -> NDArray[np.float32]:
    if described["scale"] is None:
        return values.astype(np.float32)
    return (values.astype(np.float32) - np.float32(described["zero_point"])) * np.float32(described["scale"])


def _onnx(path: Path, allow_code: bool) -> _Opened:
    from edgekd.runtimes import open_onnx

    size = check_onnx(path)
    try:
        run, inputs, outputs = open_onnx(str(path))
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        raise ModelError(f"ONNX Runtime cannot open {path}: {_first_line(error)}", "check it with onnx.checker") from None
    for each in (*inputs, *outputs):
        each["shape"] = [size if isinstance(size, int) and size > 0 else None for size in each["shape"]]
    return run, inputs, outputs, size


def _tflite(path: Path, allow_code: bool) -> _Opened:
    from edgekd.runtimes import open_tflite

    check_tflite(path)
    try:
        run, inputs, outputs = open_tflite(str(path))
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"LiteRT cannot open {path}: {_first_line(error)}") from None
    return run, inputs, outputs, folder_bytes(path)


def _keras(path: Path, allow_code: bool) -> _Opened:
    form = check_keras(path, allow_code)
    keras = import_keras("tensorflow")  # before tensorflow, which imports it on whatever is set
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    if form == "saved_model":
        return _saved_model(path)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=not allow_code)
    except Exception as error:  # whatever a layer's constructor raises
        raise ModelError(f"Keras cannot load {path}: {_first_line(error)}") from None
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise ModelError(f"{path} does not tell its inputs and outputs", "save a functional or sequential model")
    inputs = _tensors(model.inputs, [each.name for each in model.inputs])
    outputs = _tensors(model.outputs, list(getattr(model, "output_names", ())))
    call = tf.function(lambda *values: model(list(values) if len(values) > 1 else values[0], training=False))

    def run(arrays: Arrays) -> Arrays:
        found = keras.tree.flatten(call(*(tf.constant(arrays[each["name"]]) for each in inputs)))
        return {each["name"]: value.numpy() for each, value in zip(outputs, found, strict=True)}

    return run, inputs, outputs, folder_bytes(path)


def _tensors(tensors: list[Any], names: list[str]) -> list[dict[str, Any]]:
    """Describe tensors of Keras; names that are missing or not unique are replaced by numbered ones."""
    if len(set(names)) != len(tensors):
        names = [f"output_{index}" for index in range(len(tensors))]
    return [
        {"name": name, "shape": list(each.shape), "dtype": str(each.dtype), "scale": None, "zero_point": None}
        for name, each in zip(names, tensors, strict=True)
    ]


def _saved_model(path: Path) -> _Opened:
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow raises OSError, ValueError, and types of its own
        raise ModelError(f"TensorFlow cannot load {path}: {_first_line(error)}") from None
    signatures = loaded.signatures
    if not signatures:
        raise ModelError(f"{path} has no signature to call", "save it with model.export(...), which adds one")
    function = signatures["serving_default" if "serving_default" in signatures else next(iter(signatures))]

    def described(name: str, spec: Any) -> dict[str, Any]:
        shape = spec.shape.as_list() if spec.shape.rank is not None else [None]
        return {"name": name, "shape": shape, "dtype": spec.dtype.name, "scale": None, "zero_point": None}

    inputs = [described(name, spec) for name, spec in function.structured_input_signature[1].items()]
    outputs = [described(name, spec) for name, spec in function.structured_outputs.items()]

    def run(arrays: Arrays) -> Arrays:
        # Held by this closure: a function of a SavedModel dies with the object it was loaded with.
        assert loaded is not None
        found = function(**{name: tf.constant(array) for name, array in arrays.items()})
        return {name: value.numpy() for name, value in found.items()}

    return run, inputs, outputs, folder_bytes(path)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


_OPENERS: dict[str, Callable[[Path, bool], _Opened]] = {"onnx": _onnx, "keras": _keras, "tflite": _tflite}
