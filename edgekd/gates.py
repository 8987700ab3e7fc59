"""Which promises of a recipe can be judged at all. Free of torch: the plan asks before anything runs."""

from __future__ import annotations

from edgekd.errors import UsageError
from edgekd.recipe import Recipe


def check_gates_possible(recipe: Recipe) -> None:
    """Refuse a gate that this recipe gives nothing to judge by.

    Raises:
        UsageError: A drop from the teacher is limited, and the scheme has no teacher.
    """
    if recipe.gates.max_teacher_drop is not None and not recipe.distill.has_teacher:
        raise UsageError(
            f"gates.max_teacher_drop is set, but distill.scheme={recipe.distill.scheme} has no teacher to fall behind",
            "leave the gate out (gates.max_teacher_drop=null); distill.control=true compares with the student trained alone",
        )
