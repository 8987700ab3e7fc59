"""The training stages of a run: teachers that need it on labels, the student by the scheme of the recipe, the control."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from edgekd.data.dataset import Dataset
from edgekd.distill.control import Control, paired_difference
from edgekd.distill.lesson import Lesson, Student
from edgekd.distill.probe import settled
from edgekd.distill.processes import join_processes
from edgekd.distill.schemes.ema import prepare_ema
from edgekd.distill.schemes.layerwise import prepare_layerwise
from edgekd.distill.schemes.none import take_student
from edgekd.distill.schemes.offline import as_teacher, learn_from
from edgekd.distill.schemes.online import prepare_online
from edgekd.distill.schemes.temporal import prepare_temporal
from edgekd.distill.teacher import Member, Teacher, combined_logits, open_trained_elsewhere
from edgekd.distill.teacher_check import check_teacher
from edgekd.distill.training_stage import (
    Prepared,
    StartingWeights,
    Task,
    TrainedModel,
    Trainee,
    student_start,
    train_stage,
)  # fmt: skip
from edgekd.models.derive import derive_student, inherit
from edgekd.models.pretrained import content_digest, open_pretrained
from edgekd.models.references import KINDS, kind_of
from edgekd.models.spec import build, load
from edgekd.models.tensors import ModelSpec, classifier
from edgekd.prune.record import read_record, with_record
from edgekd.recipe import Recipe, TeacherMember, Training
from edgekd.recipe_distill import Network
from edgekd.tasks.classification import top1
from edgekd.workspace import Workspace


def prepare_teacher(recipe: Recipe, data: Dataset, threads: int, allow_code: bool, workspace: Workspace) -> Teacher | None:
    """Open or train every network that teaches, and check that what they say together is worth imitating.

    Networks that come with their weights are opened first: a mistake in them shows before anything is trained.
    ``None`` if the scheme of the recipe needs no teacher.

    Raises:
        GateMissed: The teacher is no better than chance or a linear model.
        ModelError, UsageError: A teacher cannot be opened, or does not fit the data.
    """
    if not recipe.distill.has_teacher:
        return None
    wanted = list(enumerate(recipe.teacher.members))
    members: dict[int, Member] = {}
    for index, source in sorted(wanted, key=lambda each: not each[1].is_trained):
        name = "teacher" if index == 0 else f"teacher-{index + 1}"
        if source.is_trained:
            members[index] = open_trained_elsewhere(name, source, data, workspace, allow_code)
        else:
            members[index] = _train_member(name, recipe, source, data, threads, workspace)
    ordered = tuple(members[index] for index, _ in wanted)
    rule = recipe.teacher.combine
    metric = top1(combined_logits(ordered, rule, "test"), data.labels[data.splits.test])
    teacher = Teacher(ordered, rule, metric, allow_code)
    return replace(teacher, checked=check_teacher(recipe, data, teacher, workspace))


def _prepare_labels(_stack: ExitStack, students: dict[str, Student], training: Training) -> Prepared:
    return Prepared(Lesson(students, training.label_smoothing, join_processes().gather))


def _train_member(
    name: str, recipe: Recipe, source: TeacherMember, data: Dataset, threads: int, workspace: Workspace
) -> Member:
    """Train a teacher with cross-entropy on the true labels."""
    spec = classifier(source.model, data.inputs, data.classes, source.arguments)
    start = StartingWeights(source.weights, pretrained=KINDS[kind_of(source.model)].brings_weights)
    extra = {"content": content_digest(source)} if start.anything else {}
    trainee = Trainee(spec, lambda model: start.load(model, spec))
    task = Task(name, {"student": trainee}, recipe.teacher.train, extra, "labels")
    trained = train_stage(task, recipe, data, _prepare_labels, threads, workspace)
    return Member(
        source, trained.spec, trained.weights, None, trained.weights.parent, trained.digest, trained.cost, trained.history
    )


def student_spec(recipe: Recipe, data: Dataset) -> tuple[ModelSpec, tuple[int, ...] | None]:
    """Return how to build the student, and which of the teacher's layers it starts from, if from any."""
    reference, arguments, derived = recipe.student.model, recipe.student.arguments, None
    if reference == "from-teacher":
        reference, arguments, derived = derive_student(recipe.teacher, recipe.student.arguments)
    spec = classifier(reference, data.inputs, data.classes, arguments)
    if recipe.student.pruning is not None:
        spec = with_record(spec, read_record(Path(recipe.student.pruning).expanduser()))
    return spec, derived


def check_student(recipe: Recipe, data: Dataset) -> None:
    """Build what will be trained once, so that what does not fit the data is told before a teacher is trained.

    Raises:
        ModelError, UsageError: A student, peer or assistant cannot be built, or takes or gives something else than the
            data has.
    """
    spec = student_spec(recipe, data)[0]
    build(spec)
    peers = recipe.distill.online.peers if recipe.distill.scheme == "online" else ()
    for each in (*peers, *recipe.distill.assistants):
        build(_network_spec(each, spec, data))


def settle_training(recipe: Recipe, data: Dataset, threads: int, workspace: Workspace) -> Recipe:
    """Return ``recipe`` with the precision and layout of its trainings chosen, where they are ``auto``."""
    if recipe.distill.scheme == "none":
        return recipe
    distill = recipe.distill.train
    spec = student_spec(recipe, data)[0]
    chosen = recipe.distill.model_copy(update={"train": settled(distill, spec, data, threads, workspace)})
    trained = next((each for each in recipe.teacher.members if not each.is_trained), None)
    if trained is None or not recipe.distill.has_teacher:
        return recipe.model_copy(update={"distill": chosen})
    spec = classifier(trained.model, data.inputs, data.classes, trained.arguments)
    teacher = recipe.teacher.model_copy(update={"train": settled(recipe.teacher.train, spec, data, threads, workspace)})
    return recipe.model_copy(update={"distill": chosen, "teacher": teacher})


