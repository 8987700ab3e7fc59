"""Temperature and loss weights that choose themselves: by the teacher's outputs, and by the size of early gradients.

One pair (T, weight) cannot serve 2, 10 and 1,000 classes: at a fixed T the gradient of ``kd`` shrinks as one over the number
of classes. So each loss is weighted by the size of its gradient on the student beside that of cross-entropy: the teacher pulls
harder than the labels by how much more often it is right than wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MANY_CLASSES = 500
_SOFTEST = 4.0
_SAMPLES = 512
_MEASURED_SHARE = 0.05
_MEASURES = 10
_KEPT = 0.8
_LIMITS = {"response": (0.05, 50.0), "ensemble": (0.05, 50.0)}
"""Smallest and largest chosen weight of a family, against a freak of the first steps."""
_WIDE = (1e-5, 1e6)
"""The same of other families, whose losses differ in size by orders: `pkt` of published weight 30,000 beside `rkd` of 1."""
_LEAST_TRUST, _MOST_TRUST = 0.5, 15.0
_BESIDE_LABELS = {"dkd": 3.0}
"""Most of losses that leave the true class to the labels: nearly all of the gradient of `dkd` is about the others."""
_STEEPNESS = 1.5
"""Exponent of a teacher's odds: weak ones mislead more than their odds say, strong ones teach more than labels do."""
_WHOLE = 1.6
"""How hard all terms pull together beside cross-entropy alone: soft targets are less noisy and bear larger steps."""
_WARM_UP_EPOCHS = 240
"""Epochs of the trainings that published warm-ups are for: of shorter ones the same share."""
WILD = 100.0
"""Ratio of gradients beyond which a weight given by hand is worth a warning."""


