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


def check_class_names(names: Iterable[str], where: str) -> None:
    """Refuse class names that cannot stand in ``labels.txt``, which has one per line.

    Args:
        names: Class names.
        where: What holds the labels, for the message.

    Raises:
        DataError: A name has a line break in it, or bytes that are no text.
    """
    for name in names:
        if name and name.splitlines() != [name]:
            raise DataError(
                f"{where} has the class name {name!r:.100}, with a line break in it",
                "name it in one line: labels.txt, which apps read, has one class per line",
            )
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(f"{where} has the class name {name!r:.100}, which is no UTF-8", "rename it") from None


def labels_text(classes: Iterable[str]) -> str:
    """Return the content of ``labels.txt``: one class name per line, in the order of the outputs."""
    return "".join(f"{name}\n" for name in classes)


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
