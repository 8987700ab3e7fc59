"""Run one artifact over samples in its own runtime. Free of torch, because it runs in a child process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgekd.census import census
from edgekd.data.rows import RowFile
from edgekd.models.tensors import spec_from_json
from edgekd.runtimes import describe, feed, open_artifact, real_values

_BATCH = 256


def evaluate_file(path: str, kind: str, spec: dict[str, Any], raw: dict[str, Any], indices: str, out: str) -> dict[str, Any]:
    """Run a file on raw samples by its own description, write its logits, and count its dtypes. Runs in a child process.

    Args:
        path: The artifact.
        kind: ``onnx`` or ``tflite``.
        spec: The student's :class:`~edgekd.models.tensors.ModelSpec` as plain data.
        raw: For every input by name, ``path`` of an ``.npy`` file of raw samples, and ``full_scale``.
        indices: ``.npy`` file of the samples to run.
        out: ``.npy`` file that gets the logits, ``float32 [len(indices), classes]``.
    """
    run, found_inputs, found_outputs = open_artifact(path, kind)
    model = spec_from_json(spec)
    inputs, outputs = describe(found_inputs, model.inputs, kind), describe(found_outputs, model.outputs, kind)
    arrays = {name: RowFile(Path(each["path"])) for name, each in raw.items()}
    chosen = np.load(indices, allow_pickle=False)
    rows = []
    for start in range(0, len(chosen), _BATCH):
        part = chosen[start : start + _BATCH]
        fed = {each["name"]: feed(arrays[each["name"]][part], raw[each["name"]]["full_scale"], each) for each in inputs}
        rows.append(real_values(run(fed)[outputs[0]["name"]], outputs[0]))
    np.save(out, np.concatenate(rows), allow_pickle=False)
    return {"inputs": inputs, "outputs": outputs, "dtypes": census(path, kind)}
