"""The training stages of a run: teachers that need it on labels, the student on labels and teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.data.dataset import Dataset
from edgekd.distill.losses import cross_entropy, kd
from edgekd.distill.teacher import (
    TEST_LOGITS,
    VALIDATION_LOGITS,
    Imitate,
    Member,
    Teacher,
    combined_logits,
    imitating,
    open_trained_elsewhere,
)
from edgekd.distill.teacher_check import check_teacher
from edgekd.distill.trainer import Loss, clear_checkpoint, predict, train
from edgekd.models.derive import derive_student, inherit
from edgekd.models.pretrained import content_digest, load_pretrained_body, open_pretrained
from edgekd.models.references import KINDS, kind_of, name_of
from edgekd.models.spec import Cost, build, cost, load, save_weights
from edgekd.models.tensors import ModelSpec, classifier
from edgekd.recipe import Recipe, TeacherMember, Training
from edgekd.safe.files import save_array, sha256_file
from edgekd.safe.user_code import code_digest
from edgekd.safe.weights import load_into, read_weights
from edgekd.tasks.classification import Metric, top1
from edgekd.workspace import StageResult, Workspace

_WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class TrainedModel:
    """A trained network of this run.

    Attributes:
        spec: How to rebuild it.
        weights: Its safetensors file.
        digest: SHA-256 of that file.
        test_logits: ``float32 [n, classes]`` file of its outputs on the test split, in PyTorch.
        cost: Parameters, multiply-accumulates, bytes.
        metric: On the test split, in PyTorch.
        history: Loss and validation accuracy per epoch.
    """

    spec: ModelSpec
    weights: Path
    digest: str
    test_logits: Path
    cost: Cost
    metric: Metric
    history: tuple[dict[str, float], ...]

    @property
    def name(self) -> str:
        """Its model reference, with arguments."""
        shown = ", ".join(f"{key}={value}" for key, value in self.spec.arguments.items())
        return f"{self.spec.reference} ({shown})" if shown else self.spec.reference


def set_threads(threads: int) -> None:
    """Use ``threads`` CPU threads in torch. Weights repeat bit for bit for one number of threads."""
    torch.set_num_threads(threads)


def prepare_teacher(recipe: Recipe, data: Dataset, threads: int, allow_code: bool, workspace: Workspace) -> Teacher:
    """Open or train every network that teaches, and check that what they say together is worth imitating.

    Networks that come with their weights are opened first: a mistake in them shows before anything is trained.

    Raises:
        GateMissed: The teacher is no better than chance or a linear model.
        ModelError, UsageError: A teacher cannot be opened, or does not fit the data.
    """
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


def _train_member(
    name: str, recipe: Recipe, source: TeacherMember, data: Dataset, threads: int, workspace: Workspace
) -> Member:
    """Train a teacher with cross-entropy on the true labels."""
    spec = classifier(source.model, data.inputs, data.classes, source.arguments)
    training = recipe.teacher.train

    def loss(_inputs: dict[str, Tensor], outputs: dict[str, Tensor], target: Tensor) -> Tensor:
        return cross_entropy(outputs[spec.outputs[0].name], target, training.label_smoothing)

    start = StartingWeights(source.weights, pretrained=KINDS[kind_of(source.model)].brings_weights)
    extra = {"content": content_digest(source)} if start.anything else {}
    trained = _train_stage(
        name, recipe, spec, data, training, extra, lambda _: loss, lambda model: start.load(model, spec), threads, workspace
    )
    return Member(
        source, trained.spec, trained.weights, None, trained.weights.parent, trained.digest, trained.cost, trained.history
    )


def student_spec(recipe: Recipe, data: Dataset) -> tuple[ModelSpec, tuple[int, ...] | None]:
    """Return how to build the student, and which of the teacher's layers it starts from, if from any."""
    reference, arguments, derived = recipe.student.model, recipe.student.arguments, None
    if reference == "from-teacher":
        reference, arguments, derived = derive_student(recipe.teacher, recipe.student.arguments)
    return classifier(reference, data.inputs, data.classes, arguments), derived


def check_student(recipe: Recipe, data: Dataset) -> None:
    """Build the student once, so that one that does not fit the data is told before a teacher is trained.

    Raises:
        ModelError, UsageError: It cannot be built, or takes or gives something else than the data has.
    """
    build(student_spec(recipe, data)[0])


def distill_student(recipe: Recipe, data: Dataset, teacher: Teacher, threads: int, workspace: Workspace) -> TrainedModel:
    """Train the student: ``alpha * CE(labels) + beta * T^2 * KL(teacher || student)``."""
    options, student = recipe.distill, recipe.student
    spec, derived = student_spec(recipe, data)
    start = StartingWeights(student.weights, pretrained=False)

    def make_loss(stack: ExitStack) -> Loss:
        imitate = stack.enter_context(imitating(teacher, data.inputs, workspace)) if options.beta else None
        return distillation_loss(imitate, spec, options.alpha, options.beta, options.temperature, options.train.label_smoothing)

    def begin(model: nn.Module) -> None:
        if derived is not None:
            inherit(model, _state(teacher.members[0], data, workspace, teacher.allow_code), derived)
        start.load(model, spec)

    extra = {
        "alpha": options.alpha, "beta": options.beta, "temperature": options.temperature, "teacher": teacher.digest,
        "derived": derived, "weights": start.digest(),
    }  # fmt: skip
    return _train_stage("distill", recipe, spec, data, options.train, extra, make_loss, begin, threads, workspace)


