"""What compression cost per class, as tables of the page and a line of the model card."""

from __future__ import annotations

from dataclasses import dataclass

from edgekd.artifacts import file_name
from edgekd.per_class import ClassCost, PerClass
from edgekd.report.report import MeasuredArtifact, Report

_MOST_CLASSES = 50
_SHOWN = 10
_SHOWN_SAMPLES = 20
_HALF_BAR = 50.0
_LOSS, _GAIN = "#dc2626", "#16a34a"


@dataclass(frozen=True)
class ClassRow:
    """A line: its text cells, and its bar on a scale of 104 pixels; its middle, 52, is no change."""

    cells: tuple[str, ...]
    left: float
    width: float
    color: str


@dataclass(frozen=True)
class ClassTable:
    """A table for one file.

    Attributes:
        file: Its name.
        against: Who it is compared with.
        said: The table in a sentence.
        rows: Largest drop first where not all are shown, else in the order of the data.
        lost: Names of the first samples that the reference alone has right.
        lost_said: How many there are.
    """

    file: str
    against: str
    said: str
    rows: tuple[ClassRow, ...]
    lost: tuple[str, ...]
    lost_said: str


def class_tables(report: Report) -> list[ClassTable]:
    """Return a table for every artifact: all classes, or the ten that lost most where there are more than fifty."""
    return [_table(each, each.per_class) for each in report.artifacts if each.per_class is not None and each.per_class.ranked]


def _table(artifact: MeasuredArtifact, found: PerClass) -> ClassTable:
    few = len(found.classes) <= _MOST_CLASSES
    shown = [each for each in found.classes if each.n] if few else found.ranked[:_SHOWN]
    widest = max((abs(each.drop or 0.0) for each in found.ranked), default=0.0) or 1.0
    which = "" if few else f" The {len(shown)} of {len(found.classes)} classes that lost most."
    count = len(found.lost)
    more = f"; the first {_SHOWN_SAMPLES}, report.json has all" if count > _SHOWN_SAMPLES else ""
    return ClassTable(
        file_name(artifact.name), found.against,
        f"Against the {found.against}, on the same test samples; {worst_class(found)}. The intervals are paired, each of one "
        f"class: among many classes one in twenty misses by chance.{which}",
        tuple(_row(each, widest) for each in shown), tuple(f"{name} ({label})" for name, label in found.lost[:_SHOWN_SAMPLES]),
        f"{count:,} test samples that the {found.against} has right and this file wrong{more}:",
    )  # fmt: skip


def _row(each: ClassCost, widest: float) -> ClassRow:
    drop, (low, high) = each.drop or 0.0, each.ci95 or (0.0, 0.0)
    width = round(_HALF_BAR * abs(drop) / widest, 1)
    cells = (
        each.name,
        f"{each.n:,}",
        _share(each.reference),
        _share(each.accuracy),
        f"{drop:+z.1f}",
        f"{low:.1f} to {high:.1f}",
    )
    return ClassRow(cells, 52.0 if drop >= 0 else round(52.0 - width, 1), width, _LOSS if drop >= 0 else _GAIN)


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def worst_class(found: PerClass) -> str:
    """Return in words which class lost most, for example ``most lost by '8': 5.7 points of 35 samples``."""
    worst = found.ranked[0]
    if (worst.drop or 0.0) <= 0:
        return "no class lost anything"
    return f"most lost by '{worst.name}': {worst.drop:.1f} points of {worst.n:,} samples"
