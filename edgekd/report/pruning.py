"""What the report tells of cuts: what the network cost before and after them, and which layers they took channels from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekd.prune.chart import sensitivity_chart, shown_layers
from edgekd.prune.measured import latency_said, ratio_said, verdict_of
from edgekd.prune.stages import Pruning
from edgekd.report.report import Report
from edgekd.report.rows import milliseconds, percent, size
from edgekd.tasks.classification import Metric

COST_HEADINGS = ("", "before the cuts", "after them", "ratio", "")
_NOISY = "the host was busy"


@dataclass(frozen=True)
class LayerRow:
    """A layer, or a module that cannot be cut.

    Attributes:
        cells: Its name, its units before and after, and the losses when it alone loses some, as text.
        why: Why it is as it is, where that takes words.
        cut: Whether it is narrower than before.
    """

    cells: tuple[str, ...]
    why: str
    cut: bool


@dataclass(frozen=True)
class PruningTables:
    """The section of the page.

    Attributes:
        said: The figures that count, in a line.
        costs: Text cells under :data:`COST_HEADINGS`.
        warnings: Where the network became slower.
        headings, layers: Every layer, in order of execution.
        chart: Loss over the share that is cut, an SVG for each layer; ``None``: no channels were cut.
        chart_said: What it shows.
    """

    said: str
    costs: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...]
    headings: tuple[str, ...]
    layers: tuple[LayerRow, ...]
    chart: str | None
    chart_said: str


def pruning_tables(report: Report) -> PruningTables | None:
    """Return what the page tells of cuts; ``None`` where nothing was cut."""
    pruning = report.student.pruning
    if pruning is None or not pruning.cuts:
        return None
    host = () if pruning.latency is None else pruning.latency["host"]
    warnings = tuple(
        f"{each['file']} is slower on this host than before the cuts: {ratio_said(each)}, although it computes less. Its "
        "kernels may dislike such widths: try a larger prune.multiple, or a budget of latency, for example latency=0.5x@pi4."
        for each in host if each["low"] > 1
    )  # fmt: skip
    curves, shares = pruning.sensitivity, cut_shares(pruning)
    drawn = curves is not None and curves["layers"]
    chart = sensitivity_chart(curves, shares) if curves is not None and drawn else None
    return PruningTables(
        cuts_line(report) or "", tuple(_costs(pruning, _metric(report))), warnings, _headings(curves),
        tuple(layer_rows(pruning)), chart, _chart_said(pruning, curves) if curves is not None and drawn else "",
    )  # fmt: skip


def cuts_line(report: Report) -> str | None:
    """Return the figures that count in one line, for example ``MACs 0.50x, latency on this host 0.55x (0.54-0.56)``."""
    pruning = report.student.pruning
    if pruning is None or not pruning.cuts:
        return None
    first, last = pruning.cuts[0], pruning.cuts[-1]
    parts = [f"MACs {last['macs'][1] / first['macs'][0]:.2f}x, parameters {last['params'][1] / first['params'][0]:.2f}x"]
    if pruning.latency is not None and pruning.latency["host"]:
        parts = [f"{parts[0]}, {latency_said(pruning.latency['host'])}"]
    parts += [f"predicted on {name}: {after['p50_ms'] / before['p50_ms']:.2f}x" for name, before, after in _predicted(pruning)]
    top1 = " -> ".join(f"{100 * each:.2f} %" for each in (pruning.before.value, last["top1"], _metric(report).value))
    return f"{'; '.join(part for part in parts if part)}; top-1 before the cuts, right after them and in the end: {top1}"


def cut_shares(pruning: Pruning) -> dict[str, float]:
    """Return which share of its channels or heads each layer lost in all steps together."""
    before = {each["layer"]: each["before"] for each in pruning.cuts[0]["layers"]}
    after = {each["layer"]: each["after"] for each in pruning.cuts[-1]["layers"]}
    return {name: 1 - after.get(name, units) / units for name, units in before.items()}


def layer_rows(pruning: Pruning) -> list[LayerRow]:
    """Return a row for every layer that can be cut, in order of execution, and for all that must stay whole."""
    first, last = pruning.cuts[0], pruning.cuts[-1]
    curves = {} if pruning.sensitivity is None else {each["layer"]: each for each in pruning.sensitivity["layers"]}
    narrow = {each["layer"]: each["after"] for each in last["layers"]}
    wide = {each["layer"]: each for each in first["layers"]}
    rows = []
    for name in dict.fromkeys([*curves, *wide, *last["kept_whole"]]):
        curve = curves.get(name)
        losses = [f"{each:.3f}" for each in curve["losses"]] if curve is not None else []
        before = wide[name]["before"] if name in wide else curve["units"] if curve is not None else None
        after = narrow.get(name, before)
        kind = "heads" if name in wide and wide[name]["kind"] == "heads" else ""
        widths = ["" if each is None else f"{each:,} {kind}".strip() for each in (before, after)]
        cut = before is not None and after is not None and after < before
        rows.append(LayerRow((name, *widths, *losses), _why(name, last, cut, name in wide), cut))
    width = max(len(each.cells) for each in rows)
    return [LayerRow(each.cells + ("",) * (width - len(each.cells)), each.why, each.cut) for each in rows]


def _why(name: str, last: Mapping[str, Any], cut: bool, able: bool) -> str:
    if name in last["kept_whole"]:
        return f"stays whole: {last['kept_whole'][name]}"
    if name in last["slower_if_cut"]:
        return "stays whole: a cut would not make it faster"
    if cut and name in last["sensitive"]:
        return f"{last['sensitive'][name]}, but the budget cannot be reached without a cut here"
    if not cut and able:
        return "stays whole: its channels are worth more than what a cut saves"
    return ""


def _headings(curves: Mapping[str, Any] | None) -> tuple[str, ...]:
    ratios = [] if curves is None or not curves["layers"] else curves["ratios"]
    return ("layer", "before", "after", *(f"loss, {each:.0%} cut" for each in ratios))


def _chart_said(pruning: Pruning, curves: Mapping[str, Any]) -> str:
    count, shown = len(curves["layers"]), len(shown_layers(curves))
    some = f" The {shown} most sensitive of {count} layers; report.json has all." if shown < count else ""
    return (
        f"Loss (cross-entropy) on {curves['samples']} training samples when one layer alone loses a share of its channels or "
        f"heads, those that are worth least by {pruning.cuts[0]['criterion']}, before any training. Dashed: the whole network, "
        f"{curves['loss']:.3f}. Dotted: guessing, {curves['guess']:.2f}. Orange: what this run cut.{some}"
    )


def _costs(pruning: Pruning, metric: Metric) -> list[tuple[str, ...]]:
    first, last = pruning.cuts[0], pruning.cuts[-1]
    rows: list[tuple[str, ...]] = []
    for name, key, shown in (
        ("multiply-accumulates", "macs", "{:,}".format), ("parameters", "params", "{:,}".format),
        ("float32 weights", "bytes", size),
    ):  # fmt: skip
        old, new = first[key][0], last[key][1]
        rows.append((name, shown(old), shown(new), f"{new / old:.2f}x", ""))
    for each in () if pruning.latency is None else pruning.latency["host"]:
        verdict = "; ".join(part for part in (verdict_of(each), _NOISY if each["noise"] else "") if part)
        rows.append((
            f"latency on this host, {each['file']}, 1 thread", milliseconds(each["before"]), milliseconds(each["after"]),
            ratio_said(each), verdict,
        ))  # fmt: skip
    for name, before, after in _predicted(pruning):
        told = [f"{milliseconds(each['p50_ms'])} ({each['low_ms']:.3g}-{each['high_ms']:.3g})" for each in (before, after)]
        rows.append((f"predicted on {name}", *told, f"{after['p50_ms'] / before['p50_ms']:.2f}x", str(after["basis"])))
    rows.append(("test top-1, right after the cuts", percent(pruning.before), f"{100 * last['top1']:.2f} %", "", ""))
    if pruning.trained:
        rates = " and ".join(f"{each:g}" for each in sorted({each["learning_rate"] for each in pruning.trained}))
        rows.append(("test top-1, trained again", percent(pruning.before), percent(metric), "", f"learning rate {rates}"))
    return rows


def _predicted(pruning: Pruning) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Return what is predicted before and after the cuts, by device: that of the budget, and the targets of the recipe."""
    first, last = pruning.cuts[0], pruning.cuts[-1]
    found = []
    if last["predicted_latency"] is not None:
        found.append((f"{last['device']} (the budget)", first["predicted_latency"][0], last["predicted_latency"][1]))
    for each in () if pruning.latency is None else pruning.latency["predicted"]:
        threads = f"{each['threads']} thread{'' if each['threads'] == 1 else 's'}"
        found.append((f"{each['device']}, {each['file']}, {threads}", each["before"], each["after"]))
    return found


def _metric(report: Report) -> Metric:
    """Return the accuracy that training after the cuts reached: what quantization-aware training came to is not its doing."""
    simulation = report.student.simulation
    return report.student.metric if simulation is None else simulation.before
