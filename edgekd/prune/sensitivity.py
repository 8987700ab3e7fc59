"""How much the loss rises when a layer loses its least channels: which layers bear it, and which must not be touched."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from edgekd.errors import ModelError
from edgekd.models.tensors import ModelSpec
from edgekd.progress import Listener
from edgekd.prune.criteria import Criterion, Samples, Scores, loss_of, scores
from edgekd.prune.groups import ChannelGroup, Found, mask
from edgekd.safe.stop import check_stop

if TYPE_CHECKING:
    from edgekd.prune.prune import Pruned

RATIOS = (0.25, 0.5, 0.75)
MOST_SAMPLES, _LEAST_SAMPLES = 256, 64
_MOST_PASSES = 10_000
_OUTSTANDING = 4.0
"""How many times as much as in the middle layer the loss rises where a layer is spared."""
_LEAST_RISE = 0.1
"""Of the cross-entropy: below it nothing is lost that is worth a rule."""


@dataclass(frozen=True)
class Sensitivity:
    """What the cuts of one layer do.

    Attributes:
        layer: Name of its group of channels.
        units: How many channels or heads it has.
        cut: How many of them each of :data:`RATIOS` is, at least one.
        losses: Cross-entropy without so many, those that are worth least; nothing else is cut.
    """

    layer: str
    units: int
    cut: tuple[int, ...]
    losses: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Curves:
    """How sensitive the layers of a network are.

    Attributes:
        samples: How many training samples the losses are from.
        loss: Cross-entropy of the whole network.
        guess: Cross-entropy of one that takes all classes to be as likely.
        layers: In order of execution, those that the criterion can judge.
    """

    samples: int
    loss: float
    guess: float
    layers: tuple[Sensitivity, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "samples": self.samples, "loss": self.loss, "guess": self.guess, "ratios": list(RATIOS),
            "layers": [each.to_json() for each in self.layers],
        }  # fmt: skip

    def sensitive(self) -> dict[str, str]:
        """Return the layers that must not be cut, and why.

        They are those where a cut of a quarter raises the loss by more than four times what it does in the middle layer
        (median), and by at least 0.1. docs/decisions/0019-pruning.md has what that brings.
        """
        rises = {each.layer: each.losses[0] - self.loss for each in self.layers}
        middle = max(0.0, statistics.median(rises.values())) if rises else 0.0
        return {
            each.layer: f"the loss rises from {self.loss:.2g} to {each.losses[0]:.2g} without {each.cut[0]} of its {each.units}"
            for each in self.layers
            if rises[each.layer] > max(_OUTSTANDING * middle, _LEAST_RISE)
        }


def sensitivities(
    model: nn.Module, spec: ModelSpec, groups: tuple[ChannelGroup, ...], worth: Scores, samples: Samples,
    listener: Listener | None = None,
) -> Curves:  # fmt: skip
    """Return what the loss is when each layer alone is cut.

    Channels are not cut but made unread, which is the same, see :class:`~edgekd.prune.groups.Trial`. Of ``samples`` as many
    are taken as make 10,000 forward passes in all, 256 at most and 64 at least.

    Args:
        model: The network; it stays as it is.
        spec: How it is called.
        groups: What can be cut.
        worth: What each unit is worth.
        samples: Of the training split.
        listener: Is told how many layers are done.

    Raises:
        Interrupted: A stop signal came.
    """
    judged = [each for each in groups if each.name in worth]
    count = min(MOST_SAMPLES, max(_LEAST_SAMPLES, _MOST_PASSES // max(1, len(RATIOS) * len(judged))))
    seen = _first(samples, count)
    rows = []
    for done, group in enumerate(judged):
        order = worth[group.name].sort(stable=True).indices.tolist()
        cuts = tuple(min(len(order) - 1, max(1, round(ratio * len(order)))) for ratio in RATIOS)
        losses: dict[int, float] = {}
        for gone in dict.fromkeys(cuts):
            check_stop()
            masked = copy.deepcopy(model)
            mask(masked, group, order[:gone])
            losses[gone] = loss_of(masked, spec, seen)
        rows.append(Sensitivity(group.name, len(order), cuts, tuple(losses[gone] for gone in cuts)))
        if listener is not None:
            listener.stage_advanced(done + 1, len(judged), "layers tried")
    classes = spec.outputs[0].shape[-1]
    return Curves(sum(len(labels) for _, labels in seen), loss_of(model, spec, seen), math.log(classes), tuple(rows))


def judged_layers(
    model: nn.Module, spec: ModelSpec, found: Found, criterion: Criterion, samples: Samples, seed: int, listener: Listener
) -> Curves:  # fmt: skip
    """Return how sensitive all layers are that can be cut, with their channels judged by ``criterion``."""
    worth = scores(criterion, model, spec, found.groups, samples, seed)
    return sensitivities(model, spec, found.groups, worth, samples, listener)


def spare(found: Found, sensitive: dict[str, str], prune: Callable[[Found], Pruned]) -> Pruned:
    """Return what ``prune`` makes of what was found, without the layers that must not be cut where the budget can do so.

    Raises:
        ModelError: As ``prune``, although all may be cut.
    """
    left = tuple(each for each in found.groups if each.name not in sensitive)
    if not left or len(left) == len(found.groups):
        return prune(found)
    held = {each.name: sensitive[each.name] for each in found.groups if each.name in sensitive}
    try:
        return prune(Found(left, {**found.refused, **held}))
    except ModelError:  # the budget is what the user asked for; the report tells what it took
        return prune(found)


def _first(samples: Samples, count: int) -> Samples:
    found, left = [], count
    for inputs, labels in samples:
        if left <= 0:
            break
        found.append(({name: each[:left] for name, each in inputs.items()}, labels[:left]))
        left -= len(labels)
    return found
