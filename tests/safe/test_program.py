"""Running programs of this machine."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from edgekd.errors import ResourceError
from edgekd.safe import program
from edgekd.safe.program import ProgramTimeout, run_program
from tests.benchmark.transports.leftovers import eventually, processes_with


def test_what_it_wrote_and_its_exit_status() -> None:
    ran = run_program(["sh", "-c", "cat; echo e >&2; exit 7"], timeout_s=60, stdin=b"in\0put")
    assert (ran.code, ran.stdout, ran.stderr) == (7, b"in\0put", b"e\n")
    assert run_program(["sh", "-c", "kill -9 $$"], timeout_s=60).code == -9


def test_files_as_input_and_output(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"0123456789")
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as target:
        source.seek(4)
        assert run_program(["cat"], timeout_s=60, stdin=source, stdout=target).stdout == b""
    assert (tmp_path / "out").read_bytes() == b"456789"


def test_its_group_is_killed_when_the_time_is_over(tmp_path: Path) -> None:
    word = str(tmp_path)
    with pytest.raises(ProgramTimeout):
        run_program(["sh", "-c", f"sh -c 'sleep 600; : {word}' & sleep 600; : {word}"], timeout_s=0.5)
    assert eventually(lambda: not [each for each in processes_with(f": {word}") if each != os.getpid()])


def test_a_helper_that_it_leaves_keeps_nobody_waiting() -> None:
    with tempfile.NamedTemporaryFile() as marker:
        command = f"(sleep 5; rm -f {marker.name}) & echo started"
        assert run_program(["sh", "-c", command], timeout_s=4).stdout == b"started\n"
        Path(marker.name).touch()


def test_output_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "MOST_OUTPUT", 1 << 20)
    with pytest.raises(ResourceError, match="wrote more than 1 MiB"):
        run_program([sys.executable, "-c", "while True: print('x' * 10000)"], timeout_s=60)
