"""Whether a student can learn from kept teacher outputs. Free of torch: the plan says it."""

from __future__ import annotations

from edgekd.errors import UsageError
from edgekd.models.references import kind_of
from edgekd.recipe import Recipe


def why_live(recipe: Recipe) -> str | None:
    """Return why the teacher must be asked at every step, ``None`` if its outputs may be kept."""
    options = recipe.distill
    inner = [each.name for each in options.losses if each.definition.inner_layers]
    if inner:
        return f"{inner[0]} looks inside the teacher, and only outputs are kept"
    if options.train.mixup or options.train.cutmix:
        return f"{'mixup' if options.train.mixup else 'cutmix'} makes new images at every step"
    return None


def stores_targets(recipe: Recipe) -> bool:
    """Whether the teacher's outputs are kept.

    Raises:
        UsageError: The recipe wants them kept, or the teacher is nothing but kept outputs, and they cannot serve.
    """
    use, reason = recipe.distill.soft_targets.use, why_live(recipe)
    stored_only = [each.model for each in recipe.teacher.members if kind_of(each.model) == "store"]
    if stored_only and recipe.teacher.ensemble:
        raise UsageError(
            f"teacher {stored_only[0]} is kept outputs, and cannot be one of several",
            "keep the outputs of the whole ensemble by `edgekd teach`, and name that store alone",
        )
    if reason and stored_only:
        raise UsageError(f"teacher {stored_only[0]} is kept outputs alone, but {reason}", "leave that out, or take the teacher")
    if reason and use == "stored":
        raise UsageError(f"distill.soft_targets.use is stored, but {reason}", "set distill.soft_targets.use=live")
    if use == "live" and stored_only:
        raise UsageError(
            f"distill.soft_targets.use is live, but teacher {stored_only[0]} is kept outputs alone",
            "leave distill.soft_targets.use out",
        )
    return reason is None and use != "live"
