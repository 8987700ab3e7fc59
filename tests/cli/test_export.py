"""`edgekd export` as its user calls it: a trained network becomes proven files, and nothing is trained."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekd.cli.export import command
from edgekd.errors import EdgekdError, GateMissed, ModelError, UsageError
from edgekd.report.report import Report
from edgekd.safe.files import sha256_file


def _call(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(command, arguments)
    if isinstance(done.exception, EdgekdError):
        raise done.exception
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout


def test_the_files_are_those_of_the_run_that_trained_the_network(finished: Report, tmp_path: Path) -> None:
    code, printed = _call(
        "zoo:shallow_cnn", "--weights", str(finished.student.weights), "--data", "digits", "--artifact", "onnx-fp32",
        "--out", str(tmp_path / "out"), "--json", "name=digits", "benchmark.runs=10", "benchmark.warmup=0",
    )  # fmt: skip
    report = json.loads(printed)
    assert (code, report["status"], report["teacher"]) == (0, "ok", None)
    assert report["distillation"]["scheme"] == report["student"]["method"] == "none"
    assert report["student"]["metric"]["value"] == finished.student.metric.value
    assert sha256_file(tmp_path / "out" / "artifacts" / "student.fp32.onnx") == sha256_file(finished.path("onnx-fp32"))
    assert "as it was given" in (tmp_path / "out" / "MODEL_CARD.md").read_text()
    stages = {each.name.rpartition("-")[0] for each in (tmp_path / "out" / "stages").iterdir() if each.is_dir()}
    assert not stages & {"distill", "teacher", "probe"}


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        (["--weights", "nowhere.pt"], UsageError, "nowhere.pt does not exist"),
        (["--artifact", "onnx-int9"], EdgekdError, "did you mean 'onnx-int8'"),
        (["distill.control=true"], EdgekdError, "scheme none trains nothing"),
    ],
)
def test_bad_input_is_one_line(
    finished: Report, tmp_path: Path, changes: list[str], kind: type[EdgekdError], said: str
) -> None:
    given = ["zoo:shallow_cnn", "--weights", str(finished.student.weights), "--data", "digits", "--out", str(tmp_path / "out")]
    with pytest.raises(kind, match=said) as error:
        _call(*given, *changes)
    assert error.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_weights_of_another_network_are_refused(finished: Report, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not fit the model") as error:
        _call("zoo:resnet8", "--weights", str(finished.student.weights), "--data", "digits", "--out", str(tmp_path / "out"))
    assert error.value.exit_code == 3


def test_a_missed_gate_has_its_code(finished: Report, tmp_path: Path) -> None:
    with pytest.raises(GateMissed):
        _call(
            "zoo:shallow_cnn", "--weights", str(finished.student.weights), "--data", "digits", "--artifact", "onnx-fp32",
            "--out", str(tmp_path / "out"), "gates.max_size_kib=1", "benchmark.runs=10", "benchmark.warmup=0", "-q",
        )  # fmt: skip
