"""Cross-layer equalization: channels of one layer scaled down, and up again in the next, so that none needs a range of its own.

After Nagel et al. (2019). With a scale per output channel a layer's own weights do not care; what profits are the activations
between, which share one range, and the weights of the next layer, whose input channels share one scale per output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.models.tensors import ModelSpec
from edgekd.quantize.weights.folding import Layer, Samples, outputs_of, unchanged

_LOOK_AHEAD = 3
"""How many layers on the next one may be: a side branch is executed in between."""
_MOST = 64.0
"""By which a channel is scaled, at most."""
_ROUNDS = 3


@dataclass(frozen=True)
class Pair:
    """Two layers between which channels can be scaled without changing what the network gives."""

    first: Layer
    second: Layer


def find_pairs(model: nn.Module, spec: ModelSpec, layers: Sequence[Layer], samples: Samples) -> list[Pair]:
    """Return all pairs, found by trying: channels are scaled at random, and the outputs for ``samples`` must stay.

    So a ReLU, a pooling or a mean in between is known to pass scales on, and a residual or a ReLU6 is known not to.
    """
    before = outputs_of(model, spec, samples)
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for index, first in enumerate(layers):
        for second in layers[index + 1 : index + 1 + _LOOK_AHEAD]:
            if not _fits(first, second):
                continue
            factors = torch.exp2(torch.rand(len(first.weight), generator=generator) * 3 - 1.5)
            _scale(first, second, factors)
            same = unchanged(before, outputs_of(model, spec, samples))
            _scale(first, second, 1 / factors)
            if same:
                pairs.append(Pair(first, second))
                break
    return pairs


def equalize(model: nn.Module, spec: ModelSpec, pairs: Sequence[Pair], samples: Samples) -> None:
    """Scale the channels between ``pairs`` of ``model``, in place, so that activations and weights after them are even."""
    for _ in range(_ROUNDS):
        for pair in pairs:
            activations = _largest(model, spec, pair.first, samples)
            weights = _input_weights(pair.second)
            usable = (activations > 0) & (weights > 0)
            factors = torch.where(usable, torch.sqrt(activations / weights.clamp_min(1e-12)), torch.ones_like(activations))
            if usable.any():
                factors = torch.where(usable, factors / torch.exp(torch.log(factors[usable]).mean()), factors)
            _scale(pair.first, pair.second, factors.clamp(1 / _MOST, _MOST))


def _fits(first: Layer, second: Layer) -> bool:
    outputs, module = len(first.weight), second.module
    if not isinstance(module, nn.Linear) and module.groups > 1:
        return outputs == module.in_channels == module.groups == module.out_channels
    return outputs == second.weight.shape[1]


def _scale(first: Layer, second: Layer, factors: Tensor) -> None:
    """Divide the channels that ``first`` gives by ``factors``, and multiply what ``second`` makes of them."""
    with torch.no_grad():
        first.module.weight /= factors.reshape(-1, *[1] * (first.weight.dim() - 1))
        if first.module.bias is not None:
            first.module.bias /= factors
        if first.norm is not None:
            for each in (first.norm.bias if first.norm.affine else None, first.norm.running_mean):
                if each is not None:
                    each /= factors
        if not isinstance(second.module, nn.Linear) and second.module.groups > 1:
            second.module.weight *= factors.reshape(-1, *[1] * (second.weight.dim() - 1))
        else:
            second.module.weight *= factors.reshape(1, -1, *[1] * (second.weight.dim() - 2))


def _input_weights(layer: Layer) -> Tensor:
    """Return the largest weight on each input channel; 1 for a depthwise convolution, which has a scale for each."""
    if not isinstance(layer.module, nn.Linear) and layer.module.groups > 1:
        return torch.ones(len(layer.weight))
    return layer.weight.abs().transpose(0, 1).reshape(layer.weight.shape[1], -1).max(1).values


def _largest(model: nn.Module, spec: ModelSpec, layer: Layer, samples: Samples) -> Tensor:
    found: list[Tensor] = []

    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        moved = output.detach().movedim(layer.channel_axis, 0)
        found.append(moved.reshape(len(moved), -1).abs().max(1).values)

    handle = layer.end.register_forward_hook(hook)
    try:
        outputs_of(model, spec, samples)
    finally:
        handle.remove()
    return found[0]
