"""Whether the teacher shows the layers that the recipe's losses compare. Free of torch: the plan asks."""

from __future__ import annotations

from edgekd.errors import UsageError
from edgekd.models.references import KINDS, kind_of
from edgekd.recipe import Recipe


def check_layer_needs(recipe: Recipe) -> None:
    """Refuse losses on inner layers where the teacher shows its outputs alone; of an ensemble the first teacher counts.

    Raises:
        UsageError: It is a black box.
    """
    teacher = recipe.teacher.model
    if not recipe.distill.has_teacher or KINDS[kind_of(teacher)].layers:
        return
    for loss in recipe.distill.losses:
        if loss.definition.inner_layers:
            raise UsageError(
                f"{loss.name} compares inner layers, but teacher {teacher} is a black box: it shows its outputs alone",
                "take a loss on outputs, for example kd or dist, or a teacher of zoo:, python:, hf:, timm: or torchvision:",
            )
