"""No training: a student that was trained elsewhere, taken as it is, to be exported, quantized and proven."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from edgekd.data.dataset import Dataset
from edgekd.data.normalisation import as_the_student_takes
from edgekd.distill.control import paired_difference
from edgekd.distill.lesson import Student
from edgekd.distill.trainer import predict
from edgekd.distill.training_stage import TrainedModel, code_key, judged, set_threads, student_start, trained_model
from edgekd.errors import ModelError
from edgekd.models.spec import build
from edgekd.models.tensors import ModelSpec
from edgekd.quantize.calibration import calibration_order
from edgekd.recipe import Normalisation, Recipe
from edgekd.tasks.classification import proportion
from edgekd.workspace import Workspace

_RANGES = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))
_MOST_ASKED = 512
_LEAST_GAIN = 5.0
"""Points of accuracy that another range must gain, to more than chance: less may be luck, or a network that hardly minds."""


def take_student(recipe: Recipe, spec: ModelSpec, data: Dataset, threads: int, workspace: Workspace) -> TrainedModel:
    """Build the student of ``recipe``, load its weights, and judge it on the held-out splits.

    Raises:
        ModelError: The weights do not fit the network, or it was trained on images of another range.
    """
    weights = student_start(recipe, spec.reference)

    def work(folder: Path) -> dict[str, Any]:
        set_threads(threads)
        model = build(spec)
        weights.load(model, spec)
        _check_normalisation(model, spec, recipe, data)
        facts: dict[str, Any] = {
            "scheme": "none", "alpha": None, "alpha_chosen": False, "terms": [], "precision": "fp32",
            "layout": "channels_last", "epochs": 0, "soft_targets": None, "kept": "student", "warnings": [],
        }  # fmt: skip
        return {**judged(Student(model, spec), data, folder), "spec": spec.to_json(), "history": [], "facts": facts}

    inputs = {"model": spec.to_json(), "code": code_key(spec.reference), "weights": weights.digest(), "data": data.digest}
    what = f"{spec.reference} with {recipe.student.weights or 'its own weights'}, as it is"
    return trained_model(workspace.stage("student", what, inputs, work, _describe))


def _check_normalisation(model: nn.Module, spec: ModelSpec, recipe: Recipe, data: Dataset) -> None:
    """Refuse a network that was trained on images of another range, where the recipe says nothing of it.

    Its files would be calibrated and proven on what no app will feed them.
    """
    if data.kind != "image" or recipe.student.preprocess.is_set:
        return
    # From every class: a folder's split is in order of classes, and broken pixels look like one class.
    asked = calibration_order(data.splits.validation, data.labels, recipe.seed)[:_MOST_ASKED]
    labels = data.labels[asked]
    correct = predict(model, spec, data, asked).argmax(1) == labels
    for low, high in _RANGES:
        inputs = as_the_student_takes(Normalisation(value_range=(low, high)), data.inputs, recipe.data.source)
        otherwise = predict(model, spec, replace(data, inputs=inputs), asked).argmax(1) == labels
        gain, interval, _ = paired_difference(otherwise, correct)
        above_chance = proportion("top1", int(otherwise.sum()), len(asked)).ci95[0] > 1 / len(data.classes)
        if gain >= _LEAST_GAIN and interval[0] > 0 and above_chance:
            raise ModelError(
                f"{spec.reference} wants other pixels: {otherwise.mean():.1%} right on {len(asked)} validation images where "
                f"black and white are {low:g} and {high:g}, {correct.mean():.1%} as normalised by the training split",
                f"set student.preprocess.value_range=[{low:g},{high:g}], or mean and std as it was trained",
            )


def _describe(result: dict[str, Any]) -> str:
    metric = result["metric"]
    return f"test top-1 {metric['value']:.2%} ({metric['ci95'][0]:.1%} to {metric['ci95'][1]:.1%})"
