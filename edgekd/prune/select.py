"""Which channels go for a budget: those that are worth least for what their removal saves.

A greedy knapsack: again and again the group whose next step costs least by the criterion for what it saves is cut to its next
narrower width. What a step saves is known for every group at its present width, so a layer that has become narrow, or that a
device computes fast, is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from edgekd.errors import ModelError, UsageError
from edgekd.models.tensors import ModelSpec
from edgekd.prune.costs import DeviceTime, WidthCosts
from edgekd.prune.criteria import Scores
from edgekd.prune.groups import ChannelGroup
from edgekd.prune.target import PruningTarget

Scope = Literal["global", "layer"]
Units = dict[str, int]
"""How many units of each group are left."""
_STEPS = 1000
"""Ratios that are tried for ``scope=layer``."""
_FINEST = 32
"""Widths that are tried for a layer, at most, roughly."""


@dataclass(frozen=True)
class Selection:
    """What is left of a network.

    Attributes:
        kept: For each group, its units that stay, rising.
        whole, left: What the target counts, before and after.
        slower: Groups that were left as they are although their channels are worth little: the target would be no faster.
    """

    kept: dict[str, list[int]]
    whole: float
    left: float
    slower: tuple[str, ...]


def amount_of(model: nn.Module, spec: ModelSpec, target: PruningTarget, time: DeviceTime | None) -> float:
    """Return what a whole network costs of what ``target`` limits."""
    return measure(WidthCosts(model, spec, ()), target, time)({})


def measure(costs: WidthCosts, target: PruningTarget, time: DeviceTime | None) -> Callable[[Units], float]:
    """Return what counts what ``target`` limits, at any widths; for a ratio, multiply-accumulates."""
    if target.what == "latency":
        assert time is not None
        return lambda units: costs.latency(units, time).p50_ms
    if target.what in ("params", "bytes"):
        return lambda units: float(getattr(costs.amounts(units), target.what))
    return lambda units: float(costs.amounts(units).macs)


def select(
    groups: tuple[ChannelGroup, ...], worth: Scores, costs: WidthCosts, target: PruningTarget, *,
    time: DeviceTime | None = None, scope: Scope = "global", multiple: int = 8, refused: Mapping[str, str] | None = None,
    whole: float | None = None,
) -> Selection:  # fmt: skip
    """Return the channels that stay.

    Args:
        groups: What can be cut.
        worth: What each unit is worth; groups that are left out stay whole.
        costs: Of the network that ``groups`` are of.
        target: The budget.
        time: What latency is predicted for, where the target is one.
        scope: ``global``: layers compete for the budget; ``layer``: every layer loses the same share.
        multiple: Widths that are cut become multiples of this number.
        refused: What cannot be cut and why, for messages.
        whole: What shares refer to where something was cut before; it may be that no channel need go then. ``None``: the
            network that ``groups`` are of.

    Raises:
        UsageError: A ratio leaves nothing of a layer, or the budget is no smaller than the network.
        ModelError: The budget is below what can be reached, or no cut makes the network faster.
    """
    able = [each for each in groups if each.name in worth]
    counted = measure(costs, target, time)
    now = counted({})
    cut_before, whole = whole is not None, now if whole is None else whole
    if target.what == "ratio":
        units = {each.name: _width_at(each, 1 - target.amount, multiple, strict=True) for each in able}
        return _selection(able, worth, units, whole, counted(units), ())
    limit = target.limit(whole)
    if limit >= now and cut_before:
        return _selection(able, worth, {each.name: each.units for each in able}, whole, now, ())
    if limit >= now:
        raise UsageError(f"{target} is no smaller than the network, which has {target.what} of {shown(whole, target)}",
                         "give less, for example 0.5x")  # fmt: skip
    narrowest = {each.name: narrower_widths(each, multiple)[-1] for each in able}
    slower: tuple[str, ...]
    if scope == "layer":
        units, slower = _evenly(able, counted, limit, multiple), ()
    else:
        units, slower = _greedily(able, worth, costs, counted, limit, multiple)
    left = counted(units)
    if left > limit:
        raise _unreachable(target, limit, whole, left, able, narrowest, units, multiple, slower, refused or {})
    return _selection(able, worth, units, whole, left, slower)


def narrower_widths(group: ChannelGroup, multiple: int, finest: int | None = None) -> list[int]:
    """Return the units that a group can be left with, falling, from all of them: multiples of channels, heads one by one.

    Args:
        group: The group.
        multiple: Of channels.
        finest: Into how many steps a wide layer is divided at most, roughly; ``None``: any number.
    """
    least = 1 if group.unit > 1 else multiple
    step = least if finest is None else max(least, group.units // finest // least * least)
    below = list(range((group.units - 1) // step * step, 0, -step))
    return [group.units, *below, *([least] if below and below[-1] != least else [])]


def shown(value: float, target: PruningTarget) -> str:
    """Return an amount of what a target counts, for people."""
    if target.what == "latency":
        return f"{value:.3g} ms"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def _width_at(group: ChannelGroup, share: float, multiple: int, strict: bool = False) -> int:
    """Return the allowed width nearest to a share of a group.

    Raises:
        UsageError: It is nearer to nothing, and ``strict``.
    """
    widths = narrower_widths(group, multiple)
    wanted = share * group.units
    if strict and wanted < 0.5 * min(widths[-1], group.units):
        # Half of the narrowest width is where rounding to a multiple gives zero.
        most = 1 - 0.5 * widths[-1] / group.units
        raise UsageError(
            f"ratio={1 - share:g} empties {group.name}: {group.units} {'heads' if group.unit > 1 else 'channels'} in multiples "
            f"of {1 if group.unit > 1 else multiple}",
            f"give at most {math.floor(most * 100) / 100:g}, or a smaller multiple",
        )  # fmt: skip
    return min(widths, key=lambda each: (abs(each - wanted), -each))


def _evenly(able: list[ChannelGroup], counted: Callable[[Units], float], limit: float, multiple: int) -> Units:
    """Return the widths at the smallest ratio, alike for all groups, that keeps the limit; else the narrowest."""
    low, high = 0, _STEPS
    while low < high:
        middle = (low + high) // 2
        if counted({each.name: _width_at(each, 1 - middle / _STEPS, multiple) for each in able}) <= limit:
            high = middle
        else:
            low = middle + 1
    return {each.name: _width_at(each, 1 - low / _STEPS, multiple) for each in able}


def _greedily(
    able: list[ChannelGroup], worth: Scores, costs: WidthCosts, counted: Callable[[Units], float], limit: float, multiple: int
) -> tuple[Units, tuple[str, ...]]:  # fmt: skip
    units = {each.name: each.units for each in able}
    sums = {name: worth[name].sort().values.double().cumsum(0).tolist() for name in units}
    paths = {each.name: narrower_widths(each, multiple, _FINEST) for each in able}
    touched = {name: costs.touched(name) for name in units}
    now = counted(units)
    steps: dict[str, tuple[float, int, float]] = {}  # price of what is saved, the width it leads to, what is left then
    stale = set(units)
    slower: dict[str, None] = {}

    def lost(name: str, width: int) -> float:
        """What the channels cut so far and those of this step are worth, as a logarithm: the narrower, the dearer."""
        gone, total = len(worth[name]) - width, sums[name][-1] or 1.0
        return -math.log(max(1e-12, 1 - sums[name][gone - 1] / total)) if gone else 0.0

    while now > limit:
        for name in stale:
            steps.pop(name, None)
            for width in paths[name][paths[name].index(units[name]) + 1 :]:
                left = counted({**units, name: width})
                if left < now:  # a step that saves nothing is joined with the next one
                    price = (lost(name, width) - lost(name, units[name])) / (now - left)
                    steps[name] = price, width, now - left
                    slower.pop(name, None)
                    break
                slower[name] = None
        if not steps:
            break
        name = min(steps, key=lambda each: (steps[each][0], each))
        units[name] = steps[name][1]
        now = counted(units)
        stale = {name, *touched[name]} & set(units)
    return units, tuple(each for each in slower if units[each] == len(worth[each]))


def _selection(
    able: list[ChannelGroup], worth: Scores, units: Units, whole: float, left: float, slower: tuple[str, ...]
) -> Selection:
    kept = {}
    for each in able:
        best = worth[each.name].sort(descending=True, stable=True).indices[: units[each.name]]
        kept[each.name] = sorted(best.tolist())
    return Selection(kept, whole, left, slower)


def _unreachable(
    target: PruningTarget, limit: float, whole: float, left: float, able: list[ChannelGroup], narrowest: Units, units: Units,
    multiple: int, slower: tuple[str, ...], refused: Mapping[str, str],
) -> ModelError:  # fmt: skip
    tight = sum(units[each.name] == narrowest[each.name] for each in able)
    reasons = [f"{tight} of {len(able)} groups of channels are at their narrowest, in multiples of {multiple}"] if tight else []
    if slower:
        reasons.append(
            f"cutting {slower[0]} would not make it faster" + (f", nor {len(slower) - 1} more" if slower[1:] else "")
        )
    held = [(name, why) for name, why in refused.items() if "outputs of the network" not in why]
    if held:
        reasons.append(f"{held[0][0]} must stay: {held[0][1]}")
    return ModelError(
        f"{target} asks for {shown(limit, target)}, below what can be reached: {shown(left, target)}, {left / whole:.2f}x; "
        + "; ".join(reasons),
        f"ask for {target.what}={math.ceil(left / whole * 100) / 100:g}x" + (f"@{target.device}" if target.device else "")
        + (", or a smaller multiple" if multiple > 1 else ", or start from a smaller model"),
    )  # fmt: skip
