"""Teachers from anywhere through the whole pipeline, as a user runs it: what it prints, and how it ends."""

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, external_data_helper

import edgekd
from edgekd.errors import EdgekdError, GateMissed, ModelError, UsageError
from edgekd.progress import Silent
from tests.safe.hostile import gadgets

SHORT = ["teacher.train.epochs=6", "distill.train.epochs=20", "distill.train.learning_rate=0.01", "threads=1",
         "export.artifacts=[onnx-fp32]", "benchmark.runs=10", "benchmark.warmup=1"]  # fmt: skip
ORDER = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)


def _edgekd(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgekd", "compress", "digits", *arguments, *SHORT, "--out", "out"],
        cwd=cwd, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"{each}\n" for each in ORDER))
    return path


@pytest.mark.slow
def test_an_onnx_teacher_with_permuted_classes_teaches(onnx_models: Path, labels: Path, tmp_path: Path) -> None:
    teacher = f"teacher.model=onnx:{onnx_models / 'permuted.onnx'}"
    done = _edgekd(teacher, f"teacher.labels={labels}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    for each in ("as it is, on validation and test split: test top-1 99.72%", "NCHW", "values 0 to 1 (best of 4 tried)",
                 "outputs are logits", "classes reordered by name", "gates: 3 of 3 passed"):  # fmt: skip
        assert each in said + done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["teacher"]["name"] == f"onnx:{onnx_models / 'permuted.onnx'}"
    assert report["teacher"]["params"] is None
    assert report["teacher"]["size_bytes"] == (onnx_models / "permuted.onnx").stat().st_size
    # Random weights are right on 10 %; imitating outputs in a wrong order would leave it there.
    assert report["student"]["metric"]["value"] > 0.6


@pytest.mark.slow
def test_an_ensemble_of_three_frameworks_teaches_and_is_replayed(
    onnx_models: Path, framework_models: Path, tmp_path: Path
) -> None:
    recipe = {
        "teacher": {
            "model": f"tflite:{framework_models / 'int8.tflite'}",
            "ensemble": [
                {"model": f"onnx:{onnx_models / 'softmax.onnx'}", "weight": 2.0},
                {"model": "zoo:digits_teacher", "weight": 0.5},
            ],
            "combine": "entropy",
        }
    }
    report = edgekd.compress(recipe, tmp_path / "out", SHORT)
    assert report.ok
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert content["teacher"]["name"].count(" + ") == 2
    assert content["teacher"]["metric"]["value"] > 0.95
    assert content["student"]["metric"]["value"] > 0.6

    class Heard(Silent):
        reused: list[tuple[str, bool]] = []  # noqa: RUF012

        def stage_finished(self, name: str, what: str, seconds: float, reused: bool) -> None:
            self.reused.append((name, reused))

    edgekd.compress(recipe, tmp_path / "out", SHORT, Heard())
    assert all(reused for name, reused in Heard.reused if name.startswith(("teacher", "distill")))


def _external(folder: Path, source: Path, location: str) -> Path:
    model = onnx.load(str(source))
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > 100:
            external_data_helper.set_external_data(tensor, location)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
    path = folder / f"{Path(location).name}.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ("order", GateMissed, "has its classes in another order than the data"),
        ("superset", ModelError, "has 12 outputs, the data 10 classes: which is which is not known"),
        ("labels", UsageError, "has 12 outputs, but 10 labels are given"),
        ("no labels", UsageError, "teacher labels file nowhere.txt does not exist"),
        ("external", ModelError, "keeps weights in '/etc/passwd', outside its folder"),
        ("link", ModelError, "keeps weights in 'w.bin', behind a link"),
        ("pickle", ModelError, r"evil.pt holds more than tensors: loading it would run code \(\w+\.system\); nothing was run"),
        ("keys", ModelError, r"38 missing \(.*, and 28 more\); 14 extra \(.*, and 4 more\)"),
        ("missing", UsageError, "teacher file .*nowhere.onnx does not exist"),
        ("random", UsageError, "zoo:digits_teacher comes without weights, so it cannot teach as it is"),
        ("worse", GateMissed, "the teacher is worse than a linear model: .*a logistic regression has"),
    ],
)
def test_what_is_wrong_with_a_teacher_stops_the_run_with_one_line(
    wrong: str, error: type[EdgekdError], message: str, onnx_models: Path, labels: Path, tmp_path: Path
) -> None:
    canary, weights = tmp_path / "canary", tmp_path / "evil.pt"
    if wrong == "link":
        (tmp_path / "w.bin").symlink_to("/etc/passwd")
    given = {
        "order": [f"onnx:{onnx_models / 'permuted.onnx'}"],
        "superset": [f"onnx:{onnx_models / 'superset.onnx'}"],
        "labels": [f"onnx:{onnx_models / 'superset.onnx'}", f"labels={labels}"],
        "no labels": [f"onnx:{onnx_models / 'superset.onnx'}", "labels=nowhere.txt"],
        "external": [f"onnx:{_external(tmp_path, onnx_models / 'nchw.onnx', '/etc/passwd')}"],
        "link": [f"onnx:{_external(tmp_path, onnx_models / 'nchw.onnx', 'w.bin')}"],
        "pickle": ["zoo:digits_teacher", f"weights={weights}"],
        "keys": ["zoo:digits_teacher", f"weights={weights}"],
        "missing": [f"onnx:{tmp_path / 'nowhere.onnx'}"],
        "random": ["zoo:digits_teacher", "trained=true"],
        # Fed with a hundred times the range it was made for.
        "worse": [f"onnx:{onnx_models / 'nchw.onnx'}", "preprocess.value_range=[0, 100]"],
    }[wrong]
    if wrong == "pickle":
        torch.save({"weight": gadgets(canary)["os.system"]}, weights)
    elif wrong == "keys":
        torch.save({f"layer{index}.weight": torch.ones(1) for index in range(14)}, weights)
    model, *rest = given
    with pytest.raises(error, match=message) as raised:
        edgekd.compress("digits", tmp_path / "out", [f"teacher.model={model}", *(f"teacher.{each}" for each in rest), *SHORT])
    assert "\n" not in raised.value.message
    assert raised.value.hint
    assert not canary.exists()
    assert not (tmp_path / "out" / "report.json").exists()
    assert not (tmp_path / "out" / "artifacts").exists()


def test_a_refused_teacher_is_one_error_and_one_hint_on_stderr(onnx_models: Path, tmp_path: Path) -> None:
    done = _edgekd(f"teacher.model=onnx:{onnx_models / 'permuted.onnx'}", cwd=tmp_path)
    assert done.returncode == 4
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[-2].startswith("error: teacher onnx:")
    assert lines[-1].startswith("hint: name its classes, one a line in the order of its outputs: teacher.labels=FILE")
    assert "Traceback" not in done.stderr
