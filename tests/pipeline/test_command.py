"""`edgekd compress` as a process: output, exit codes, and Ctrl+C."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekd.cli.terminal import print_report
from edgekd.report.report import Report
from edgekd.report.rows import table_rows
from tests.conftest import QUICK


def _edgekd(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgekd", *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def test_table_on_stdout_progress_on_stderr(finished: Report, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "out")
    done = _edgekd("compress", "digits", *QUICK, "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for each in ("teacher zoo:digits_teacher", "student.int8.tflite", "gates: 22 of 22 passed", "out/report.html"):
        assert each in done.stdout
    assert "\x1b[" not in done.stdout + done.stderr
    assert "(done before)" in done.stderr
    assert "verify-tflite-int8" in done.stderr


def test_json_is_the_report_and_quiet_is_silent(finished: Report, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "out")
    done = _edgekd("compress", "digits", *QUICK, "--out", "out", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == json.loads((tmp_path / "out" / "report.json").read_text())
    done = _edgekd("compress", "digits", *QUICK, "--out", "out", "-q", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_missed_gate_is_exit_4_and_says_which_and_by_how_much(finished: Report, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "out")
    done = _edgekd("compress", "digits", *QUICK, "gates.max_size_kib=14", "--out", "out", cwd=tmp_path)
    assert done.returncode == 4
    assert "gate missed: tflite-fp32 size in KiB: 2" in done.stderr
    assert "promised 14" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_saves_exits_130_and_the_printed_line_resumes(finished: Report, tmp_path: Path) -> None:
    arguments = ["compress", "digits", *QUICK, "--out", "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekd", *arguments], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    journal = tmp_path / "out" / "stages" / "journal.jsonl"
    while not (journal.is_file() and list(tmp_path.glob("out/stages/teacher-*"))):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert f"resume with: edgekd {' '.join(arguments)}" in errors
    done = _edgekd(*arguments, "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    hashes = {each["path"]: each["sha256"] for each in json.loads((tmp_path / "out" / "report.json").read_text())["artifacts"]}
    assert hashes == {each.relative_path: each.verified.artifact.sha256 for each in finished.artifacts}


def test_full_disk_is_exit_6_with_one_line_and_nothing_half_written(tmp_path: Path) -> None:
    # A file size limit stands for a full disk: the images need 115 kB.
    limited = (
        "import resource, signal, runpy, sys;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000));"
        "sys.argv = ['edgekd', 'compress', '--out', 'out'];"
        "runpy.run_module('edgekd', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False, env=os.environ
    )
    assert done.returncode == 6, done.stderr
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").rglob("*.npy"))
    assert not list((tmp_path / "out").rglob(".*.tmp*"))


def test_the_table_fits_a_terminal_of_80_columns_with_every_number_whole(
    finished: Report, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "80")
    print_report(finished)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    table = lines[: next(number for number, line in enumerate(lines) if line.startswith("gates"))]
    assert max(map(len, table)) <= 80
    for row in table_rows(finished):
        assert any(all(cell in line for cell in row.cells[1:]) for line in table), row
