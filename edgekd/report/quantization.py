"""How int8 files were chosen, in words and as tables: every candidate with what it loses on validation samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekd.artifacts import file_name
from edgekd.quantize.calibration import calibration_said
from edgekd.report.report import Report

HEADINGS = ("ranges", "weights", "points lost", "same class as PyTorch", "worst output", "")


@dataclass(frozen=True)
class CandidateTable:
    """What was tried for one file.

    Attributes:
        file: Its name.
        said: On what samples ranges were set, and whether the file is as good as asked for.
        rows: Text cells under :data:`HEADINGS`, one row per candidate.
    """

    file: str
    said: str
    rows: tuple[tuple[str, ...], ...]


def candidate_tables(report: Report) -> list[CandidateTable]:
    """Return a table for every file that was chosen among several."""
    found = []
    for each in report.artifacts:
        facts = each.verified.artifact.quantization
        if facts is not None:
            rows = tuple(_row(candidate, candidate == facts["chosen"]) for candidate in facts["candidates"])
            found.append(CandidateTable(file_name(each.name), _said(facts, report.recipe.quantize.max_drop), rows))
    return found


def _row(candidate: Mapping[str, Any], chosen: bool) -> tuple[str, ...]:
    quality, kept = candidate["quality"], len(candidate["keep"])
    return (
        candidate["ranges"], candidate["weights"] + (f", {kept} layers in float" if kept else ""), f"{quality['drop']:.2f}",
        f"{quality['agreement']:.2%}", f"{quality['sqnr_db']:.1f} dB", "taken" if chosen else "",
    )  # fmt: skip


def _said(facts: Mapping[str, Any], max_drop: float) -> str:
    samples = facts["chosen"]["quality"]["n"]
    held = "It is as good as asked for" if facts["goal_held"] else "None was as good as asked for, this is the best"
    return (
        f"Ranges come from {calibration_said(facts['calibration'])}. Compared on {samples:,} validation samples, never on test "
        f"ones. {held}: {max_drop:g} points of accuracy at most, and the promises for int8 files."
    )
