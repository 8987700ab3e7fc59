"""Running files: one that its runtime refuses is told, and does not stop the others."""

from pathlib import Path

import pytest

from edgekd.evaluate import evaluate_files
from edgekd.report.report import Report


def test_a_file_that_does_not_load_is_told_beside_those_that_do(
    finished: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = finished.path("tflite-int8")
    half = tmp_path / "half.tflite"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    files = [{"path": str(each), "sets": []} for each in (half, whole)]
    refused = evaluate_files(files, "tflite", finished.student.spec.to_json())["refused"]
    assert refused[0] and refused[1] is None
    assert f"{half}: {refused[0]}" in capsys.readouterr().out
