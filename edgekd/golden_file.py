"""Run one artifact on golden samples, and write what it took and gave. Free of torch, because it runs in a child process."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.models.tensors import spec_from_json
from edgekd.runtimes import RUNTIMES, describe, feed, open_artifact

SCHEMA = 1
ADVERSARIAL = ("lowest", "highest", "mid", "noise")
"""All values at the low end of the legal range, at its high end, in the middle, and noise over the whole of it."""
SHARE_OF_RANGE = {"fp32": 1e-4, "fp16": 1e-2}
"""How far float files may be off, as a share of the output range: what the gates allow them by default."""
INT8_STEPS = 4
"""How far all others may be off, in steps of the output: its quantization step, or 1/255 of its range where it has no 8 bits.

The kernels of one runtime differ by one step on the digits network (LiteRT's own against XNNPACK's); each layer may add to it.
"""
_STEPS_IN_RANGE = 255
_PACKAGES = {"onnxruntime": "onnxruntime", "litert": "ai-edge-litert"}
Arrays = dict[str, NDArray[Any]]


def golden_file(
    path: str, kind: str, precision: str, spec: dict[str, Any], raw: str, samples: list[dict[str, Any]], folder: str,
    full_scale: dict[str, float | None], artifact: dict[str, str],
) -> dict[str, Any]:  # fmt: skip
    """Run the file on raw samples one by one, and write what it took and gave. Runs in a child process.

    ``golden.json``: ``schema``; ``artifact`` (``name``, ``file``, ``sha256``); ``runtime`` that gave the outputs; ``rule``,
    how to compare, in words; ``samples``, in the order of the rows: ``id``, ``kind`` (``test`` or one of
    :data:`ADVERSARIAL`), ``label`` (the true class, or null), ``top1`` and ``margin`` to the second class, in raw values;
    ``inputs`` and ``outputs``: ``name``, ``index`` (position in the file), ``file``, ``shape``, ``dtype``, ``byte_order``,
    ``sha256``, ``scale``, ``zero_point``, and of outputs ``tolerance``, the largest difference allowed in each sample, raw.

    Args:
        path, kind, precision: The artifact.
        spec: The student's :class:`~edgekd.models.tensors.ModelSpec` as plain data.
        raw: ``.npz`` file of raw values by input name: ``samples``, then :data:`ADVERSARIAL`.
        samples: ``id``, ``kind`` and ``label`` of the first rows.
        folder: Gets the files.
        full_scale: Of each input, see :func:`~edgekd.runtimes.feed`.
        artifact: For ``golden.json``.
    """
    run, found_inputs, found_outputs = open_artifact(path, kind)
    model = spec_from_json(spec)
    inputs, outputs = describe(found_inputs, model.inputs, kind), describe(found_outputs, model.outputs, kind)
    with np.load(raw, allow_pickle=False) as archive:
        fed = {each["name"]: feed(archive[each["name"]], full_scale[each["name"]], each) for each in inputs}
    rows = [*samples, *({"id": name, "kind": name, "label": None} for name in ADVERSARIAL)]
    # One by one, as an app does.
    given = [run({name: values[index : index + 1] for name, values in fed.items()}) for index in range(len(rows))]
    kept = [index for index, each in enumerate(given) if all(np.isfinite(values).all() for values in each.values())]
    left_out = [f"{rows[index]['id']} gives NaN or infinity" for index in range(len(rows)) if index not in kept]
    rows = [rows[index] for index in kept]
    fed = {name: values[kept] for name, values in fed.items()}
    got = {each["name"]: np.concatenate([given[index][each["name"]] for index in kept]) for each in outputs}
    _rank(rows, outputs, got)
    is_test = np.asarray([row["kind"] == "test" for row in rows])
    content: dict[str, Any] = {
        "schema": SCHEMA, "artifact": artifact,
        "runtime": {"name": RUNTIMES[kind], "version": version(_PACKAGES[RUNTIMES[kind]]), "machine": platform.machine()},
        "rule": rule(precision), "samples": rows,
        "inputs": _written(Path(folder), "input", inputs, fed, found_inputs),
        "outputs": [
            {**each, "tolerance": _tolerance(got[each["name"]], is_test, precision)}
            for each in _written(Path(folder), "output", outputs, got, found_outputs)
        ],
    }  # fmt: skip
    named = {f"input_{name}": values for name, values in fed.items()} | {f"output_{name}": each for name, each in got.items()}
    with Path(folder, "golden.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **named)
    Path(folder, "golden.json").write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return {"count": len(rows), "files": 2 + len(inputs) + len(outputs), "left_out": left_out}


def rule(precision: str) -> str:
    """Return in words how outputs are compared with the golden ones."""
    share = SHARE_OF_RANGE.get(precision)
    allowed = (
        f"{INT8_STEPS} steps: quantization steps of an output of 8 bits, 1/{_STEPS_IN_RANGE} of the range of any other"
        if share is None
        else f"{share:g} of the output range"
    )
    return (
        f"Every value may differ by {allowed} (see tolerance). Where the first class is ahead of the second by more than "
        "the tolerance (see margin), it must be first again."
    )


def _tolerance(values: NDArray[Any], is_test: NDArray[np.bool_], precision: str) -> list[float]:
    """Return the largest allowed difference of each sample. An extreme sample may have a larger range than the test samples."""
    if values.dtype.itemsize == 1:
        return [float(INT8_STEPS)] * len(values)
    flat = values.reshape(len(values), -1).astype(np.float64)
    usual = np.ptp(flat[is_test]) if is_test.any() else 0.0
    share = SHARE_OF_RANGE.get(precision, INT8_STEPS / _STEPS_IN_RANGE)
    return [float(share * max(usual, np.ptp(row))) for row in flat]


def _rank(rows: list[dict[str, Any]], outputs: list[dict[str, Any]], got: Arrays) -> None:
    """Add ``top1`` and ``margin`` of the first output that has a value for each class."""
    for each in outputs:
        if each["meaning"] == "logits" and got[each["name"]].shape[-1] > 1:
            for row, values in zip(rows, got[each["name"]].reshape(len(rows), -1).astype(np.float64), strict=True):
                second, first = np.sort(values)[-2:]
                row |= {"top1": int(values.argmax()), "margin": float(first - second)}
            return


def _written(
    folder: Path, side: str, tensors: list[dict[str, Any]], values: Arrays, found: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Write a ``.bin`` file for each tensor, and return what ``golden.json`` tells of it."""
    places = {each["name"]: index for index, each in enumerate(found)}
    rows = []
    for number, each in enumerate(tensors):
        array = values[each["name"]]
        content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        # A name is the model's and may hold anything; the number keeps files apart.
        name = f"{side}_{number}_{re.sub('[^A-Za-z0-9-]', '_', each['name'])[:60]}.bin"
        (folder / name).write_bytes(content)
        rows.append({
            "name": each["name"], "index": places[each["name"]], "file": name, "shape": list(array.shape),
            "dtype": array.dtype.name, "byte_order": "little", "sha256": hashlib.sha256(content).hexdigest(),
            "scale": each["scale"], "zero_point": each["zero_point"],
        })  # fmt: skip
    return rows
