"""The treatments of weights, from the mildest: biases corrected, channels equalized, rounding learned."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekd.errors import ExportError
from edgekd.models.spec import load, save_weights
from edgekd.models.tensors import ModelSpec, spec_from_json
from edgekd.quantize.weights.correction import correct_biases
from edgekd.quantize.weights.equalization import equalize, find_pairs
from edgekd.quantize.weights.folding import Layer, Samples, fold, outputs_of, unchanged
from edgekd.quantize.weights.grid import nearest
from edgekd.quantize.weights.rounding import inputs_of, layers_in_need, learn_rounding, output_noise

_NOISE_SHARE = 0.9
"""Learned rounding treats the layers that together make this share of the noise."""


def improve_weights(spec: dict[str, Any], weights: str, samples: str, treatment: str, out: str, seed: int) -> dict[str, Any]:
    """Write weights of the same network that lose less in int8 to ``out``. Runs in a child process.

    Batch norms are folded first and biases corrected last, whatever the treatment.

    Args:
        spec: A :class:`~edgekd.models.tensors.ModelSpec` as plain data.
        weights: Its safetensors file.
        samples: ``.npz`` file of training samples, every input by name, as the network takes them.
        treatment: One of :data:`edgekd.quantize.weights.TREATMENTS`.
        out: Path of the safetensors file to write.
        seed: Decides the order of samples.

    Returns:
        ``folded``, ``corrected`` and ``pairs``, how many there were, and of learned rounding the noise of each treated layer
        with nearest and with learned rounding, as shares of its signal: ``{layer: [nearest, learned]}``.

    Raises:
        ExportError: The network does not give the same outputs after folding or equalizing: a bug.
    """
    described = spec_from_json(spec)
    reference = load(described, Path(weights))
    with np.load(samples, allow_pickle=False) as archive:
        data = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in archive.items()}
    model = copy.deepcopy(reference)
    layers = fold(model, described, data)
    facts: dict[str, Any] = {"folded": sum(each.norm is not None for each in layers), "pairs": 0, "rounded": {}}
    if treatment == "equalized":
        pairs = find_pairs(model, described, layers, data)
        equalize(model, described, pairs, data)
        facts["pairs"] = len(pairs)
    if not unchanged(outputs_of(reference, described, data), outputs_of(model, described, data)):
        raise ExportError(
            f"weights cannot be {treatment}: the network would give other outputs", "set quantize.weights=as-trained"
        )
    if treatment == "rounded":
        facts["rounded"] = _round(model, described, layers, data, seed)
    facts["corrected"] = len(correct_biases(model, described, layers, data, reference))
    save_weights(model, Path(out))
    return facts


def _round(model: nn.Module, spec: ModelSpec, layers: list[Layer], data: Samples, seed: int) -> dict[str, list[float]]:
    """Learn the rounding of the layers that need it, in place; return their noise before and after."""
    inputs = inputs_of(model, spec, layers, data)
    noise = {each.name: output_noise(each, inputs[each.name], nearest(each.weight)) for each in layers}
    treated = {}
    for layer in layers:
        if layer.name in layers_in_need(noise, _NOISE_SHARE):
            learned = learn_rounding(layer, inputs[layer.name], seed)
            treated[layer.name] = [noise[layer.name], output_noise(layer, inputs[layer.name], learned)]
            with torch.no_grad():
                layer.module.weight.copy_(learned)
    return treated
