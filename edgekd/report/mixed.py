"""What the report tells of int8 files in which layers compute in floating point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgekd.quantize.layers import count_layers
from edgekd.report.report import Report


@dataclass(frozen=True)
class RuleRow:
    """A known killer that was found: how many layers it is about, what was done, and signal to noise without and with that."""

    rule: str
    why: str
    where: int
    treatment: str
    before: str
    after: str


@dataclass(frozen=True)
class MixedTable:
    """Of one file: its name, what became of it in words, and the rules that found something."""

    name: str
    told: str
    rules: tuple[RuleRow, ...]


def mixed_tables(report: Report) -> list[MixedTable]:
    """Return a table for each file in which layers in floating point were searched for."""
    tables = []
    for each in report.artifacts:
        mixed = (each.verified.artifact.quantization or {}).get("mixed")
        if mixed:
            tables.append(MixedTable(each.name.replace("-", " "), _told(mixed), tuple(map(_row, mixed["rules"]))))
    return tables


def _told(mixed: dict[str, Any]) -> str:
    before, after = mixed["plain"], mixed["quality"]
    told = (
        f"On {after['n']:,} validation samples, all in int8 agrees with PyTorch on {before['agreement']:.1%} "
        f"({before['sqnr_db']:.1f} dB), with {count_layers(len(mixed['kept']))} in floating point on {after['agreement']:.1%} "
        f"({after['sqnr_db']:.1f} dB)."
    )
    return told if mixed["holds"] else f"{told} The goal was not reached: this is the best that was seen."


def _row(rule: dict[str, Any]) -> RuleRow:
    before, after = (f"{rule[each]['sqnr_db']:.1f} dB" for each in ("before", "after"))
    return RuleRow(rule["rule"], rule["why"], len(rule["where"]), rule["treatment"] or "none needed", before, after)
