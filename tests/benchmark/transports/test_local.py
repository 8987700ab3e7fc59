"""This machine as a device: arguments arrive as they are, and nothing outlives its time."""

import os
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.benchmark.transports.local import LocalTransport
from edgekd.errors import DeviceError

PRINT = "import json, os, sys; print(json.dumps([sys.argv[1:], os.getcwd()]))"
HOSTILE = [
    "",
    " ",
    "a b",
    "$(touch owned)",
    "`id`",
    "; rm -rf /",
    "'",
    '"',
    "\\",
    "\n",
    "--help",
    "-",
    "*",
    "~",
    "ünï",
    "%s",
    "|",
    "&&",
    "\t",
]


def test_arguments_arrive_one_by_one_and_programs_run_in_the_folder() -> None:
    import json

    with LocalTransport() as device:
        ended = device.run(["python3", "-c", PRINT, *HOSTILE], timeout_s=30)
        arguments, folder = json.loads(ended.stdout)
        assert ended.code == 0
        assert arguments == HOSTILE
        assert Path(folder) == Path(device.folder).resolve()
        assert not list(Path(device.folder).iterdir())
    assert not Path(device.folder).exists()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), max_size=3))
def test_any_text_arrives_as_one_argument(texts: list[str]) -> None:
    with LocalTransport() as device:
        ended = device.run(["printf", "%s\\0", *texts], timeout_s=30)
    expected = texts or [""]
    assert ended.stdout == b"".join(each.encode() + b"\0" for each in expected)


def test_a_null_character_and_a_missing_program_are_one_clear_line() -> None:
    with LocalTransport() as device:
        for command in (["echo", "a\0b"], ["no-such-program-anywhere"], ["/"]):
            with pytest.raises(DeviceError) as caught:
                device.run(command, timeout_s=5)
            assert "\n" not in caught.value.message


def test_input_output_and_status_come_through() -> None:
    code = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1]); sys.stderr.write('said'); sys.exit(7)"
    with LocalTransport() as device:
        ended = device.run(["python3", "-c", code], timeout_s=30, stdin=b"\x00\xffabc" * 100_000)
    assert (ended.code, ended.stdout, ended.stderr) == (7, (b"\x00\xffabc" * 100_000)[::-1], b"said")


def test_files_go_and_come(tmp_path: Path) -> None:
    source = tmp_path / "with space $(x)"
    source.write_bytes(b"\x00\x01")
    with LocalTransport() as device:
        device.push(source, "model.onnx")
        device.pull("model.onnx", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == b"\x00\x01"
        for name in ("../escape", "a/b", "", "..", "nul\0l"):
            with pytest.raises(DeviceError):
                device.push(source, name)
        with pytest.raises(DeviceError):
            device.pull("missing", tmp_path / "never")
        with pytest.raises(DeviceError):
            device.push(tmp_path / "missing", "there")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("hangs", [True, False])
def test_everything_a_program_started_is_gone_with_it(hangs: bool) -> None:
    """It hangs until its time is over, or ends and leaves another process behind."""
    code = (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], stdout=2, stdin=subprocess.DEVNULL)\n"
        "pathlib.Path('pid').write_text(str(child.pid))\n"
        + ("time.sleep(600)" if hangs else "child.stdout = None; sys.stdout.close()")
    )  # fmt: skip
    with LocalTransport() as device:
        with pytest.raises(DeviceError, match="took longer than"):
            device.run(["python3", "-c", code], timeout_s=2)
        pid = int(Path(device.folder, "pid").read_text())
        for _ in range(100):
            if not _alive(pid):
                break
            time.sleep(0.05)
        assert not _alive(pid)
    assert not Path(device.folder).exists()
