"""The two training stages of a run: the teacher on labels, the student on labels and teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd.data.images import ImageData
from edgekd.distill.losses import cross_entropy, kd
from edgekd.distill.trainer import Loss, clear_checkpoint, predict, train
from edgekd.models.spec import Cost, build, call, cost, load, save_weights
from edgekd.models.tensors import ModelSpec, image_classifier
from edgekd.recipe import Recipe, Training
from edgekd.safe.files import atomic_path
from edgekd.tasks.classification import Metric, top1
from edgekd.workspace import StageResult, Workspace

_WEIGHTS, _TEST_LOGITS = "weights.safetensors", "test_logits.npy"


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


def set_threads(threads: int) -> None:
    """Use ``threads`` CPU threads in torch. Weights repeat bit for bit for one number of threads."""
    torch.set_num_threads(threads)


def train_teacher(recipe: Recipe, data: ImageData, threads: int, workspace: Workspace) -> TrainedModel:
    """Train the teacher with cross-entropy on the true labels."""
    spec = _spec(recipe.teacher.model, data)
    training = recipe.teacher.train

    def loss(_inputs: dict[str, Tensor], outputs: dict[str, Tensor], target: Tensor) -> Tensor:
        return cross_entropy(outputs[spec.outputs[0].name], target, training.label_smoothing)

    return _train_stage("teacher", recipe, spec, data, training, {}, lambda: loss, threads, workspace)


def distill_student(recipe: Recipe, data: ImageData, teacher: TrainedModel, threads: int, workspace: Workspace) -> TrainedModel:
    """Train the student: ``alpha * CE(labels) + beta * T^2 * KL(teacher || student)``."""
    spec = _spec(recipe.student.model, data)
    options = recipe.distill

    def make_loss() -> Loss:
        imitated = load(teacher.spec, teacher.weights)
        imitated.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return distillation_loss(
            imitated, teacher.spec, spec, options.alpha, options.beta, options.temperature, options.train.label_smoothing
        )

    weights = {"alpha": options.alpha, "beta": options.beta, "temperature": options.temperature, "teacher": teacher.digest}
    return _train_stage("distill", recipe, spec, data, options.train, weights, make_loss, threads, workspace)


def distillation_loss(
    teacher: nn.Module, teacher_spec: ModelSpec, student_spec: ModelSpec,
    alpha: float, beta: float, temperature: float, label_smoothing: float,
) -> Loss:  # fmt: skip
    """Return the loss of offline response distillation; a term of weight 0 is not computed."""
    image, logits = student_spec.inputs[0].name, student_spec.outputs[0].name

    def loss(inputs: dict[str, Tensor], outputs: dict[str, Tensor], target: Tensor) -> Tensor:
        total = torch.zeros(())
        if alpha:
            total = total + alpha * cross_entropy(outputs[logits], target, label_smoothing)
        if beta:
            with torch.no_grad():
                soft = call(teacher, teacher_spec, {teacher_spec.inputs[0].name: inputs[image]})
            total = total + beta * kd(outputs[logits], soft[teacher_spec.outputs[0].name], temperature)
        return total

    return loss


def _spec(reference: str, data: ImageData) -> ModelSpec:
    return image_classifier(reference, data.image_shape, data.mean, data.std, data.classes)


def _stream_seed(seed: int, stream: str) -> int:
    """Return a seed of its own for each of the run's trainings."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=7).digest())


def _train_stage(
    name: str, recipe: Recipe, spec: ModelSpec, data: ImageData, training: Training, extra: dict[str, Any],
    make_loss: Callable[[], Loss], threads: int, workspace: Workspace,
) -> TrainedModel:  # fmt: skip
    inputs = {
        "model": spec.to_json(), "data": data.digest, "training": training.model_dump(), "seed": recipe.seed,
        "augment": recipe.data.augment.model_dump(), "threads": threads, **extra,
    }  # fmt: skip

    def work(folder: Path) -> dict[str, Any]:
        set_threads(threads)
        seed = _stream_seed(recipe.seed, name)
        torch.manual_seed(seed)
        model = build(spec)
        history = train(model, spec, data, training, recipe.data.augment, make_loss(), seed, folder, workspace.listener)
        save_weights(model, folder / _WEIGHTS)
        logits = predict(model, spec, data, data.splits.test)
        _save_array(folder / _TEST_LOGITS, logits)
        clear_checkpoint(folder)
        metric = top1(logits, data.labels[data.splits.test])
        return {"cost": asdict(cost(model, spec)), "metric": asdict(metric), "history": history}

    what = f"{spec.reference}, {training.epochs} epochs of {len(data.splits.train):,} images on {threads} threads"
    stage = workspace.stage(name, what, inputs, work, _describe)
    return _trained(spec, stage)


def _describe(result: dict[str, Any]) -> str:
    metric, params = result["metric"], result["cost"]["params"]
    return f"test top-1 {metric['value']:.2%} ({metric['ci95'][0]:.1%} to {metric['ci95'][1]:.1%}), {params:,} parameters"


def _trained(spec: ModelSpec, stage: StageResult) -> TrainedModel:
    metric = stage.result["metric"]
    return TrainedModel(
        spec=spec, weights=stage.path(_WEIGHTS), digest=stage.files[_WEIGHTS], test_logits=stage.path(_TEST_LOGITS),
        cost=Cost(**stage.result["cost"]), metric=Metric(metric["name"], metric["value"], tuple(metric["ci95"]), metric["n"]),
        history=tuple(stage.result["history"]),
    )  # fmt: skip


def _save_array(path: Path, array: NDArray[np.float32]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
