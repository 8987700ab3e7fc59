"""Bias correction: rounded weights shift what a layer gives on average; its bias takes that back (Nagel et al., 2019)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.models.tensors import ModelSpec
from edgekd.quantize.weights.folding import Layer, Samples, find_layers, outputs_of
from edgekd.quantize.weights.grid import nearest


def channel_means(values: Tensor, axis: int) -> Tensor:
    """Return the mean over all but the axis of channels."""
    moved = values.detach().movedim(axis, 0)
    return moved.reshape(len(moved), -1).mean(1)


def correct_biases(
    model: nn.Module, spec: ModelSpec, layers: Sequence[Layer], samples: Samples, reference: nn.Module
) -> dict[str, float]:  # fmt: skip
    """Change biases of ``model`` so that with int8 weights every layer gives what it gives in ``reference``, on average.

    Layer after layer in one run, so that each is corrected on what the corrected ones before it give.

    Args:
        model: Batch norms folded; changed in place, its biases only.
        spec: Of it.
        layers: Of ``model``, see :func:`edgekd.quantize.weights.folding.fold`.
        samples: On which means are taken.
        reference: The same network with the weights that are to be imitated.

    Returns:
        For each corrected layer the largest shift of a channel, by name.
    """
    own = {each.name: each for each in layers}
    expected = _means(reference, spec, samples, own)
    rounded = copy.deepcopy(model)
    shifts: dict[str, float] = {}

    def watch(layer: Layer) -> Callable[..., Tensor]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            amount = expected[layer.name] - channel_means(output, layer.channel_axis)
            own[layer.name].shift(amount)
            shifts[layer.name] = float(amount.abs().max())
            shape = [1] * output.dim()
            shape[layer.channel_axis] = -1
            return output + amount.reshape(shape)

        return hook

    copies = [each for each in find_layers(rounded, spec, samples) if each.name in own]
    with torch.no_grad():
        for each in copies:
            each.module.weight.copy_(nearest(each.weight))
    handles = [_end(each, own[each.name]).register_forward_hook(watch(each)) for each in copies if own[each.name].can_shift]
    try:
        outputs_of(rounded, spec, samples)
    finally:
        for handle in handles:
            handle.remove()
    return shifts


def _end(found: Layer, known: Layer) -> nn.Module:
    """Return the module of ``found`` that gives what ``known`` gives: a batch norm that could not be folded is not part."""
    return found.module if known.norm is None else found.end


def _means(model: nn.Module, spec: ModelSpec, samples: Samples, known: dict[str, Layer]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def watch(layer: Layer) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            found[layer.name] = channel_means(output, layer.channel_axis)

        return hook

    handles = [
        _end(each, known[each.name]).register_forward_hook(watch(each))
        for each in find_layers(model, spec, samples)
        if each.name in known
    ]
    try:
        outputs_of(model, spec, samples)
    finally:
        for handle in handles:
            handle.remove()
    return found
