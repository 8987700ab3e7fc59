"""The page and report.json tell how each int8 file was chosen."""

import re
from dataclasses import replace
from pathlib import Path

from edgekd.quantize.choice import Candidate, Choice, Means
from edgekd.quantize.quality import Quality
from edgekd.recipe_file import recipe_from_mapping
from edgekd.report.page import report_page
from edgekd.report.quantization import HEADINGS, candidate_tables
from edgekd.report.report import Report
from tests.digits_data import digits_data
from tests.report.made_up import facts, made_up_report, term

CALIBRATION = {"samples": 400, "change": 0.008, "settled": True, "per_class": [40, 40], "copies_left_out": 0}


def _chosen(report: Report, held: bool) -> Report:
    first = Candidate(Means("minmax"), Quality(0.94, 1.25, 0.99, 21.5, 359))
    second = Candidate(Means("mse", "rounded", ("<conv>",)), Quality(0.96, -0.75, 1.0, 30.25, 359))
    told = {**Choice(second, (first, second), held).to_json(), "calibration": CALIBRATION}
    artifacts = [
        replace(each, verified=replace(each.verified, artifact=replace(each.verified.artifact, quantization=told)))
        if each.name == "tflite-int8" else each
        for each in report.artifacts
    ]  # fmt: skip
    return replace(report, artifacts=tuple(artifacts))


def test_every_candidate_is_told_and_the_one_taken_marked(tmp_path: Path) -> None:
    data = digits_data(tmp_path / "data")
    plain = made_up_report(data, tmp_path / "out", recipe_from_mapping({}), facts("offline", term("kd", 0.83)))
    assert candidate_tables(plain) == []
    assert "Compared on" not in plain.html.read_text()
    report = _chosen(plain, held=True)
    (table,) = candidate_tables(report)
    assert table.file == "student.int8.tflite"
    assert table.rows == (
        ("minmax", "as-trained", "1.25", "99.00%", "21.5 dB", ""),
        ("mse", "rounded, 1 layers in float", "-0.75", "100.00%", "30.2 dB", "taken"),
    )
    assert all(len(row) == len(HEADINGS) for row in table.rows)
    assert table.said.startswith(
        "Ranges come from 400 training samples, 40 of every class; the last of them changed ranges by 0.8%. Compared on 359 "
        "validation samples, never on test ones. It is as good as asked for: 0.5 points"
    )
    assert "None was as good as asked for" in candidate_tables(_chosen(plain, held=False))[0].said
    page = report_page(report, report.to_json()["environment"])
    cells = re.findall(r"<td>([^<]*)</td>", page[page.index("<h2>Quantization</h2>") :])
    assert cells[:12] == [cell for row in table.rows for cell in row]
    told = {each["path"]: each["quantization"] for each in report.to_json()["artifacts"]}
    assert told["artifacts/student.fp32.tflite"] is None
    chosen = told["artifacts/student.int8.tflite"]
    assert chosen["chosen"] == chosen["candidates"][1]
    assert chosen["chosen"]["quality"]["drop"] == -0.75
    assert chosen["calibration"] == CALIBRATION
