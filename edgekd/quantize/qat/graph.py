"""Where int8 files round: which values of a network's graph, and which weights. And a network that rounds there, too.

ONNX Runtime's QDQ files and TFLite's round the same values: inputs, and what each operator gives, once batch norm and ReLU
after it are folded into it. Operators that only move numbers keep the integers as they are. What feeds a logarithm stays in
floating point (:mod:`edgekd.quantize.logarithms`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from edgekd.models.trace import argument, constant_name
from edgekd.quantize.qat.fake_quantizers import ActivationQuantizer, WeightQuantizer

_ops = torch.ops.aten
_LAYERS = {_ops.conv1d.default, _ops.conv2d.default, _ops.conv3d.default, _ops.linear.default}
_PRODUCTS = {_ops.matmul.default, _ops.mm.default, _ops.bmm.default}
_MOVING = {
    _ops.view.default, _ops.reshape.default, _ops.flatten.using_ints, _ops.permute.default, _ops.transpose.int,
    _ops.squeeze.dim, _ops.squeeze.dims, _ops.unsqueeze.default, _ops.slice.Tensor, _ops.select.int, _ops.expand.default,
    _ops.contiguous.default, _ops.clone.default, _ops.alias.default, _ops.pad.default, _ops.constant_pad_nd.default,
    _ops.max_pool2d.default, _ops.max_pool1d.default, _ops.split.Tensor, _ops.split_with_sizes.default, _ops.chunk.default,
    _ops.dropout.default, _ops.unbind.int,
}  # fmt: skip
"""Operators whose outputs are some of their inputs' numbers, and zeros."""
_RELUS = {_ops.relu.default: math.inf, _ops.relu_.default: math.inf, _ops.relu6.default: 6.0, _ops.relu6_.default: 6.0}
_CUTS = {_ops.hardtanh.default, _ops.hardtanh_.default, _ops.clamp.default, _ops.clamp_.default}
_LOGARITHMS = {_ops.log.default, _ops.log2.default, _ops.log10.default, _ops.log1p.default}
QUANTIZERS = "fake_quantizers"
"""Name of the submodule that holds what is put in."""


@dataclass(frozen=True)
class RoundedValue:
    """A value that is rounded: the ``name`` of its node, and the ``ceiling`` that it never exceeds."""

    name: str
    ceiling: float


@dataclass(frozen=True)
class RoundedWeight:
    """A weight that is rounded: its name in the network, and the dimension of its output channels."""

    name: str
    axis: int


@dataclass(frozen=True)
class Rounding:
    """All that int8 files round in a network, in order of execution."""

    values: tuple[RoundedValue, ...]
    weights: tuple[RoundedWeight, ...]


def find_rounding(graph: GraphModule) -> Rounding:
    """Return where int8 files of the network round.

    Args:
        graph: The network, see :func:`edgekd.models.trace.trace`.
    """
    nodes = list(graph.graph.nodes)
    in_float = _feeding_logarithms(nodes)
    values = [RoundedValue(each.name, _ceiling(each)) for each in nodes if each not in in_float and _is_rounded(each)]
    weights = [found for each in nodes for found in _weights(each, graph)]
    return Rounding(tuple(values), tuple(dict.fromkeys(weights)))


def _feeding_logarithms(nodes: list[Node]) -> set[Node]:
    found: set[Node] = set()
    for node in reversed(nodes):
        if node.target in _LOGARITHMS or any(each in found or each.target in _LOGARITHMS for each in node.users):
            found.add(node)
    return {node for node in found if node.target not in _LOGARITHMS}


def _is_rounded(node: Node) -> bool:
    if node.op not in ("placeholder", "call_function") or node.target in _MOVING or not _is_float(node):
        return False
    return _next_fused(node) is None


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _next_fused(node: Node) -> Node | None:
    """Return the operator after ``node`` that is computed with it, so that nothing is rounded between them."""
    if len(node.users) != 1:
        return None
    (after,) = node.users
    if after.target is _ops.batch_norm.default and node.target in _LAYERS:
        return after
    return after if _cut(after) is not None and node.op == "call_function" else None


