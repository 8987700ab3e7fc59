"""Run one artifact over images in its own runtime. Free of torch, because it runs in a child process of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekd.census import census
from edgekd.models.tensors import spec_from_json
from edgekd.runtimes import describe_inputs, describe_outputs, feed, open_artifact, real_values

_BATCH = 256


def evaluate_file(
    path: str, kind: str, spec: dict[str, Any], images: str, white: int, indices: str, out: str
) -> dict[str, Any]:
    """Run a file on raw images by its own description, write its logits, and count its dtypes. Runs in a child process.

    Args:
        path: The artifact.
        kind: ``onnx`` or ``tflite``.
        spec: The student's :class:`~edgekd.models.tensors.ModelSpec` as plain data.
        images: ``.npy`` file of raw images ``uint8 [n, height, width, channels]``.
        white: Raw value of white.
        indices: ``.npy`` file of the images to run.
        out: ``.npy`` file that gets the logits, ``float32 [len(indices), classes]``.
    """
    run, found_inputs, found_outputs = open_artifact(path, kind)
    model = spec_from_json(spec)
    inputs, outputs = describe_inputs(found_inputs, kind, model), describe_outputs(found_outputs, kind, model)
    pixels = np.load(images, mmap_mode="r", allow_pickle=False)
    chosen = np.load(indices, allow_pickle=False)
    rows = []
    for start in range(0, len(chosen), _BATCH):
        raw = run(feed(pixels[chosen[start : start + _BATCH]], white, inputs[0]))
        rows.append(real_values(raw[0], outputs[0]))
    np.save(out, np.concatenate(rows), allow_pickle=False)
    return {"inputs": inputs, "outputs": outputs, "dtypes": census(path, kind)}