def distill_student(recipe: Recipe, data: Dataset, teacher: Teacher | None, threads: int, workspace: Workspace) -> TrainedModel:
    """Train the student by the scheme of the recipe, see :mod:`edgekd.distill.schemes`."""
    options = recipe.distill
    if options.scheme == "none":
        return take_student(recipe, student_spec(recipe, data)[0], data, threads, workspace)
    trainee, inputs = _student(recipe, data, teacher, workspace)
    if options.scheme == "born-again":
        return _born_again(recipe, data, trainee, inputs, threads, workspace)
    if options.scheme == "offline":
        assert teacher is not None
        kept_in = options.soft_targets.folder
        for index, network in enumerate(options.assistants, 1):
            spec = _network_spec(network, trainee.spec, data)
            assistant = Trainee(spec, lambda _model: None)
            learned = learn_from(
                teacher,
                f"assistant-{index}",
                assistant,
                options.train,
                {},
                "offline",
                recipe,
                data,
                threads,
                workspace,
                kept_in,
            )
            teacher, kept_in = as_teacher(learned), None  # the folder is for outputs of the recipe's own teacher
        return learn_from(
            teacher, "distill", trainee, options.train, inputs, "offline", recipe, data, threads, workspace, kept_in
        )
    trainees, keep = {"student": trainee}, "student"
    if options.scheme == "online":
        prepare, keep = prepare_online(options), options.online.keep
        for index, network in enumerate(options.online.peers, 1):
            trainees[f"peer-{index}"] = Trainee(_network_spec(network, trainee.spec, data), lambda _model: None)
    elif options.scheme == "temporal":
        prepare = prepare_temporal(options, data)
    elif options.scheme == "ema":
        prepare = prepare_ema(options)
    else:
        prepare = prepare_layerwise(options)
    chosen = options.model_dump(mode="json", exclude={"train", "control", "soft_targets", "assistants"})
    task = Task("distill", trainees, options.train, {**inputs, "distill": chosen}, options.scheme, keep)
    return train_stage(task, recipe, data, prepare, threads, workspace)


def _born_again(
    recipe: Recipe, data: Dataset, trainee: Trainee, inputs: dict[str, Any], threads: int, workspace: Workspace
) -> TrainedModel:
    """Train the student on labels, then again and again from its last generation (Furlanello et al., 2018)."""
    options = recipe.distill
    task = Task("generation-0", {"student": trainee}, options.train, inputs, "labels")
    trained = train_stage(task, recipe, data, _prepare_labels, threads, workspace)
    for index in range(1, options.generations + 1):
        name = "distill" if index == options.generations else f"generation-{index}"
        teacher = as_teacher(trained)
        trained = learn_from(teacher, name, trainee, options.train, inputs, "born-again", recipe, data, threads, workspace)
    return trained


def train_control(
    recipe: Recipe, data: Dataset, student: TrainedModel, teacher: Teacher | None, threads: int, workspace: Workspace
) -> Control | None:
    """Train the same student for as long without a teacher, from the same weights in the same order, if the recipe says so."""
    if not recipe.distill.control:
        return None
    trainee, inputs = _student(recipe, data, teacher, workspace)
    if student.spec != trainee.spec:  # a peer of another kind was kept
        trainee, inputs = Trainee(student.spec, lambda _model: None), {}
    task = Task("control", {"student": trainee}, recipe.distill.train, inputs, "labels", stream="distill")
    alone = train_stage(task, recipe, data, _prepare_labels, threads, workspace)
    labels = data.labels[data.splits.test]
    distilled, undistilled = (np.load(each.test_logits, allow_pickle=False).argmax(1) == labels for each in (student, alone))
    gain, interval, discordant = paired_difference(distilled, undistilled)
    return Control(alone.metric, gain, interval, discordant, alone.history)


def _network_spec(network: Network, student: ModelSpec, data: Dataset) -> ModelSpec:
    if network.model is None:
        return classifier(student.reference, data.inputs, data.classes, {**student.arguments, **network.arguments})
    return classifier(network.model, data.inputs, data.classes, network.arguments)


def _student(recipe: Recipe, data: Dataset, teacher: Teacher | None, workspace: Workspace) -> tuple[Trainee, dict[str, Any]]:
    """Return the student to be trained, and what its first weights depend on."""
    spec, derived = student_spec(recipe, data)
    start = student_start(recipe, spec.reference)

    def begin(model: nn.Module) -> None:
        if derived is not None and teacher is not None:
            inherit(model, _state(teacher.members[0], data, workspace, teacher.allow_code), derived)
        start.load(model, spec)

    inherited = teacher.digest if derived is not None and teacher is not None else None
    return Trainee(spec, begin, inherited is not None or start.anything), {
        "derived": derived,
        "inherited": inherited,
        "weights": start.digest(),
    }


def _state(member: Member, data: Dataset, workspace: Workspace, allow_code: bool) -> dict[str, Tensor]:
    if member.spec is not None and member.weights is not None:
        return dict(load(member.spec, member.weights).state_dict())
    with open_pretrained(member.source, data.inputs, data.classes, workspace.log, allow_code) as opened:
        return dict(opened.module.state_dict()) if opened.module is not None else {}
