"""What the forms of the report say about cuts."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekd.cli.terminal import print_report
from edgekd.data.dataset import Dataset
from edgekd.prune.sensitivity import Curves, Sensitivity
from edgekd.prune.stages import Pruning
from edgekd.recipe_file import recipe_from_mapping
from edgekd.report.model_card import model_card
from edgekd.report.page import report_page
from edgekd.report.pruning import cut_shares, cuts_line, pruning_tables
from edgekd.report.report import Report
from edgekd.tasks.classification import proportion
from tests.digits_data import digits_data
from tests.report.made_up import facts, made_up_report

CURVES = Curves(256, 0.05, 2.303, tuple(
    Sensitivity(name, units, (units // 4, units // 2, 3 * units // 4), losses)
    for name, units, losses in (("stem<b>", 16, (0.9, 2.0, 8.0)), ("a", 16, (0.06, 0.1, 0.4)), ("b", 32, (0.06, 0.2, 0.8)))
))  # fmt: skip


def _cut(macs: tuple[int, int], widths: dict[str, tuple[int, int]], **more: Any) -> dict[str, Any]:
    return {
        "target": "macs=0.25x", "criterion": "taylor", "multiple": 8, "device": None, "macs": list(macs), "params": [2_000, 1_000],
        "bytes": [8_192, 4_096], "predicted_latency": None, "top1": 0.4, "sensitive": {"stem<b>": "the loss rises"},
        "layers": [{"layer": name, "kind": "channels", "before": old, "after": new} for name, (old, new) in widths.items()],
        "kept_whole": {"stem<b>": "the loss rises", "head": "its channels are outputs of the network"}, "slower_if_cut": ["b"], **more,
    }  # fmt: skip


def _timed(file: str, ratio: float, noise: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"file": file, "before": 1.0, "after": ratio, "ratio": ratio, "low": ratio - 0.01, "high": ratio + 0.01, "runs": 900,
            "noise": list(noise)}  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Report:
    data: Dataset = digits_data(tmp_path_factory.mktemp("digits"))
    folder: Path = tmp_path_factory.mktemp("run") / "out"
    return made_up_report(data, folder, recipe_from_mapping({"export": {"artifacts": ["onnx-fp32"]}}), facts("none"))


def _report(plain: Report, *cuts: dict[str, Any], **latency: Any) -> Report:
    trained = ({"epochs": 5, "terms": [], "learning_rate": 4e-3},)
    pruning = Pruning(proportion("top1", 350, 359), cuts, trained, sensitivity=CURVES.to_json(), latency=latency or None)
    return replace(plain, student=replace(plain.student, pruning=pruning))


TWICE = (
    _cut((4_000, 2_000), {"a": (16, 8), "b": (32, 32)}), _cut((2_000, 1_000), {"a": (8, 4), "b": (32, 32)}, params=[1_000, 500]),
)  # fmt: skip


def test_figures_are_from_before_the_first_cut_to_after_the_last(plain: Report) -> None:
    report = _report(plain, *TWICE, host=[_timed("onnx-fp32", 0.55)], predicted=[])
    line = cuts_line(report)
    assert line == (
        "MACs 0.25x, parameters 0.25x, latency on this host 0.55x (0.54-0.56); "
        "top-1 before the cuts, right after them and in the end: 97.49 % -> 40.00 % -> 96.10 %"
    )
    assert line in model_card(report) and report.student.pruning is not None
    assert cut_shares(report.student.pruning) == {"a": 0.75, "b": 0.0}
    tables = pruning_tables(report)
    assert tables is not None and not tables.warnings
    assert tables.costs[0] == ("multiply-accumulates", "4,000", "1,000", "0.25x", "")
    assert ("latency on this host, onnx-fp32, 1 thread", "1.00 ms", "0.550 ms", "0.55x (0.54-0.56)", "") in tables.costs
    assert (tables.costs[-1][0], tables.costs[-1][-1]) == ("test top-1, trained again", "learning rate 0.004")
    assert [(each.cells[:3], each.cut) for each in tables.layers] == [
        (("stem<b>", "16", "16"), False), (("a", "16", "4"), True), (("b", "32", "32"), False), (("head", "", ""), False),
    ]  # fmt: skip
    assert [each.why for each in tables.layers] == [
        "stays whole: the loss rises", "", "stays whole: a cut would not make it faster",
        "stays whole: its channels are outputs of the network",
    ]  # fmt: skip


def test_a_network_that_became_slower_is_said_to_be(plain: Report, capsys: pytest.CaptureFixture[str]) -> None:
    predicted = [{
        "device": "pi4", "file": "onnx-fp32", "threads": 4, "before": {"p50_ms": 2.0, "low_ms": 1.0, "high_ms": 4.0, "basis": "fitted"},
        "after": {"p50_ms": 1.5, "low_ms": 1.0, "high_ms": 3.0, "basis": "fitted"},
    }]  # fmt: skip
    report = _report(
        plain, *TWICE, host=[_timed("onnx-fp32", 1.08, ("it scatters",)), _timed("tflite-fp32", 0.7)], predicted=predicted
    )
    tables = pruning_tables(report)
    assert tables is not None
    assert [each.partition(":")[0] for each in tables.warnings] == ["onnx-fp32 is slower on this host than before the cuts"]
    verdicts = {row[0]: row[-1] for row in tables.costs}
    assert verdicts["latency on this host, onnx-fp32, 1 thread"].endswith("although it computes less; the host was busy")
    assert ("predicted on pi4, onnx-fp32, 4 threads", "2.00 ms (1-4)", "1.50 ms (1-3)", "0.75x", "fitted") in tables.costs
    print_report(report)
    printed = capsys.readouterr().out
    assert "pruned: MACs 0.25x" in printed and "slower here than before the cuts" in printed and "predicted on pi4" in printed
    page = report_page(report, report.to_json()["environment"])
    assert (
        tables.warnings[0] in page
        and "stem&lt;b&gt;" in page
        and "<b>" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
    )
    assert "12 % of 16 cut" not in page and "75 % of 16 cut" in page and "all 32 stay" in page


def test_a_sensitive_layer_that_the_budget_needed(plain: Report) -> None:
    kept = {"head": "its channels are outputs of the network"}
    report = _report(
        plain, _cut((4_000, 900), {"stem<b>": (16, 8), "a": (16, 8), "b": (32, 32)}, kept_whole=kept, slower_if_cut=[])
    )
    tables = pruning_tables(report)
    assert tables is not None and tables.layers[0].why == (
        "the loss rises, but the budget cannot be reached without a cut here"
    )
    assert tables.layers[2].why == "stays whole: its channels are worth more than what a cut saves"
    assert report.to_json()["pruning"]["sensitivity"] == CURVES.to_json()


def test_without_cuts_nothing_is_told(plain: Report) -> None:
    assert pruning_tables(plain) is None and cuts_line(plain) is None
    assert "<h2>Pruning</h2>" not in report_page(plain, plain.to_json()["environment"])
    assert pruning_tables(_report(plain)) is None  # weights were set to zero, and nothing cut
