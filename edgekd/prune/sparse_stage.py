"""The stage of a run that sets weights to zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from edgekd.data.dataset import Dataset
from edgekd.distill.lesson import Student
from edgekd.distill.training_stage import TrainedModel, code_key, judged, set_threads
from edgekd.errors import ModelError
from edgekd.models.spec import load
from edgekd.models.tensors import ModelSpec
from edgekd.prune.select import Scope
from edgekd.prune.sparse_masks import Eligible, eligible_layers, set_zeros, weight_of, zero_masks
from edgekd.prune.sparsity import SparseLayers, Sparsity, check_pattern, parse_sparsity, part_at
from edgekd.recipe import Recipe
from edgekd.workspace import StageResult, Workspace


@dataclass(frozen=True)
class Zeroed:
    """The weights of a network that are zero.

    Attributes:
        asked: How many there are to be.
        eligible: Which layers have them, and why others have none.
        layers: For each layer how many weights it has and how many of them are zero.
        weights: All weights of the network's convolutions and linear layers.
    """

    asked: Sparsity
    eligible: Eligible
    layers: dict[str, tuple[int, int]]
    weights: int

    @property
    def share(self) -> float:
        """Share of zeros among the weights of the layers that have them."""
        return sum(zeros for _, zeros in self.layers.values()) / sum(count for count, _ in self.layers.values())

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        zeros = sum(each for _, each in self.layers.values())
        return {
            "asked": str(self.asked), "share": self.share, "share_of_all": zeros / self.weights,
            "layers": [{"layer": name, "weights": count, "zeros": each} for name, (count, each) in self.layers.items()],
            "left_dense": self.eligible.dense,
        }  # fmt: skip


def zero_model(
    model: nn.Module, spec: ModelSpec, sparsity: Sparsity, which: SparseLayers = "all", scope: Scope = "global",
    part: float = 1.0,
) -> Zeroed:  # fmt: skip
    """Set the weights of ``model`` of least magnitude to zero, in place, and return which layers have how many.

    Args:
        model, spec: The network, with trained weights.
        sparsity, which: See :func:`~edgekd.prune.sparse_masks.eligible_layers`.
        scope, part: See :func:`~edgekd.prune.sparse_masks.zero_masks`.

    Raises:
        ModelError: No layer gets zeros, or one would have nothing else.
    """
    eligible = eligible_layers(model, spec, sparsity, which)
    weights = {name: weight_of(model.get_submodule(name)) for name in eligible.layers}
    masks = zero_masks(weights, sparsity, scope, part)
    emptied = next((name for name, each in masks.items() if bool(each.all())), None)
    if emptied is not None:
        raise ModelError(
            f"with sparsity {sparsity}, {emptied} of {spec.reference} would lose all its {masks[emptied].numel():,} weights",
            "let every layer have the same share of zeros, prune.scope=layer or --per-layer, or ask for fewer",
        )  # fmt: skip
    set_zeros(model, masks)
    layers = {}
    for name, each in weights.items():
        zeros, broken = check_pattern(each, sparsity.pattern if part >= 1 else None)
        if broken:
            raise AssertionError(f"{broken} groups of {name} break {sparsity}; this is a bug")
        layers[name] = (each.numel(), zeros)
    rest = sum(weight_of(model.get_submodule(name)).numel() for name in eligible.dense)
    return Zeroed(sparsity, eligible, layers, rest + sum(count for count, _ in layers.values()))


def set_to_zero(
    step: int, recipe: Recipe, data: Dataset, student: TrainedModel, threads: int, workspace: Workspace
) -> StageResult:  # fmt: skip
    """Set weights of the student to zero, as many as there are to be after ``step``; as stage ``sparse-STEP``.

    Raises:
        ModelError: See :func:`zero_model`.
    """
    options = recipe.prune
    assert options.sparsity is not None
    sparsity = parse_sparsity(options.sparsity)
    part = part_at(step, options.steps)

    def work(folder: Path) -> dict[str, Any]:
        set_threads(threads)
        network = load(student.spec, student.weights)
        made = zero_model(network, student.spec, sparsity, options.sparse_layers, options.scope, part)
        left = judged(Student(network, student.spec), data, folder)
        zeros = {**made.to_json(), "top1": left["metric"]["value"]}
        return {**left, "spec": student.spec.to_json(), "history": [], "facts": {}, "zeros": zeros}

    inputs = {
        "student": student.digest, "spec": student.spec.to_json(), "code": code_key(student.spec.reference),
        "data": data.digest, "part": part, "sparsity": str(sparsity), "layers": options.sparse_layers, "scope": options.scope,
        "threads": threads,
    }  # fmt: skip
    of = f", step {step} of {options.steps}" if options.steps > 1 else ""
    layers = " of 1x1 convolutions and linear layers" if options.sparse_layers == "pointwise" else ""
    return workspace.stage(f"sparse-{step}", f"weights{layers} set to zero for {sparsity}{of}", inputs, work, _describe)


def layers_with_zeros(steps: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the names of the layers that have zeros after the last of ``steps``; none if there was no step."""
    return tuple(each["layer"] for each in steps[-1]["layers"]) if steps else ()


def _describe(result: dict[str, Any]) -> str:
    zeros = result["zeros"]
    return (
        f"{zeros['share']:.1%} of the weights of {len(zeros['layers'])} layers are zero, {zeros['share_of_all']:.1%} of all; "
        f"test top-1 {result['metric']['value']:.2%} before it is trained again"
    )
