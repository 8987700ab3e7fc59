"""``edgekd verify A B`` as its user meets it: on real models of several frameworks, fed as each wants."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.cli import main
from edgekd.compare.models import Comparison, compare_models
from edgekd.compare.sides import ask, recipe_of
from edgekd.errors import UsageError
from edgekd.report.report import Report
from tests.model_surgery import append_onnx, edit_onnx


def _run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["edgekd", "verify", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
        raise SystemExit(0)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def _missed(found: Comparison) -> set[str]:
    return {each.name for each in found.limits if not each.passed}


def test_pytorch_against_int8_tflite_with_nothing_told(finished: Report, tmp_path: Path) -> None:
    alone = tmp_path / "model.tflite"
    shutil.copy(finished.path("tflite-int8"), alone)
    found = compare_models("zoo:shallow_cnn", str(alone), "digits", weights=(str(finished.student.weights), None), layers=True)
    reported = next(each.verified for each in finished.artifacts if each.name == "tflite-int8")
    assert found.ok
    assert found.metrics[0] == finished.student.metric
    assert found.metrics[1].value == pytest.approx(reported.metric.value, abs=0.003)
    assert found.samples.agreement.value == pytest.approx(reported.parity.agreement, abs=0.003)
    assert found.samples.max_abs_error == pytest.approx(reported.parity.max_abs_error, rel=0.2)
    assert found.b.dtypes == reported.dtypes
    assert found.a.dtypes is None
    assert found.drop == pytest.approx(100 * (found.metrics[0].value - found.metrics[1].value))
    assert found.compared == "logits"
    assert found.drop_ci95[0] <= found.drop <= found.drop_ci95[1]
    assert found.layers is not None and found.layers.first is None
    assert {"CONV_2D", "FULLY_CONNECTED"} <= {each.b_operator for each in found.layers.layers}


def test_files_of_a_run_are_fed_as_its_report_says(finished: Report) -> None:
    found = compare_models(str(finished.path("onnx-fp32")), str(finished.path("tflite-fp32")))
    assert found.ok
    assert found.source == "digits"
    assert all("report.json describes it" in note for side in (found.a, found.b) for note in side.notes)
    assert found.samples.max_relative_error < 1e-5
    assert found.extremes is not None and found.extremes.n == 64
    assert found.layers is None


def test_probabilities_are_compared_as_such(finished: Report, tmp_path: Path) -> None:
    probable = append_onnx(finished.path("onnx-fp32"), tmp_path / "softmax.onnx", "Softmax", axis=1)
    found = compare_models(str(finished.path("onnx-fp32")), str(probable))
    assert found.compared == "probabilities"
    assert found.ok
    assert found.samples.max_abs_error < 1e-5


def test_a_fault_is_a_missed_limit_exit_4_and_the_layer_is_named(
    finished: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(constants: dict[str, Any]) -> None:
        constants["features.1.0.weight"] *= np.float32(3)

    planted = edit_onnx(finished.path("onnx-fp32"), tmp_path / "planted.onnx", change)
    code, out, _ = _run(capsys, monkeypatch, str(finished.path("tflite-fp32")), str(planted), "--json")
    content = json.loads(out)
    assert (code, content["status"]) == (4, "gate-missed")
    assert content["layers"]["first"]["b_operator"] == "Conv"
    assert content["layers"]["first"]["b"] == "getitem_3"  # the convolution of features.1, see the plants in test_layers.py
    assert {each["b"]: each["sqnr_db"] for each in content["layers"]["pairs"]}["relu"] > 80
    assert content["limits"][0]["name"] == "max error / output range"
    code, out, err = _run(capsys, monkeypatch, str(finished.path("tflite-fp32")), str(planted))
    assert code == 4
    assert "first: Conv " in out
    assert "error: limit missed: max error / output range" in err


def test_limits_that_are_given_count(finished: Report) -> None:
    pair = str(finished.path("onnx-fp32")), str(finished.path("tflite-int8"))
    from edgekd.compare.models import Limits

    assert _missed(compare_models(*pair)) == set()
    strict = compare_models(*pair, limits=Limits(max_error=1e-6, min_agreement=0.5, max_drop=50))
    assert _missed(strict) == {"max error / output range", "max error on extreme inputs / output range"}


@pytest.mark.parametrize(("arguments", "said"), [
    (["nowhere.onnx", "x.onnx"], "does not exist"),
    (["zoo:shallow_cnn", "zoo:shalow"], "did you mean"),
    (["model", "zoo:shallow_cnn"], "is no model reference"),
    (["store:.", "zoo:shallow_cnn"], "nothing to run"),
    (["zoo:shallow_cnn", "zoo:shallow_cnn"], "no data to compare on"),
    (["zoo:shallow_cnn", "zoo:shallow_cnn", "--data", "digits"], "comes without weights"),
    (["zoo:shallow_cnn", "zoo:shallow_cnn", "--data", "digits", "gates.x=1"], "changes nothing here"),
    (["a", "b", "c"], "3 models given"),
    (["a", "b", "--hashes-only"], "is for a run folder"),
    (["empty"], "is no run folder"),
])  # fmt: skip
def test_mistakes_are_one_line_and_exit_2(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    code, out, err = _run(capsys, monkeypatch, *arguments)
    assert (code, out) == (2, ""), err
    assert said in err
    assert "Traceback" not in err


def test_data_of_the_run_is_taken_unless_other_data_is_named(finished: Report, tmp_path: Path) -> None:
    inside = ask(str(finished.path("onnx-fp32")))
    assert inside.run == finished.folder.absolute()
    shutil.copy(finished.path("onnx-fp32"), tmp_path / "outside.onnx")
    outside = ask(str(tmp_path / "outside.onnx"))
    assert (outside.run, outside.described) == (None, None)
    assert recipe_of(outside, inside, None, ()).data == finished.recipe.data
    assert recipe_of(outside, inside, None, ["data.test=0.3", "seed=4"]).data.test == 0.3
    assert recipe_of(outside, inside, "npz:other.npz", ()).data.source == "npz:other.npz"
    with pytest.raises(UsageError, match="no data"):
        recipe_of(outside, outside, None, ())
