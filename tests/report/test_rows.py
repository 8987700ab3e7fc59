"""The table of a report: what its cells say, and that every surface shows the same."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.report.charts import size_accuracy_latency, training_curves
from edgekd.report.model_card import model_card
from edgekd.report.report import Report
from edgekd.report.rows import HEADINGS, milliseconds, percent, size, table_rows
from edgekd.tasks.classification import Metric


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0.0 KiB"), (1536, "1.5 KiB"), (1024**2 - 1, "1024.0 KiB"), (1024**2, "1.00 MiB"), (5.5 * 1024**2, "5.50 MiB")],
)
def test_sizes(count: float, said: str) -> None:
    assert size(count) == said


@pytest.mark.parametrize(
    ("value", "said"), [(0.0123, "0.012 ms"), (0.9994, "0.999 ms"), (1.0, "1.00 ms"), (123.456, "123.46 ms")]
)
def test_times(value: float, said: str) -> None:
    assert milliseconds(value) == said


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_percent_says_value_and_interval(low: float, value: float, high: float) -> None:
    low, value, high = sorted([low, value, high])
    said = percent(Metric("top1", value, (low, high), 100))
    assert float(said.split(" %")[0]) == pytest.approx(100 * value, abs=0.0051)
    bounds = said.split("(")[1].rstrip(")").split("-")
    assert [float(bound) for bound in bounds] == pytest.approx([100 * low, 100 * high], abs=0.051)


def test_table_agrees_with_report_json(finished: Report) -> None:
    report = json.loads((finished.folder / "report.json").read_text())
    rows = table_rows(finished)
    assert [row.cells[0] for row in rows[2:]] == [each["path"].split("/")[1] for each in report["artifacts"]]
    for row, each in zip(rows[2:], report["artifacts"], strict=True):
        cells = dict(zip(HEADINGS, row.cells, strict=True))
        assert float(cells["size"].removesuffix(" KiB")) == pytest.approx(each["size_bytes"] / 1024, abs=0.051)
        assert float(cells["ratio"].removesuffix("x")) == pytest.approx(
            report["teacher"]["size_bytes"] / each["size_bytes"], abs=0.051
        )
        assert float(cells["agrees"].removesuffix(" %")) == pytest.approx(100 * each["parity"]["agreement"], abs=0.051)
        assert float(cells["p50 1 thread"].removesuffix(" ms")) == pytest.approx(
            each["latency"]["host:1"]["p50_ms"], rel=0.05, abs=0.001
        )


def test_every_surface_has_every_row(finished: Report) -> None:
    card, page = model_card(finished), finished.html.read_text()
    for row in table_rows(finished):
        assert "| " + " | ".join(row.cells) + " |" in card
        assert all(cell in page for cell in row.cells)


def test_charts_are_the_same_bytes_for_the_same_numbers_and_name_every_artifact(finished: Report) -> None:
    chart = size_accuracy_latency(finished)
    assert chart == size_accuracy_latency(finished)
    assert training_curves(finished) == training_curves(finished)
    for each in finished.artifacts:
        assert f"{each.verified.artifact.format} {each.verified.artifact.precision}" in chart
    assert chart.startswith("<svg") and "<script" not in chart
