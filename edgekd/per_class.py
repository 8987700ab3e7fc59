"""What compression cost per class: an artifact against the teacher, class by class, on the same test samples.

A file can keep its accuracy and lose one class that matters: the mean does not tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.data.dataset import Dataset
from edgekd.distill.control import paired_difference
from edgekd.distill.teacher import Teacher
from edgekd.distill.training_stage import TrainedModel
from edgekd.flavours import ArtifactName
from edgekd.verify import Verified


@dataclass(frozen=True)
class ClassCost:
    """What one class lost.

    Attributes:
        name: Of the class.
        n: Its test samples.
        accuracy: Share of them that the artifact has right; ``None`` without samples.
        reference: The same of the reference.
        drop: Points of accuracy lost to the reference; ``None`` without samples.
        ci95: 95 % interval of ``drop`` in points, paired (Agresti and Min, 2005). Of one class: among many classes some
            intervals miss by chance.
    """

    name: str
    n: int
    accuracy: float | None
    reference: float | None
    drop: float | None
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class PerClass:
    """What an artifact lost per class.

    Attributes:
        against: ``teacher``, or ``student`` where there is no teacher.
        classes: In the order of the data.
        lost: Names of the test samples that the reference has right and the artifact wrong, with their class, in the order of
            the split.
    """

    against: str
    classes: tuple[ClassCost, ...]
    lost: tuple[tuple[str, str], ...]

    @property
    def ranked(self) -> list[ClassCost]:
        """The classes that have samples, largest drop first."""
        return sorted((each for each in self.classes if each.drop is not None), key=lambda each: -(each.drop or 0.0))

    def to_json(self) -> dict[str, Any]:
        """Return it as ``report.json`` has it."""
        return {
            "against": self.against,
            "classes": [
                {"name": each.name, "n": each.n, "accuracy": each.accuracy, "reference": each.reference, "drop": each.drop,
                 "ci95": None if each.ci95 is None else list(each.ci95)}
                for each in self.classes
            ],
            "lost": [{"id": name, "class": label} for name, label in self.lost],
        }  # fmt: skip


def cost_per_class(
    data: Dataset, teacher: Teacher | None, student: TrainedModel, verified: Mapping[ArtifactName, Verified]
) -> dict[ArtifactName, PerClass]:
    """Return what every artifact lost per class to the teacher, or to the PyTorch student where there is none."""
    test = data.splits.test
    if teacher is not None:
        against, reference = "teacher", teacher.logits("test")
    else:
        against, reference = "student", np.load(student.test_logits, allow_pickle=False)
    labels, ids = data.labels[test], data.ids
    names = [ids[index] for index in test]
    return {
        name: compare_classes(np.load(each.logits, allow_pickle=False), reference, labels, data.classes, names, against)
        for name, each in verified.items() if each.logits is not None
    }  # fmt: skip


def compare_classes(
    outputs: NDArray[np.float32], reference: NDArray[np.float32], labels: NDArray[np.int64], classes: tuple[str, ...],
    names: list[str], against: str,
) -> PerClass:  # fmt: skip
    """Compare two models class by class.

    Args:
        outputs: Of the artifact, ``[n, classes]``.
        reference: Of the reference on the same samples, ``[n, classes]``.
        labels: Class of each sample, ``[n]``.
        classes: Their names.
        names: Of the samples.
        against: Who the reference is.
    """
    right, known = outputs.argmax(1) == labels, reference.argmax(1) == labels
    found = []
    for index, name in enumerate(classes):
        members = labels == index
        n = int(members.sum())
        if not n:
            found.append(ClassCost(name, 0, None, None, None, None))
            continue
        drop, interval, _ = paired_difference(known[members], right[members])
        found.append(ClassCost(name, n, float(right[members].mean()), float(known[members].mean()), drop, interval))
    lost = tuple((names[index], classes[labels[index]]) for index in np.flatnonzero(known & ~right))
    return PerClass(against, tuple(found), lost)
