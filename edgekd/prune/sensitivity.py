"""How much the loss rises when a layer loses its least channels: which layers bear it, and which must not be touched."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from edgekd.models.tensors import ModelSpec
from edgekd.prune.criteria import Samples, Scores, loss_of
from edgekd.prune.groups import ChannelGroup, mask

RATIOS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Sensitivity:
    """What the cuts of one layer do.

    Attributes:
        layer: Name of its group of channels.
        losses: Cross-entropy without each of :data:`RATIOS` of its units, those that are worth least; nothing else is cut.
    """

    layer: str
    losses: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def sensitivities(
    model: nn.Module, spec: ModelSpec, groups: tuple[ChannelGroup, ...], worth: Scores, samples: Samples
) -> tuple[float, list[Sensitivity]]:
    """Return the loss of the whole network, and what it is when each layer alone is cut.

    Channels are not cut but made unread, which is the same, see :class:`~edgekd.prune.groups.Trial`.
    """
    rows = []
    for group in groups:
        if group.name not in worth:
            continue
        order = worth[group.name].sort(stable=True).indices.tolist()
        losses = []
        for ratio in RATIOS:
            masked = copy.deepcopy(model)
            mask(masked, group, order[: min(len(order) - 1, round(ratio * len(order)))])
            losses.append(loss_of(masked, spec, samples))
        rows.append(Sensitivity(group.name, tuple(losses)))
    return loss_of(model, spec, samples), rows
