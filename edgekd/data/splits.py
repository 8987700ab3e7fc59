"""Fixed, stratified splits: a pure function of the labels, the shares and the seed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.data.cache import TEST, TRAIN, VALIDATION
from edgekd.errors import DataError


@dataclass(frozen=True)
class Splits:
    """Sorted, disjoint indices of the samples of each split, ``int64``."""

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
    parts: NDArray[np.uint8] | None = None,
) -> Splits:
    """Split sample indices so that every class keeps its share in every split.

    Args:
        labels: Class index of each sample.
        classes: Class names, for messages.
        validation: Share of all samples (of the training samples where ``parts`` names test samples) held out;
            unused where ``parts`` names validation samples.
        test: Share of all samples held out for the final figures; unused where ``parts`` names test samples.
        seed: Decides who goes where.
        parts: The split each sample brings, see :mod:`edgekd.data.cache`.

    Raises:
        DataError: Fewer than two classes, a class with too few images, or shares that leave none to train on.
    """
    if len(classes) < 2:
        raise DataError(
            f"the data has one class only ({', '.join(classes)}); at least 2 are needed", "add samples of other classes"
        )
    given = parts if parts is not None else np.zeros(len(labels), np.uint8)
    makes_validation, makes_test = not (given == VALIDATION).any(), not (given == TEST).any()
    if makes_test and (validation if makes_validation else 0) + test >= 1:
        raise DataError(
            f"data.validation ({validation:g}) and data.test ({test:g}) leave no training samples", "lower one of them"
        )
    found: dict[str, list[NDArray[np.int64]]] = {"train": [], "validation": [], "test": []}
    for index, name in enumerate(classes):
        members = np.flatnonzero(labels == index)
        held_out, tests = members[given[members] == VALIDATION], members[given[members] == TEST]
        members = members[given[members] <= TRAIN]
        if not makes_test and len(tests) == 0:
            raise DataError(f"class '{name}' has no test samples", "every class needs samples in the test split as well")
        needed = 1 + makes_validation + makes_test
        if len(members) < needed:
            raise DataError(
                f"class '{name}' has {len(members)} sample(s) to split, at least {needed} are needed", "add samples"
            )
        shuffled = np.random.default_rng([seed, index]).permutation(members)
        if makes_test:
            count = _share(len(members), test, len(members) - 1 - makes_validation)
            tests, shuffled = shuffled[:count], shuffled[count:]
        if makes_validation:
            count = _share(len(members), validation, len(shuffled) - 1)
            held_out, shuffled = shuffled[:count], shuffled[count:]
        found["test"].append(tests)
        found["validation"].append(held_out)
        found["train"].append(shuffled)
    train, validation_all, test_all = (np.sort(np.concatenate(found[part])).astype(np.int64) for part in found)
    return Splits(train, validation_all, test_all)


def _share(count: int, share: float, most: int) -> int:
    """Return the whole number nearest to ``count * share``, at least 1 and at most ``most``."""
    return max(1, min(most, round(count * share)))
