"""How what a cut has left is trained again."""

from __future__ import annotations

import numpy as np
from torch import nn

from edgekd.data.dataset import Dataset
from edgekd.distill.teacher import VALIDATION_LOGITS
from edgekd.distill.training_stage import TrainedModel
from edgekd.models.spec import build
from edgekd.models.tensors import ModelSpec
from edgekd.recipe import Recipe, Training

_KEPT = 0.5
GENTLE, BOLD = 1e-3, 4e-3
"""Learning rates after cuts that left most of the accuracy, and after others."""


def recovery_of(recipe: Recipe, spec: ModelSpec, lost: bool) -> Training:
    """Return a training as in distillation, but from trained weights: AdamW, its rate falling to 0 by a cosine.

    The rate is the recipe's. If that is ``auto``: a network that kept most of what it knew would lose it by large steps, one
    that did not has little to lose and far to go. The latter gets 4e-3 where batch norms bear such steps, and else, as the
    former, 1e-3.

    Args:
        recipe: Whose ``distill.train`` is settled.
        spec: Of the network.
        lost: Whether the cut took most of what it knew, see :func:`lost_most`.
    """
    settled, rate = recipe.distill.train, recipe.prune.learning_rate
    if rate == "auto":
        bears = any(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in build(spec).modules())
        rate = BOLD if lost and bears else GENTLE
    return settled.model_copy(
        update={
            "epochs": recipe.prune.epochs, "learning_rate": rate, "optimizer": "adamw",
            "schedule": "cosine", "ema": 0.0, "early_stopping": None, "compile": False,
            "precision": "fp32", "layout": "channels_last" if settled.layout == "auto" else settled.layout,
        }
    )  # fmt: skip


def lost_most(data: Dataset, before: TrainedModel, left: TrainedModel) -> bool:
    """Tell whether less than half of a network's accuracy over chance is left, on the validation split.

    Args:
        data: Has the validation split.
        before: The network before any cut.
        left: What is left of it.
    """
    chance = 1 / len(data.classes)
    return _accuracy(left, data) - chance < _KEPT * (_accuracy(before, data) - chance)


def _accuracy(model: TrainedModel, data: Dataset) -> float:
    logits = np.load(model.weights.parent / VALIDATION_LOGITS, allow_pickle=False)
    return float((logits.argmax(1) == data.labels[data.splits.validation]).mean())