def automatic_temperature(teacher_logits: NDArray[np.float32], mixes: bool, fine_tunes: bool = False) -> float:
    """Return a temperature for a teacher: twice the spread of its logits, 1 to 4.

    Two is the temperature that standardised logits do best with (Sun et al., 2024); one number for all samples leaves
    the differences between them. With few classes one logit alone makes the spread, and twice it would soften away what the
    others say: 4 is what nearly every published setting has. 1 where images are mixed or there are many classes, as the large
    trainings have it, and where the student starts from trained weights.

    Args:
        teacher_logits: ``[n, classes]``; each row may be off by a constant.
        mixes: Whether mixup or cutmix is on.
        fine_tunes: Whether the student starts from trained weights.
    """
    if mixes or fine_tunes or teacher_logits.shape[1] >= MANY_CLASSES:
        return 1.0
    # Evenly from all of them: a folder's samples are in order of classes.
    asked = teacher_logits[:: max(1, len(teacher_logits) // _SAMPLES)]
    spread = float(asked.astype(np.float64).std(axis=1, ddof=1).mean())
    return round(min(max(2 * spread, 1.0), _SOFTEST), 2)


@dataclass
class Weighting:
    """The weights of the terms of a loss; those that are not given are measured over the first 5 % of steps, then fixed.

    Attributes:
        given: Weight of each term; ``None``: to be chosen.
        targets: Wanted ratio of gradients of each term that is to be chosen.
        warm_up: Share of the training over which a term's weight grows from 0.
        limits: Smallest and largest weight that may be chosen.
        steps: Of the whole training.
        ratios: Measured so far: gradient of a term of weight 1 over that of ``cross_entropy``, where both reach.
        measured: How many times.
    """

    given: dict[str, float | None]
    targets: dict[str, float] = field(default_factory=dict)
    warm_up: dict[str, float] = field(default_factory=dict)
    limits: dict[str, tuple[float, float]] = field(default_factory=dict)
    steps: int = 1
    ratios: dict[str, float] = field(default_factory=dict)
    measured: int = 0

    @property
    def window(self) -> int:
        """Steps in which gradients are measured."""
        return max(1, round(_MEASURED_SHARE * self.steps))

    def due(self, step: int) -> bool:
        """Whether gradients are to be measured in ``step``."""
        return step < self.window and step % max(1, self.window // _MEASURES) == 0 and len(self.given) > 1

    def measure(self, values: Mapping[str, Tensor], reaches: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the gradients' ratio of every term to cross-entropy, on ``reaches[term]``, where the term's gradient enters.

        No term is weighted; nothing accumulates in any parameter.
        """
        found = {}
        for name, value in values.items():
            if name == "cross_entropy" or name not in reaches or not value.requires_grad:
                continue
            at = reaches[name]
            own = _gradient_norm(value, at)
            hard = _gradient_norm(values["cross_entropy"], at)
            if own is not None and hard is not None and hard > 0:
                found[name] = own / hard
        return found

    def learn(self, found: Mapping[str, float]) -> None:
        """Take a measurement into the running mean of logarithms, in which late ones count more."""
        for name, ratio in found.items():
            if ratio <= 0 or not math.isfinite(ratio):
                continue
            before = self.ratios.get(name)
            self.ratios[name] = ratio if before is None else math.exp(_KEPT * math.log(before) + (1 - _KEPT) * math.log(ratio))
        self.measured += 1

    def weight(self, name: str) -> float:
        """Return the weight of a term, as far as it is known, without warm-up. Chosen weights have three digits.

        That of cross-entropy is 1.6 over one plus what is wanted of the other chosen terms, so that all together pull about
        1.6 times as hard as cross-entropy would alone, whatever their number. Those of other terms
        are relative to it.
        """
        given = self.given[name]
        if given is not None:
            return given
        if name == "cross_entropy":
            chosen = [self.targets[each] for each, weight in self.given.items() if weight is None and each != name]
            return _three_digits((_WHOLE if chosen else 1) / (1 + sum(chosen)))
        hard = self.weight("cross_entropy")
        if name not in self.ratios:
            return hard
        smallest, largest = self.limits.get(name, _WIDE)
        return _three_digits(hard * min(max(self.targets[name] / self.ratios[name], smallest), largest))

    def total(self, values: Mapping[str, Tensor], progress: float) -> Tensor:
        """Return the weighted sum of the terms when ``progress`` (0 to 1) of the training is done."""
        parts = []
        for name, value in values.items():
            weight = self.weight(name)
            if self.warm_up.get(name):
                weight *= min(1.0, progress / self.warm_up[name])
            if weight:
                parts.append(weight * value)
        return torch.stack(parts).sum()

    def to_json(self) -> dict[str, Any]:
        """Return what a checkpoint must keep."""
        return {"ratios": self.ratios, "measured": self.measured}

    def restore(self, content: Mapping[str, Any]) -> None:
        """Continue from what :meth:`to_json` returned."""
        self.ratios, self.measured = dict(content["ratios"]), int(content["measured"])


def wanted_ratio(name: str, family: str, teacher_accuracy: float) -> float:
    """Return how large the gradient of a loss should be beside that of cross-entropy.

    Of losses on outputs the odds that the teacher is right to the power of 1.5, 0.5 to 15: what it says of a sample is as good
    as the truth, or misleads. A teacher of 62 % gets 2, one of 75 % gets 5, as large trainings have it, one of 86 % and more
    15, nearly all there is. `dkd` gets 3 at most: it does not stand in for the labels. Of losses on inner layers 1.

    Args:
        name: Of the loss.
        family: Of the loss.
        teacher_accuracy: Top-1 on the validation split, 0 to 1.
    """
    if family not in {"response", "ensemble"}:
        return 1.0
    odds = teacher_accuracy / max(1 - teacher_accuracy, 1e-9)
    return float(min(max(odds**_STEEPNESS, _LEAST_TRUST), _BESIDE_LABELS.get(name, _MOST_TRUST)))


def add_term(weighting: Weighting, name: str, family: str, weight: float | None, epochs: int, teacher_accuracy: float) -> None:
    """Add a loss to ``weighting``.

    Args:
        weighting: Gets the term.
        name: Of the loss.
        family: Of the loss, which says how large its gradient should be.
        weight: As given; ``None``: to be chosen.
        epochs: Of the published warm-up.
        teacher_accuracy: Top-1 on the validation split, 0 to 1.
    """
    weighting.given[name] = weight
    weighting.targets[name] = wanted_ratio(name, family, teacher_accuracy)
    weighting.warm_up[name] = warm_up_share(epochs)
    weighting.limits[name] = _LIMITS.get(family, _WIDE)


def warm_up_share(epochs: int) -> float:
    """Return a published warm-up, in epochs of a training of 240, as a share of any training."""
    return epochs / _WARM_UP_EPOCHS


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")


def _gradient_norm(value: Tensor, at: Tensor) -> float | None:
    (gradient,) = torch.autograd.grad(value, at, retain_graph=True, allow_unused=True)
    return None if gradient is None else float(gradient.float().norm())
