"""What quantization-aware training will do, and whether it can. Free of torch: the plan says it."""

from __future__ import annotations

from edgekd.errors import UsageError
from edgekd.flavours import FLAVOURS
from edgekd.quantize.calibration import activation_ranges
from edgekd.recipe import Recipe
from edgekd.recipe_distill import DistillLoss


def check_rounding(recipe: Recipe, kind: str) -> None:
    """Refuse quantization-aware training where no file of the recipe rounds as it simulates.

    Args:
        recipe: What was asked for.
        kind: Of the data.

    Raises:
        UsageError: Ranges are dynamic, or no file is static int8.
    """
    if not recipe.quantize.qat.epochs:
        return
    if activation_ranges(recipe.quantize.activations, kind) == "dynamic":
        why = "of text they are dynamic" if recipe.quantize.activations == "auto" else "quantize.activations is dynamic"
        raise UsageError(
            f"quantize.qat simulates fixed ranges of activations, and {why}",
            "leave quantize.qat out, or set quantize.activations=static",
        )
    simulated = [name for name, flavour in FLAVOURS.items() if flavour.simulated]
    if not set(simulated) & set(recipe.export.artifacts):
        raise UsageError(
            "quantize.qat trains for static int8, but export.artifacts names no such file",
            f"add one of {', '.join(simulated)}, or leave quantize.qat out",
        )


def losses_of(recipe: Recipe) -> tuple[DistillLoss, ...]:
    """Return the losses of the recipe that look at outputs, or ``kd``: the graph that is fine-tuned has no inner layers."""
    found = tuple(each for each in recipe.distill.losses if not each.definition.inner_layers)
    return found or (DistillLoss(name="kd", weight=None, temperature=None, layers=None),)


def planned_rounding(recipe: Recipe) -> str:
    """Return what the stage will do, in a line."""
    options = recipe.quantize.qat
    losses = [each.name for each in losses_of(recipe)] if recipe.distill.has_teacher else []
    return (
        f"the student goes on learning under the rounding of static int8: {options.epochs} epochs, "
        f"batch {recipe.distill.train.batch_size}, {' + '.join(['CE', *losses])}; all files hold its weights"
    )