def _cut(node: Node) -> float | None:
    """Return the ceiling of a ReLU or its like; ``None`` of anything else."""
    if node.target in _RELUS:
        return _RELUS[node.target]
    if node.target not in _CUTS:
        return None
    named = ("min_val", "max_val") if node.target in (_ops.hardtanh.default, _ops.hardtanh_.default) else ("min", "max")
    low, high = argument(node, 1, named[0]), argument(node, 2, named[1])
    return (math.inf if high is None else float(high)) if low == 0 else None


def _ceiling(node: Node) -> float:
    cut = _cut(node)
    return math.inf if cut is None else cut


def _weights(node: Node, graph: GraphModule) -> list[RoundedWeight]:
    if node.target in _LAYERS:
        candidates = [(node.args[1], 0)]
    elif node.target in _PRODUCTS:
        candidates = [(node.args[0], 0), (node.args[1], 1)]
    else:
        return []
    found = [(constant_name(each), axis) for each, axis in candidates]
    return [RoundedWeight(name, axis) for name, axis in found if name is not None and _constant(graph, name).ndim > 1]


def _constant(graph: GraphModule, name: str) -> Tensor:
    owner, _, last = name.rpartition(".")
    value = getattr(graph.get_submodule(owner), last)
    assert isinstance(value, Tensor)
    return value


class _Watched(Interpreter):
    """Runs a graph and keeps what some of its nodes give."""

    def __init__(self, graph: GraphModule, names: set[str]) -> None:
        super().__init__(graph)
        self.names, self.seen = names, dict[str, Tensor]()

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n.name in self.names:
            self.seen[n.name] = result.detach().clone()  # a copy: an operator in place would change it
        return result


def values_at(graph: GraphModule, names: list[str], inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Return what the nodes called ``names`` give for ``inputs``, in order of execution."""
    watched = _Watched(graph, set(names))
    with torch.no_grad():
        watched.run(*inputs)
    return watched.seen


def put_in_fake_quantizers(graph: GraphModule, rounding: Rounding, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Put a fake quantizer into the network at every place of ``rounding``.

    Args:
        graph: The network, see :func:`edgekd.models.trace.trace`.
        rounding: Of the network.
        ranges: What each value's range starts from, by its name.
    """
    quantizers = nn.ModuleDict()
    graph.add_module(QUANTIZERS, quantizers)
    nodes = list(graph.graph.nodes)
    by_name = {node.name: node for node in nodes}
    for value in rounding.values:
        low, high = ranges[value.name]
        quantizers[value.name] = ActivationQuantizer(min(low, 0.0), max(high, 0.0), value.ceiling)
        _put_in(graph, by_name[value.name], value.name)
    for weight in rounding.weights:
        name = f"{weight.name.replace('.', '_')}_weight"
        quantizers[name] = WeightQuantizer(weight.axis)
        for node in [each for each in nodes if constant_name(each) == weight.name]:
            _put_in(graph, node, name)
    for node in nodes:
        factor = constant_name(argument(node, 1, "weight")) if node.target is _ops.batch_norm.default else None
        if factor is not None:  # if it were trained, it would take weights off their grid
            _constant(graph, factor).requires_grad_(False)
    graph.graph.lint()
    graph.recompile()


def _put_in(graph: GraphModule, node: Node, name: str) -> None:
    users = list(node.users)
    with graph.graph.inserting_after(node):
        rounded = graph.graph.call_module(f"{QUANTIZERS}.{name}", (node,))
    for user in users:
        user.replace_input_with(node, rounded)


def quantizers_of(network: nn.Module) -> dict[str, ActivationQuantizer]:
    """Return the fake quantizers of values by the names of these, in order of execution."""
    holder = network.get_submodule(QUANTIZERS)
    return {name: each for name, each in holder.named_children() if isinstance(each, ActivationQuantizer)}


def rounded_weights(network: GraphModule) -> dict[str, Tensor]:
    """Return all weights that are rounded as they come out of it, by their names."""
    with torch.no_grad():
        return {
            str(node.args[0].target): network.get_submodule(str(node.target))(_constant(network, str(node.args[0].target)))
            for node in network.graph.nodes
            if node.op == "call_module" and constant_name(node.args[0]) is not None
        }
