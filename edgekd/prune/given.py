"""The trained network that ``edgekd prune`` is given, and the samples it is judged on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgekd.data.dataset import Dataset
from edgekd.data.load import load_data
from edgekd.distill.stages import student_spec
from edgekd.distill.trainer import predict, tensors
from edgekd.distill.training_stage import StartingWeights
from edgekd.errors import UsageError
from edgekd.models.references import KINDS, check_available, kind_of
from edgekd.models.spec import build
from edgekd.models.tensors import ModelSpec, TensorSpec, classifier
from edgekd.planning import resolve_recipe
from edgekd.progress import Listener
from edgekd.prune.criteria import Samples
from edgekd.prune.record import read_record
from edgekd.quantize.calibration import calibration_order
from edgekd.recipe import Recipe
from edgekd.safe.stop import stop_signals
from edgekd.tasks.classification import Metric, top1
from edgekd.workspace import open_workspace

_SAMPLES, _BATCH = 256, 64
_DEFAULT_SHAPES = "for example --shape 3,32,32 --classes 10"


@dataclass(frozen=True)
class Given:
    """A trained network and what it can be judged on.

    Attributes:
        network: In evaluation mode.
        spec: How it was built.
        data: What it is for, if that was named.
        seed: Of the recipe.
    """

    network: nn.Module
    spec: ModelSpec
    data: Dataset | None
    seed: int

    def samples(self) -> Samples | None:
        """Return some training samples; ``None`` without data."""
        return None if self.data is None else calibration_samples(self.data, self.seed)

    def accuracy(self, network: nn.Module, spec: ModelSpec) -> tuple[Metric, Metric] | None:
        """Return top-1 on the validation split of the network as it was given and of ``network``; ``None`` without data."""
        if self.data is None:
            return None
        return _accuracy(self.network, self.spec, self.data), _accuracy(network, spec, self.data)


@contextmanager
def given_network(
    model: str, weights: str | None, data: str | None, overrides: Sequence[str], shape: tuple[int, ...] | None,
    classes: int | None, listener: Listener,
) -> Iterator[Given]:  # fmt: skip
    """Open a trained network; its data are there until the context ends.

    Args:
        model: A reference that can be a student.
        weights: File of trained weights; ``None``: those that come with the model.
        data: Source as ``data.source`` of a recipe.
        overrides: ``key=value`` of a recipe: ``student.*``, ``data.*`` and ``seed``.
        shape, classes: Of a sample, without the batch, and how many classes there are, where there is no data.
        listener: Who is told of progress.

    Raises:
        UsageError: Arguments do not go together.
    """
    asked = _recipe(model, weights, data, overrides)
    check_available(model, weights, "student")
    with (
        tempfile.TemporaryDirectory(prefix="edgekd-prune-") as folder, stop_signals(),
        open_workspace(Path(folder, "run"), listener) as workspace,
    ):  # fmt: skip
        loaded = None if data is None else load_data(asked, workspace)
        spec = _spec(model, asked, loaded, shape, classes)
        yield Given(_trained_network(spec, weights), spec, loaded, asked.seed)


def calibration_samples(data: Dataset, seed: int, count: int = _SAMPLES) -> Samples:
    """Return ``count`` training samples, evenly from every class, in batches."""
    order = calibration_order(data.splits.train, data.labels, seed)[:count]
    batches = []
    for start in range(0, len(order), _BATCH):
        part = order[start : start + _BATCH]
        batches.append((tensors(data.batch(part)), torch.from_numpy(data.labels[part])))
    return batches


def _recipe(model: str, weights: str | None, data: str | None, overrides: Sequence[str]) -> Recipe:
    """Return what is asked of a model in a file, as a recipe that does not train."""
    for each in overrides:
        if each.partition(".")[0] not in {"data", "student"} and each.partition("=")[0] != "seed":
            raise UsageError(
                f"'{each}' changes nothing here", "allowed: data.*, student.* and seed, as student.arguments.width=0.5"
            )
    student: dict[str, Any] = {"model": model} | ({"weights": weights} if weights is not None else {})
    source = {"data": {"source": data}} if data is not None else {}
    return resolve_recipe({"student": student, "distill": {"scheme": "none"}, **source}, list(overrides))


def _spec(model: str, recipe: Recipe, data: Dataset | None, shape: tuple[int, ...] | None, classes: int | None) -> ModelSpec:
    """Return how to build the model, of data or of the shape of a sample and the number of classes."""
    if data is not None:
        return student_spec(recipe, data)[0]
    if shape is None or classes is None:
        raise UsageError(
            "what the network takes and gives is not known", f"name its data with --data, or give {_DEFAULT_SHAPES}"
        )
    if len(shape) == 3:
        image = TensorSpec("image", "float32", shape, "NCHW", "image")
        spec = classifier(model, (image,), tuple(map(str, range(classes))), recipe.student.arguments)
    elif len(shape) == 1:
        row = TensorSpec("features", "float32", shape, "NC", "features")
        spec = classifier(model, (row,), tuple(map(str, range(classes))), recipe.student.arguments)
    else:
        raise UsageError(
            f"--shape has {len(shape)} numbers", "give channels,height,width or columns; texts and sounds with --data"
        )
    return spec if recipe.student.pruning is None else replace(spec, pruning=read_record(Path(recipe.student.pruning)))


def _trained_network(spec: ModelSpec, weights: str | None) -> nn.Module:
    """Return the network with its weights, of a file or those it comes with, in evaluation mode."""
    start = StartingWeights(weights, pretrained=KINDS[kind_of(spec.reference)].brings_weights)
    if not start.anything:
        raise UsageError(
            f"{spec.reference} comes without weights, and random ones tell nothing", "give them with --weights FILE"
        )
    network = build(spec)
    start.load(network, spec)
    return network.eval()


def _accuracy(network: nn.Module, spec: ModelSpec, data: Dataset) -> Metric:
    """Return top-1 on the validation split."""
    held_out = data.splits.validation
    return top1(predict(network, spec, data, held_out), data.labels[held_out])
