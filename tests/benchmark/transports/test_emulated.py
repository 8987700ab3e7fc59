"""The emulated ARM device. What needs it is skipped where it was not made: ``python tools/make_arm64_device.py``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekd.benchmark.transports.emulated import ABOUT, default_root, emulated_transport
from edgekd.benchmark.transports.remote import RemoteTransport
from edgekd.errors import DeviceError
from tests.benchmark.transports.hostile import FIXED, echoed
from tests.benchmark.transports.leftovers import eventually, processes_with

needs_qemu = pytest.mark.skipif(shutil.which("qemu-aarch64-static") is None, reason="no qemu: apt-get install qemu-user-static")
needs_root = pytest.mark.skipif(
    shutil.which("qemu-aarch64-static") is None or not (default_root() / ABOUT).is_file(),
    reason=f"no ARM device in {default_root()}: python tools/make_arm64_device.py",
)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteTransport]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with emulated_transport() as opened:
        yield opened
    assert not list(tmp_path.iterdir())


@needs_root
def test_it_is_an_arm_processor_that_runs_in_the_folder(device: RemoteTransport) -> None:
    program = "import os, platform, sys; print(platform.machine(), os.getcwd()); print('e', file=sys.stderr); sys.exit(7)"
    ended = device.run(["python3", "-c", program], timeout_s=60)
    assert (ended.code, ended.stdout, ended.stderr) == (7, f"aarch64 {device.folder}\n".encode(), b"e\n")
    assert device.run(["no-such-program"], timeout_s=60).code == 127
    assert device.run(["python3", "-c", "print(input())"], timeout_s=60, stdin=b"given\n").stdout == b"given\n"


@needs_root
def test_hostile_strings_arrive_as_one_argument_each(device: RemoteTransport) -> None:
    assert echoed(device, FIXED) == list(FIXED)


@needs_root
def test_files_arrive_and_come_back(device: RemoteTransport, tmp_path: Path) -> None:
    outside = tmp_path / "files"
    outside.mkdir()
    (outside / "here").write_bytes(b"\0\r\n")
    device.push(outside / "here", "it's $(id)\n.bin")
    device.pull("it's $(id)\n.bin", outside / "back")
    assert (outside / "back").read_bytes() == b"\0\r\n"
    shutil.rmtree(outside)


@needs_root
def test_a_program_that_hangs_is_stopped(device: RemoteTransport, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="'python3' took longer than 2 s and was stopped"):
        device.run(["python3", "-c", f"import time; time.sleep(600)  # {tmp_path}"], timeout_s=2)
    assert eventually(lambda: not processes_with(f"time.sleep(600)  # {tmp_path}"))


KILLED = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from edgekd.benchmark.transports.emulated import emulated_transport
with emulated_transport(grace_s=1) as device:
    print("ready", flush=True)
    device.run(["python3", "-c", "import time; time.sleep(600)"], timeout_s=600)
"""


@needs_root
def test_a_killed_edgekd_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    assert eventually(lambda: bool(list(tmp_path.glob("*/run-*"))))
    process.kill()
    process.wait()
    process.stdout.close()
    assert eventually(lambda: not list(tmp_path.iterdir()))
    assert eventually(lambda: not processes_with(str(tmp_path)))


def test_without_the_emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DeviceError, match="no program 'qemu-aarch64-static'") as caught, emulated_transport(tmp_path):
        pass
    assert "apt install" in str(caught.value.hint)


@needs_qemu
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no ARM device in"),
        ("{", "cannot be read"),
        ("[]", "made for another"),
        ('{"schema": 99}', "made for another"),
    ],
)
def test_without_a_whole_device(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / ABOUT).write_text(content)
    with pytest.raises(DeviceError, match=message) as caught, emulated_transport(tmp_path):
        pass
    assert "python tools/make_arm64_device.py" in str(caught.value.hint)


def test_the_default_root_follows_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "edgekd" / "arm64"


@needs_root
def test_it_says_what_is_in_it() -> None:
    about = json.loads((default_root() / ABOUT).read_text())
    assert [each.split("==")[0] for each in about["runtimes"]] == ["ai-edge-litert", "numpy", "onnxruntime"]
