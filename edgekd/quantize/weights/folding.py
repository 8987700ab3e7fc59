"""Batch norm folded into the layer before it, within the same architecture.

The batch norm stays, as one that multiplies by 1 and adds a bias. So the spec of the network still describes it, the weights of
the layer are those that a quantizer sees after its own folding, and weights on an int8 grid survive that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgekd.models.spec import call
from edgekd.models.tensors import ModelSpec

Samples = dict[str, Tensor]
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Linear)
"""Modules with weights ``[outputs, ...]``, of which each output gets a scale of its own."""
_MOST_ERROR = 1e-4
"""By which outputs may change when nothing should, as a share of their range."""


@dataclass(frozen=True)
class Layer:
    """A module with weights, in order of execution.

    Attributes:
        name: Of the module.
        module: The module.
        norm: The batch norm that alone takes what it gives.
    """

    name: str
    module: nn.Conv1d | nn.Conv2d | nn.Linear
    norm: _BatchNorm | None = None

    @property
    def weight(self) -> Tensor:
        """``[outputs, ...]``, without a gradient."""
        return self.module.weight.detach()

    @property
    def channel_axis(self) -> int:
        """Axis of the channels in what the layer gives."""
        return -1 if isinstance(self.module, nn.Linear) else 1

    @property
    def end(self) -> nn.Module:
        """What gives the layer's output with its bias: the batch norm, or the module."""
        return self.module if self.norm is None else self.norm

    @property
    def can_shift(self) -> bool:
        """Whether there is a place for a bias."""
        return self.norm is not None or self.module.bias is not None

    def shift(self, amount: Tensor) -> None:
        """Add ``amount [outputs]`` to what the layer gives."""
        with torch.no_grad():
            if self.norm is None:
                assert self.module.bias is not None
                self.module.bias.add_(amount)
            elif self.norm.affine:
                self.norm.bias.add_(amount)
            else:
                assert self.norm.running_mean is not None
                self.norm.running_mean -= amount  # its standard deviation is 1


def outputs_of(model: nn.Module, spec: ModelSpec, samples: Samples) -> Tensor:
    """Return the network's first output for ``samples``, without gradients."""
    with torch.no_grad():
        return call(model, spec, samples)[spec.outputs[0].name]


def unchanged(before: Tensor, after: Tensor) -> bool:
    """Return whether outputs are the same but for the rounding of floating point."""
    span = float(before.max() - before.min()) or 1.0
    return bool(torch.isfinite(after).all()) and float((after - before).abs().max()) <= _MOST_ERROR * span


def find_layers(model: nn.Module, spec: ModelSpec, samples: Samples) -> list[Layer]:
    """Return the modules with weights that ``samples`` go through, in order, each with the batch norm right behind it.

    A module that is called twice is left out: its two outputs differ.
    """
    order: list[tuple[str, Any, int]] = []
    takers: dict[int, list[_BatchNorm]] = {}
    alive: list[Any] = []  # so that no two tensors have one address

    def gave(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, _inputs: Any, output: Tensor) -> None:
            alive.append(output)
            order.append((name, module, id(output)))

        return hook

    def takes(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, _BatchNorm):
            alive.append(inputs[0])
            takers.setdefault(id(inputs[0]), []).append(module)

    handles = [each.register_forward_hook(gave(name)) for name, each in model.named_modules() if isinstance(each, WEIGHTED)] + [
        each.register_forward_pre_hook(takes) for each in model.modules() if isinstance(each, _BatchNorm)
    ]
    try:
        outputs_of(model, spec, samples)
    finally:
        for handle in handles:
            handle.remove()
    calls = [module for _, module, _ in order]
    found = []
    for name, module, output in order:
        behind = takers.get(output, [])
        if sum(each is module for each in calls) == 1:
            usable = len(behind) == 1 and behind[0].running_var is not None
            found.append(Layer(name, module, behind[0] if usable else None))
    return found


def fold(model: nn.Module, spec: ModelSpec, samples: Samples) -> list[Layer]:
    """Fold every batch norm of ``model`` that can be, in place, and return its layers.

    A fold after which the outputs for ``samples`` are others is taken back: something else took what the layer gave.
    """
    layers = find_layers(model, spec, samples)
    before = outputs_of(model, spec, samples)
    result = []
    for layer in layers:
        if layer.norm is None:
            result.append(layer)
            continue
        state = [(tensor, tensor.clone()) for tensor in _tensors(layer)]
        _fold(layer.module, layer.norm)
        if unchanged(before, outputs_of(model, spec, samples)):
            result.append(layer)
        else:
            with torch.no_grad():
                for tensor, old in state:
                    tensor.copy_(old)
            result.append(Layer(layer.name, layer.module))
    return result


def _tensors(layer: Layer) -> list[Tensor]:
    modules: Sequence[nn.Module] = (layer.module, *([] if layer.norm is None else [layer.norm]))
    return [each.data if isinstance(each, nn.Parameter) else each for module in modules for each in module.state_dict(
        keep_vars=True
    ).values()]  # fmt: skip


def _fold(module: nn.Conv1d | nn.Conv2d | nn.Linear, norm: _BatchNorm) -> None:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    with torch.no_grad():
        factor = 1 / torch.sqrt(variance.double() + norm.eps)
        if norm.affine:
            factor = factor * norm.weight.double()
        bias = module.bias.double() if module.bias is not None else torch.zeros_like(factor)
        shift = (bias - mean.double()) * factor
        if norm.affine:
            shift = shift + norm.bias.double()
        module.weight.copy_(module.weight.double() * factor.reshape(-1, *[1] * (module.weight.dim() - 1)))
        if module.bias is not None:
            module.bias.zero_()
        mean.copy_(torch.zeros_like(shift) if norm.affine else -shift)
        variance.fill_(_unit_variance(norm.eps))
        if norm.affine:
            norm.weight.fill_(1)
            norm.bias.copy_(shift)


def _unit_variance(epsilon: float) -> float:
    """Return a float32 to which ``epsilon`` adds up to exactly 1 in float32, so that every way to fold multiplies by 1."""
    one, small = np.float32(1), np.float32(epsilon)
    value = one - small
    for _ in range(8):
        if value + small == one:
            break
        value = np.nextafter(value, one if value + small < one else np.float32(0), dtype=np.float32)
    return float(value)
