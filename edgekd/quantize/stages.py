"""The quantization stage: files in fewer bits, and in other formats, from the float32 ones."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifacts import Artifact, file_name, files_beside
from edgekd.data.dataset import Dataset
from edgekd.distill.training_stage import TrainedModel
from edgekd.export.stages import describe_size
from edgekd.flavours import FLAVOURS, ArtifactName, sources
from edgekd.quantize.calibration import activation_ranges, calibration_indices
from edgekd.quantize.qat.file_ranges import learned_ranges
from edgekd.quantize.range_file import write_ranges
from edgekd.recipe import Recipe
from edgekd.safe.child import run_in_child
from edgekd.safe.files import TEMPORARY_SUFFIX, disk_errors
from edgekd.workspace import Workspace


def quantize_exports(
    recipe: Recipe, data: Dataset, student: TrainedModel, exported: dict[ArtifactName, Artifact], workspace: Workspace
) -> dict[ArtifactName, Artifact]:
    """Return every artifact of the recipe, in its order: the exported ones and those made from them.

    Raises:
        ExportError: A quantizer refused the model or crashed.
    """
    made = dict(exported)
    for name in sources(recipe.export.artifacts):
        if name not in made:
            made[name] = _quantize(name, recipe, data, student, made, workspace)
    return {name: made[name] for name in recipe.export.artifacts}


def _quantize(
    name: ArtifactName, recipe: Recipe, data: Dataset, student: TrainedModel, made: dict[ArtifactName, Artifact],
    workspace: Workspace,
) -> Artifact:  # fmt: skip
    flavour = FLAVOURS[name]
    assert flavour.source is not None
    source, function, what = made[flavour.source], flavour.function, flavour.what
    activations: str | None = flavour.activations
    if activations == "auto":
        activations = activation_ranges(recipe.quantize.activations, data.kind)
        function = flavour.dynamic if activations == "dynamic" else function
    assert function is not None
    inputs: dict[str, Any] = {"model": source.sha256, "activations": activations, "arguments": flavour.arguments}
    chosen = calibration_indices(data.splits.train, data.labels, recipe.quantize.calibration_samples, recipe.seed)
    if activations == "dynamic":
        what = "int8 weights, ranges of activations as it runs"
    elif activations == "static":
        inputs |= {"data": data.digest, "calibration": chosen.tolist()}
        what += f", ranges from {len(chosen)} training samples"

    learns = student.simulation is not None and flavour.simulated and activations == "static"
    if learns:
        assert student.simulation is not None
        inputs["ranges"] = student.simulation.digest
        what = what.partition(", ranges from")[0] + ", ranges learned in quantization-aware training"

    def work(folder: Path) -> dict[str, Any]:
        out = folder / file_name(name)
        arguments = {"model": str(source.path), "out": str(out), **flavour.arguments}
        with disk_errors(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=TEMPORARY_SUFFIX) as scratch:
            if activations == "static":
                samples = Path(scratch, "calibration.npz")
                np.savez(samples, allow_pickle=False, **data.batch(chosen))
                arguments["calibration"] = str(samples)
            if learns:
                arguments["ranges"] = str(Path(scratch, "ranges.json"))
                write_ranges(learned_ranges(source, student, data, Path(scratch), workspace.log), Path(arguments["ranges"]))
            run_in_child(function, arguments, log=workspace.log)
        return {"size_bytes": out.stat().st_size}

    stage = workspace.stage(name, what, inputs, work, describe_size)
    beside = tuple(stage.path(each) for each in files_beside(name))
    # A file made from another inherits how that computes.
    computes = activations or (source.activations if source.precision.startswith("int") else None)
    return Artifact(name, stage.path(file_name(name)), stage.files[file_name(name)], computes, beside)
