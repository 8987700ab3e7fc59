"""Offline distillation: a teacher that is trained already, over assistants if there are any.

``alpha * CE(labels) + sum of weight * loss(student, teacher)`` (Hinton et al., 2015, and what came after).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.data.dataset import Dataset
from edgekd.distill.automatic import Weighting, add_term, automatic_temperature
from edgekd.distill.batch import Batch
from edgekd.distill.ensemble import combine
from edgekd.distill.layer_terms import LayerTerm, layer_term
from edgekd.distill.lesson import Gather, Lesson, Student, alone
from edgekd.distill.processes import Processes, join_processes
from edgekd.distill.soft_target_use import stores_targets
from edgekd.distill.soft_targets import open_soft_targets, store_seed, useful_keys
from edgekd.distill.taps import Taps
from edgekd.distill.teacher import Member, Teacher, Voice, voices
from edgekd.distill.training_stage import Prepared, Task, TrainedModel, Trainee, train_stage
from edgekd.recipe import Recipe, TeacherMember, Training
from edgekd.recipe_distill import Distill, DistillLoss
from edgekd.tasks.classification import top1
from edgekd.workspace import Workspace

Ask = Callable[[Batch], list[Tensor]]
"""From a batch to the logits of every teaching network, each ``[n, classes]`` of all processes."""


@dataclass(frozen=True)
class ResponseTerm:
    """A loss on outputs.

    Attributes:
        loss: The recipe's words for it.
        arguments: Its hyperparameters, the temperature among them.
    """

    loss: DistillLoss
    arguments: dict[str, Any]

    @property
    def name(self) -> str:
        """Its recipe name."""
        return self.loss.name

    @property
    def temperature(self) -> float | None:
        """Its temperature, if it has one."""
        return self.arguments.get("temperature")


class OfflineLesson(Lesson):
    """A student and the adapters of its feature losses, taught by one or more networks.

    Args:
        student: Who learns.
        options: Of the recipe.
        label_smoothing: Of cross-entropy.
        responses: Losses on outputs.
        layers: Losses on inner layers.
        ask: Gives the teachers' logits.
        shares: Weight of each teacher.
        rule: How teachers agree.
        teacher_taps: See the layers of the first teacher, where ``layers`` need them.
        teacher_accuracy: On the validation split: how far it can be trusted.
        gather: Joins the rows of all processes.
    """

    teacher_accuracy: float

    def __init__(
        self, student: Student, options: Distill, label_smoothing: float, responses: list[ResponseTerm],
        layers: list[LayerTerm], ask: Ask, shares: list[float], rule: str, teacher_taps: Taps | None,
        teacher_accuracy: float, gather: Gather = alone,
    ) -> None:  # fmt: skip
        super().__init__({"student": student}, label_smoothing, gather)
        self.options, self.responses, self.ask, self.shares, self.rule = options, responses, ask, shares, rule
        self.teacher_accuracy = teacher_accuracy
        self.layer_terms = nn.ModuleList(layers)  # their adapters train with the student
        self._layers = tuple(layers)
        names = {name for each in layers for name in (*each.student_names, each.deepest)}
        self._taps = Taps(student.module, sorted(names)) if layers else None
        self._teacher_taps = teacher_taps

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the terms, and where their gradients are compared with that of cross-entropy."""
        logits = self.logits("student", batch)
        values, reaches = {"cross_entropy": self.cross_entropy(logits, batch)}, {}
        rows = self.ask(batch)
        for term in self.responses:
            values[term.name] = self._response(term, logits, rows, batch)
            reaches[term.name] = logits
        if self._taps is not None and self._teacher_taps is not None:
            own, others = self._taps.take(), self._teacher_taps.take()
            for layer in self._layers:
                values[layer.name] = layer(self._joined(layer, own), self._joined(layer, others))
                reaches[layer.name] = own[layer.deepest]
        return values, reaches

    def _response(self, term: ResponseTerm, logits: Tensor, rows: list[Tensor], batch: Batch) -> Tensor:
        definition = term.loss.definition
        given: dict[str, Any] = {"student": logits}
        if "teachers" in definition.arguments:
            given["teachers"] = rows
        else:
            given["teacher"] = combine(rows, self.shares, self.rule, term.temperature or 1.0)
        if "target" in definition.arguments:
            given["target"] = batch.target
        return definition.load()(**given, **term.arguments)

    def _joined(self, layer: LayerTerm, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses between samples see the batch of all processes; the others are means over samples anyway."""
        return {name: self.gather(each) for name, each in seen.items()} if layer.between_samples else seen

    def weighting(self) -> Weighting:
        """Return the weights: those of the recipe, and which are to be chosen."""
        alpha = self.options.alpha
        found = Weighting({"cross_entropy": None if alpha == "auto" else alpha})
        losses = [*(each.loss for each in self.responses), *(each.loss for each in self._layers)]
        for loss in losses:
            weight = self.options.weight_of(loss)
            # Without cross-entropy there is nothing to compare with, and one term's size does not matter to AdamW.
            chosen = None if alpha else 1.0
            given = chosen if weight == "auto" else weight
            add_term(found, loss.name, loss.definition.family, given, loss.definition.warm_up, self.teacher_accuracy)
        return found

    def close(self) -> None:
        """Take the hooks off the student, so that it can be exported."""
        if self._taps is not None:
            self._taps.close()


def learn_from(
    teacher: Teacher, name: str, trainee: Trainee, training: Training, inputs: dict[str, Any], scheme: str, recipe: Recipe,
    data: Dataset, threads: int, workspace: Workspace, kept_in: str | None = None,
) -> TrainedModel:  # fmt: skip
    """Train a network from ``teacher`` by the losses of the recipe, as stage ``name``.

    Its outputs are kept in the folder ``kept_in``, or in one of this run, where they can be.
    """
    options = recipe.distill
    keys = kept_augmentations(recipe, data, training)
    folder = store_folder(kept_in, teacher, workspace)

    def prepare(stack: ExitStack, students: dict[str, Student], settled: Training) -> Prepared:
        return prepare_offline(
            stack, teacher, students["student"], recipe, data, settled, keys, folder, workspace, trainee.starts_trained
        )

    chosen = options.model_dump(mode="json", exclude={"train", "control", "soft_targets"})
    task = Task(
        name, {"student": trainee}, training, {**inputs, "teacher": teacher.digest, "distill": chosen, "keys": keys}, scheme
    )
    return train_stage(task, recipe, data, prepare, threads, workspace)


def kept_augmentations(recipe: Recipe, data: Dataset, training: Training) -> int | None:
    """Return for how many augmentations of each sample the teacher's outputs are kept; ``None``: it is asked at every step."""
    if not stores_targets(recipe):
        return None
    return useful_keys(data, recipe.data.augment, recipe.distill.soft_targets.augmentations, training.epochs)


def prepare_offline(
    stack: ExitStack, teacher: Teacher, student: Student, recipe: Recipe, data: Dataset, training: Training, keys: int | None,
    folder: Path, workspace: Workspace, fine_tunes: bool = False,
) -> Prepared:  # fmt: skip
    """Return the lesson in which ``student`` learns from ``teacher``.

    Args:
        stack: Closes what is opened here.
        teacher: Who is imitated.
        student: Who learns.
        recipe: Names the losses.
        data: Of the run.
        training: Settled.
        keys: See :func:`kept_augmentations`.
        folder: Where the teacher's outputs are kept.
        workspace: Of the run.
        fine_tunes: Whether the student starts from trained weights.
    """
    options, processes = recipe.distill, join_processes()
    accuracy = top1(teacher.logits("validation"), data.labels[data.splits.validation]).value
    wanted = tuple(each for each in options.losses if options.weight_of(each) != 0)
    if not wanted:
        return Prepared(Lesson({"student": student}, training.label_smoothing, processes.gather))
    losses, told = fitting_losses(wanted, len(data.classes))
    responses, facts = response_terms(losses, options, teacher.logits("validation"), training, fine_tunes)
    layers: list[LayerTerm] = []
    taps, seed = None, None
    rule: str = teacher.combine
    if keys is not None:
        with processes.main_first():
            store = open_soft_targets(teacher, data, recipe.data.augment, keys, folder, workspace, options.train.precision)
        ask: Ask = lambda batch: [  # noqa: E731
            each.to(processes.device) for each in store.member_logits(batch.indices, batch.augmentation)
        ]
        source, seed = store.described, store_seed(data)
        shares, rule = list(store.shares), store.rule  # one that was filled by an ensemble is a single teacher here
    else:
        opened = stack.enter_context(voices(teacher, data.inputs, workspace, processes.device))
        ask, source = _asking(opened, processes), "live"
        shares = [each.source.weight for each in teacher.members]
        layers, taps = _layer_terms(losses, student, opened[0], stack)
    for layer in layers:
        facts[layer.name] = {"layers": [list(pair) for pair in layer.pairs]}
        told += layer.warnings
    lesson = OfflineLesson(
        student, options, training.label_smoothing, responses, layers, ask, shares, rule, taps, accuracy, processes.gather
    )
    return Prepared(lesson, keys, seed, {"terms": facts, "soft_targets": source}, tuple(told))


def _layer_terms(
    losses: list[DistillLoss], student: Student, voice: Voice, stack: ExitStack
) -> tuple[list[LayerTerm], Taps | None]:
    inner = [each for each in losses if each.definition.inner_layers]
    if not inner:
        return [], None
    assert voice.module is not None
    layers = [layer_term(each, student.module, student.spec, voice.module, voice.ask) for each in inner]
    taps = Taps(voice.module, sorted({each for term in layers for each in term.teacher_names}))
    stack.callback(taps.close)
    return layers, taps


def store_folder(folder: str | None, teacher: Teacher, workspace: Workspace) -> Path:
    """Return the folder that outputs of ``teacher`` are kept in: ``folder``, or one of this run."""
    if folder is not None:
        return Path(folder).expanduser()
    return workspace.stages / f"soft-targets-{hashlib.sha256(teacher.digest.encode()).hexdigest()[:16]}"


def _asking(opened: list[Voice], processes: Processes) -> Ask:
    def ask(batch: Batch) -> list[Tensor]:
        with torch.no_grad():
            return [processes.gather(each.ask(batch.inputs)) for each in opened]

    return ask


def fitting_losses(losses: tuple[DistillLoss, ...], classes: int) -> tuple[list[DistillLoss], list[str]]:
    """Return the losses, those that mean nothing with so few classes replaced, and what the user should know of it."""
    if classes > 2:
        return list(losses), []
    kept, told = [], []
    for each in losses:
        if each.name != "dkd":
            kept.append(each)
            continue
        told.append("dkd between two classes has no other classes to compare and is degenerate; kd took its place")
        if all(other.name != "kd" for other in losses):
            kept.append(DistillLoss(name="kd", weight=each.weight, temperature=each.temperature, layers=None))
    return kept, told


def response_terms(
    losses: list[DistillLoss], options: Distill, teacher_logits: Any, training: Training, fine_tunes: bool = False
) -> tuple[list[ResponseTerm], dict[str, dict[str, Any]]]:
    """Return the losses on outputs with their temperatures, and for the report which were chosen."""
    terms, facts = [], {}
    for loss in losses:
        if loss.definition.inner_layers:
            continue
        arguments = {**loss.definition.hyperparameters, **loss.arguments}
        if "temperature" in arguments:
            wanted = options.temperature_of(loss)
            if wanted != "auto":
                arguments["temperature"] = wanted
            elif loss.definition.automatic_temperature:
                arguments["temperature"] = automatic_temperature(
                    teacher_logits, bool(training.mixup or training.cutmix), fine_tunes
                )
            facts[loss.name] = {"temperature": arguments["temperature"], "temperature_chosen": wanted == "auto"}
        terms.append(ResponseTerm(loss, arguments))
    return terms, facts


def as_teacher(trained: TrainedModel) -> Teacher:
    """Return a network that was trained in this run as a teacher for the next."""
    source = TeacherMember(model=trained.spec.reference, arguments=trained.spec.arguments, trained=False)
    folder = trained.weights.parent
    member = Member(source, trained.spec, trained.weights, None, folder, trained.digest, trained.cost, trained.history)
    return Teacher((member,), "mean_logits", trained.metric, allow_code=False)
