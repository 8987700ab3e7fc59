"""The quantization stage: int8 and fp16 files from the float32 ones."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifacts import Artifact, file_name
from edgekd.data.dataset import Dataset
from edgekd.distill.training_stage import TrainedModel
from edgekd.export.stages import describe_size
from edgekd.quantize.calibration import activation_ranges, calibration_indices
from edgekd.recipe import ArtifactName, Recipe
from edgekd.safe.child import run_in_child
from edgekd.safe.files import TEMPORARY_SUFFIX, disk_errors
from edgekd.workspace import Workspace

_SOURCES: dict[ArtifactName, ArtifactName] = {
    "onnx-int8": "onnx-fp32",
    "tflite-fp16": "tflite-fp32",
    "tflite-int8": "tflite-fp32",
}


def quantize_exports(
    recipe: Recipe, data: Dataset, student: TrainedModel, exported: dict[ArtifactName, Artifact], workspace: Workspace
) -> dict[ArtifactName, Artifact]:
    """Return every artifact of the recipe, in its order: the exported ones and those quantized from them.

    Raises:
        ExportError: A quantizer refused the model or crashed.
    """
    made = {}
    for name in recipe.export.artifacts:
        made[name] = exported[name] if name in exported else _quantize(name, recipe, data, student, exported, workspace)
    return made


def _quantize(
    name: ArtifactName, recipe: Recipe, data: Dataset, student: TrainedModel,
    exported: dict[ArtifactName, Artifact], workspace: Workspace,
) -> Artifact:  # fmt: skip
    source = exported[_SOURCES[name]]
    kind = name.partition("-")[0]
    activations = None if name == "tflite-fp16" else activation_ranges(recipe.quantize.activations, data.kind)
    inputs: dict[str, Any] = {"model": source.sha256, "activations": activations}
    chosen = calibration_indices(data.splits.train, data.labels, recipe.quantize.calibration_samples, recipe.seed)
    if activations is None:
        what, function = "store weights as 16-bit floats", "cast_tflite_fp16"
    elif activations == "dynamic":
        what, function = "int8 weights, ranges of activations as it runs", f"quantize_{kind}_dynamic"
    else:
        inputs |= {"data": data.digest, "calibration": chosen.tolist()}
        what, function = f"static int8, ranges from {len(chosen)} training samples", f"quantize_{kind}"

    def work(folder: Path) -> dict[str, Any]:
        out = folder / file_name(name)
        arguments = {"model": str(source.path), "out": str(out)}
        with disk_errors(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=TEMPORARY_SUFFIX) as scratch:
            if activations == "static":
                samples = Path(scratch, "calibration.npz")
                np.savez(samples, allow_pickle=False, **data.batch(chosen))
                arguments["calibration"] = str(samples)
            run_in_child(f"edgekd.quantize.{kind}:{function}", arguments, log=workspace.log)
        return {"size_bytes": out.stat().st_size}

    stage = workspace.stage(name, what, inputs, work, describe_size)
    return Artifact(name, stage.path(file_name(name)), stage.files[file_name(name)], activations)
