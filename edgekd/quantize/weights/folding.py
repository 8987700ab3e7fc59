"""Batch norm folded into the convolution or fully connected layer before it, numerically: the architecture stays as it is.

The batch norm that is left divides by exactly 1 and adds its bias. So what is done to the weights afterwards, as putting them
on an int8 grid, survives the folding that every exporter does.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgekd.errors import ModelError
from edgekd.models.spec import call
from edgekd.models.tensors import ModelSpec
from edgekd.models.trace import argument, constant_name, trace

_ops = torch.ops.aten
_BEFORE = {_ops.conv1d.default, _ops.conv2d.default, _ops.conv3d.default, _ops.linear.default}
"""Operators whose weights have output channels in their first dimension."""
_MOST_CHANGE = 1e-3
"""Of outputs, as a share of their range, where a batch norm is folded. Rounding gives about 1e-6."""


@dataclass(frozen=True)
class _Pair:
    """A layer and the batch norm after it: names of their parameters and buffers, ``None`` where there is none."""

    weight: str
    bias: str | None
    gamma: str | None
    beta: str | None
    mean: str
    variance: str
    epsilon: float


def fold_batch_norms(model: nn.Module, spec: ModelSpec, samples: dict[str, Tensor]) -> list[str]:
    """Fold every batch norm of ``model`` that follows a layer with weights into them, in place.

    A batch norm stays as it is where something else looks at what comes before it, where weights serve in several places,
    or where nothing can hold the bias.

    Args:
        model: The network, which comes out in evaluation mode.
        spec: How it is called.
        samples: Real inputs by name, on which outputs are compared before and after.

    Returns:
        Names of the weights that batch norm was folded into, in order of execution.

    Raises:
        ModelError: The outputs on ``samples`` change beyond rounding, or the network is no graph; ``model`` is unchanged.
    """
    pairs = _pairs(trace(model, spec))
    state = model.state_dict()
    with torch.no_grad():
        before = call(model, spec, samples)
        kept = {name: each.clone() for name, each in state.items()}
        for pair in pairs:
            _fold(pair, state)
        after = call(model, spec, samples)
        for each in spec.outputs:
            change = (after[each.name] - before[each.name]).abs().max().item()
            extent = (before[each.name].max() - before[each.name].min()).item()
            if not change <= _MOST_CHANGE * extent:
                model.load_state_dict(kept)
                raise ModelError(
                    f"{spec.reference}: folding batch norm into {len(pairs)} layers changes {each.name} by {change:.3g}, "
                    f"of a range of {extent:.3g}",
                    "the network uses a layer in a way that its graph does not show; export its float32 files instead",
                )
    return [pair.weight for pair in pairs]


def _pairs(graph: GraphModule) -> list[_Pair]:
    uses = Counter(name for node in graph.graph.nodes for name in map(constant_name, node.all_input_nodes) if name is not None)
    found = []
    for node in graph.graph.nodes:
        pair = _pair(node)
        if pair is not None and all(uses[name] == 1 for name in (pair.weight, pair.mean)):
            found.append(pair)
    return found


def _pair(norm: Node) -> _Pair | None:
    if norm.target is not _ops.batch_norm.default:
        return None
    layer = norm.args[0]
    if not isinstance(layer, Node) or layer.target not in _BEFORE or len(layer.users) > 1:
        return None
    weight, mean, variance = constant_name(layer.args[1]), constant_name(norm.args[3]), constant_name(norm.args[4])
    if weight is None or mean is None or variance is None:
        return None
    bias, beta = constant_name(argument(layer, 2, "bias")), constant_name(norm.args[2])
    if bias is None and beta is None:
        return None
    epsilon = norm.args[7]
    assert isinstance(epsilon, float)
    return _Pair(weight, bias, constant_name(norm.args[1]), beta, mean, variance, epsilon)


def _fold(pair: _Pair, state: dict[str, Tensor]) -> None:
    """Multiply weights by what batch norm multiplies by, and let its bias, or the layer's, hold all that is added."""
    variance, mean = state[pair.variance], state[pair.mean]
    factor = (variance.double() + pair.epsilon).rsqrt()
    if pair.gamma is not None:
        factor *= state[pair.gamma].double()
    added = -mean.double() * factor
    if pair.beta is not None:
        added += state[pair.beta].double()
    if pair.bias is not None:
        added += state[pair.bias].double() * factor
    weight = state[pair.weight]
    weight.copy_(weight.double() * factor.reshape(-1, *[1] * (weight.ndim - 1)))
    mean.zero_()
    variance.copy_(_variance_of_one(pair.epsilon, variance.dtype))
    if pair.gamma is not None:
        state[pair.gamma].fill_(1)
    if pair.beta is not None:
        state[pair.beta].copy_(added)
    if pair.bias is not None:
        state[pair.bias].copy_(torch.zeros_like(added) if pair.beta is not None else added)


def _variance_of_one(epsilon: float, dtype: torch.dtype) -> Tensor:
    """Return the variance that makes batch norm divide by 1: ``sqrt(variance + epsilon)`` rounds to 1."""
    exact = torch.tensor(1 - epsilon, dtype=dtype)
    near = [exact, torch.nextafter(exact, torch.ones(())), torch.nextafter(exact, torch.zeros(()))]
    return next((each for each in near if (each + epsilon).sqrt() == 1), exact)
