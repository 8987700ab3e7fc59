"""Names of classes in order, and what columns of labels and texts are usually called."""

from __future__ import annotations

import math
from collections.abc import Iterable

from edgekd.errors import DataError

LABEL_NAMES = ("label", "labels", "class", "target", "targets", "category", "sentiment", "intent", "y")
"""Usual names of a column or array of labels, the likeliest first. Compared in lower case."""

TEXT_NAMES = ("text", "sentence", "review", "content", "document", "comment", "utterance", "question")
"""The same for a column of texts."""

_MOST_CLASSES = 10_000


def number(text: str) -> float | None:
    """Return the number that ``text`` is, or ``None``; Python's ``1_000`` is none."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def sort_classes(names: Iterable[str], where: str) -> list[str]:
    """Return class names in order: numbers by their value, other names by their characters.

    Args:
        names: Different names.
        where: What holds the labels, for the message.

    Raises:
        DataError: There are too many to be classes.
    """
    found = list(names)
    if len(found) > _MOST_CLASSES:
        raise DataError(
            f"{where} has {len(found):,} different labels, too many for classes", "name the labels with data.label_column"
        )
    values = {name: number(name) for name in found}
    if all(value is not None and math.isfinite(value) for value in values.values()):
        return sorted(found, key=lambda name: (values[name], name))
    return sorted(found)