def _state(member: Member, data: Dataset, workspace: Workspace, allow_code: bool) -> dict[str, Tensor]:
    if member.spec is not None and member.weights is not None:
        return dict(load(member.spec, member.weights).state_dict())
    with open_pretrained(member.source, data.inputs, data.classes, workspace.log, allow_code) as opened:
        return dict(opened.module.state_dict()) if opened.module is not None else {}


@dataclass(frozen=True)
class StartingWeights:
    """What a training starts from.

    Attributes:
        file: Path of a file of weights, or ``None``.
        pretrained: Whether the weights that come with the model are used where there is no file.
    """

    file: str | None
    pretrained: bool

    @property
    def anything(self) -> bool:
        """Whether training does not start from random weights."""
        return self.file is not None or self.pretrained

    def digest(self) -> str | None:
        """Return the SHA-256 of the file."""
        return sha256_file(Path(self.file).expanduser()) if self.file is not None else None

    def load(self, model: nn.Module, spec: ModelSpec) -> None:
        """Put the weights into ``model``."""
        if self.file is not None:
            path = Path(self.file).expanduser()
            load_into(model, read_weights(path), str(path))
        elif self.pretrained:
            load_pretrained_body(model, spec)


def distillation_loss(
    imitate: Imitate | None, spec: ModelSpec, alpha: float, beta: float, temperature: float, label_smoothing: float
) -> Loss:
    """Return the loss of offline response distillation; a term of weight 0 is not computed."""
    logits = spec.outputs[0].name

    def loss(inputs: dict[str, Tensor], outputs: dict[str, Tensor], target: Tensor) -> Tensor:
        total = torch.zeros(())
        if alpha:
            total = total + alpha * cross_entropy(outputs[logits], target, label_smoothing)
        if beta and imitate is not None:
            total = total + beta * kd(outputs[logits], imitate(inputs, temperature), temperature)
        return total

    return loss


def _stream_seed(seed: int, stream: str) -> int:
    """Return a seed of its own for each of the run's trainings."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=7).digest())


def _train_stage(
    name: str, recipe: Recipe, spec: ModelSpec, data: Dataset, training: Training, extra: dict[str, Any],
    make_loss: Callable[[ExitStack], Loss], begin: Callable[[nn.Module], None], threads: int, workspace: Workspace,
) -> TrainedModel:  # fmt: skip
    inputs = {
        "model": spec.to_json(), "code": code_key(spec.reference), "data": data.digest, "training": training.model_dump(),
        "seed": recipe.seed, "augment": recipe.data.augment.model_dump(), "threads": threads, **extra,
    }  # fmt: skip

    def work(folder: Path) -> dict[str, Any]:
        set_threads(threads)
        seed = _stream_seed(recipe.seed, name)
        torch.manual_seed(seed)
        model = build(spec)
        begin(model)
        with ExitStack() as stack:
            history = train(
                model, spec, data, training, recipe.data.augment, make_loss(stack), seed, folder, workspace.listener
            )
        save_weights(model, folder / _WEIGHTS)
        save_array(folder / VALIDATION_LOGITS, predict(model, spec, data, data.splits.validation))
        logits = predict(model, spec, data, data.splits.test)
        save_array(folder / TEST_LOGITS, logits)
        clear_checkpoint(folder)
        metric = top1(logits, data.labels[data.splits.test])
        return {"cost": asdict(cost(model, spec)), "metric": asdict(metric), "history": history}

    what = f"{spec.reference}, {training.epochs} epochs of {len(data.splits.train):,} samples on {threads} threads"
    stage = workspace.stage(name, what, inputs, work, _describe)
    return _trained(spec, stage)


def code_key(reference: str) -> str | None:
    """Return a digest of the user's code that ``reference`` names, if it names any."""
    return code_digest(name_of(reference)) if kind_of(reference) == "python" else None


def _describe(result: dict[str, Any]) -> str:
    metric, params = result["metric"], result["cost"]["params"]
    return f"test top-1 {metric['value']:.2%} ({metric['ci95'][0]:.1%} to {metric['ci95'][1]:.1%}), {params:,} parameters"


def _trained(spec: ModelSpec, stage: StageResult) -> TrainedModel:
    metric = stage.result["metric"]
    return TrainedModel(
        spec=spec, weights=stage.path(_WEIGHTS), digest=stage.files[_WEIGHTS], test_logits=stage.path(TEST_LOGITS),
        cost=Cost(**stage.result["cost"]), metric=Metric(metric["name"], metric["value"], tuple(metric["ci95"]), metric["n"]),
        history=tuple(stage.result["history"]),
    )  # fmt: skip
