"""The stage of quantization-aware training: the student goes on learning while it rounds as its int8 files will."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekd.data.dataset import Dataset
from edgekd.distill.lesson import Lesson, Student
from edgekd.distill.processes import join_processes
from edgekd.distill.schemes.offline import learn_from
from edgekd.distill.teacher import Teacher
from edgekd.distill.trainer import predict, tensors
from edgekd.distill.training_stage import Prepared, StartingWeights, Task, TrainedModel, Trainee, judged, train_stage
from edgekd.errors import ModelError
from edgekd.models.spec import build
from edgekd.models.tensors import ModelSpec
from edgekd.models.trace import trace
from edgekd.prune.sparse_masks import keep_zeros
from edgekd.prune.sparse_stage import layers_with_zeros
from edgekd.quantize.calibration import calibration_order
from edgekd.quantize.qat.graph import (
    Rounding,
    find_rounding,
    put_in_fake_quantizers,
    quantizers_of,
    rounded_weights,
    values_at,
)
from edgekd.quantize.qat.planned import losses_of
from edgekd.quantize.qat.simulation import RANGES, SIMULATED_LOGITS, Simulation
from edgekd.quantize.weights.folding import fold
from edgekd.recipe import Recipe, Training
from edgekd.safe.files import save_array, sha256_file, write_json
from edgekd.tasks.classification import top1
from edgekd.workspace import Workspace

_CALIBRATION = 256
"""Samples whose ranges training starts from, where the recipe does not say how many: it will find better ones."""
_BATCH = 32
"""Samples that are looked at together: all values of a network at once take memory."""


def train_quantized(
    recipe: Recipe, data: Dataset, student: TrainedModel, teacher: Teacher | None, threads: int, workspace: Workspace
) -> TrainedModel:
    """Fine-tune the student under the rounding of int8, taught by the teacher if there is one, and by the labels.

    Returns:
        The student with the weights that it learned, rounded weights on the steps of their channel, and what the simulation of
        its int8 files says; ``student`` itself if the recipe wants no such training.

    Raises:
        ModelError: The network is no graph, or has no weights that int8 files round.
    """
    if not recipe.quantize.qat.epochs:
        return student
    wanted = recipe.quantize.calibration_samples
    count = _CALIBRATION if wanted == "auto" else wanted
    chosen = calibration_order(data.splits.train, data.labels, recipe.seed)[:count]
    start = StartingWeights(str(student.weights), pretrained=False)
    sparse = layers_with_zeros(() if student.pruning is None else student.pruning.zeros)
    trainee = Trainee(
        student.spec, lambda model: start.load(model, student.spec), True,
        lambda model: keep_zeros(simulated(model, student.spec, data, chosen), sparse), leave_simulated,
    )  # fmt: skip
    training = training_of(recipe)
    inputs = {"student": student.digest, "calibration": chosen.tolist(), "sparse": sparse}
    if teacher is not None:
        taught = recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"losses": losses_of(recipe)})})
        kept_in = recipe.distill.soft_targets.folder
        trained = learn_from(
            teacher, "qat", trainee, training, inputs, "quantization-aware", taught, data, threads, workspace, kept_in
        )
    else:
        task = Task("qat", {"student": trainee}, training, inputs, "quantization-aware")
        trained = train_stage(task, recipe, data, _prepare_labels, threads, workspace)
    folder = trained.weights.parent
    logits = np.load(folder / SIMULATED_LOGITS, allow_pickle=False)
    simulation = Simulation(
        folder / RANGES, f"{sha256_file(folder / SIMULATED_LOGITS)} {sha256_file(folder / RANGES)}", folder / SIMULATED_LOGITS,
        top1(logits, data.labels[data.splits.test]), student.metric, trained.history, trained.facts,
    )  # fmt: skip
    return replace(trained, history=student.history, facts=student.facts, simulation=simulation, pruning=student.pruning)


def training_of(recipe: Recipe) -> Training:
    """Return how the student is fine-tuned: as in distillation, but gently, and in finer numbers than what is rounded."""
    settled = recipe.distill.train
    return settled.model_copy(
        update={
            "epochs": recipe.quantize.qat.epochs, "learning_rate": recipe.quantize.qat.learning_rate, "optimizer": "adamw",
            "schedule": "cosine", "weight_decay": 0.0, "ema": 0.0, "early_stopping": None, "compile": False,
            "precision": "fp32", "layout": "channels_last" if settled.layout == "auto" else settled.layout,
        }
    )  # fmt: skip


def _prepare_labels(_stack: ExitStack, students: dict[str, Student], training: Training) -> Prepared:
    return Prepared(Lesson(students, training.label_smoothing, join_processes().gather))


def simulated(model: nn.Module, spec: ModelSpec, data: Dataset, chosen: NDArray[np.int64]) -> GraphModule:
    """Return a network that rounds as the int8 files of ``model`` do, over the ranges that real samples have.

    Args:
        model: The network; its batch norms are folded into its weights, which the network that is returned shares.
        spec: How it is called.
        data: Of the run.
        chosen: Samples that set the ranges.

    Raises:
        ModelError: It is no graph, or has no weights that int8 files round.
    """
    fold(model.eval(), spec, tensors(data.batch(chosen[:_BATCH])))
    graph = trace(model, spec)
    rounding = find_rounding(graph)
    if not rounding.weights:
        raise ModelError(
            f"{spec.reference} has no convolutions or fully connected layers whose weights int8 files round",
            "set quantize.qat.epochs=0",
        )
    put_in_fake_quantizers(graph, rounding, _ranges(graph, rounding, spec, data, chosen))
    return graph


def _ranges(
    graph: GraphModule, rounding: Rounding, spec: ModelSpec, data: Dataset, chosen: NDArray[np.int64]
) -> dict[str, tuple[float, float]]:
    """Return the least and the largest number of every rounded value over the samples."""
    names = [each.name for each in rounding.values]
    found: dict[str, tuple[float, float]] = {}
    for inputs in _inputs(spec, data, chosen):
        for name, seen in values_at(graph, names, inputs).items():
            low, high = found.get(name, (np.inf, -np.inf))
            found[name] = (min(low, seen.min().item()), max(high, seen.max().item()))
    return found


def _inputs(spec: ModelSpec, data: Dataset, chosen: NDArray[np.int64]) -> Iterator[tuple[Tensor, ...]]:
    for arrays in data.batches(chosen, _BATCH):
        batch = tensors(arrays)
        yield tuple(batch[each.name] for each in spec.inputs)


def leave_simulated(student: Student, data: Dataset, folder: Path) -> dict[str, Any]:
    """Leave ranges and simulated outputs in ``folder``, and the weights, on their steps, of the architecture they came from."""
    network, spec = student.module, student.spec
    assert isinstance(network, GraphModule)
    write_json(folder / RANGES, {name: list(each.exact_range()) for name, each in quantizers_of(network).items()})
    save_array(folder / SIMULATED_LOGITS, predict(network, spec, data, data.splits.test))
    model = build(spec)
    trained = {name for name, _ in network.named_parameters()}
    rounded = {name: each for name, each in rounded_weights(network).items() if name in trained}
    state = network.state_dict() | rounded
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    return judged(Student(model.eval(), spec), data, folder)
