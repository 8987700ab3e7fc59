"""``edgekd verify RUN_FOLDER``: harm of every kind is named, and whole files give what the report says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekd.compare.run import check_run
from edgekd.errors import UsageError
from edgekd.report.report import Report
from edgekd.safe.files import sha256_file


@pytest.fixture
def run(finished: Report, tmp_path: Path) -> Path:
    out = tmp_path / "run"
    shutil.copytree(finished.folder, out, ignore=shutil.ignore_patterns("stages"))
    return out


def test_a_whole_run_gives_again_what_its_report_says(run: Path) -> None:
    found = check_run(run)
    assert found.problems == []
    assert {each.state for each in found.files} == {"whole"}
    report = json.loads((run / "report.json").read_text())
    assert [(each.path, each.metric.value) for each in found.reruns] == [
        (each["path"], each["metric"]["value"]) for each in report["artifacts"]
    ]
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["status"] == "ok"


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _alter(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(("harm", "state"), [(_truncate, "truncated"), (_alter, "altered"), (Path.unlink, "missing")])
@pytest.mark.parametrize("name", ["artifacts/student.int8.tflite", "artifacts/labels.txt", "MODEL_CARD.md"])
def test_every_harm_is_one_line(run: Path, harm: Callable[[Path], None], state: str, name: str) -> None:
    harm(run / name)
    found = check_run(run, hashes_only=True)
    assert [each.path for each in found.files if each.state == state] == [name]
    (line,) = found.problems
    assert line.startswith(f"{name} is {state}: ")
    assert found.reruns == ()


def test_files_that_nobody_made_are_named_and_stages_are_not_looked_at(run: Path) -> None:
    (run / "artifacts" / "backdoor.onnx").write_bytes(b"x")
    (run / "notes.txt").write_text("mine")
    (line,) = check_run(run, hashes_only=True).problems
    assert line == "artifacts/backdoor.onnx is extra: the manifest does not list it"


def test_harmed_artifacts_are_not_run_and_false_reports_are_found(run: Path) -> None:
    _alter(run / "artifacts" / "student.fp32.onnx")
    report = json.loads((run / "report.json").read_text())
    report["artifacts"] = [each for each in report["artifacts"] if "onnx" in each["path"]]
    report["artifacts"][1]["metric"]["value"] += 0.01
    (run / "report.json").write_text(json.dumps(report))
    manifest = json.loads((run / "manifest.json").read_text())
    for each in manifest["files"]:
        if each["path"] == "report.json":
            each["sha256"] = sha256_file(run / "report.json")
    (run / "manifest.json").write_text(json.dumps(manifest))
    found = check_run(run)
    assert [each.path for each in found.reruns] == ["artifacts/student.int8.onnx"]
    assert len(found.problems) == 2
    assert "the report says" in found.problems[1]


def test_data_that_is_gone_leaves_the_hashes(run: Path) -> None:
    found = check_run(run, ["data.source=npz:gone.npz"])
    assert found.problems == []
    assert found.not_run is not None and "gone.npz" in found.not_run
    assert found.reruns == ()


def test_a_manifest_that_points_elsewhere_is_refused(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["files"][0]["path"] = "../../etc/passwd"
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="outside the run folder"):
        check_run(run)
    for broken in ("", "{}", '{"files": 3}', '{"files": [{}]}', "[]"):
        (run / "manifest.json").write_text(broken)
        with pytest.raises(UsageError, match="is broken"):
            check_run(run)
