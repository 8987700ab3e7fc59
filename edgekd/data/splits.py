"""Fixed, stratified splits: a pure function of the labels, the shares and the seed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import DataError

MIN_PER_CLASS = 3


@dataclass(frozen=True)
class Splits:
    """Sorted, disjoint indices of the images of each split, ``int64``."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]

    def digest(self) -> str:
        """Return a SHA-256 over the three index lists."""
        joined = b"|".join(part.astype("<i8").tobytes() for part in (self.train, self.validation, self.test))
        return hashlib.sha256(joined).hexdigest()


def split(
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    validation: float,
    test: float,
    seed: int,
    fixed_test: NDArray[np.bool_] | None = None,
) -> Splits:
    """Split image indices so that every class keeps its share in every split.

    Args:
        labels: Class index of each image.
        classes: Class names, for messages.
        validation: Share of all images (of the training images where ``fixed_test`` is given) held out.
        test: Share of all images held out for the final figures; unused where ``fixed_test`` is given.
        seed: Decides who goes where.
        fixed_test: Marks images that are test images already.

    Raises:
        DataError: Fewer than two classes, a class with too few images, or shares that leave none to train on.
    """
    if len(classes) < 2:
        raise DataError(
            f"the data has one class only ({', '.join(classes)}); at least 2 are needed", "add images of other classes"
        )
    if fixed_test is None and validation + test >= 1:
        raise DataError(
            f"data.validation ({validation:g}) and data.test ({test:g}) leave no training images", "lower one of them"
        )
    parts: dict[str, list[NDArray[np.int64]]] = {"train": [], "validation": [], "test": []}
    for index, name in enumerate(classes):
        members = np.flatnonzero(labels == index)
        tests = members[fixed_test[members]] if fixed_test is not None else None
        if tests is not None:
            members = np.setdiff1d(members, tests)
            if len(tests) == 0:
                raise DataError(f"class '{name}' has no test images", "every class needs images in test/ as well")
        needed = MIN_PER_CLASS - 1 if tests is not None else MIN_PER_CLASS
        if len(members) < needed:
            raise DataError(f"class '{name}' has {len(members)} image(s) to split, at least {needed} are needed", "add images")
        shuffled = np.random.default_rng([seed, index]).permutation(members)
        if tests is None:
            count = _share(len(members), test, len(members) - 2)
            tests, shuffled = shuffled[:count], shuffled[count:]
        count = _share(len(members), validation, len(shuffled) - 1)
        parts["test"].append(tests)
        parts["validation"].append(shuffled[:count])
        parts["train"].append(shuffled[count:])
    train, held_out, tests_all = (np.sort(np.concatenate(parts[part])).astype(np.int64) for part in parts)
    return Splits(train, held_out, tests_all)


def _share(count: int, share: float, most: int) -> int:
    """Return the whole number nearest to ``count * share``, at least 1 and at most ``most``."""
    return max(1, min(most, round(count * share)))
