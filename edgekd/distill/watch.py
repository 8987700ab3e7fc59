"""What a user should know of a training as soon as it shows, and find in the report afterwards."""

from __future__ import annotations

from edgekd.distill.automatic import WILD, Weighting


def wild_weights(weighting: Weighting) -> tuple[str, ...]:
    """Return a sentence for each weight given by hand whose term pulls beyond all measure harder or weaker than the labels."""
    told = []
    for name, ratio in weighting.ratios.items():
        given = weighting.given[name]
        if given is not None and given > 0 and not 1 / WILD < given * ratio < WILD:
            told.append(
                f"{name} of weight {given:g} has a gradient {given * ratio:.2g} times that of cross-entropy; "
                f"a weight of {weighting.targets.get(name, 1.0) / ratio:.2g} would balance them"
            )
    return tuple(told)


def overtaken(reached: float, teacher: float | None) -> tuple[str, ...]:
    """Return what to say if the student has overtaken its teacher.

    Args:
        reached: The student's accuracy on the validation split, 0 to 1.
        teacher: The same of the teacher; ``None``: there is none.
    """
    if teacher is None or reached <= teacher:
        return ()
    return (
        f"the student is better than its teacher on the validation split, {reached:.1%} and {teacher:.1%}: a better teacher "
        "would help more than any loss; distill.control=true says whether this one helped",
    )
