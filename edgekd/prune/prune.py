"""Cut a network to a budget."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from edgekd.devices.latency import Prediction
from edgekd.errors import ModelError
from edgekd.models.spec import Cost, cost
from edgekd.models.tensors import ModelSpec
from edgekd.prune.costs import DeviceTime, WidthCosts
from edgekd.prune.criteria import Criterion, Samples, scores
from edgekd.prune.depth import Shallow
from edgekd.prune.groups import ChannelGroup, Found, find_groups, kept_channels
from edgekd.prune.record import compose, cut, make_record, with_record
from edgekd.prune.select import Scope, Selection, amount_of, select
from edgekd.prune.target import PruningTarget

DEFAULT_MULTIPLE = 8


@dataclass(frozen=True)
class Pruned:
    """What came of a network.

    Attributes:
        spec: How to rebuild it: of the whole network, with the record of all cuts so far.
        model: The network that is left, with the weights it had.
        found: What channels could be cut.
        selection: What was.
        multiple: Widths that were cut are multiples of it.
        before, after: What it costs, counted in the networks themselves.
        predicted: Latency before and after, where a device was named.
        shallow: The network without the blocks that were removed first, if any were.
    """

    spec: ModelSpec
    model: nn.Module
    found: Found
    selection: Selection
    multiple: int
    before: Cost
    after: Cost
    predicted: tuple[Prediction, Prediction] | None
    shallow: Shallow | None = None

    def widths(self) -> list[dict[str, Any]]:
        """Return, for each group of channels, what is left of it, as plain data."""
        rows = []
        for group in self.found.groups:
            left = len(self.selection.kept.get(group.name, range(group.units)))
            kind = "heads" if group.unit > 1 else "channels"
            rows.append({"layer": group.name, "kind": kind, "before": group.units, "after": left})
        return rows


def prune_model(
    model: nn.Module, spec: ModelSpec, target: PruningTarget | None, *, criterion: Criterion = "magnitude",
    scope: Scope = "global", multiple: int | None = None, samples: Samples | None = None, time: DeviceTime | None = None,
    seed: int = 0, found: Found | None = None, shallow: Shallow | None = None, whole: float | None = None,
) -> Pruned:  # fmt: skip
    """Return a copy of ``model`` that is cut to ``target``.

    Args:
        model: The network, with trained weights; it stays whole.
        spec: How to rebuild it; one that was cut before is cut further.
        target: The budget; ``None``: no channel is cut.
        criterion: What channels are worth, see :func:`~edgekd.prune.criteria.scores`.
        scope: ``global`` or ``layer``, see :func:`~edgekd.prune.select.select`.
        multiple: Widths become multiples of it; ``None``: what the kernels of the device like, or 8.
        samples: What the criterion looks at.
        time: What latency is predicted for.
        seed: Of the criterion ``random``.
        found: What :func:`~edgekd.prune.groups.find_groups` found in ``model``, or in ``shallow``, if that is known already.
        shallow: ``model`` without some of its blocks: what channels are cut out of. Budgets refer to ``model`` nevertheless.
        whole: What shares in ``target`` refer to; ``None``: ``model``.

    Raises:
        ModelError: It cannot be traced, the budget is out of reach, or it becomes slower on the device.
        UsageError: The target or criterion makes no sense for it.
    """
    base, base_spec = (model, spec) if shallow is None else (shallow.model, shallow.spec)
    known = Found((), {}) if target is None else found or find_groups(base, base_spec)
    step = multiple or (time.profile.channel_multiple if time is not None else DEFAULT_MULTIPLE)
    costs = WidthCosts(base, base_spec, known.groups)
    if target is None:
        macs = float(costs.amounts({}).macs)
        chosen = Selection({}, macs, macs, ())
    else:
        if whole is None and shallow is not None:
            whole = amount_of(model, spec, target, time)
        worth = scores(criterion, base, base_spec, known.groups, samples, seed)
        chosen = select(
            known.groups, worth, costs, target, time=time, scope=scope, multiple=step, refused=known.refused, whole=whole
        )
    left = {name: len(kept) for name, kept in chosen.kept.items()}
    predicted = None
    if time is not None:
        before = costs if shallow is None else WidthCosts(model, spec, ())
        predicted = before.latency({}, time), costs.latency(left, time)
    narrower = any(left[each.name] < each.units for each in known.groups if each.name in left)
    if predicted is not None and time is not None and narrower and predicted[1].p50_ms >= predicted[0].p50_ms:
        raise ModelError(
            f"cut to {target}, the network would be slower on {time.profile.name}: {predicted[1].p50_ms:.3g} ms predicted, "
            f"{predicted[0].p50_ms:.3g} ms before", f"prune for latency itself: latency=0.5x@{time.profile.id}",
        )  # fmt: skip
    pruned, record = cut_copy(base, base_spec, known.groups, chosen.kept)
    described = with_record(spec, record)
    return Pruned(described, pruned, known, chosen, step, cost(model, spec), cost(pruned, described), predicted, shallow)


def cut_copy(
    model: nn.Module, spec: ModelSpec, groups: tuple[ChannelGroup, ...], units: Mapping[str, list[int]]
) -> tuple[nn.Module, dict[str, Any]]:  # fmt: skip
    """Return a copy of ``model`` in which the ``units`` of groups are left, and the record that cuts a fresh one to it."""
    kept, attributes = kept_channels(groups, units)
    record = make_record(spec.reference, model, kept, attributes)
    pruned = copy.deepcopy(model)
    cut(pruned, record)
    return pruned.eval(), record if spec.pruning is None else compose(spec.pruning, record)
