"""How a model is described, rebuilt, saved and counted.

A model is a spec (a reference and its arguments) and a safetensors file of weights; nothing is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edgekd.errors import ModelError
from edgekd.models.builders import build_module
from edgekd.models.tensors import ModelSpec
from edgekd.safe.files import atomic_path


def build(spec: ModelSpec) -> nn.Module:
    """Build the network of ``spec`` with fresh weights, drawn from torch's global generator, and cut what its record says.

    Raises:
        ModelError: The network cannot take these inputs, or has other outputs.
        UsageError: Its pruning record is for another network.
    """
    model = build_module(spec)
    if spec.pruning is not None:
        from edgekd.prune.record import cut

        cut(model, spec.pruning)
    try:
        with torch.no_grad():
            outputs = call(model.eval(), spec, example_inputs(spec))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        shown = ", ".join(f"{each.name} of shape {each.shape}" for each in spec.inputs)
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{spec.reference} cannot take {shown}: {first}") from error
    for expected in spec.outputs:
        found = tuple(outputs[expected.name].shape[1:])
        if found != expected.shape:
            raise ModelError(f"{spec.reference} gives {expected.name} of shape {found}, expected {expected.shape}")
    return model


def example_inputs(spec: ModelSpec, batch: int = 1) -> dict[str, Tensor]:
    """Return zeros for every input of ``spec``."""
    return {each.name: torch.zeros((batch, *each.shape), dtype=getattr(torch, each.dtype)) for each in spec.inputs}


def call(model: nn.Module, spec: ModelSpec, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run ``model`` on named inputs and return its outputs by name.

    A module's forward takes the inputs in the order of ``spec`` and returns one tensor, a sequence in
    the order of ``spec``, or a mapping.
    """
    returned = model(*(inputs[each.name] for each in spec.inputs))
    if isinstance(returned, Mapping):
        return {each.name: returned[each.name] for each in spec.outputs}
    tensors = [returned] if isinstance(returned, Tensor) else list(returned)
    return {each.name: tensor for each, tensor in zip(spec.outputs, tensors, strict=True)}


def save_weights(model: nn.Module, path: Path) -> None:
    """Write every parameter and buffer of ``model`` to ``path`` as safetensors, atomically."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file({name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}, temporary)


def load(spec: ModelSpec, weights: Path) -> nn.Module:
    """Rebuild the network of ``spec`` with the weights of a safetensors file, in evaluation mode."""
    from safetensors.torch import load_file

    model = build(spec)
    model.load_state_dict(load_file(weights), strict=True)
    return model.eval()


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        params: Trained parameters; ``None`` for a black box.
        macs: Multiply-accumulates for one sample, in convolutions and matrix products; ``None`` for a black box.
        size_bytes: Parameters and buffers as stored, 4 bytes each in float32; of a black box, its files.
    """

    params: int | None
    macs: int | None
    size_bytes: int


def cost(model: nn.Module, spec: ModelSpec) -> Cost:
    """Count parameters, multiply-accumulates and bytes of ``model``."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(model, spec, example_inputs(spec))
    params = sum(parameter.numel() for parameter in model.parameters())
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return Cost(params, counter.get_total_flops() // 2, size)
