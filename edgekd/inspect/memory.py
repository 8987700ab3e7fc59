"""The memory that activations need: how many bytes are alive at once."""

from __future__ import annotations

from dataclasses import dataclass

from edgekd.inspect.graph import GraphDescription


@dataclass(frozen=True)
class PeakMemory:
    """The most that activations take at once.

    Attributes:
        bytes: Largest sum of the bytes of tensors alive while an operator runs.
        operator: Name of the first operator at which it is reached; empty in a graph without operators.
        unknown: Number of activations of unknown size: they count as nothing, so with any of them ``bytes`` is too low.
    """

    bytes: int
    operator: str
    unknown: int


def peak_memory(graph: GraphDescription) -> PeakMemory:
    """Return the peak memory of activations for a batch of 1, by liveness over the order of execution.

    A tensor is alive from the operator that makes it, an input of the graph from the start, to the last operator that
    reads it, an output of the graph to the end. No two tensors share memory, so an operator that could work in place is
    counted with both. Left out are weights, whatever is computed from constants alone, and the scratch memory of kernels.
    """
    last: dict[str, int] = {}
    for index, operator in enumerate(graph.operators):
        for name in (*operator.inputs, *operator.outputs):
            last[name] = index
    end = len(graph.operators)
    last |= dict.fromkeys(graph.outputs, end)
    alive = {each.name: each.bytes for each in graph.activations(graph.inputs)}
    seen = dict(alive)
    total = sum(each or 0 for each in alive.values())
    peak = PeakMemory(total, "", 0)
    for index, operator in enumerate(graph.operators):
        for made in graph.activations(operator.outputs):
            if made.name not in alive:
                alive[made.name] = seen[made.name] = made.bytes
                total += made.bytes or 0
        if total > peak.bytes or not peak.operator:
            peak = PeakMemory(max(total, peak.bytes), operator.name, 0)
        for name in dict.fromkeys((*operator.inputs, *operator.outputs)):
            if name in alive and last[name] <= index:
                total -= alive.pop(name) or 0
    return PeakMemory(peak.bytes, peak.operator, sum(each is None for each in seen.values()))
