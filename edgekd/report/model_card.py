"""The model card: what an app developer reads before shipping a file (Mitchell et al., 2019)."""

from __future__ import annotations

from typing import Any

from edgekd import __version__
from edgekd.distill.control import verdict
from edgekd.report.classes import worst_class
from edgekd.report.distillation import PAIRED, pins, pruning_sentence, rounding_sentence, sentence, taught_by
from edgekd.report.pruning import cuts_line
from edgekd.report.report import MeasuredArtifact, Report
from edgekd.report.rows import HEADINGS, TARGET_HEADINGS, percent, table_rows, target_rows
from edgekd.report.sparsity import HEADINGS as ZERO_HEADINGS
from edgekd.report.sparsity import SPEED, zero_rows

_SAMPLES = {"image": "images", "tokens": "texts", "waveform": "sounds", "features": "rows"}
_LIMITS = {
    "image": "images like those; images from another camera or place need their own test",
    "tokens": "texts like those; texts of another kind, style or language need their own test",
    "waveform": "sounds like those; other microphones, rooms or speakers need their own test",
    "features": "rows like those; measurements from another source need their own test",
}


def model_card(report: Report) -> str:
    """Return the model card as Markdown."""
    recipe, student = report.recipe, report.student
    labels = student.spec.outputs[0].labels or ()
    shown = ", ".join(labels[:20]) + (f", and {len(labels) - 20} more (labels.txt has all)" if len(labels) > 20 else "")
    table = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    table += ["| " + " | ".join(row.cells) + (" rejected |" if row.rejected else " |") for row in table_rows(report)]
    meaning = student.spec.inputs[0].meaning
    samples = _SAMPLES[meaning]
    missed = [f"- **{gate.name}**: {gate.value:.4g}, promised {gate.limit:.4g}" for gate in report.gates if not gate.passed]
    return "\n".join([
        f"# {recipe.name}", "",
        f"{student.name}, {taught_by(report.teacher, student.facts)}, for {recipe.task} "
        f"in {len(labels)} classes: {shown}.",
        "", "## Files", "", *table, "",
        f"Top-1 accuracy on the {report.counts['test']:,} {samples} of the test split, with the 95 % Wilson interval. "
        "Agrees: share of them with the PyTorch student's class. Latency: measured on the machine that made the files.",
        *_targets(report), *_zeros(report), "", "## Training", "", *_training(report),
        "", "## Input and output", "", _carried(report), "", *[line for each in report.artifacts for line in _contract(each)],
        "", "## Gates", "", *(missed or ["Every gate of the recipe was passed."]),
        "", "## Data and limits", "",
        f"Trained on {report.counts['train']:,} {samples} of `{recipe.data.source}`, seed {recipe.seed}. "
        f"The accuracy holds for {_LIMITS[meaning]}.",
        "", f"Made by edgekd {__version__}; `recipe.yaml` beside this file makes it again.", "",
    ])  # fmt: skip


def _targets(report: Report) -> list[str]:
    rows = target_rows(report)
    if not rows:
        return []
    table = ["| " + " | ".join(TARGET_HEADINGS) + " |", "|" + "---|" * len(TARGET_HEADINGS)]
    table += ["| " + " | ".join(row.cells) + " |" for row in rows]
    said = (
        "Median latency of one sample. Measured: the file ran on that device. Predicted: estimated from published measurements."
    )
    return ["", "## Targets", "", *table, "", said]


def _zeros(report: Report) -> list[str]:
    rows = zero_rows(report)
    if not rows:
        return []
    table = ["| " + " | ".join(ZERO_HEADINGS) + " |", "|" + "---|" * len(ZERO_HEADINGS)]
    table += ["| " + " | ".join(row.cells) + " |" for row in rows]
    return ["", "## Weights that are zero", "", *table, "", SPEED]


def _training(report: Report) -> list[str]:
    facts, pinned = report.student.facts, pins(report.recipe, report.student.facts)
    lines = [sentence(facts)]
    if report.student.pruning is not None:
        lines += ["", pruning_sentence(report.student.pruning)]
    if (cuts := cuts_line(report)) is not None:
        lines += ["", f"Before and after the cuts: {cuts}."]
    if report.student.simulation is not None:
        lines += ["", rounding_sentence(report.student.simulation)]
    if report.control is not None:
        lines += ["", f"Compared with the same student trained alone for as long, {verdict(report.control)}. {PAIRED}"]
    if pinned:
        lines += ["", f"To fix what this run chose by itself: `{pinned}`"]
    return lines


_READERS = {
    "tflite": "TFLite files as TFLite Model Metadata, with labels.txt packed behind it, which tflite-support and the Task "
    "Library read",
    "onnx": "ONNX files as metadata_props, which ONNX Runtime gives as `session.get_modelmeta().custom_metadata_map`",
}


def _carried(report: Report) -> str:
    formats = {each.verified.artifact.format for each in report.artifacts}
    return f"Every file says this itself: {'; '.join(said for kind, said in _READERS.items() if kind in formats)}."


def _contract(each: MeasuredArtifact) -> list[str]:
    lines = [f"**{each.relative_path}**", ""]
    for tensor in each.verified.inputs:
        layout = f", {tensor['layout']}" if tensor["meaning"] == "image" else ""
        lines.append(f"- input `{tensor['name']}`: {tensor['dtype']} {tensor['shape']}{layout}. {_preparation(tensor)}")
    for tensor in each.verified.outputs:
        real = f"; real value = (raw - {tensor['zero_point']}) * {tensor['scale']:.6g}" if tensor["scale"] is not None else ""
        lines.append(
            f"- output `{tensor['name']}`: {tensor['dtype']} {tensor['shape']}, one logit per line of labels.txt{real}"
        )
    lines.append(f"- top-1 {percent(each.verified.metric)}")
    if each.per_class is not None and each.per_class.ranked:
        lines.append(f"- per class, against the {each.per_class.against}: {worst_class(each.per_class)}")
    return [*lines, ""]


def _preparation(tensor: dict[str, Any]) -> str:
    """Return in words what an app does to raw data before it is this input."""
    if tensor["meaning"] == "tokens":
        return (
            f"Indices into vocab.txt, made by the tokenizer of tokenizer.json: cut to {tensor['shape'][-1]} tokens, and filled "
            "up to as many with its padding token"
        )
    if tensor["meaning"] == "mask":
        return "1 where there is a token, 0 where there is padding"
    if tensor["meaning"] == "waveform":
        low, high = tensor["value_range"]
        return (
            f"Mono sound of {tensor['sample_rate']:,} samples a second, scaled to {low:g} to {high:g}, cut to "
            f"{tensor['shape'][-1]:,} samples or filled up with silence at its end; the log-mel front end is inside the file"
            + _steps(tensor)
        )
    normal = f"(x - {tensor['mean']}) / {tensor['std']}"
    if tensor["meaning"] == "features":
        return f"Every column as {normal}" + _steps(tensor)
    return f"Scale pixels to {tensor['value_range']}, then {normal} per channel" + _steps(tensor)


def _steps(tensor: dict[str, Any]) -> str:
    return f", then round(x / {tensor['scale']:.6g} + {tensor['zero_point']})" if tensor["scale"] is not None else ""
