"""Charts of the report as inline SVG, the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgekd.report.report import Report
from edgekd.report.rows import milliseconds
from edgekd.svg import svg_of
from edgekd.tasks.classification import Metric

_COLORS = {
    "teacher": "#6b7280",
    "onnx": "#2563eb",
    "ort": "#7c3aed",
    "tflite": "#d97706",
    "control": "#059669",
    "peer": "#93c5fd",
}
_MOST_LAYERS = 8
_LONGEST = 40
_MARKERS = {"fp32": "o", "fp16": "s", "int8": "D", "int16x8": "^", "int4": "v"}


def size_accuracy_latency(report: Report) -> str:
    """Return an SVG: accuracy with its interval over size, and latency beside it, every artifact, teacher and control."""
    figure, (left, right) = _figure(2, (9.6, 3.9))
    teacher, control = report.teacher, report.control
    if teacher is not None:
        _point(left, teacher.cost.size_bytes / 1024, teacher.metric, _COLORS["teacher"], "*", "teacher (PyTorch)")
    if control is not None:
        kibibytes = report.student.cost.size_bytes / 1024
        _point(left, kibibytes, control.metric, _COLORS["control"], "X", "student alone (PyTorch)")
    for each in report.artifacts:
        artifact = each.verified.artifact
        color, marker = _COLORS[artifact.format], _MARKERS[artifact.precision]
        label = artifact.name.replace("-", " ") + (" (rejected)" if each.folder == "rejected" else "")
        _point(left, each.size_bytes / 1024, each.verified.metric, color, marker, label)
    left.set(
        xscale="log", xlabel="size in KiB (log scale)", ylabel="test top-1 in %, 95 % interval", title="Accuracy over size"
    )
    left.legend(fontsize=7.5, frameon=False, loc="lower right")
    names = [each.name.replace("-", " ") for each in report.artifacts]
    targets = sorted({target for each in report.artifacts for target in each.latency if target.startswith("host:")})
    height = 0.8 / max(1, len(targets))
    for row, target in enumerate(targets):
        values = [each.latency[target]["p50_ms"] for each in report.artifacts]
        tails = [max(0.0, each.latency[target]["p90_ms"] - value) for each, value in zip(report.artifacts, values, strict=True)]
        places = [index + (row - (len(targets) - 1) / 2) * height for index in range(len(names))]
        colors = [_COLORS[each.verified.artifact.format] for each in report.artifacts]
        right.barh(places, values, height * 0.9, color=colors, alpha=1.0 if row == 0 else 0.5,
                   xerr=[[0] * len(values), tails], error_kw={"elinewidth": 1})  # fmt: skip
        for place, value, tail in zip(places, values, tails, strict=True):
            right.annotate(f"{milliseconds(value)}  {target.removeprefix('host:')} thr.", (value + tail, place),
                           xytext=(4, 0), textcoords="offset points", va="center", fontsize=7)  # fmt: skip
    right.set(xlabel="ms for one sample: p50, whisker to p90", title="Latency on this host, measured")
    right.set_yticks(range(len(names)), names)
    right.invert_yaxis()
    right.margins(x=0.35)
    right.set_xlim(left=0)
    return svg_of(figure)


def training_curves(report: Report) -> str:
    """Return an SVG: validation accuracy over the epochs of teacher, student, its peers and the student alone."""
    figure, (axis,) = _figure(1, (9.6, 2.6))
    for label, color, values in _curves(report):
        percents = [100 * each for each in values]
        axis.plot(range(1, len(values) + 1), percents, color=color, label=label, marker="o" if len(values) < 10 else None)
    axis.set(xlabel="epoch", ylabel="validation top-1 in %", title="Training")
    axis.legend(fontsize=8, frameon=False, loc="lower right")
    return svg_of(figure)


def int8_share(report: Report) -> str | None:
    """Return an SVG: validation accuracy over the share of work in int8, of every file in which layers were kept in floating
    point, and the names of those layers; ``None`` where there is no such file."""
    found = [
        (each.name, quantization["mixed"])
        for each in report.artifacts
        if (quantization := each.verified.artifact.quantization) is not None and quantization.get("mixed")
    ]
    if not found:
        return None
    figure, axes = _figure(len(found), (9.6, 3.9))
    for axis, (name, mixed) in zip(axes, found, strict=True):
        for each in mixed["curve"]:
            color = _COLORS["control"] if each["holds"] else _COLORS["peer"]
            axis.plot([100 * each["int8_macs"]], [100 * each["quality"]["top1"]], "o", color=color, markersize=5, alpha=0.8)
        kept = [each["layer"] for each in mixed["kept"]]
        (chosen,) = (each for each in mixed["curve"] if list(each["kept"]) == kept)
        place = (100 * chosen["int8_macs"], 100 * chosen["quality"]["top1"])
        axis.plot(*place, "*", color=_COLORS["tflite"], markersize=14, linestyle="none", label="chosen")
        student = 100 * mixed["plain"]["top1"] + mixed["plain"]["drop"]
        axis.axhline(student, color=_COLORS["teacher"], linewidth=1, linestyle="--", label="student (PyTorch)")
        axis.plot([], [], "o", color=_COLORS["control"], label="reaches the goal")
        axis.plot([], [], "o", color=_COLORS["peer"], label="misses it")
        axis.annotate(_listed(kept), (0.03, 0.04), xycoords="axes fraction", fontsize=7, va="bottom")
        axis.set(
            xlabel="share of multiply-accumulates in int8, in %", ylabel="validation top-1 in %",
            title=f"{name.replace('-', ' ')}: accuracy over share of int8",
        )  # fmt: skip
        axis.margins(x=0.1, y=0.4)
        axis.legend(fontsize=7.5, frameon=False, loc="upper right")
    return svg_of(figure)


def _listed(layers: list[str]) -> str:
    shown = [short_layer(each) for each in layers[:_MOST_LAYERS]]
    more = [f"and {len(layers) - len(shown)} more"] if len(layers) > len(shown) else []
    return "\n".join(["in floating point:", *(shown or ["none"]), *more])


def short_layer(name: str) -> str:
    """Return what tells a layer of a TFLite file from others: its own place in the network, without the way there."""
    own = name.rstrip(";").rpartition("/")[2]
    return own if len(own) <= _LONGEST else f"...{own[-_LONGEST + 3 :]}"


def _curves(report: Report) -> Iterator[tuple[str, str, list[float]]]:
    """Yield name, colour and validation accuracy per epoch of every network that was trained here."""
    if report.teacher is not None and report.teacher.history:
        yield "teacher", _COLORS["teacher"], [each["validation"] for each in report.teacher.history]
    history = report.student.history
    keys = [key for key in (history[0] if history else ()) if key.partition(" ")[0] == "validation"]
    for key in sorted(keys, key=lambda each: each != "validation"):
        name = key.removeprefix("validation").strip() or "student"
        is_kept = len(keys) == 1 or name == report.student.facts["kept"]
        label = f"{name} (kept)" if is_kept and len(keys) > 1 else name
        yield label, _COLORS["onnx" if is_kept else "peer"], [each[key] for each in history]
    if report.control is not None and report.control.history:
        yield "student alone", _COLORS["control"], [each["validation"] for each in report.control.history]


def _figure(columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _point(axis: Any, x: float, metric: Metric, color: str, marker: str, label: str) -> None:
    low, high = metric.ci95
    axis.errorbar(
        [x], [100 * metric.value], yerr=[[100 * (metric.value - low)], [100 * (high - metric.value)]],
        color=color, marker=marker, markersize=8, capsize=3, elinewidth=1, linestyle="none", label=label,
    )  # fmt: skip
