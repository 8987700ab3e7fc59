"""What a channel is worth: the criteria that decide which ones go."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from edgekd.errors import UsageError
from edgekd.models.spec import call
from edgekd.models.tensors import ModelSpec
from edgekd.prune.groups import ChannelGroup

Criterion = Literal["magnitude", "taylor", "batchnorm", "activation", "random"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
NEEDS_DATA: frozenset[Criterion] = frozenset({"taylor", "activation"})
Samples = list[tuple[dict[str, Tensor], Tensor]]
"""Batches of named inputs, normalised, and the class of each sample."""
Scores = dict[str, Tensor]
"""For each group, what each of its units is worth, float32, all above or equal to 0."""


def scores(
    criterion: Criterion, model: nn.Module, spec: ModelSpec, groups: Iterable[ChannelGroup], samples: Samples | None, seed: int
) -> Scores:  # fmt: skip
    """Return what every channel or head of ``groups`` is worth.

    Args:
        criterion: ``magnitude``: the squares of all weights that make or read it (Li et al., 2017); ``taylor``: how much the
            loss would change without these weights, to the first order (Molchanov et al., 2019); ``batchnorm``: the factors
            of its batch norms (Liu et al., 2017); ``activation``: its root mean square times the norm of the weights that
            read it (Sun et al., 2024); ``random``: nothing, as a control.
        model: The network, with the weights that are judged.
        spec: How it is called.
        groups: As :func:`~edgekd.prune.groups.find_groups` found them in this very module.
        samples: What ``taylor`` and ``activation`` look at.
        seed: Of ``random``.

    Returns:
        Scores by name of group; groups that the criterion cannot judge, those without a batch norm, are left out.

    Raises:
        UsageError: The criterion needs data, or can judge no group.
    """
    listed = list(groups)
    if criterion in NEEDS_DATA and not samples:
        raise UsageError(
            f"criterion {criterion} looks at samples, and there are none", "name some with --data, or take magnitude"
        )
    if criterion == "activation":
        assert samples
        found = _activation(model, spec, listed, samples)
    elif criterion == "random":
        generator = torch.Generator().manual_seed(seed)
        found = {each.name: torch.rand(each.width, generator=generator) for each in listed}
    else:
        found = _torch_pruning(criterion, model, spec, listed, samples)
    if not found:
        raise UsageError(f"criterion {criterion} can judge no layer of {spec.reference}", "take another, for example magnitude")
    sizes = {each.name: each.unit for each in listed}
    return {name: each.float().reshape(-1, sizes[name]).sum(1) for name, each in found.items()}


def loss_of(model: nn.Module, spec: ModelSpec, samples: Samples) -> float:
    """Return the mean cross-entropy of ``model`` with the labels."""
    total = count = 0.0
    model.eval()
    with torch.no_grad():
        for inputs, labels in samples:
            logits = call(model, spec, inputs)[spec.outputs[0].name]
            total += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
            count += len(labels)
    return total / count


def _torch_pruning(
    criterion: Criterion, model: nn.Module, spec: ModelSpec, groups: list[ChannelGroup], samples: Samples | None
) -> Scores:
    import torch_pruning as tp

    judges: dict[str, Callable[[], Any]] = {
        "magnitude": lambda: tp.importance.GroupMagnitudeImportance(p=2, normalizer=None),
        "taylor": lambda: tp.importance.GroupTaylorImportance(normalizer=None),
        "batchnorm": lambda: tp.importance.BNScaleImportance(normalizer=None),
    }
    judge = judges[criterion]()
    found = {}
    with _gradients(model, spec, samples if criterion == "taylor" else None), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in groups:
            worth = judge(each.found)
            if worth is not None:
                found[each.name] = worth
    return found


@contextmanager
def _gradients(model: nn.Module, spec: ModelSpec, samples: Samples | None) -> Iterator[None]:
    """Leave the gradients of the loss in the weights, if there are samples."""
    if samples is None:
        yield
        return
    model.eval()
    model.zero_grad()
    count = sum(len(labels) for _, labels in samples)
    with torch.enable_grad():
        for inputs, labels in samples:
            logits = call(model, spec, inputs)[spec.outputs[0].name]
            (nn.functional.cross_entropy(logits, labels, reduction="sum") / count).backward()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        model.zero_grad()


def _activation(model: nn.Module, spec: ModelSpec, groups: list[ChannelGroup], samples: Samples) -> Scores:
    squares: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str) -> Any:
        def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            value = inputs[0].detach().float()
            axis = -1 if isinstance(module, nn.Linear) else 1
            flat = value.movedim(axis, 0).flatten(1)
            squares[name] = squares.get(name, torch.zeros(len(flat))) + flat.square().sum(1)
            counts[name] = counts.get(name, 0) + flat.shape[1]

        return look

    readers = {part.module for each in groups for part in each.readers()}
    handles = [model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in sorted(readers)]
    try:
        model.eval()
        with torch.no_grad():
            for inputs, _ in samples:
                call(model, spec, inputs)
    finally:
        for each in handles:
            each.remove()
    found = {}
    for group in groups:
        worth = torch.zeros(group.width)
        for part in group.readers():
            weight = model.get_submodule(part.module).weight
            assert isinstance(weight, Tensor)
            norms = weight.detach().float().movedim(1, 0).flatten(1).norm(dim=1)
            each = (squares[part.module] / counts[part.module]).sqrt() * norms
            worth.scatter_add_(0, torch.tensor(part.roots), each[list(part.channels)])
        found[group.name] = worth
    return found
