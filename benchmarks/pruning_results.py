"""What ``pruning_quality.py`` found: a file for each network it made, how fast their files are, and the tables."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pruning_ways import FORMATS, WAYS, Made

from edgekd.data.load import load_data
from edgekd.distill.control import paired_difference
from edgekd.errors import ModelError
from edgekd.progress import Silent
from edgekd.report.report import Report, cpu_name
from edgekd.safe.child import run_in_child
from edgekd.workspace import open_workspace

LEAST_SHARE = 0.8
"""Of the reduction of MACs that latency must fall by."""
MOST_DROP = 1.5
"""Points that a transformer may lose with half of its heads and feed-forward width."""
WHOLE, HALF = "whole", "half"
TRANSFORMER = "tiny_transformer"
ORDERS = {
    "prune-qat": "pruned, then QAT", "qat-prune": "QAT, then pruned, then int8", "prune-int8": "pruned, then int8, no QAT",
}  # fmt: skip
SHOWN = {"onnx-fp32": "ONNX fp32", "onnx-int8": "ONNX int8", "tflite-fp32": "TFLite fp32", "tflite-int8": "TFLite int8"}

_EACH = ("images", "every", "seed", "batch_size", "mobilenet_width", "train_epochs")
_RECOVERED = ("epochs", "learning_rate", "temperature")
_OURS = ("multiples", "prune")
_TEXTS = ("sst2", "tokenizer", "seed", "text_epochs")


def settings_of(name: str, way: str, options: argparse.Namespace) -> dict[str, str]:
    """Return the options that what a way makes of network ``name`` depends on."""
    keys = _TEXTS if name == TRANSFORMER else _EACH
    if way == "width":
        keys = (*keys, "scratch_epochs")
    elif way in ORDERS:
        keys = (*keys, *_RECOVERED, *_OURS, "qat_epochs")
    elif way != WHOLE:
        keys = (*keys, *_RECOVERED, *(_OURS if way in {"ours", "random"} else ()))
    given = [each.partition("=")[2] for each in options.weights if each.partition("=")[0] == name]
    return {key: str(getattr(options, key)) for key in keys} | {"weights": str(given)}


def keep(
    folder: Path, way: str, fewer: float, options: argparse.Namespace, make: Callable[[], Made]
) -> None:  # fmt: skip
    """Leave what ``make`` makes as ``folder/WAY-FEWERx.json`` and ``.npz``, unless that is there from the same settings."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{way}-{fewer:g}x.json"
    line: dict[str, Any] = {"way": way, "fewer": fewer, "settings": settings_of(folder.name, way, options)}
    if path.is_file() and json.loads(path.read_text())["settings"] == line["settings"]:
        return
    started = time.monotonic()
    try:
        report, how = make()
    except ModelError as error:
        print(f"{folder.name}, {way} {fewer:g}x: {error.message}", file=sys.stderr, flush=True)
        path.write_text(json.dumps({**line, "refused": error.message}, indent=2))
        return
    np.savez_compressed(path.with_suffix(".npz"), allow_pickle=False, **correct(report))
    student = report.student
    line |= {
        "how": how, "macs": student.cost.macs, "params": student.cost.params, "top1": student.metric.value,
        "ci95": student.metric.ci95, "n": student.metric.n, "seconds": time.monotonic() - started,
        "files": {each.name: str(each.verified.artifact.path) for each in report.artifacts},
        "files_top1": {each.name: each.verified.metric.value for each in report.artifacts},
        "pruning": student.pruning.to_json() if student.pruning is not None else None,
    }  # fmt: skip
    path.write_text(json.dumps(line, indent=2))


def correct(report: Report) -> dict[str, Any]:
    """Return which test samples the network and each of its files have right."""
    with open_workspace(report.folder, Silent()) as workspace:
        data = load_data(report.recipe, workspace)
    labels = data.labels[data.splits.test]
    logits = {"pytorch": report.student.test_logits}
    logits |= {each.name: each.verified.logits for each in report.artifacts if each.verified.logits is not None}
    return {name: np.load(path).argmax(1) == labels for name, path in logits.items()}


