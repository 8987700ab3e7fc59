"""The export stage: the float32 files that the student and all its quantized forms come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd.artifacts import Artifact, file_name
from edgekd.distill.training_stage import TrainedModel, code_key
from edgekd.flavours import FLAVOURS, ArtifactName, format_of, sources
from edgekd.recipe import Recipe
from edgekd.safe.child import run_in_child
from edgekd.workspace import Workspace


def export_student(recipe: Recipe, student: TrainedModel, workspace: Workspace) -> dict[ArtifactName, Artifact]:
    """Export the student to every format the recipe asks for, in float32.

    Raises:
        ExportError: A converter refused the model or crashed.
    """
    wanted = [name for name in sources(recipe.export.artifacts) if FLAVOURS[name].source is None]
    return {name: _export(name, recipe, student, workspace) for name in wanted}


_TENSORFLOW = "edgekd.export.tflite_tensorflow:export_tflite_tensorflow"


def _export(name: ArtifactName, recipe: Recipe, student: TrainedModel, workspace: Workspace) -> Artifact:
    spec, exporter = student.spec.to_json(), exporter_of(name, recipe)
    what = "export by TensorFlow's converter" if exporter == _TENSORFLOW else "export from PyTorch"

    def work(folder: Path) -> dict[str, Any]:
        out = folder / file_name(name)
        run_in_child(exporter, {"spec": spec, "weights": str(student.weights), "out": str(out)}, log=workspace.log)
        return {"size_bytes": out.stat().st_size}

    inputs = {"spec": spec, "code": code_key(student.spec.reference), "weights": student.digest, "exporter": exporter}
    stage = workspace.stage(name, what, inputs, work, describe_size)
    return Artifact(name, stage.path(file_name(name)), stage.files[file_name(name)])


def exporter_of(name: ArtifactName, recipe: Recipe) -> str:
    """Return the function, as :func:`~edgekd.safe.child.run_in_child` calls it, that exports a float32 file of the recipe."""
    if format_of(name) == "tflite" and recipe.export.tflite.converter == "tensorflow":
        return _TENSORFLOW
    exporter = FLAVOURS[name].function
    assert exporter is not None
    return exporter


def describe_size(result: dict[str, Any]) -> str:
    """Return the size of a stage's file for people."""
    return f"{result['size_bytes'] / 1024:.1f} KiB"
