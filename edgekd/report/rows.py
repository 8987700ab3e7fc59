"""The one table of a report, as text cells: the terminal, the page and the model card all show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgekd.artifacts import file_name
from edgekd.report.report import Report
from edgekd.tasks.classification import Metric

HEADINGS = ("", "size", "ratio", "top-1 (95 % interval)", "agrees", "p50 1 thread", "p50 all threads")


@dataclass(frozen=True)
class Row:
    """One line of the table: its cells under :data:`HEADINGS`, and whether it missed a gate."""

    cells: tuple[str, ...]
    rejected: bool = False


def table_rows(report: Report) -> list[Row]:
    """Return a row for the teacher and the control, where there are some, the student and every artifact.

    Ratios are to the teacher's float32 size, or without one to the student's.
    """
    teacher, student, control = report.teacher, report.student, report.control
    rows = []
    if teacher is not None:
        cells = (f"teacher {teacher.name}", size(teacher.cost.size_bytes), "1.0x", percent(teacher.metric), "", "", "")
        rows.append(Row(cells))
    sizes = size(student.cost.size_bytes), f"{report.reference_bytes / student.cost.size_bytes:.1f}x"
    rows.append(Row((f"student {student.name}", *sizes, percent(student.metric), "100.0 %", "", "")))
    if control is not None:
        rows.append(Row(("student alone", *sizes, percent(control.metric), "", "", "")))
    for each in report.artifacts:
        latency = [milliseconds(each.latency[target]["p50_ms"]) if target in each.latency else ""
                   for target in ("host:1", "host:all")]  # fmt: skip
        rows.append(
            Row((
                file_name(each.name), size(each.size_bytes), f"{report.reference_bytes / each.size_bytes:.1f}x",
                percent(each.verified.metric), f"{100 * each.verified.parity.agreement:.1f} %", *latency,
            ), each.folder == "rejected")
        )  # fmt: skip
    return rows


def percent(metric: Metric) -> str:
    """Return a metric with its interval, for example ``97.49 % (95.3-98.7)``."""
    low, high = (100 * bound for bound in metric.ci95)
    return f"{100 * metric.value:.2f} % ({low:.1f}-{high:.1f})"


def size(count: float) -> str:
    """Return a number of bytes for people: KiB up to 1 MiB, then MiB."""
    return f"{count / 1024:.1f} KiB" if count < 1024**2 else f"{count / 1024**2:.2f} MiB"


def milliseconds(value: float) -> str:
    """Return a time for people, three digits after the point under 1 ms."""
    return f"{value:.3f} ms" if value < 1 else f"{value:.2f} ms"


TARGET_HEADINGS = ("target", "file", "latency", "interval", "how it is known", "memory", "")


def target_rows(report: Report) -> list[Row]:
    """Return a row for every file on every target, under :data:`TARGET_HEADINGS`; the file to ship there is marked."""
    rows = []
    for target in report.targets:
        first = True
        for each in report.artifacts:
            known = target.latency.get(each.name)
            if known is None and each.name not in target.without:
                continue
            if known is None:
                told = ("", "", target.without[each.name])
            else:
                low, high = known["low_ms"], known["high_ms"]
                interval = "" if low is None or high is None else f"{milliseconds(low)} - {milliseconds(high)}"
                told = (milliseconds(known["p50_ms"]), interval, _known(known))
            threads = target.place.rpartition(":")[2]
            name = f"{target.name}, {threads} thread{'' if threads == '1' else 's'}" if first else ""
            memory = size(target.memory_bytes[each.name]) if each.name in target.memory_bytes else ""
            mark = "ship this" if each.name == target.chosen else ""
            rows.append(Row((name, file_name(each.name), *told, memory, mark), each.folder == "rejected"))
            first = False
    return rows


def _known(latency: dict[str, Any]) -> str:
    if latency["kind"] == "measured":
        return f"measured, {latency['runs']:,} runs, {latency['verdict']}"
    return f"predicted, {latency['basis']}"
