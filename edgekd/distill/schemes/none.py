"""No training: a student that was trained elsewhere, taken as it is, to be exported, quantized and proven."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd.data.dataset import Dataset
from edgekd.distill.lesson import Student
from edgekd.distill.training_stage import TrainedModel, code_key, judged, set_threads, student_start, trained_model
from edgekd.models.spec import build
from edgekd.models.tensors import ModelSpec
from edgekd.recipe import Recipe
from edgekd.workspace import Workspace


def take_student(recipe: Recipe, spec: ModelSpec, data: Dataset, threads: int, workspace: Workspace) -> TrainedModel:
    """Build the student of ``recipe``, load its weights, and judge it on the held-out splits.

    Raises:
        ModelError: The weights do not fit the network.
    """
    weights = student_start(recipe, spec.reference)

    def work(folder: Path) -> dict[str, Any]:
        set_threads(threads)
        model = build(spec)
        weights.load(model, spec)
        facts: dict[str, Any] = {
            "scheme": "none", "alpha": None, "alpha_chosen": False, "terms": [], "precision": "fp32",
            "layout": "channels_last", "epochs": 0, "soft_targets": None, "kept": "student", "warnings": [],
        }  # fmt: skip
        return {**judged(Student(model, spec), data, folder), "spec": spec.to_json(), "history": [], "facts": facts}

    inputs = {"model": spec.to_json(), "code": code_key(spec.reference), "weights": weights.digest(), "data": data.digest}
    what = f"{spec.reference} with {recipe.student.weights or 'its own weights'}, as it is"
    return trained_model(workspace.stage("student", what, inputs, work, _describe))


def _describe(result: dict[str, Any]) -> str:
    metric = result["metric"]
    return f"test top-1 {metric['value']:.2%} ({metric['ci95'][0]:.1%} to {metric['ci95'][1]:.1%})"
