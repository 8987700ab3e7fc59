"""One training as a stage of a run: build, train, save, judge. Teachers, assistants, peers and students all go through it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgekd.data.dataset import Dataset
from edgekd.distill.allocator import reused_memory
from edgekd.distill.lesson import Lesson, Student
from edgekd.distill.processes import join_processes
from edgekd.distill.teacher import TEST_LOGITS, VALIDATION_LOGITS
from edgekd.distill.trainer import Augmentations, Trained, clear_checkpoint, predict, train
from edgekd.models.pretrained import load_pretrained_body
from edgekd.models.references import KINDS, kind_of, model_path, name_of
from edgekd.models.spec import Cost, build, cost, save_weights
from edgekd.models.tensors import ModelSpec, spec_from_json
from edgekd.recipe import Recipe, Training
from edgekd.safe.files import save_array, sha256_file
from edgekd.safe.user_code import code_digest
from edgekd.safe.weights import load_into, read_weights
from edgekd.tasks.classification import Metric, top1
from edgekd.workspace import StageResult, Workspace

if TYPE_CHECKING:
    from edgekd.prune.stages import Pruning
    from edgekd.quantize.qat.simulation import Simulation

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
        facts: How it was trained, as the report tells it: JSON with ``scheme``, ``alpha``, ``terms``, ``precision``,
            ``layout``, ``epochs``, ``soft_targets`` and ``warnings``.
        pruning: What was cut from it, if the recipe has a budget.
        simulation: What quantization-aware training left, if there was one; the weights are its, too.
    """

    spec: ModelSpec
    weights: Path
    digest: str
    test_logits: Path
    cost: Cost
    metric: Metric
    history: tuple[dict[str, float], ...]
    facts: dict[str, Any] = field(default_factory=dict)
    simulation: Simulation | None = None
    pruning: Pruning | None = None

    @property
    def name(self) -> str:
        """Its model reference, with arguments."""
        shown = ", ".join(f"{key}={value}" for key, value in self.spec.arguments.items())
        return f"{self.spec.reference} ({shown})" if shown else self.spec.reference


def _itself(model: nn.Module) -> nn.Module:
    return model


def judged(student: Student, data: Dataset, folder: Path) -> dict[str, Any]:
    """Leave the weights of ``student`` and its outputs on both held-out splits in ``folder``; return its cost and metric."""
    model, spec = student.module, student.spec
    save_weights(model, folder / _WEIGHTS)
    save_array(folder / VALIDATION_LOGITS, predict(model, spec, data, data.splits.validation))
    logits = predict(model, spec, data, data.splits.test)
    save_array(folder / TEST_LOGITS, logits)
    clear_checkpoint(folder)
    metric = top1(logits, data.labels[data.splits.test])
    return {"cost": asdict(cost(model, spec)), "metric": asdict(metric)}


@dataclass(frozen=True)
class Trainee:
    """A network to be trained.

    Attributes:
        spec: How to build it.
        begin: Puts in what it starts from, beside random weights.
        starts_trained: Whether that are weights that were trained.
        as_trained: From the built network to what is trained in its place; by default that is the network.
        leave: Leaves the trained network in the stage's folder and returns its cost and metric, see :func:`judged`.
    """

    spec: ModelSpec
    begin: Callable[[nn.Module], None]
    starts_trained: bool = False
    as_trained: Callable[[nn.Module], nn.Module] = _itself
    leave: Callable[[Student, Dataset, Path], dict[str, Any]] = judged


@dataclass(frozen=True)
class Task:
    """What a training stage is given.

    Attributes:
        name: Of the stage.
        trainees: Networks by name; the first is the student.
        training: Settled, see :func:`edgekd.distill.probe.settled`.
        inputs: What the result depends on, beside what every training depends on: JSON.
        scheme: For the report.
        keep: Which network is the result: a name, or ``best``.
        stream: Whose random numbers are drawn; ``None``: its own. Trainings of one stream start from the same weights and
            see the same samples in the same order.
    """

    name: str
    trainees: dict[str, Trainee]
    training: Training
    inputs: dict[str, Any]
    scheme: str
    keep: str = "student"
    stream: str | None = None


@dataclass(frozen=True)
class Prepared:
    """A lesson that is ready to train.

    Attributes:
        lesson: What is trained.
        keys: How many augmentations of each image there are, see :class:`~edgekd.distill.trainer.Augmentations`.
        seed: Of the augmentations; ``None``: the training's own.
        facts: For the report.
        warnings: What the user should know.
    """

    lesson: Lesson
    keys: int | None = None
    seed: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


Prepare = Callable[[ExitStack, dict[str, Student], Training], Prepared]
"""From a stack that closes what is opened, the built networks and the settled training to the lesson."""


def set_threads(threads: int) -> None:
    """Use ``threads`` CPU threads in torch. Weights repeat bit for bit for one number of threads."""
    torch.set_num_threads(threads)


