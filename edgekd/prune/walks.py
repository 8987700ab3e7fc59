"""The walks of torch-pruning through a network, each of which must end."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn

_VISITS = 64
"""How often a walk may come to one operator, each time by other channels; a join of many branches is met once from each."""


class _Circle(RuntimeError):
    """A walk that does not end."""


def walk(graph: Any) -> tuple[list[Any], list[nn.Module]]:
    """Return the groups that torch-pruning finds from every convolution and dense layer, and layers that it goes round from.

    As its own ``get_all_groups``, which never comes back where channels are turned: the halves that a rotary embedding swaps
    get other indices each time round.

    Args:
        graph: ``torch_pruning.DependencyGraph`` that is built.
    """
    from torch_pruning.dependency import graph as library

    class Counted(library.Group):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.visits: Counter[tuple[int, Any]] = Counter()

        def add_dep(self, dep: Any, idxs: Any) -> None:
            self.visits[id(dep.target), dep.handler] += 1
            if self.visits[id(dep.target), dep.handler] > _VISITS:
                raise _Circle
            super().add_dep(dep, idxs)

    found, circles, visited = list[Any](), list[nn.Module](), set[nn.Module]()
    plain, library.Group = library.Group, Counted
    try:
        for module in list(graph.module2node):
            if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear) or module in visited:
                continue
            pruner = graph.get_pruner_of_module(module)
            try:
                group = graph.get_pruning_group(module, pruner.prune_out_channels, list(range(pruner.get_out_channels(module))))
            except _Circle:
                circles.append(module)
                continue
            visited |= {each.dep.target.module for each in group if graph.is_out_channel_pruning_fn(each.dep.handler)}
            found.append(group)
    finally:
        library.Group = plain
    return found, circles
