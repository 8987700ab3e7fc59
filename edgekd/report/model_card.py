"""The model card: what an app developer reads before shipping a file (Mitchell et al., 2019)."""

from __future__ import annotations

from edgekd import __version__
from edgekd.report.report import MeasuredArtifact, Report
from edgekd.report.rows import HEADINGS, percent, table_rows


def model_card(report: Report) -> str:
    """Return the model card as Markdown."""
    recipe, student, teacher = report.recipe, report.student, report.teacher
    labels = student.spec.outputs[0].labels or ()
    shown = ", ".join(labels[:20]) + (f", and {len(labels) - 20} more (labels.txt has all)" if len(labels) > 20 else "")
    table = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    table += ["| " + " | ".join(row.cells) + (" rejected |" if row.rejected else " |") for row in table_rows(report)]
    missed = [f"- **{gate.name}**: {gate.value:.4g}, promised {gate.limit:.4g}" for gate in report.gates if not gate.passed]
    return "\n".join([
        f"# {recipe.name}", "",
        f"{student.name}, distilled from {teacher.name}, for {recipe.task} "
        f"in {len(labels)} classes: {shown}.",
        "", "## Files", "", *table, "",
        f"Top-1 accuracy on the {report.counts['test']:,} images of the test split, with the 95 % Wilson interval. "
        "Agrees: share of them with the PyTorch student's class. Latency: measured on the machine that made the files.",
        "", "## Input and output", "", *[line for each in report.artifacts for line in _contract(each)],
        "", "## Gates", "", *(missed or ["Every gate of the recipe was passed."]),
        "", "## Data and limits", "",
        f"Trained on {report.counts['train']:,} images of `{recipe.data.source}`, seed {recipe.seed}. "
        "The accuracy holds for images like those; images from another camera or place need their own test.",
        "", f"Made by edgekd {__version__}; `recipe.yaml` beside this file makes it again.", "",
    ])  # fmt: skip


def _contract(each: MeasuredArtifact) -> list[str]:
    lines = [f"**{each.relative_path}**", ""]
    for tensor in each.verified.inputs:
        lines.append(
            f"- input `{tensor['name']}`: {tensor['dtype']} {tensor['shape']}, {tensor['layout']}. Scale pixels to "
            f"{tensor['value_range']}, then (x - {tensor['mean']}) / {tensor['std']} per channel" + _steps(tensor)
        )
    for tensor in each.verified.outputs:
        real = f"; real value = (raw - {tensor['zero_point']}) * {tensor['scale']:.6g}" if tensor["scale"] is not None else ""
        lines.append(
            f"- output `{tensor['name']}`: {tensor['dtype']} {tensor['shape']}, one logit per line of labels.txt{real}"
        )
    return [*lines, f"- top-1 {percent(each.verified.metric)}", ""]


def _steps(tensor: dict[str, object]) -> str:
    return f", then round(x / {tensor['scale']:.6g} + {tensor['zero_point']})" if tensor["scale"] is not None else ""
