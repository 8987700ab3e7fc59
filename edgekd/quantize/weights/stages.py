"""The stages that treat weights: better weights, the float32 files of them, and what their activations are."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifacts import Artifact, file_name
from edgekd.data.dataset import Dataset
from edgekd.distill.training_stage import TrainedModel
from edgekd.export.stages import describe_size
from edgekd.flavours import FLAVOURS, ArtifactName
from edgekd.parity import decibels
from edgekd.quantize.calibration import calibration_order
from edgekd.quantize.candidates import Source, observe
from edgekd.recipe import Recipe
from edgekd.safe.child import run_in_child
from edgekd.safe.files import TEMPORARY_SUFFIX, disk_errors
from edgekd.workspace import StageResult, Workspace

_WEIGHTS = "weights.safetensors"
_SAMPLES = 256
"""Training samples that weights are treated on."""
_WHAT = {
    "corrected": "biases changed so that rounded weights shift nothing",
    "equalized": "channels scaled so that one range fits all, biases corrected",
    "rounded": "rounding learned for the layers that need it, biases corrected",
}


def treated_source(
    treatment: str, source: ArtifactName, recipe: Recipe, data: Dataset, student: TrainedModel, workspace: Workspace
) -> Source:  # fmt: skip
    """Treat the student's weights, export them as ``source`` is, and look at the activations of that file.

    Args:
        treatment: One of :data:`edgekd.quantize.weights.TREATMENTS`.
        source: The float32 artifact that int8 ones are made from; the one of the run stays as it is.
        recipe, data, student, workspace: Of the run.

    Raises:
        ExportError: The network refuses the treatment, or a converter the network.
    """
    spec = student.spec.to_json()
    weights = _treat(treatment, recipe, data, student, workspace)
    exporter = FLAVOURS[source].function
    assert exporter is not None

    def work(folder: Path) -> dict[str, Any]:
        out = folder / file_name(source)
        run_in_child(exporter, {"spec": spec, "weights": str(weights.path(_WEIGHTS)), "out": str(out)}, log=workspace.log)
        return {"size_bytes": out.stat().st_size}

    inputs = {"spec": spec, "weights": weights.files[_WEIGHTS]}
    stage = workspace.stage(f"{source}-{treatment}", f"export of {treatment} weights", inputs, work, describe_size)
    artifact = Artifact(source, stage.path(file_name(source)), stage.files[file_name(source)])
    return observe(artifact, treatment, recipe, data, workspace)


def _treat(
    treatment: str, recipe: Recipe, data: Dataset, student: TrainedModel, workspace: Workspace
) -> StageResult:  # fmt: skip
    indices = calibration_order(data.splits.train, data.labels, recipe.seed)[:_SAMPLES]

    def work(folder: Path) -> dict[str, Any]:
        with disk_errors(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=TEMPORARY_SUFFIX) as scratch:
            samples = Path(scratch, "samples.npz")
            np.savez(samples, allow_pickle=False, **data.batch(indices))
            arguments = {
                "spec": student.spec.to_json(), "weights": str(student.weights), "samples": str(samples),
                "treatment": treatment, "out": str(folder / _WEIGHTS), "seed": recipe.seed,
            }  # fmt: skip
            facts: dict[str, Any] = run_in_child(
                "edgekd.quantize.weights.improve:improve_weights", arguments, log=workspace.log
            )
        return facts

    inputs = {"student": student.digest, "data": data.digest, "samples": indices.tolist(), "treatment": treatment}
    return workspace.stage(f"weights-{treatment}", _WHAT[treatment], inputs, work, _told)


def _told(result: dict[str, Any]) -> str:
    parts = [f"{result['folded']} batch norms folded", f"{result['corrected']} biases corrected"]
    if result["pairs"]:
        parts.append(f"{result['pairs']} pairs of layers equalized")
    for name, (nearest, learned) in list(result["rounded"].items())[:1]:
        before, after = decibels(1, nearest), decibels(1, learned)
        parts.append(f"{len(result['rounded'])} layers rounded anew: {name} from {before:.1f} to {after:.1f} dB")
    return ", ".join(parts)
