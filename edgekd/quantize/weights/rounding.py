"""Learned rounding (AdaRound, Nagel et al., 2020): each weight up or down, so that what the layer gives is least wrong.

Rounding every weight to the nearest step is best for the weights, not for what they make of the data that comes. Layer by
layer, on the layer's own inputs from samples, the direction of each weight is learned. The largest weight of each output
stays where it is, so that the grid of the result is the grid it was made on, and any quantizer finds it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekd.models.tensors import ModelSpec
from edgekd.quantize.weights.folding import Layer, Samples, outputs_of
from edgekd.quantize.weights.grid import STEPS, nearest, scales

_ITERATIONS = 300
_BATCH = 32
_RATE = 2e-2
_STRETCH = (-0.1, 1.1)
"""The sigmoid reaches a little further than [0, 1] and is cut there, so that it can arrive."""
_WARM_UP = 0.2
"""Share of the iterations before weights are pushed to a side."""
_PUSH = 0.01
"""Of the pressure to a side, relative to the error of nearest rounding."""


def output_noise(layer: Layer, inputs: Tensor, rounded: Tensor) -> float:
    """Return the mean squared error of what a layer gives with ``rounded`` weights, as a share of its variance."""
    with torch.no_grad():
        expected = _apply(layer, inputs, layer.weight)
        signal = float(expected.var()) or 1.0
        return float((_apply(layer, inputs, rounded) - expected).square().mean()) / signal


def inputs_of(model: nn.Module, spec: ModelSpec, layers: Sequence[Layer], samples: Samples) -> dict[str, Tensor]:
    """Return what each layer takes when ``samples`` go through the network, by name."""
    found: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found[name] = inputs[0].detach().clone()

        return hook

    handles = [each.module.register_forward_pre_hook(watch(each.name)) for each in layers]
    try:
        outputs_of(model, spec, samples)
    finally:
        for handle in handles:
            handle.remove()
    return found


def layers_in_need(noise: dict[str, float], share: float) -> list[str]:
    """Return the layers with the most noise that together have ``share`` of all of it, by name."""
    chosen, had, total = [], 0.0, sum(noise.values())
    for name, each in sorted(noise.items(), key=lambda pair: -pair[1]):
        if had >= share * total:
            break
        chosen.append(name)
        had += each
    return chosen


def learn_rounding(layer: Layer, inputs: Tensor, seed: int) -> Tensor:
    """Return the weights of ``layer`` on their int8 grid, each rounded up or down as its ``inputs`` want it.

    Never worse on them than rounding to the nearest step: then that is returned.

    Args:
        layer: Batch norm folded.
        inputs: What it takes, ``[n, ...]``.
        seed: Decides the batches.
    """
    weight, scale = layer.weight, scales(layer.weight)
    low, high = _STRETCH
    floor = torch.floor(weight / scale)
    rest = (weight / scale - floor).clamp(0, 1)
    # A weight of 127 steps sets the scale of its output.
    fixed = torch.round(weight / scale).abs() >= STEPS
    variable = torch.logit(((rest - low) / (high - low)).clamp(1e-4, 1 - 1e-4)).requires_grad_()

    def up(soft: bool) -> Tensor:
        share = (torch.sigmoid(variable) * (high - low) + low).clamp(0, 1)
        return torch.where(fixed, (rest >= 0.5).float(), share if soft else (share >= 0.5).float())

    with torch.no_grad():
        expected = _apply(layer, inputs, weight)
        start = float((_apply(layer, inputs, nearest(weight)) - expected).square().mean()) or 1.0
    optimizer = torch.optim.Adam([variable], _RATE)
    generator = torch.Generator().manual_seed(seed)
    for step in range(_ITERATIONS):
        rows = torch.randint(len(inputs), (min(_BATCH, len(inputs)),), generator=generator)
        share = up(soft=True)
        loss = (_apply(layer, inputs[rows], (floor + share) * scale) - expected[rows]).square().mean() / start
        progress = (step / _ITERATIONS - _WARM_UP) / (1 - _WARM_UP)
        if progress > 0:
            exponent = 2 + 18 * (1 - progress)
            loss = loss + _PUSH * (1 - (2 * share - 1).abs().pow(exponent)).sum() * progress
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        learned = ((floor + up(soft=False)).clamp(-STEPS, STEPS)) * scale
        end = float((_apply(layer, inputs, learned) - expected).square().mean())
    return learned if end < start else nearest(weight)


def _apply(layer: Layer, inputs: Tensor, weight: Tensor) -> Tensor:
    """Return what the layer gives with other weights, without its bias."""
    module = layer.module
    if isinstance(module, nn.Linear):
        return functional.linear(inputs, weight)
    result: Tensor = module._conv_forward(inputs, weight, None)
    return result
