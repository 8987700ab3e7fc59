"""The pruning stages of a run: the trained student is cut to a budget, and what is left learns from what it was."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekd.data.dataset import Dataset
from edgekd.devices.profiles import load_profile
from edgekd.distill.lesson import Student
from edgekd.distill.schemes.offline import as_teacher, learn_from
from edgekd.distill.teacher import Teacher
from edgekd.distill.training_stage import StartingWeights, TrainedModel, Trainee, code_key, judged, set_threads, trained_model
from edgekd.models.spec import load
from edgekd.prune.costs import device_time
from edgekd.prune.file import RECORD, calibration_samples
from edgekd.prune.groups import find_groups
from edgekd.prune.prune import prune_model
from edgekd.prune.select import amount_of
from edgekd.prune.target import PruningTarget, parse_target
from edgekd.quantize.qat.planned import losses_of
from edgekd.recipe import Recipe, Training
from edgekd.safe.files import write_json
from edgekd.tasks.classification import Metric
from edgekd.workspace import StageResult, Workspace


@dataclass(frozen=True)
class Pruning:
    """What was cut, for the report.

    Attributes:
        before: Of the student before any cut, on the test split.
        cuts: For each step as plain data: costs, widths, predicted latency, and top-1 right after the cut.
        trained: For each training: epochs and terms, as every training tells them.
    """

    before: Metric
    cuts: tuple[dict[str, Any], ...]
    trained: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        before = {"name": self.before.name, "value": self.before.value, "ci95": list(self.before.ci95), "n": self.before.n}
        return {"before": before, "cuts": list(self.cuts), "training": list(self.trained)}


def prune_student(
    recipe: Recipe, data: Dataset, student: TrainedModel, teacher: Teacher | None, threads: int, workspace: Workspace
) -> TrainedModel:
    """Cut the student to the budget of the recipe, in one step or several, and train it after each.

    Returns:
        What is left, with what was cut; ``student`` itself if the recipe names no budget.

    Raises:
        ModelError: It cannot be cut so far.
    """
    options = recipe.prune
    if options.to is None:
        return student
    taught = recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"losses": losses_of(recipe)})})
    voice = teacher if options.taught_by == "teacher" and teacher is not None else as_teacher(student)
    left, cuts, trainings = student, [], []
    whole: float | None = None
    for step in range(1, options.steps + 1):
        stage = _cut(f"prune-{step}", step, whole, recipe, data, left, threads, workspace)
        whole = stage.result["whole"] if whole is None else whole
        cuts.append(stage.result["cut"])
        left = trained_model(stage)
        if options.epochs:
            start, spec = StartingWeights(str(left.weights), pretrained=False), left.spec
            trainee = Trainee(spec, lambda model, start=start, spec=spec: start.load(model, spec), True)  # type: ignore[misc]
            left = learn_from(
                voice, f"recover-{step}", trainee, training_of(recipe), {"cut": left.digest}, "pruned", taught, data, threads,
                workspace, recipe.distill.soft_targets.folder if voice is teacher else None,
            )  # fmt: skip
            trainings.append(left.facts)
    return replace(
        left, history=student.history, facts=student.facts, pruning=Pruning(student.metric, tuple(cuts), tuple(trainings))
    )


def training_of(recipe: Recipe) -> Training:
    """Return how what is left is trained: as in distillation, but from trained weights."""
    settled = recipe.distill.train
    return settled.model_copy(
        update={
            "epochs": recipe.prune.epochs, "learning_rate": recipe.prune.learning_rate, "optimizer": "adamw",
            "schedule": "cosine", "ema": 0.0, "early_stopping": None, "compile": False,
            "precision": "fp32", "layout": "channels_last" if settled.layout == "auto" else settled.layout,
        }
    )  # fmt: skip


def _cut(
    name: str, step: int, whole: float | None, recipe: Recipe, data: Dataset, student: TrainedModel, threads: int,
    workspace: Workspace,
) -> StageResult:  # fmt: skip
    options = recipe.prune
    assert options.to is not None
    target = parse_target(options.to)
    time = None if target.device is None else device_time(load_profile(target.device), recipe.export.artifacts)

    def work(folder: Path) -> dict[str, Any]:
        set_threads(threads)
        network = load(student.spec, student.weights)
        found = find_groups(network, student.spec)
        before = whole if whole is not None else amount_of(network, student.spec, target, time)
        how = functools.partial(
            prune_model, network, student.spec, criterion=options.criterion, scope=options.scope, multiple=options.multiple,
            samples=calibration_samples(data, recipe.seed), time=time, seed=recipe.seed, found=found,
        )  # fmt: skip
        if step < options.steps:
            how(replace(target, amount=target.limit(before), relative=False))  # out of reach is told before training for it
        made = how(_on_the_way(target, before, step, options.steps))
        left = judged(Student(made.model, made.spec), data, folder)
        write_json(folder / RECORD, made.spec.pruning)
        predicted = None
        if made.predicted is not None:
            predicted = [
                {key: getattr(each, key) for key in ("p50_ms", "low_ms", "high_ms", "basis")} for each in made.predicted
            ]
        cut = {
            "target": options.to, "criterion": options.criterion, "multiple": made.multiple, "device": target.device,
            "macs": [made.before.macs, made.after.macs], "params": [made.before.params, made.after.params],
            "predicted_latency": predicted, "layers": made.widths(), "kept_whole": made.found.refused,
            "top1": left["metric"]["value"],
        }  # fmt: skip
        return {**left, "spec": made.spec.to_json(), "history": [], "facts": {}, "whole": before, "cut": cut}

    inputs = {
        "student": student.digest, "spec": student.spec.to_json(), "code": code_key(student.spec.reference),
        "data": data.digest, "step": step, "whole": whole,
        "prune": options.model_dump(mode="json", exclude={"epochs", "learning_rate", "taught_by"}),
        "artifacts": list(recipe.export.artifacts) if time is not None else None, "seed": recipe.seed, "threads": threads,
    }  # fmt: skip
    of = f", step {step} of {options.steps}" if options.steps > 1 else ""
    return workspace.stage(name, f"channels cut for {options.to} by {options.criterion}{of}", inputs, work, _describe)


def _on_the_way(target: PruningTarget, whole: float, step: int, steps: int) -> PruningTarget:
    """Return the budget of one step: each leaves the same share of what there was before it."""
    if steps == 1 or target.what == "ratio":
        return target
    return replace(target, amount=whole * (target.limit(whole) / whole) ** (step / steps), relative=False)


def _describe(result: dict[str, Any]) -> str:
    before, after = result["cut"]["macs"]
    return f"{after / before:.2f} of the MACs left; test top-1 {result['metric']['value']:.2%} before it is trained again"
