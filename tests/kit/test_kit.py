"""`edgekd kit`: what it writes, and what it says to folders that are not right."""

import hashlib
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.cli import main
from edgekd.kit.kit import write_kits, zip_bytes
from tests.kit.made_up import HOSTILE, edit_report, image_spec, list_files, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with one ONNX file, made by no run here."""
    raw = np.random.default_rng(0).integers(0, 256, size=(6, 2, 3, 1)).astype(np.uint8)
    return write_run(tmp_path / "run", (image_spec((1, 2, 3)),), ("cat", "dog"), {"image": raw}, {"image": 255.0})


def _edgekd(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["edgekd", "kit", *arguments])
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_kits_of_all_targets_that_the_run_has_a_file_for(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = _edgekd(capsys, monkeypatch, str(run))
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["raspberry-pi", "jetson"]
    assert "no kit for android: the run has no file for android: tflite-int8 was not made" in err
    assert "add tflite-int8 or tflite-fp16 or tflite-fp32 to export.artifacts" in err
    assert sorted(path.name for path in (run / "kit").iterdir()) == ["jetson", "raspberry-pi"]
    common = {
        "README.md", "PREPROCESSING.md", "model.py", "check.py", "predict.py", "labels.json", "labels.txt", "student.fp32.onnx",
        "golden/golden.json", "golden/golden.npz", "golden/input_0_image.bin", "golden/output_0_logits.bin",
    }  # fmt: skip
    for name, more in (("raspberry-pi", {"check.cpp", "CMakeLists.txt"}), ("jetson", set())):
        folder = run / "kit" / name
        assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == common | more
        assert (folder / "student.fp32.onnx").read_bytes() == (run / "artifacts" / "student.fp32.onnx").read_bytes()
        assert json.loads((folder / "labels.json").read_text()) == ["cat", "dog"]
        assert (folder / "golden" / "golden.npz").read_bytes() == (run / "golden/student.fp32.onnx/golden.npz").read_bytes()


def test_json_lists_what_was_written(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = _edgekd(capsys, monkeypatch, str(run), "--target", "jetson", "--zip", "--json")
    assert (code, err) == (0, "")
    ((kit,), skipped) = json.loads(out).values()
    assert skipped == {}
    assert (kit["target"], kit["artifact"], kit["folder"]) == ("jetson", "onnx-fp32", str(run / "kit" / "jetson"))
    assert all((run / "kit" / "jetson" / name).is_file() for name in kit["files"])
    with zipfile.ZipFile(kit["zip"]) as archive:
        assert archive.namelist() == [f"jetson/{name}" for name in kit["files"]]
        assert archive.testzip() is None
        for name in kit["files"]:
            assert archive.read(f"jetson/{name}") == (run / "kit" / "jetson" / name).read_bytes()


def test_zips_are_the_same_bytes_every_time(run: Path, tmp_path: Path) -> None:
    first = write_kits(run, ["raspberry-pi"], zipped=True).written[0].zip
    assert first is not None
    before = first.read_bytes()
    elsewhere = Path(shutil.copytree(run, tmp_path / "elsewhere" / "other name", ignore=shutil.ignore_patterns("kit")))
    again = write_kits(elsewhere, ["raspberry-pi"], zipped=True).written[0].zip
    assert again is not None
    assert again.read_bytes() == before
    assert zip_bytes("a", {"y": b"1", "x": b"2"}) == zip_bytes("a", {"x": b"2", "y": b"1"})


def test_a_kit_is_replaced_whole(run: Path) -> None:
    write_kits(run, ["jetson"], zipped=True)
    (run / "kit" / "jetson" / "old.txt").write_text("old")
    write_kits(run, ["jetson"])
    assert not (run / "kit" / "jetson" / "old.txt").exists()
    assert sorted(path.name for path in (run / "kit").iterdir()) == ["jetson"]  # a zip of the old kit would mislead


def _alter(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def alter(run: Path) -> None:
        (run / name).write_bytes(change((run / name).read_bytes()))

    return alter


def _report(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda run: edit_report(run, change)


def _golden(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def alter(run: Path) -> None:
        path = run / "golden" / "student.fp32.onnx" / "golden.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        list_files(run)

    return alter


def _both(*alterations: Callable[[Path], None]) -> Callable[[Path], None]:
    def alter(run: Path) -> None:
        for each in alterations:
            each(run)

    return alter


def _flip(content: bytes) -> bytes:
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


GOLDEN = "golden/student.fp32.onnx"
WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no report": (lambda run: (run / "report.json").unlink(), "is no finished run"),
    "no manifest": (lambda run: (run / "manifest.json").unlink(), "is no finished run"),
    "manifest no JSON": (_alter("manifest.json", lambda content: content[:-10]), "manifest.json is no JSON"),
    "manifest a list": (_alter("manifest.json", lambda content: b"[]"), "manifest.json: content:"),
    "deep JSON": (_alter("manifest.json", lambda content: b"[" * 200_000), "manifest.json"),
    "report changed": (_alter("report.json", lambda content: content + b" "), "report.json is not the file that the run wrote"),
    "artifact altered": (_alter("artifacts/student.fp32.onnx", _flip), "student.fp32.onnx is not the file that the run wrote"),
    "artifact truncated": (_alter("artifacts/student.fp32.onnx", lambda content: content[:50]), "is not the file that the run wrote"),
    "artifact missing": (lambda run: (run / "artifacts/student.fp32.onnx").unlink(), "cannot read"),
    "artifact swapped, manifest too": (
        _both(_alter("artifacts/student.fp32.onnx", _flip), list_files), "disagree on artifacts/student.fp32.onnx",
    ),
    "golden altered": (_alter(f"{GOLDEN}/output_0_logits.bin", lambda content: content[:-1] + bytes([content[-1] ^ 1])), "is not the file"),
    "no golden": (_both(lambda run: shutil.rmtree(run / "golden"), list_files), f"has no {GOLDEN}/golden.json"),
    "other schema": (_report(lambda report: report.update(schema=2)), "report.json: schema"),
    "path outside": (_report(lambda report: report["artifacts"][0].update(path="artifacts/../../x")), "report.json: artifacts.0.path"),
    "NaN": (_report(lambda report: report["artifacts"][0]["inputs"][0].update(mean=[float("nan")])), "report.json: artifacts.0.inputs.0"),
    "no sizes": (_report(lambda report: report["artifacts"][0]["inputs"][0].update(shape=["n", "c", 1, 1])), "is no shape"),
    "no range": (_report(lambda report: report["artifacts"][0]["inputs"][0].pop("value_range")), "value_range of this image"),
    "golden of another shape": (_golden(lambda golden: golden["inputs"][0].update(shape=[6, 1, 3, 2])), "does not belong to"),
    "golden of another name": (_golden(lambda golden: golden["outputs"][0].update(name="x")), "does not belong to"),
    "golden tolerance missing": (_golden(lambda golden: golden["outputs"][0]["tolerance"].pop()), "does not belong to"),
    "golden without outputs": (_golden(lambda golden: golden["outputs"].clear()), "does not belong to"),
    "golden file outside": (_golden(lambda golden: golden["inputs"][0].update(file="../x.bin")), "golden.json: inputs.0.file"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_folder_that_is_not_right_is_exit_2_with_one_line(
    run: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alter, message = WRONG[name]
    alter(run)
    code, out, err = _edgekd(capsys, monkeypatch, str(run), "--target", "jetson", "--zip")
    assert (code, out) == (2, "")
    assert message in err
    assert [line.partition(":")[0] for line in err.splitlines()] == ["error", "hint"]
    assert not (run / "kit").exists()


def test_what_is_no_run_folder_and_no_target(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (tmp_path, tmp_path / "missing", run / "report.json", tmp_path / ("x" * 300)):
        code, _, err = _edgekd(capsys, monkeypatch, str(place))
        assert code == 2, err
        assert "Traceback" not in err
    code, _, err = _edgekd(capsys, monkeypatch, str(run), "--target", "jetsen")
    assert (code, "did you mean 'jetson'?" in err) == (2, True)
    code, _, err = _edgekd(capsys, monkeypatch, str(run), "--target", "jetson", "--target", "ios")
    assert code == 3
    assert "the run has no file for ios" in err
    assert "hint: add tflite-int8 or tflite-fp16 or tflite-fp32 to export.artifacts of the recipe" in err
    assert not (run / "kit").exists()
    code, out, _ = _edgekd(capsys, monkeypatch, str(run), "--target", "ios", "--json")
    assert (code, json.loads(out)["exit_code"]) == (3, 3)


def test_types_that_programs_cannot_feed_are_exit_3(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_report(run, lambda report: report["artifacts"][0]["inputs"][0].update(dtype="float16"))
    code, _, err = _edgekd(capsys, monkeypatch, str(run), "--target", "jetson")
    assert code == 3
    assert "artifacts/student.fp32.onnx takes or gives float16" in err
    assert not (run / "kit").exists()


def test_labels_with_line_breaks_are_in_json_alone(tmp_path: Path) -> None:
    raw = np.zeros((5, 2, 2, 1), np.uint8)
    run = write_run(tmp_path / "run", (image_spec((1, 2, 2)),), HOSTILE, {"image": raw}, {"image": 255.0}, "`\n# x\n```\n<b>")
    (kit,) = write_kits(run, ["jetson"]).written
    assert "labels.txt" not in kit.files
    assert tuple(json.loads((kit.folder / "labels.json").read_text())) == HOSTILE
    readme = (kit.folder / "README.md").read_text(encoding="utf-8")
    assert readme.splitlines()[0] == "# ```` `\\n# x\\n```\\n<b> ```` for jetson"
    assert sum(line.startswith("# ") for line in readme.splitlines()) == 1


def test_preprocessing_is_in_words_and_numbers(run: Path) -> None:
    def quantize(report: dict[str, Any]) -> None:
        report["artifacts"][0]["inputs"][0].update(value_range=[-1.0, 1.0], mean=[0.25], std=[0.5])

    edit_report(run, quantize)
    (kit,) = write_kits(run, ["jetson"]).written
    text = (kit.folder / "PREPROCESSING.md").read_text()
    for each in ("float32, 1 x 1 x 2 x 3 (batch, channel, row, column)", "ImageOps.fit(image, (3, 2), BILINEAR)",
                 "`x = pixel / 255 * 2.0 - 1.0`: black is -1, white is 1", "mean [0.25], std [0.5]", "`cat`, `dog`"):  # fmt: skip
        assert each in text
    readme = (kit.folder / "README.md").read_text()
    assert "trtexec --onnx=student.fp32.onnx --saveEngine=student.fp32.plan --shapes=image:1x1x2x3 --noTF32" in readme
    assert hashlib.sha256((run / "artifacts" / "student.fp32.onnx").read_bytes()).hexdigest() in readme
