"""Run one artifact over samples in its own runtime. Free of torch, because it runs in a child process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgekd.census import census
from edgekd.data.rows import RowFile
from edgekd.errors import ExportError
from edgekd.models.tensors import spec_from_json
from edgekd.runtimes import Run, describe, feed, open_artifact, real_values

_BATCH = 256
RUNTIME_ERRORS = (RuntimeError, ValueError)
"""What LiteRT and the quantizers raise for a file or a set of layers that they do not take: LiteRT where its kernels cannot
compute with the scales, as those of a hard-swish whose input is far wider than its output."""


def evaluate_file(path: str, kind: str, spec: dict[str, Any], sets: list[dict[str, Any]]) -> dict[str, Any]:
    """Run a file on raw samples by its own description, write its logits, and count its dtypes. Runs in a child process.

    Args:
        path: The artifact.
        kind: ``onnx`` or ``tflite``.
        spec: The student's :class:`~edgekd.models.tensors.ModelSpec` as plain data.
        sets: Samples to run, see :func:`run_sets`.

    Raises:
        ExportError: The file lacks an input or output of the student.
    """
    run, found_inputs, found_outputs = open_artifact(path, kind)
    model = spec_from_json(spec)
    for found, expected in ((found_inputs, model.inputs), (found_outputs, model.outputs)):
        missing = {each.name for each in expected} - {each["name"] for each in found}
        if missing:
            listed = ", ".join(f"{each['name']} {each['shape']}" for each in found)
            raise ExportError(f"{path} has no {', '.join(sorted(missing))}, but {listed}", "export it again")
    inputs, outputs = describe(found_inputs, model.inputs, kind), describe(found_outputs, model.outputs, kind)
    run_sets(run, inputs, outputs, sets)
    return {"inputs": inputs, "outputs": outputs, "dtypes": census(path, kind)}


def evaluate_files(files: list[dict[str, Any]], kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Run several files of one format, each as :func:`evaluate_file` does. Runs in a child process.

    Args:
        files: For each its ``path`` and its ``sets``.
        kind, spec: As :func:`evaluate_file` takes them.

    Returns:
        ``refused``: for each file why its runtime does not run it, or ``None``. Nothing is written for such a file.
    """
    refused: list[str | None] = []
    for each in files:
        try:
            evaluate_file(each["path"], kind, spec, each["sets"])
            refused.append(None)
        except RUNTIME_ERRORS as error:
            print(f"{each['path']}: {error}")
            refused.append(str(error))
    return {"refused": refused}


def evaluate_described(
    path: str, kind: str, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]], sets: list[dict[str, Any]]
) -> dict[str, Any]:
    """Run a file on raw samples as ``report.json`` describes it, write its logits, and count its dtypes. Runs in a child.

    Args:
        path: The artifact.
        kind: ``onnx`` or ``tflite``.
        inputs, outputs: Its description.
        sets: Samples to run, see :func:`run_sets`.
    """
    run_sets(open_artifact(path, kind)[0], inputs, outputs, sets)
    return {"dtypes": census(path, kind)}


def run_sets(run: Run, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]], sets: list[dict[str, Any]]) -> None:
    """Feed raw samples to a file by its description and write the logits.

    Args:
        run: The file in its runtime.
        inputs, outputs: Its description, as in ``report.json``.
        sets: For each set of samples: ``raw``, for every input by name the ``path`` of an ``.npy`` file of raw samples and its
            ``full_scale``; ``indices``, an ``.npy`` file of the samples to run; ``out``, the ``.npy`` file that gets the
            logits, ``float32 [len(indices), classes]``.
    """
    for each in sets:
        raw = each["raw"]
        arrays = {name: RowFile(Path(entry["path"])) for name, entry in raw.items()}
        chosen = np.load(each["indices"], allow_pickle=False)
        rows = []
        for start in range(0, len(chosen), _BATCH):
            part = chosen[start : start + _BATCH]
            fed = {
                given["name"]: feed(arrays[given["name"]][part], raw[given["name"]]["full_scale"], given) for given in inputs
            }
            rows.append(real_values(run(fed)[outputs[0]["name"]], outputs[0]))
        np.save(each["out"], np.concatenate(rows), allow_pickle=False)