def stream_seed(seed: int, stream: str) -> int:
    """Return a seed of its own for each of the run's trainings."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=7).digest())


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


def student_start(recipe: Recipe, reference: str) -> StartingWeights:
    """Return what the student ``reference`` of ``recipe`` starts from."""
    return StartingWeights(recipe.student.weights, pretrained=KINDS[kind_of(reference)].starts_trained)


def code_key(reference: str) -> str | None:
    """Return a digest of the user's code, or of the Keras file, that ``reference`` names, if it names any."""
    if kind_of(reference) == "keras":
        return sha256_file(model_path(reference))
    return code_digest(name_of(reference)) if kind_of(reference) == "python" else None


def train_stage(
    task: Task, recipe: Recipe, data: Dataset, prepare: Prepare, threads: int, workspace: Workspace
) -> TrainedModel:
    """Train the networks of ``task`` together, or replay it; return the one that is kept."""
    training = task.training
    inputs = {
        "models": {name: each.spec.to_json() for name, each in task.trainees.items()},
        "code": {name: code_key(each.spec.reference) for name, each in task.trainees.items()},
        "data": data.digest, "training": training.model_dump(mode="json"), "seed": recipe.seed, "scheme": task.scheme,
        "augment": recipe.data.augment.model_dump(), "threads": threads, "keep": task.keep, "stream": task.stream,
        **task.inputs,
    }  # fmt: skip

    def work(folder: Path) -> dict[str, Any]:
        set_threads(threads)
        processes = join_processes()
        seed = stream_seed(recipe.seed, task.stream or task.name)
        torch.manual_seed(seed)
        students = {name: Student(_built(each), each.spec) for name, each in task.trainees.items()}
        with ExitStack() as stack:
            stack.enter_context(reused_memory())
            prepared = prepare(stack, students, training)
            for warning in prepared.warnings:
                workspace.listener.warned(warning)
            augmentations = Augmentations(recipe.data.augment, seed if prepared.seed is None else prepared.seed, prepared.keys)
            trained = train(prepared.lesson, data, training, augmentations, seed, folder, workspace.listener, processes)
        kept = _kept(task, trained)
        result = task.trainees[kept].leave(students[kept], data, folder) if processes.is_main else {}
        facts = _facts(task, training, prepared, trained, kept) | {"warnings": [*prepared.warnings, *trained.warnings]}
        return {**result, "spec": students[kept].spec.to_json(), "history": trained.history, "facts": facts}

    references = " and ".join(dict.fromkeys(each.spec.reference for each in task.trainees.values()))
    what = f"{references}, {training.epochs} epochs of {len(data.splits.train):,} samples on {threads} threads"
    stage = workspace.stage(task.name, what, inputs, work, _describe, together=True)
    return trained_model(stage)


def _built(trainee: Trainee) -> nn.Module:
    model = build(trainee.spec)
    trainee.begin(model)
    return trainee.as_trained(model)


def _kept(task: Task, trained: Trained) -> str:
    """Return the name of the network that is the result."""
    if task.keep != "best":
        return task.keep
    names = list(task.trainees)
    last = trained.history[-1]
    return max(names, key=lambda name: last["validation" if name == names[0] else f"validation {name}"])


def _facts(task: Task, training: Training, prepared: Prepared, trained: Trained, kept: str) -> dict[str, Any]:
    weighting = trained.weighting
    terms = []
    for name in weighting.given:
        if name != "cross_entropy":
            term = {
                "name": name, "weight": weighting.weight(name), "weight_chosen": weighting.given[name] is None,
                "gradient_ratio": _short(weighting.ratios.get(name)), "temperature": None,
                "temperature_chosen": False, "layers": [],
            }  # fmt: skip
            terms.append({**term, **prepared.facts.get("terms", {}).get(name, {})})
    alpha = weighting.weight("cross_entropy") if "cross_entropy" in weighting.given else None
    alpha_chosen = "cross_entropy" in weighting.given and weighting.given["cross_entropy"] is None
    return {
        "scheme": task.scheme, "alpha": alpha, "alpha_chosen": alpha_chosen, "terms": terms, "precision": training.precision,
        "layout": training.layout, "epochs": len(trained.history), "soft_targets": prepared.facts.get("soft_targets"),
        "kept": kept,
    }  # fmt: skip


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")


def _describe(result: dict[str, Any]) -> str:
    metric, params, facts = result["metric"], result["cost"]["params"], result["facts"]
    shown = f"test top-1 {metric['value']:.2%} ({metric['ci95'][0]:.1%} to {metric['ci95'][1]:.1%}), {params:,} parameters"
    chosen = [
        f"{term['name']} weight {term['weight']:g}" + (f" T {term['temperature']:g}" if term["temperature_chosen"] else "")
        for term in facts["terms"]
        if term["weight_chosen"] or term["temperature_chosen"]
    ]
    return "; ".join([shown, *([f"chosen: {', '.join(chosen)}"] if chosen else [])])


def trained_model(stage: StageResult) -> TrainedModel:
    """Return what a stage that was judged left."""
    metric = stage.result["metric"]
    return TrainedModel(
        spec=spec_from_json(stage.result["spec"]), weights=stage.path(_WEIGHTS), digest=stage.files[_WEIGHTS],
        test_logits=stage.path(TEST_LOGITS), cost=Cost(**stage.result["cost"]),
        metric=Metric(metric["name"], metric["value"], tuple(metric["ci95"]), metric["n"]),
        history=tuple(stage.result["history"]), facts=stage.result["facts"],
    )  # fmt: skip