def results(folder: Path, ways: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return what is there of a network from the settings that are asked for: by reduction, then in the order of ``ways``."""
    found = [json.loads(path.read_text()) | {"path": str(path)} for path in folder.glob("*x.json")]
    found = [each for each in found if each["way"] in ways]
    found = [each for each in found if each["settings"] == settings_of(folder.name, each["way"], options)]
    return sorted(found, key=lambda each: (each["fewer"], ways.index(each["way"])))


def title(line: dict[str, Any]) -> str:
    """Return what a line is called."""
    return line["way"] if line["way"] in {WHOLE, HALF} else f"{line['way']} {line['fewer']:g}x"


def timed(found: list[dict[str, Any]], folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return for each format the median milliseconds of every file in each round, as measured now or before."""
    path = folder / "latency.json"
    files = {
        kind: {title(line): line["files"][kind] for line in found if kind in line.get("files", {})} for kind in FORMATS
    }  # fmt: skip
    known = json.loads(path.read_text()) if path.is_file() else None
    same = known is not None and known["files"] == files
    if options.latency == "never" or (options.latency == "auto" and same):
        return known if known is not None and same else {"ms": {}}
    measured = {}
    for kind, each in files.items():
        print(f"{folder.name}: {len(each)} files of {kind}, in turn", file=sys.stderr, flush=True)
        timing = {"files": each, "kind": kind.partition("-")[0], "rounds": options.rounds, "runs": options.runs}
        measured[kind] = run_in_child(
            "artifact_speed:alternate", timing, log=folder / "log.txt", threads=1, timeout_s=4 * 3600.0
        )
    known = {"files": files, "ms": measured, "load": os.getloadavg(), "cpu": cpu_name()}
    path.write_text(json.dumps(known, indent=2))
    return known


def table(name: str, options: argparse.Namespace) -> str:
    """Return the table of a network in Markdown, and what it says of the claims; its files are timed for it."""
    folder, texts = options.out / name, name == TRANSFORMER
    found = results(folder, [WHOLE, HALF] if texts else [WHOLE, *WAYS], options)
    if not found or found[0]["way"] != WHOLE or "refused" in found[0]:
        return f"## {name}\n\nThe whole network is not there."
    latency, whole = timed(found, folder, options), found[0]
    heads = ["way", "MACs (fewer)", "parameters", "top-1 (95 %)", "over the whole, points", "ours over it, points"]
    heads += [f"{SHOWN[kind]}: top-1; p50, faster (range), share" for kind in FORMATS]
    rows = [f"| {' | '.join([*heads, 'how'])} |", "|---" * (len(heads) + 1) + "|"]
    said: list[str] = []
    for line in found:
        if "refused" in line:
            rows.append(f"| {title(line)} | {line['refused'].replace('|', '/')} |" + " |" * (len(heads) - 1))
            continue
        mine = next((e for e in found if e["way"] == "ours" and e["fewer"] == line["fewer"] and "refused" not in e), None)
        rows.append(row(line, whole, mine, latency, said))
    told = f"load {latency['load'][0]:.1f} while timed, {latency['cpu']}" if "cpu" in latency else "not timed yet"
    epochs = options.text_epochs if texts else options.epochs
    heading = f"## {name}\n\n{epochs} epochs of recovery; seed {options.seed}; {whole['n']:,} test samples; {told}."
    return "\n".join([heading, "", *rows, "", *[f"- {each}" for each in said]])


def row(
    line: dict[str, Any], whole: dict[str, Any], mine: dict[str, Any] | None, latency: dict[str, Any], said: list[str]
) -> str:  # fmt: skip
    """Return a row of the table; what it says of the claims is added to ``said``.

    Args:
        line: Of the row.
        whole: Of the whole network.
        mine: Ours at the same reduction, if there is one.
        latency: See :func:`timed`.
        said: Sentences so far.
    """
    low, high = (100 * each for each in line["ci95"])
    fewer = whole["macs"] / line["macs"]
    cells = [title(line), f"{line['macs'] / 1e6:.2f} M ({fewer:.2f}x)", f"{line['params']:,}",
             f"{100 * line['top1']:.2f} % ({low:.1f}-{high:.1f})"]  # fmt: skip
    cells.append("" if line is whole else points(*difference(line, whole)))
    if mine is not None and line["way"] not in {WHOLE, "ours"}:
        gain, interval = difference(mine, line)
        cells.append(points(gain, interval))
        said.append(f"{title(mine)}: {'WORSE' if interval[1] < 0 else 'not worse'} than {line['way']}")
    else:
        cells.append("")
    for kind in FORMATS:
        cell, share = speed(latency["ms"].get(kind, {}), line, whole, fewer)
        cells.append("; ".join([f"{100 * line['files_top1'][kind]:.2f} %", *([cell] if cell else [])]))
        if share is not None and line["way"] == "ours":
            verdict = "holds" if share >= LEAST_SHARE else f"BELOW {LEAST_SHARE}"
            said.append(f"{title(line)}, {SHOWN[kind]}: latency falls by {share:.2f} of the MACs, {verdict}")
    if line["way"] == HALF:
        gain, interval = difference(line, whole)
        within = "holds" if gain >= -MOST_DROP else f"MORE THAN {MOST_DROP} LOST"
        said.append(f"half: {points(gain, interval)} points, {within}")
    return f"| {' | '.join([*cells, line['how']])} |"


def order_table(name: str, options: argparse.Namespace) -> str:
    """Return the table of the orders of pruning and quantization."""
    found = [each for each in results(options.out / name, list(ORDERS), options) if "refused" not in each]
    heads = [
        "order",
        "MACs",
        "PyTorch",
        *(f"{SHOWN[kind]} (less the first, points)" for kind in ("onnx-int8", "tflite-int8")),
        "how",
    ]
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for line in found:
        cells = [ORDERS[line["way"]], f"{line['macs'] / 1e6:.2f} M", f"{100 * line['top1']:.2f} %"]
        for kind in ("onnx-int8", "tflite-int8"):
            less = "" if line is found[0] else f" ({points(*difference(line, found[0], kind))})"
            cells.append(f"{100 * line['files_top1'][kind]:.2f} %{less}")
        rows.append(f"| {' | '.join([*cells, line['how']])} |")
    recovery, rounding = options.epochs, options.qat_epochs
    told = f"{recovery} epochs after the cut and {rounding} of QAT in either order, {recovery + rounding} without QAT"
    return "\n".join([f"## {name}: order of pruning and quantization", "", f"{told}; seed {options.seed}.", "", *rows])


def difference(
    line: dict[str, Any], other: dict[str, Any], of: str = "pytorch"
) -> tuple[float, tuple[float, float]]:  # fmt: skip
    """Return by how many points one network, or a file of it, is more often right than another's, with the interval."""
    with np.load(Path(line["path"]).with_suffix(".npz")) as first, np.load(Path(other["path"]).with_suffix(".npz")) as second:
        return paired_difference(first[of], second[of])[:2]


def speed(
    ms: dict[str, list[float]], line: dict[str, Any], whole: dict[str, Any], fewer: float
) -> tuple[str, float | None]:  # fmt: skip
    """Return the latency of a file beside the whole network's, in words, and its share of the reduction of MACs."""
    if title(line) not in ms or title(whole) not in ms:
        return "", None
    times = ms[title(line)]
    p50 = f"{statistics.median(times):.3f} ms"
    if line is whole:
        return p50, None
    ratios = [before / after for before, after in zip(ms[title(whole)], times, strict=True)]
    share = statistics.median(ratios) / fewer
    return f"{p50}, {statistics.median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f}), {share:.2f}", share


def points(value: float, interval: tuple[float, float]) -> str:
    """Return a difference with its interval."""
    return f"{value:+.2f} ({interval[0]:+.2f} to {interval[1]:+.2f})"
