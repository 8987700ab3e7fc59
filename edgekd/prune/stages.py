"""The pruning stages of a run: the trained student loses blocks, is cut to a budget, weights are set to zero, and what is left
learns from what it was.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekd.data.dataset import Dataset
from edgekd.devices.profiles import load_profile
from edgekd.distill.lesson import Student
from edgekd.distill.schemes.offline import as_teacher, learn_from
from edgekd.distill.stages import student_spec
from edgekd.distill.teacher import Teacher
from edgekd.distill.training_stage import StartingWeights, TrainedModel, Trainee, code_key, judged, set_threads, trained_model
from edgekd.models.spec import load
from edgekd.prune.costs import device_time
from edgekd.prune.depth import check_blocks, remove_blocks
from edgekd.prune.file import RECORD
from edgekd.prune.given import calibration_samples
from edgekd.prune.groups import find_groups
from edgekd.prune.prune import Pruned, prune_model
from edgekd.prune.recovery import lost_most, recovery_of
from edgekd.prune.select import amount_of
from edgekd.prune.sensitivity import judged_layers, spare
from edgekd.prune.sparse_masks import keep_zeros
from edgekd.prune.sparse_stage import layers_with_zeros, set_to_zero
from edgekd.prune.target import PruningTarget, parse_target
from edgekd.quantize.qat.planned import losses_of
from edgekd.recipe import Recipe
from edgekd.safe.files import write_json
from edgekd.tasks.classification import Metric
from edgekd.workspace import StageResult, Workspace

_AFTER_CUTS = {"epochs", "learning_rate", "taught_by", "sparsity", "sparse_layers"}
"""Options of a recipe that no cut depends on."""


@dataclass(frozen=True)
class Pruning:
    """What was cut, for the report.

    Attributes:
        before: Of the student before any cut, on the test split.
        cuts: For each step as plain data: costs, widths, predicted latency, and top-1 right after the cut.
        trained: For each training: epochs and terms, as every training tells them, and its learning rate.
        zeros: For each step that set weights to zero as plain data: shares, layers, and top-1 right after it.
        zeroed: The weights as the last of them left them, and their SHA-256: what is zero there stays zero.
        whole: The student before any cut.
        sensitivity: Of its layers, see :class:`~edgekd.prune.sensitivity.Curves`, as plain data; ``None``: no channel was cut.
        latency: Before and after the cuts, see :mod:`edgekd.prune.measured`, as plain data; ``None``: not measured.
    """

    before: Metric
    cuts: tuple[dict[str, Any], ...]
    trained: tuple[dict[str, Any], ...]
    zeros: tuple[dict[str, Any], ...] = ()
    zeroed: tuple[Path, str] | None = None
    whole: TrainedModel | None = None
    sensitivity: dict[str, Any] | None = None
    latency: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        before = {"name": self.before.name, "value": self.before.value, "ci95": list(self.before.ci95), "n": self.before.n}
        return {
            "before": before, "cuts": list(self.cuts), "zeros": list(self.zeros), "training": list(self.trained),
            "latency": self.latency, "sensitivity": self.sensitivity,
        }  # fmt: skip


def check_pruning(recipe: Recipe, data: Dataset) -> None:
    """Look for the blocks that will be removed, so that too many are told of before anything is trained.

    Raises:
        ModelError: The student has not so many.
    """
    if recipe.prune.blocks:
        check_blocks(student_spec(recipe, data)[0], recipe.prune.blocks)


def prune_student(
    recipe: Recipe, data: Dataset, student: TrainedModel, teacher: Teacher | None, threads: int, workspace: Workspace
) -> TrainedModel:
    """Cut the student to the budget of the recipe and set weights to zero, in one step or several, and train it after each.

    All blocks go in the first step: the coarsest cut has every training to recover in, and channels are judged in a network of
    the depth that it keeps.

    Returns:
        What is left, with what was cut; ``student`` itself if the recipe names no blocks, budget or sparsity.

    Raises:
        ModelError: It cannot be cut so far, or no layer can have such zeros.
    """
    options = recipe.prune
    if options.target is None and options.sparsity is None and not options.blocks:
        return student
    taught = recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"losses": losses_of(recipe)})})
    voice = teacher if options.taught_by == "teacher" and teacher is not None else as_teacher(student)
    left, cuts, zeros, trainings = student, [], [], []
    zeroed: tuple[Path, str] | None = None
    first: StageResult | None = None
    for step in range(1, options.steps + 1):
        if options.target is not None or (options.blocks and step == 1):
            stage = _cut(f"prune-{step}", step, first, recipe, data, left, threads, workspace)
            first = first or stage
            cuts.append(stage.result["cut"])
            left = trained_model(stage)
        if options.sparsity is not None:
            stage = set_to_zero(step, recipe, data, left, threads, workspace)
            zeros.append(stage.result["zeros"])
            left = trained_model(stage)
            zeroed = left.weights, left.digest
        if options.epochs:
            sparse, lost = layers_with_zeros(zeros), lost_most(data, student, left)
            training = recovery_of(recipe, left.spec, lost)
            left = learn_from(
                voice, f"recover-{step}", _trainee(left, sparse, lost), training,
                {"cut": left.digest, "sparse": sparse}, "pruned", taught, data, threads, workspace,
                recipe.distill.soft_targets.folder if voice is teacher else None,
            )  # fmt: skip
            trainings.append({**left.facts, "learning_rate": training.learning_rate})
    pruning = Pruning(
        student.metric, tuple(cuts), tuple(trainings), tuple(zeros), zeroed, student,
        None if first is None else first.result["sensitivity"],
    )  # fmt: skip
    return replace(left, history=student.history, facts=student.facts, pruning=pruning)


def _trainee(left: TrainedModel, sparse: tuple[str, ...], lost: bool) -> Trainee:
    """Return what is left as a network that goes on learning, but for the zeros of its layers ``sparse``; where most of what it
    knew is lost, it is taught as one that begins.
    """
    start = StartingWeights(str(left.weights), pretrained=False)
    return Trainee(
        left.spec, lambda model: start.load(model, left.spec), not lost, lambda model: keep_zeros(model, sparse)
    )  # fmt: skip


def _cut(
    name: str, step: int, first: StageResult | None, recipe: Recipe, data: Dataset, student: TrainedModel, threads: int,
    workspace: Workspace,
) -> StageResult:  # fmt: skip
    options = recipe.prune
    target = None if options.target is None else parse_target(options.target)
    device = None if target is None else target.device
    time = None if device is None else device_time(load_profile(device), recipe.export.artifacts)
    amounts: list[float] | None = None if first is None else first.result["amounts"]

    def work(folder: Path) -> dict[str, Any]:
        set_threads(threads)
        network = load(student.spec, student.weights)
        samples = calibration_samples(data, recipe.seed)
        base, base_spec, shallow = network, student.spec, None
        if options.blocks and step == 1:
            shallow = remove_blocks(
                network, student.spec, options.blocks, criterion=options.criterion, samples=samples, time=time, seed=recipe.seed
            )
            base, base_spec = shallow.model, shallow.spec
        how = functools.partial(
            prune_model, network, student.spec, criterion=options.criterion, scope=options.scope, multiple=options.multiple,
            samples=samples, time=time, seed=recipe.seed, shallow=shallow, whole=None if amounts is None else amounts[0],
        )  # fmt: skip
        before, curves, sensitive = amounts, None, {} if first is None else first.result["sensitive"]
        if target is None:
            made = how(None)
        else:
            found = find_groups(base, base_spec)
            if first is None:
                curves = judged_layers(base, base_spec, found, options.criterion, samples, recipe.seed, workspace.listener)
                sensitive = curves.sensitive() if target.competes(options.scope) else {}
            if before is None:
                before = [amount_of(network, student.spec, target, time), amount_of(base, base_spec, target, time)]
            wanted = _on_the_way(target, before, step, options.steps)
            if amounts is not None and amount_of(base, base_spec, wanted, time) <= wanted.amount:
                made = how(None)  # widths are coarse: the step before came as far
            else:
                if step < options.steps:  # out of reach is told before training for it
                    found = spare(found, sensitive, lambda some: how(target, found=some)).found
                made = spare(found, sensitive, lambda some: how(wanted, found=some))
        left = judged(Student(made.model, made.spec), data, folder)
        write_json(folder / RECORD, made.spec.pruning)
        cut = {
            "target": options.target, "criterion": options.criterion, "device": device, "sensitive": sensitive,
            "top1": left["metric"]["value"], **_told(made),
        }  # fmt: skip
        return {
            **left, "spec": made.spec.to_json(), "history": [], "facts": {}, "amounts": before, "cut": cut,
            "sensitive": sensitive, "sensitivity": None if curves is None else curves.to_json(),
        }  # fmt: skip

    inputs = {
        "student": student.digest, "spec": student.spec.to_json(), "code": code_key(student.spec.reference),
        "data": data.digest, "step": step, "amounts": amounts,
        "sensitive": None if first is None else first.result["sensitive"],
        "prune": options.model_dump(mode="json", exclude=_AFTER_CUTS),
        "artifacts": list(recipe.export.artifacts) if time is not None else None, "seed": recipe.seed, "threads": threads,
    }  # fmt: skip
    of = f", step {step} of {options.steps}" if options.steps > 1 else ""
    what = [f"channels cut for {options.target} by {options.criterion}{of}"] if options.target is not None else []
    what = [f"{options.blocks} blocks removed", *what] if options.blocks and step == 1 else what
    return workspace.stage(name, ", ".join(what), inputs, work, _describe)


def _told(made: Pruned) -> dict[str, Any]:
    """Return what was cut as plain data."""
    predicted = None
    if made.predicted is not None:
        predicted = [{key: getattr(each, key) for key in ("p50_ms", "low_ms", "high_ms", "basis")} for each in made.predicted]
    return {
        "multiple": made.multiple, "macs": [made.before.macs, made.after.macs],
        "params": [made.before.params, made.after.params], "bytes": [made.before.size_bytes, made.after.size_bytes],
        "predicted_latency": predicted, "layers": made.widths(), "kept_whole": made.found.refused,
        "slower_if_cut": list(made.selection.slower),
        **({} if made.shallow is None else {"blocks": made.shallow.to_json()}),
    }  # fmt: skip


def _on_the_way(target: PruningTarget, amounts: list[float], step: int, steps: int) -> PruningTarget:
    """Return the budget of one step: each leaves the same share of what there was before it.

    Args:
        target: The budget of the last step.
        amounts: Of what it counts, in the whole network and without its blocks, where the way begins.
        step, steps: From 1.
    """
    if steps == 1 or target.what == "ratio":
        return target
    whole, start = amounts
    return replace(target, amount=start * (target.limit(whole) / start) ** (step / steps), relative=False)


def _describe(result: dict[str, Any]) -> str:
    before, after = result["cut"]["macs"]
    return f"{after / before:.2f} of the MACs left; test top-1 {result['metric']['value']:.2%} before it is trained again"
