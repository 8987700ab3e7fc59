"""The demo's files give their golden outputs on every kind of device: the real runtimes, over the real transports."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from edgekd.benchmark.golden_vectors import DeviceVerification, verify_on_device
from edgekd.benchmark.transports import Transport
from edgekd.benchmark.transports.adb import adb_transport
from edgekd.benchmark.transports.emulated import ABOUT, default_root, emulated_transport
from edgekd.benchmark.transports.ssh import ssh_transport
from edgekd.devices.profiles import load_profile
from edgekd.report.report import Report
from tests.benchmark.transports.adb_daemon import Daemon
from tests.benchmark.transports.sshd import SSHD, free_port, running_sshd

ARM = default_root()  # now: HOME is another while adb runs
FILES = ["student.int8.onnx", "student.int8.tflite"]


@pytest.fixture(scope="module", params=["ssh", "adb"])
def device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transport]:
    folder = tmp_path_factory.mktemp("device")
    with ExitStack() as stack:
        if request.param == "ssh":
            if SSHD is None:
                pytest.skip("no sshd here: apt-get install openssh-server")
            server = stack.enter_context(running_sshd(folder / "server"))
            yield stack.enter_context(ssh_transport(server.url, ssh_options=server.options))
        else:
            if shutil.which("adb") is None:
                pytest.skip("no adb here: apt-get install adb")
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
            patch.setenv("HOME", str(folder))
            patch.setenv("TMPDIR", str(folder))
            stack.callback(subprocess.run, ["adb", "kill-server"], check=True)
            daemon = stack.enter_context(Daemon(folder))
            yield stack.enter_context(adb_transport(daemon.serial, root=str(folder / "root")))


@pytest.mark.parametrize("file", FILES)
def test_golden_outputs_by_ssh_and_adb(finished: Report, device: Transport, file: str) -> None:
    path = finished.folder / "artifacts" / file
    found = verify_on_device(path, load_profile("host"), device, python=sys.executable, opened=True)
    assert found.identical == len(found.vectors) == 20, "the same processor and runtime give the same bits"


def on_arm(finished: Report, file: str) -> DeviceVerification:
    if not (ARM / ABOUT).is_file() or shutil.which("qemu-aarch64-static") is None:
        pytest.skip(f"no ARM device in {ARM}: python tools/make_arm64_device.py")
    found = verify_on_device(finished.folder / "artifacts" / file, load_profile("pi5"), emulated_transport(ARM))
    assert found.environment["machine"] == "aarch64" and os.uname().machine in found.made_with
    return found


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_int8_files_on_arm(finished: Report, file: str) -> None:
    found = on_arm(finished, file)
    assert not found.differing
    assert found.identical == len(found.vectors) == 20, "integer arithmetic has no rounding to differ in"


@pytest.mark.slow
@pytest.mark.parametrize("file", ["student.fp32.onnx", "student.fp32.tflite"])
def test_float_files_on_arm(finished: Report, file: str) -> None:
    found = on_arm(finished, file)
    assert not found.differing
    assert max(each.worst for each in found.vectors if each.worst is not None) < 0.1, "of what is allowed: rounding"


def test_a_file_that_differs_is_found_over_ssh(finished: Report, device: Transport, tmp_path: Path) -> None:
    """A golden vector that another device would have given does not pass."""
    golden = tmp_path / "golden"
    shutil.copytree(finished.folder / "golden" / "student.int8.onnx", golden)

    told = json.loads((golden / "golden.json").read_text())
    (output,) = told["outputs"]
    values = np.fromfile(golden / output["file"], np.dtype(output["dtype"])).reshape(output["shape"])
    values[3] = values[3, ::-1]
    (golden / output["file"]).write_bytes(values.tobytes())
    output["sha256"] = hashlib.sha256(values.tobytes()).hexdigest()
    (golden / "golden.json").write_text(json.dumps(told))
    path = finished.folder / "artifacts" / "student.int8.onnx"
    found = verify_on_device(path, load_profile("host"), device, golden=golden, python=sys.executable, opened=True)
    assert [each.id for each in found.differing] == [told["samples"][3]["id"]]
